//go:build !linux

package worker

import (
	"os"
	"syscall"
)

// attributes has nothing to set: a child ends when its standard input does.
func attributes() *syscall.SysProcAttr { return nil }

// limit can't bound another process here; GOMEMLIMIT is all there is.
func limit(int, int64) {}

// awaitExit has nothing to protect: there is no group to kill.
func awaitExit(int) {}

func killGroup(p *os.Process) { _ = p.Kill() }
