//go:build !unix

package spool

import (
	"os"
	"path/filepath"
)

// lockDir does not keep other processes out where there is no flock.
func lockDir(dir string) (*os.File, error) {
	return os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
}
