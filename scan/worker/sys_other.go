//go:build !linux

package worker

import (
	"io/fs"
	"os"
	"syscall"
)

// closeOnExec leaves to others what they have opened.
func closeOnExec() {}

// attributes has nothing to set: a child ends when its standard input does.
func attributes() *syscall.SysProcAttr { return nil }

// limit can't bound another process here; GOMEMLIMIT and the quota are all there is.
func limit(int, int64, int64) {}

// awaitExit has nothing to protect: there is no group to kill.
func awaitExit(int) {}

func killGroup(p *os.Process) { _ = p.Kill() }

func taken(fi fs.FileInfo) int64 { return fi.Size() }

func unlinked(int) int64 { return 0 }
