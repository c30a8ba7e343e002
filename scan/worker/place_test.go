package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/scan"
)

// eventually waits for a condition that others bring about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// sitting waits until a session has its place, and returns its process.
func sitting(t *testing.T, s scan.Session) *process {
	t.Helper()
	sess := s.(*session)
	<-sess.begun
	sess.mu.Lock()
	defer sess.mu.Unlock()
	if sess.err != nil {
		t.Fatal(sess.err)
	}
	return sess.at.pr
}

// TestNeighbours: an image that kills its process, each time, takes no other image with
// it, whatever of these had landed by then.
func TestNeighbours(t *testing.T) {
	p, log := started(t, 1)
	bad := begin(t, p, "crash", 1)
	defer bad.Close()
	early, late, none := begin(t, p, "fine", 2), begin(t, p, "fine", 2), begin(t, p, "fine", 0)
	land(t, early, 2)
	landOne(t, late, 1)
	pr := sitting(t, bad)
	for _, s := range []scan.Session{early, late, none} {
		defer s.Close()
		if sitting(t, s) != pr {
			t.Fatal("the images are in different processes")
		}
	}
	landOne(t, bad, 0)
	if _, err := bad.Catalogue(t.Context()); err == nil || !strings.Contains(err.Error(), "exit status 2") {
		t.Errorf("the one that crashes: %v", err)
	}
	landOne(t, late, 0)
	for name, s := range map[string]scan.Session{"0:bytes\n1:bytes": early, "1:bytes\n0:bytes": late, "": none} {
		got, err := s.Catalogue(t.Context())
		if err != nil || len(got.JSON) != len(name) {
			t.Errorf("a neighbour: %v, %v, want %q\n%s", got, err, name, log)
		}
	}
	if got := p.Load(); got.Waiting != 0 {
		t.Errorf("%+v", got)
	}
}

// TestKilledOnce: an image whose process is killed from outside is scanned all the same.
func TestKilledOnce(t *testing.T) {
	p, log := started(t, 2)
	s := begin(t, p, "fine", 1)
	defer s.Close()
	pr := sitting(t, s)
	syscall.Kill(pr.pid, syscall.SIGKILL)
	ended(t, pr)
	landOne(t, s, 0)
	got, err := s.Catalogue(t.Context())
	if err != nil || string(got.JSON) != "0:bytes" {
		t.Errorf("%v, %v\n%s", got, err, log)
	}
	if !strings.Contains(log.String(), "tried once more") || !strings.Contains(log.String(), "signal: killed") {
		t.Errorf("the log doesn't say it:\n%s", log)
	}
	eventually(t, "the process that was started for it ends", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.extra) == 0
	})
}

// TestDoomedProcess: images that begin while a process dies under another are scanned.
func TestDoomedProcess(t *testing.T) {
	p, log := started(t, 1)
	for range 10 {
		pr := first(t, p)
		<-pr.warm
		syscall.Kill(pr.pid, syscall.SIGKILL)
		if got, err := scanned(t, p, "fine"); err != nil || got.Packages != 2 {
			t.Fatalf("%v, %v\n%s", got, err, log)
		}
	}
}

