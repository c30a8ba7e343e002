package worker

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// attributes gives a child a process group of its own, so that what it starts can be
// killed with it, and lets the kernel kill it with its parent.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// limit bounds what a child may take of the machine: memory in bytes, and no core
// files, which would hold what the image held. A child that ended already has no limits.
func limit(pid int, memory int64) {
	_ = unix.Prlimit(pid, unix.RLIMIT_DATA, &unix.Rlimit{Cur: uint64(memory), Max: uint64(memory)}, nil)
	_ = unix.Prlimit(pid, unix.RLIMIT_CORE, &unix.Rlimit{}, nil)
}

// awaitExit returns when a child has ended, and leaves it to be waited for: until
// then its ID, and that of its group, are nobody else's.
func awaitExit(pid int) {
	for unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
}

// killGroup kills a child that was not yet waited for, and what it started.
func killGroup(p *os.Process) {
	_ = p.Kill()
	_ = syscall.Kill(-p.Pid, syscall.SIGKILL)
}
