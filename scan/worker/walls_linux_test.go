package worker

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// A breakout is what a child that a stranger has taken over would like to get at.
type breakout struct {
	Parent   int    // process ID
	Secret   string // a file that only the gateway may read
	Folder   string // where only the gateway may write
	Layer    string // a file that may be read and not changed
	TCP, UDP string
	Unix     string
	Abstract string
}

// try does all of it, and returns each attempt with what came of it; "" is a success.
func (b breakout) try() map[string]string {
	out := map[string]string{}
	note := func(what string, err error) {
		out[what] = ""
		if err != nil {
			out[what] = err.Error()
		}
	}
	proc := "/proc/" + strconv.Itoa(b.Parent)
	read := func(path string) error { _, err := os.ReadFile(path); return err }
	dial := func(network, addr string) error {
		c, err := net.DialTimeout(network, addr, 5*time.Second)
		if err == nil {
			c.Close()
		}
		return err
	}
	call := func(n uintptr, args ...uintptr) error {
		a := append(args, make([]uintptr, 6)...)
		if _, _, errno := syscall.Syscall6(n, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
			return errno
		}
		return nil
	}
	note("read a layer", read(b.Layer))
	note("write a file of its own", os.WriteFile(filepath.Join(os.TempDir(), "mine"), nil, 0o600))
	note("read a secret", read(b.Secret))
	note("read /etc/passwd", read("/etc/passwd"))
	note("read the parent's environment", read(proc+"/environ"))
	note("read its own environment's origin", read("/proc/self/environ"))
	note("open the parent's memory", func() error { _, err := os.OpenFile(proc+"/mem", os.O_RDWR, 0); return err }())
	_, err := os.ReadDir("/")
	note("list /", err)
	note("write elsewhere", os.WriteFile(filepath.Join(b.Folder, "mine"), nil, 0o600))
	note("write to a layer", func() error { _, err := os.OpenFile(b.Layer, os.O_WRONLY, 0); return err }())
	note("truncate a layer", os.Truncate(b.Layer, 0))
	note("remove a layer", os.Remove(b.Layer))
	note("move a layer", os.Rename(b.Layer, filepath.Join(os.TempDir(), "layer")))
	note("link a secret", os.Link(b.Secret, filepath.Join(os.TempDir(), "secret")))
	note("make a secret everyone's", os.Chmod(b.Secret, 0o666))
	note("touch a layer", os.Chtimes(b.Layer, time.Unix(0, 0), time.Unix(0, 0)))
	note("follow a link to a secret", func() error {
		link := filepath.Join(os.TempDir(), "link")
		if err := os.Symlink(b.Secret, link); err != nil {
			return err
		}
		return read(link)
	}())
	note("dial TCP", dial("tcp", b.TCP))
	note("dial UDP", dial("udp", b.UDP))
	note("dial the control socket", dial("unix", b.Unix))
	note("dial an abstract socket", dial("unix", b.Abstract))
	_, err = (&net.Resolver{PreferGo: true}).LookupHost(context.Background(), "example.com") // a C library's words are others
	note("ask DNS", err)
	_, err = net.Listen("tcp", "127.0.0.1:0")
	note("listen", err)
	note("make a pair of sockets", call(unix.SYS_SOCKETPAIR, unix.AF_UNIX, unix.SOCK_STREAM, 0))
	note("set up io_uring", call(unix.SYS_IO_URING_SETUP, 1, 0))
	note("run a program", exec.Command("/bin/true").Run())
	note("run itself", exec.Command("/proc/self/exe").Run())
	note("fork", fork())
	note("signal the parent", syscall.Kill(b.Parent, 0))
	note("signal all", syscall.Kill(-1, 0))
	note("trace the parent", call(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(b.Parent)))
	note("read the parent's memory", call(unix.SYS_PROCESS_VM_READV, uintptr(b.Parent)))
	note("limit the parent", unix.Prlimit(b.Parent, unix.RLIMIT_CORE, &unix.Rlimit{}, nil))
	note("outlive the parent", unix.Prctl(unix.PR_SET_PDEATHSIG, 0, 0, 0, 0))
	note("become another", call(unix.SYS_SETUID, 12345))
	note("mount", unix.Mount("none", os.TempDir(), "tmpfs", 0, ""))
	note("have namespaces", unix.Unshare(unix.CLONE_NEWUSER))
	note("load eBPF", call(unix.SYS_BPF))
	note("open by handle", call(unix.SYS_OPEN_BY_HANDLE_AT, 0))
	note("watch files", func() error { _, err := unix.InotifyInit(); return err }())
	note("userfaultfd", call(unix.SYS_USERFAULTFD))
	return out
}