// TestMatchKilledOnce is the same for a match.
func TestMatchKilledOnce(t *testing.T) {
	p, _ := started(t, 1)
	pr := first(t, p)
	done := make(chan error)
	go func() {
		_, err := p.Match(t.Context(), []byte("slow"), scan.Database{})
		done <- err
	}()
	eventually(t, "the match begins", func() bool { return p.Load().Running == 1 })
	syscall.Kill(pr.pid, syscall.SIGKILL)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestWaiting: images past what the pool has places for wait, say so, take no process,
// lose no layer, and are served in turn.
func TestWaiting(t *testing.T) {
	p, _ := started(t, 1)
	var in []scan.Session
	for range sessionsEach {
		s := begin(t, p, "fine", 1)
		sitting(t, s)
		in = append(in, s)
	}
	waits := begin(t, p, "fine", 2)
	defer waits.Close()
	land(t, waits, 2) // doesn't block
	eventually(t, "one waits", func() bool { return p.Load() == Load{Running: sessionsEach, Waiting: 1} })
	if !waits.(*session).Waiting() || in[0].(*session).Waiting() {
		t.Error("the wrong one says that it waits")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := waits.Catalogue(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Catalogue of one that waits: %v", err)
	}
	if _, err := p.Match(t.Context(), []byte("x"), scan.Database{}); err != nil { // has places of its own
		t.Errorf("Match beside: %v", err)
	}
	in[0].Close()
	if got, err := waits.Catalogue(t.Context()); err != nil || string(got.JSON) != "0:bytes\n1:bytes" {
		t.Errorf("%v, %v", got, err)
	}
	gone := begin(t, p, "fine", 1)
	eventually(t, "the next one waits", func() bool { return p.Load().Waiting == 1 })
	gone.Close()
	eventually(t, "it waits no more", func() bool { return p.Load().Waiting == 0 })
	if _, err := gone.Catalogue(t.Context()); err == nil {
		t.Error("the catalogue of a closed session that never began")
	}
	for _, s := range in[1:] {
		s.Close()
	}
}

// TestTurn: a process catalogues one image at a time, and those behind it say that they
// wait.
func TestTurn(t *testing.T) {
	p, _ := started(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var in []scan.Session
	done := make(chan error)
	for _, ref := range []string{"hang", "hang"} {
		s := begin(t, p, ref, 0)
		defer s.Close()
		in = append(in, s)
		sitting(t, s)
		if s.(*session).Waiting() {
			t.Error("it waits for its own layers, and says that it waits for others")
		}
		go func() {
			_, err := s.Catalogue(ctx)
			done <- err
		}()
		eventually(t, "it is catalogued, or behind the other", func() bool { return p.Load() == Load{Running: 1, Waiting: len(in) - 1} })
	}
	if in[0].(*session).Waiting() || !in[1].(*session).Waiting() {
		t.Error("the wrong one says that it waits")
	}
	cancel()
	for range in {
		<-done
	}
	eventually(t, "none waits any more", func() bool { return p.Load().Waiting == 0 })
}

// TestKnownKiller: an image that killed a process which it had for itself kills none that
// others are in from then on; and is among them again once it kills no more.
func TestKnownKiller(t *testing.T) {
	p, log := started(t, 1)
	if _, err := scanned(t, p, "crash"); err == nil {
		t.Fatal("it should have crashed")
	}
	shared := first(t, p)
	for range 2 {
		neighbour := begin(t, p, "fine", 2)
		defer neighbour.Close()
		if sitting(t, neighbour) != shared {
			t.Fatal("the neighbour has another process")
		}
		if _, err := scanned(t, p, "crash"); err == nil || !strings.Contains(err.Error(), "exit status 2") {
			t.Errorf("again: %v", err)
		}
		land(t, neighbour, 2)
		if got, err := neighbour.Catalogue(t.Context()); err != nil || got.Packages != 2 {
			t.Errorf("its neighbour: %v, %v", got, err)
		}
	}
	eventually(t, "each death is counted", func() bool { return p.Deaths() == 4 })
	if err := shared.reason(); err != nil {
		t.Errorf("the process of others ended: %v\n%s", err, log)
	}
	p.note(digest.FromString("fine"), true)
	if err := p.room().alone.Acquire(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	s := begin(t, p, "fine", 0)
	defer s.Close()
	done := make(chan error)
	go func() {
		_, err := s.Catalogue(t.Context())
		done <- err
	}()
	<-s.(*session).begun
	eventually(t, "it waits for a process and says so", s.(*session).Waiting)
	p.room().alone.Release(1)
	if err := <-done; err != nil || s.(*session).Waiting() {
		t.Errorf("%v, still waiting: %v", err, s.(*session).Waiting())
	}
	p.note(digest.FromString("fine"), true)
	for range 2 {
		if got, err := scanned(t, p, "fine"); err != nil || got.Packages != 2 {
			t.Errorf("one that killed before: %v, %v", got, err)
		}
	}
	if p.kills(digest.FromString("fine")) {
		t.Error("that it killed once is held against it for ever")
	}
}

// TestOneThatCantStart: where a process can't be replaced, the others do the work.
func TestOneThatCantStart(t *testing.T) {
	p, log := started(t, 2)
	p.mu.Lock()
	p.Command = []string{"/nowhere"}
	pr := p.slots[0]
	p.mu.Unlock()
	pr.kill(errors.New("killed by a test"))
	ended(t, pr)
	eventually(t, "it can't be replaced", func() bool { return strings.Contains(log.String(), "can't be replaced") })
	for range 3 {
		if got, err := scanned(t, p, "fine"); err != nil || got.Packages != 2 {
			t.Fatalf("%v, %v", got, err)
		}
	}
}

// TestKeep: processes that could not be started, or ended before they were warm, are
// tried again, whether anybody asks for one or not.
func TestKeep(t *testing.T) {
	p, log := pool(t, "exit", 2)
	p.every = 10 * time.Millisecond
	if err := p.Start(t.Context()); err == nil {
		t.Fatal("processes that end at once are said to be warm")
	}
	command := func(name, child string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.Command, p.Env = []string{name}, []string{childVar + "=" + child}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		p.Keep(ctx)
		close(done)
	}()
	defer func() { cancel(); <-done }()
	both := func() bool { n, since := p.Warm(); return n == 2 && since.IsZero() }
	if n, since := p.Warm(); n != 0 || !since.IsZero() {
		t.Errorf("%d are warm, since %v", n, since)
	}
	command(os.Args[0], "serve")
	eventually(t, "they are up", both)

	command("/nowhere", "")
	for i := range 2 {
		if pr, err := p.process(i); err == nil {
			pr.kill(errors.New("killed by a test"))
		}
	}
	eventually(t, "none is up", func() bool { n, since := p.Warm(); return n == 0 && !since.IsZero() })
	eventually(t, "it is said", func() bool { return strings.Contains(log.String(), "tried again") })
	command(os.Args[0], "serve")
	eventually(t, "they are up again", both)
}

func TestFit(t *testing.T) {
	const gib = 1 << 30
	for _, tt := range []struct {
		name    string
		cores   int
		memory  int64
		workers int
		size    int
		limit   int64
	}{
		{"not known", 2, 0, 0, 2, defaultMemory},
		{"a small virtual machine", 1, 1 * gib, 0, 1, gib * 3 / 16},
		{"a laptop", 8, 16 * gib, 0, 2, defaultMemory},
		{"a server", 64, 256 * gib, 0, 32, defaultMemory},
		{"as many as somebody wants", 2, 64 * gib, 5, 5, defaultMemory},
		{"more than fit", 2, 8 * gib, 3, 3, 8 * gib * 3 / 4 / 8},
	} {
		size, limit := Fit(tt.cores, tt.memory, tt.workers)
		if size != tt.size || limit != max(tt.limit, leastMemory) {
			t.Errorf("%s: %d processes of %d MiB, want %d of %d", tt.name, size, limit>>20, tt.size, tt.limit>>20)
		}
		if worst := int64(size+1) * 2 * limit; tt.memory > 0 && worst > tt.memory && limit > leastMemory {
			t.Errorf("%s: at worst %d MiB of %d", tt.name, worst>>20, tt.memory>>20)
		}
	}
	if cores, memory := Machine(); cores < 1 || memory < 64<<20 {
		t.Errorf("this machine has %d cores and %d bytes", cores, memory)
	}
}

// TestStoppedWhileIdle: a process that was stopped after it became warm is replaced when it
// doesn't answer, and the image that came to it is scanned.
func TestStoppedWhileIdle(t *testing.T) {
	p, log := started(t, 1)
	pr := first(t, p)
	<-pr.warm
	syscall.Kill(pr.pid, syscall.SIGSTOP)
	eventually(t, "all its threads stand still", func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pr.pid))
		for _, f := range threads {
			b, _ := os.ReadFile(f) // one that has ended stands still too
			_, state, _ := strings.Cut(string(b), ") ")
			if len(b) > 0 && !strings.HasPrefix(state, "T") {
				return false
			}
		}
		return err == nil && len(threads) > 0
	})
	if got, err := scanned(t, p, "fine"); err != nil || got.Packages != 2 {
		t.Fatalf("%v, %v\n%s", got, err, log)
	}
	ended(t, pr)
}
