package worker

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// raise puts up the walls around this process, for good: it may read what lies under
// read and own, write under own, and make the system calls in allowed. Each wall is
// tried once it is up: one that doesn't hold is missing.
func raise(read []string, own string) Walls {
	_ = time.Now().Format("MST") // reads the time zone's file, which lies outside
	var w Walls
	if read == nil {
		w.Missing = append(w.Missing, "files (none was asked for)")
	} else if version, err := wallFiles(read, own); err != nil {
		w.Missing = append(w.Missing, "files ("+err.Error()+")")
	} else {
		w.Files = version
	}
	if err := wallCalls(); err != nil {
		w.Missing = append(w.Missing, "system calls ("+err.Error()+")")
	} else {
		w.Calls = true
	}
	return w
}

// What may be done with files. Nothing may be executed, and no device, socket or pipe
// made.
const (
	reading = ll.AccessFSReadFile | ll.AccessFSReadDir
	writing = reading | ll.AccessFSWriteFile | ll.AccessFSTruncate | ll.AccessFSMakeReg | ll.AccessFSMakeDir | ll.AccessFSMakeSym |
		ll.AccessFSRemoveFile | ll.AccessFSRemoveDir
)

// wallFiles restricts all threads through Landlock and returns the version of its
// interface. Where the kernel has that too, sockets and signals are kept in as well.
func wallFiles(read []string, own string) (int, error) {
	version, err := ll.LandlockGetABIVersion()
	if err != nil || version < 1 {
		return 0, errors.New("no Landlock here: Linux 5.13 has it, where it is not turned off")
	}
	c := landlock.V11
	// Before erratum 2 was mended, Landlock took the threads of one program for
	// strangers to each other, and Go's threads send each other signals.
	const threadsAreOne = 1 << (2 - 1)
	if errata, err := ll.LandlockGetErrata(); err != nil || errata&threadsAreOne == 0 {
		c.Scoped = 0
	}
	if err := c.BestEffort().Restrict(landlock.PathAccess(reading, read...), landlock.PathAccess(writing, own)); err != nil {
		return 0, err
	}
	if _, err := os.ReadDir("/"); !slices.Contains(read, "/") && !errors.Is(err, os.ErrPermission) {
		return 0, fmt.Errorf("it does not hold: reading / is answered with %v", err)
	}
	return version, nil
}

// wallCalls restricts all threads through seccomp.
func wallCalls() error {
	policy, err := calls(os.Getpid())
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the one that no_new_privs is set on, which the kernel wants to see
	defer runtime.UnlockOSThread()
	if err := seccomp.LoadFilter(seccomp.Filter{NoNewPrivs: true, Flag: seccomp.FilterFlagTSync, Policy: policy}); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Close(fd)
	}
	if !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("it does not hold: a socket is answered with %v", err)
	}
	return nil
}

// yield puts the calling thread behind those of others who want its processor. There is
// no way back: the thread has to end afterwards.
func yield() {
	const later = 10 // niceness: a tenth of the time, where a pull wants it all
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, later)
}