// fork makes a process, which ends at once.
func fork() error {
	pid, _, errno := syscall.RawSyscall(unix.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0)
	if errno != 0 {
		return errno
	}
	if pid == 0 {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	return nil
}

// A prey is what a breakout is after, all of it alive.
func prey(t *testing.T) breakout {
	t.Helper()
	dir := t.TempDir()
	b := breakout{Parent: os.Getpid(), Secret: filepath.Join(dir, "seal.key"), Folder: dir, Layer: filepath.Join(dir, "layers", "layer"),
		Unix: filepath.Join(dir, "control.sock"), Abstract: "@sluice-test-" + strconv.Itoa(os.Getpid())}
	if err := os.Mkdir(filepath.Dir(b.Layer), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{b.Secret, b.Layer} {
		if err := os.WriteFile(f, []byte("key"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for network, addr := range map[string]*string{"tcp": &b.TCP, "unix": &b.Unix, "unix abstract": &b.Abstract} {
		if *addr == "" {
			*addr = "127.0.0.1:0"
		}
		network, _, _ = strings.Cut(network, " ")
		l, err := net.Listen(network, *addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		*addr = l.Addr().String()
	}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	b.UDP = pc.LocalAddr().String()
	return b
}

// act does what a reference says, in a child, and returns what came of it.
func act(ref, dir string) (out []string, err error) {
	what, arg, _ := strings.Cut(ref, " ")
	switch what {
	case "probe":
		var b breakout
		if err := json.Unmarshal([]byte(arg), &b); err != nil {
			return nil, err
		}
		j, err := json.Marshal(b.try())
		return []string{string(j)}, err
	case "bomb": // memory without end
		var hoard [][]byte
		for {
			b := make([]byte, 16<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			hoard = append(hoard, b)
			runtime.KeepAlive(hoard)
		}
	case "fill": // one file
		f, err := os.Create(filepath.Join(dir, "big"))
		for b := make([]byte, 1<<20); err == nil; {
			f.Write(b) // and nothing is said of an error
		}
		return nil, err
	case "hide": // files without a name
		var open []*os.File
		for {
			f, err := os.CreateTemp(dir, "")
			if err != nil {
				return nil, err
			}
			open = append(open, f)
			os.Remove(f.Name())
			f.Write(make([]byte, 8<<20))
			time.Sleep(time.Millisecond) // other tests need the disk too
			runtime.KeepAlive(open)
		}
	case "lurk": // works on once it was given up
		go func() {
			time.Sleep(200 * time.Millisecond)
			_, _ = act("fill", dir)
		}()
		return []string{"nothing"}, nil
	case "litter": // more files than it may have, and no more: other tests need the disk too
		for i := range maxFiles + 1 {
			if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o600); err != nil {
				return nil, err
			}
		}
		select {}
	case "spin":
		for i := 0; ; i++ {
			if i < 0 {
				return nil, nil
			}
		}
	case "stop":
		syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		select {}
	case "flood":
		line := []byte(strings.Repeat("x", 1<<16) + "\n")
		for {
			os.Stderr.Write(line)
		}
	case "babble":
		for {
			os.Stdout.Write([]byte{0, 0, 0, 9, '{', '"', 'i', 'd', '"', ':', '9', '9', '}'})
		}
	case "mute":
		os.Stdout.Close()
		select {}
	}
	return nil, nil
}

// walled returns a pool of one child behind its walls that may read dir.
func walled(t *testing.T, dir string) (*Pool, *lockedBuffer) {
	t.Helper()
	p, log := pool(t, "serve", 1)
	p.Read = []string{dir}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !p.walls.whole() {
		t.Skipf("this kernel lacks a wall: %s", p.walls)
	}
	return p, log
}

// TestBreakout: a child that was taken over gets at nothing that is the gateway's.
func TestBreakout(t *testing.T) {
	b := prey(t)
	p, _ := walled(t, filepath.Dir(b.Layer))
	ref, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	s := begin(t, p, "probe "+string(ref), 0)
	defer s.Close()
	sbom, err := s.Catalogue(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	if err := json.Unmarshal(sbom.JSON, &got); err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"read a layer", "write a file of its own"} {
		if err := got[what]; err != "" {
			t.Errorf("%s: %s", what, err)
		}
		delete(got, what)
	}
	for what, err := range got {
		switch {
		case err == "":
			t.Errorf("%s: it could", what)
		case !strings.Contains(err, "permitted") && !strings.Contains(err, "denied") && !strings.Contains(err, "cross-device"):
			t.Errorf("%s: %s: that is not the walls' doing", what, err)
		}
	}
	for _, f := range []string{b.Secret, b.Layer} {
		if got, err := os.ReadFile(f); err != nil || string(got) != "key" {
			t.Errorf("%s: %q, %v", f, got, err)
		}
	}
}

// TestNothingInherited: no file of the gateway is open in a child but the pipes, and no
// secret stands in its environment or command line.
func TestNothingInherited(t *testing.T) {
	t.Setenv("SLUICE_KEY", "hunter2")
	t.Setenv("SLUICE_REDIS_PASSWORD", "hunter2")
	secret, err := os.Open(prey(t).Secret)
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Close()
	p, _ := started(t, 1)
	proc := "/proc/" + strconv.Itoa(first(t, p).pid)
	for _, f := range []string{"/environ", "/cmdline"} {
		if b, err := os.ReadFile(proc + f); err != nil || strings.Contains(string(b), "hunter2") {
			t.Errorf("%s: %q, %v", f, b, err)
		}
	}
	fds, err := os.ReadDir(proc + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		to, err := os.Readlink(proc + "/fd/" + fd.Name())
		if n, _ := strconv.Atoi(fd.Name()); n <= 2 && strings.HasPrefix(to, "pipe:") || strings.HasPrefix(to, "anon_inode:") || strings.Contains(to, "/cgroup/") || err != nil {
			continue // what Go waits with, and where it reads how many processors it has
		}
		t.Errorf("%s is open: %s", fd.Name(), to)
	}
}

// TestAllThreads: the walls stand around every thread, those that were there before and
// those that came later.
func TestAllThreads(t *testing.T) {
	p, _ := walled(t, t.TempDir())
	proc := "/proc/" + strconv.Itoa(first(t, p).pid) + "/task"
	tasks, err := os.ReadDir(proc)
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		b, err := os.ReadFile(filepath.Join(proc, task.Name(), "status"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil || !strings.Contains(string(b), "Seccomp:\t2") || !strings.Contains(string(b), "NoNewPrivs:\t1") {
			t.Errorf("thread %s: %v\n%s", task.Name(), err, b)
		}
	}
}

// raceEnd is how the race detector ends a process that has no memory for it.
const raceEnd = "exit status 66"

// TestExhaustion: a child that takes more than it may ends, says what it took, and the
// next scan works.
func TestExhaustion(t *testing.T) {
	tests := []struct {
		what, want string
		once       bool // it is the deadline that ends it
	}{
		{what: "bomb", want: "needed more than 512 MiB of memory"},
		{what: "fill", want: "needed more than 64 MiB of temporary space"},
		{what: "hide", want: "needed more than 64 MiB of temporary space"},
		{what: "litter", want: "more than 20,000 temporary files"},
		{what: "flood", want: "wrote too much"},
		{what: "babble", want: "not understood"},
		{what: "mute", want: "signal: killed"},
		{what: "spin", want: "deadline", once: true},
		{what: "stop", want: "deadline", once: true},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			p, log := pool(t, "serve", 1)
			p.MemoryLimit, p.TempLimit = 256<<20, 64<<20
			if err := p.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			before := first(t, p)
			wait := time.Minute
			if tt.once {
				wait = 2 * time.Second
			}
			ctx, cancel := context.WithTimeout(t.Context(), wait)
			defer cancel()
			s := begin(t, p, tt.what, 0)
			defer s.Close()
			if _, err := s.Catalogue(ctx); err == nil || !strings.Contains(err.Error(), tt.want) && !strings.Contains(err.Error(), raceEnd) {
				t.Errorf("%v, want %q\n%s", err, tt.want, log)
			}
			ended(t, before)
			if _, err := scanned(t, p, "fine"); err != nil {
				t.Errorf("the next scan: %v", err)
			}
		})
	}
}

// TestLurker: a child that fills the disk when it has nothing to do is ended, too.
func TestLurker(t *testing.T) {
	p, log := pool(t, "serve", 1)
	p.TempLimit = 64 << 20
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := first(t, p)
	if _, err := scanned(t, p, "lurk"); err != nil {
		t.Fatal(err)
	}
	ended(t, before)
	if err := before.reason(); !strings.Contains(err.Error(), "temporary space") {
		t.Errorf("%v\n%s", err, log)
	}
}

// TestFirstToGo: where the machine runs out of memory, the kernel takes a child.
func TestFirstToGo(t *testing.T) {
	p, _ := started(t, 1)
	b, err := os.ReadFile("/proc/" + strconv.Itoa(first(t, p).pid) + "/oom_score_adj")
	if err != nil || strings.TrimSpace(string(b)) != "1000" {
		t.Errorf("%q, %v", b, err)
	}
}

// TestCallsEverywhere: the list makes a filter on every architecture that has names.
func TestCallsEverywhere(t *testing.T) {
	policy, err := calls(1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := policy.Assemble(); err != nil {
		t.Error(err)
	}
	for _, n := range allowed {
		known := false
		for _, a := range []*arch.Info{arch.X86_64, arch.AARCH64, arch.I386} {
			_, ok := a.SyscallNames[n]
			known = known || ok
		}
		if !known {
			t.Errorf("%s is no call anywhere", n)
		}
	}
}

// A pipe in the place of a result is refused, and not waited for.
func TestResultThatIsAPipe(t *testing.T) {
	p, _ := started(t, 1)
	pr := first(t, p)
	if err := syscall.Mkfifo(filepath.Join(pr.root.Name(), "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() {
		_, err := pr.result("pipe")
		got <- err
	}()
	select {
	case err := <-got:
		if err == nil || !strings.Contains(err.Error(), "no file") {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it waits for a writer")
	}
}
