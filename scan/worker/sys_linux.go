package worker

import (
	"io/fs"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// closeOnExec keeps files from children that this process was started with, and whose
// opener did not. Go's own are kept from them anyway. Before Linux 5.11 it can't.
func closeOnExec() { _ = unix.CloseRange(3, 1<<31-1, unix.CLOSE_RANGE_CLOEXEC) }

// attributes gives a child a process group of its own, so that what it starts can be
// killed with it, and lets the kernel kill it with its parent.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// maxOpen is how many files a child may have open: four images of more layers than any
// runtime takes.
const maxOpen = 8192

// limit bounds what a child may take of the machine: bytes of memory, bytes of one
// file, open files, and no core files, which would hold what the image held. Where the
// machine runs out of memory all the same, the child goes first. A child that ended
// already has no limits.
//
// A write past the limit of a file fails, and a cataloguer may not say so. So that is
// for one that fills a disk faster than keepQuota looks, which kills.
func limit(pid int, memory, file int64) {
	set := func(what int, n uint64) { _ = unix.Prlimit(pid, what, &unix.Rlimit{Cur: n, Max: n}, nil) }
	set(unix.RLIMIT_DATA, uint64(memory))
	set(unix.RLIMIT_FSIZE, uint64(file))
	set(unix.RLIMIT_CORE, 0)
	var files unix.Rlimit
	if unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &files) == nil && files.Max > maxOpen {
		set(unix.RLIMIT_NOFILE, maxOpen)
	}
	_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte("1000"), 0) // needs no rights: it is the worst
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

// taken returns how many bytes of disk a file takes, whatever its size says.
func taken(fi fs.FileInfo) int64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512 // stat(2)
	}
	return fi.Size()
}

// unlinked returns how many bytes of disk those files take that a process has open and
// that have no name any more.
func unlinked(pid int) (bytes int64) {
	dir := "/proc/" + strconv.Itoa(pid) + "/fd"
	fds, err := os.ReadDir(dir)
	if err != nil {
		return 0 // it has ended
	}
	seen := map[[2]uint64]bool{}
	for _, fd := range fds {
		fi, err := os.Stat(dir + "/" + fd.Name())
		if err != nil || !fi.Mode().IsRegular() {
			continue
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		if id := [2]uint64{uint64(st.Dev), st.Ino}; ok && st.Nlink == 0 && !seen[id] { //nolint:unconvert // not everywhere 64 bits
			seen[id] = true
			bytes += taken(fi)
		}
	}
	return bytes
}
