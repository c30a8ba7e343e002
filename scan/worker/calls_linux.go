package worker

import (
	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// calls is the policy for the process of an ID: what a Go program needs that reads and
// writes files and computes. All else fails with EPERM, and no process is killed for
// trying, so that a library that tries says so.
//
// It is a list of what is allowed, since in one of what is forbidden the calls of
// another architecture, which any program may make, would be allowed.
func calls(pid int) (seccomp.Policy, error) {
	info, err := arch.GetInfo("")
	if err != nil {
		return seccomp.Policy{}, err
	}
	var names []string
	for _, n := range allowed {
		if _, ok := info.SyscallNames[n]; ok { // each architecture has some of them
			names = append(names, n)
		}
	}
	only := func(call string, arg uint32, op seccomp.Operation, value uint64) seccomp.NameWithConditions {
		return seccomp.NameWithConditions{Name: call, Conditions: seccomp.ArgumentConditions{{Argument: arg, Operation: op, Value: value}}}
	}
	return seccomp.Policy{
		DefaultAction: seccomp.ActionErrno, // EPERM
		Syscalls: []seccomp.SyscallGroup{
			{Action: seccomp.ActionAllow, Names: names, NamesWithCondtions: []seccomp.NameWithConditions{
				only("clone", 0, seccomp.BitsSet, unix.CLONE_THREAD), // no processes
				only("kill", 0, seccomp.Equal, uint64(pid)),          // how Go ends itself
				only("tgkill", 0, seccomp.Equal, uint64(pid)),        // how Go's threads interrupt each other
				{Name: "prlimit64", Conditions: seccomp.ArgumentConditions{ // its own limits, to read
					{Argument: 0, Operation: seccomp.Equal, Value: 0}, {Argument: 2, Operation: seccomp.Equal, Value: 0}}},
				only("prctl", 0, seccomp.Equal, unix.PR_SET_VMA),     // names of memory
				only("fcntl", 1, seccomp.LessOrEqual, unix.F_SETLKW), // flags and locks, no signals
				only("fcntl", 1, seccomp.Equal, unix.F_DUPFD_CLOEXEC),
			}},
			// Newer than clone: a C library, which builds with the race detector have,
			// takes that in its place.
			{Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS), Names: []string{"clone3"}},
		},
	}, nil
}

// allowed are the calls that may be made with any arguments. Which files those with a
// name may reach is Landlock's to say. Calls that change a file's mode, owner, times or
// attributes are missing, since Landlock lets them pass everywhere.
var allowed = []string{
	// Open files.
	"read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "preadv2", "pwritev2", "close", "lseek", "_llseek",
	"fstat", "fstatfs", "ftruncate", "fallocate", "fsync", "fdatasync", "fadvise64", "flock", "getdents", "getdents64", "dup", "dup2", "dup3",
	"copy_file_range", "sendfile", "splice",
	// Files by name.
	"open", "openat", "openat2", "creat", "stat", "lstat", "newfstatat", "statx", "statfs", "access", "faccessat", "faccessat2",
	"readlink", "readlinkat", "getcwd", "chdir", "mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "rename", "renameat", "renameat2",
	"symlink", "symlinkat", "link", "linkat", "truncate", "umask",
	// Waiting.
	"poll", "ppoll", "select", "pselect6", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2",
	"eventfd", "eventfd2", "pipe", "pipe2", "futex", "nanosleep", "clock_nanosleep", "sched_yield", "restart_syscall",
	// Memory.
	"mmap", "munmap", "mremap", "mprotect", "madvise", "mincore", "brk", "membarrier", "msync",
	// Time.
	"clock_gettime", "clock_getres", "gettimeofday", "time", "times", "setitimer", "getitimer", "timer_create", "timer_settime", "timer_delete",
	// Itself.
	"exit", "exit_group", "getpid", "getppid", "gettid", "getuid", "geteuid", "getgid", "getegid", "getrusage", "getrlimit", "getrandom",
	"uname", "sysinfo", "sched_getaffinity", "getcpu", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigpending", "rt_sigsuspend",
	"rt_sigtimedwait", "sigaltstack", "set_robust_list", "get_robust_list", "rseq", "arch_prctl", "set_tid_address",
}
