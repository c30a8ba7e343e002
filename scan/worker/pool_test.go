package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/scan"
)

// The tests' binary is its own child: TestMain becomes what the variable says.
const childVar = "SLUICE_TEST_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(childVar) {
	case "":
		os.Exit(m.Run())
	case "serve":
		if err := Serve(context.Background(), os.Stdin, os.Stdout, fakeCataloguer{}, fakeMatcher{}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "garbage":
		fmt.Println("this is no frame, and says nothing that one could understand")
		select {}
	case "huge": // a frame that is longer than any
		os.Stdout.Write([]byte{0xff, 0xff, 0xff, 0xff})
		select {}
	case "exit":
		os.Exit(7)
	case "parent": // a gateway that dies: see TestParentDies
		p := &Pool{Command: []string{"/proc/self/exe"}, Env: []string{childVar + "=serve"}, Size: 1, TempDir: os.Getenv("SLUICE_TEST_DIR")}
		if err := p.Start(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(p.slots[0].pid)
		select {}
	}
}

// fakeCataloguer makes of an image what its reference says: an SBOM, or a fault.
type fakeCataloguer struct{}

func (fakeCataloguer) Warm() error { return nil }

func (fakeCataloguer) Begin(ctx context.Context, img scan.Image, diffIDs []digest.Digest, tempDir string) (scan.Session, error) {
	if img.Reference == "no begin" {
		return nil, &scan.ContentError{Detail: "the image's config can't be read"}
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &fakeSession{ctx: ctx, cancel: cancel, img: img, dir: tempDir, landed: make(chan string, 100)}
	return s, nil
}

type fakeSession struct {
	ctx    context.Context
	cancel func()
	img    scan.Image
	dir    string
	landed chan string
}

func (s *fakeSession) Layer(i int, path string) error {
	b, err := os.ReadFile(path)
	s.landed <- fmt.Sprintf("%d:%s", i, b)
	return err
}

func (s *fakeSession) Catalogue(ctx context.Context) (*scan.SBOM, error) {
	var out []string
	for range s.img.Layers {
		select {
		case l := <-s.landed:
			out = append(out, l)
		case <-s.ctx.Done():
			return nil, s.ctx.Err()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if did, err := act(s.img.Reference, s.dir); did != nil || err != nil { // see walls_linux_test.go
		return &scan.SBOM{JSON: []byte(strings.Join(did, "\n"))}, err
	}
	switch s.img.Reference {
	case "panic":
		panic("a cataloguer's bug")
	case "crash":
		go func() { panic("in a goroutine that nobody watches") }()
		select {}
	case "hang": // what syft does: it heeds no context
		select {}
	case "content":
		return nil, &scan.ContentError{Detail: "not an image"}
	case "escape":
		os.Symlink("/etc/passwd", filepath.Join(s.dir, "result-escape"))
	case "environment":
		out = os.Environ()
	case "much":
		return &scan.SBOM{JSON: make([]byte, maxResult+1)}, nil
	}
	return &scan.SBOM{JSON: []byte(strings.Join(out, "\n")), Packages: len(out), Distro: "wolfi", DistroVer: "1",
		Problems: []scan.Problem{{Kind: "k", Detail: "d"}}}, nil
}

func (s *fakeSession) Close() error { s.cancel(); return nil }

type fakeMatcher struct{}

func (fakeMatcher) Match(ctx context.Context, sbomFile string, db scan.Database) (*scan.Matches, error) {
	b, err := os.ReadFile(sbomFile)
	switch string(b) {
	case "hang":
		select {}
	case "slow": // long enough to be killed meanwhile
		time.Sleep(time.Second)
	case "much":
		return &scan.Matches{Findings: []scan.Finding{{ID: strings.Repeat("x", maxResult)}}}, nil
	case "wait":
		<-ctx.Done()
		return &scan.Matches{}, nil // a matcher that takes an end for an empty answer
	}
	return &scan.Matches{DistroKnown: true, Findings: []scan.Finding{{ID: string(b) + " in " + db.Dir + " " + db.Checksum}}}, err
}

// pool returns a started pool of fake children and its log.
func pool(t *testing.T, child string, size int) (*Pool, *lockedBuffer) {
	t.Helper()
	log := &lockedBuffer{}
	p := &Pool{
		Command: []string{os.Args[0]}, Env: []string{childVar + "=" + child}, Size: size, TempDir: t.TempDir(),
		Grace: 200 * time.Millisecond, Log: slog.New(slog.NewTextHandler(log, nil)),
	}
	t.Cleanup(func() {
		p.Close()
		if left, _ := os.ReadDir(p.TempDir); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	return p, log
}

func started(t *testing.T, size int) (*Pool, *lockedBuffer) {
	t.Helper()
	p, log := pool(t, "serve", size)
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p, log
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// first returns the process in the first slot, which may have been replaced.
func first(t *testing.T, p *Pool) *process {
	t.Helper()
	pr, err := p.process(0)
	if err != nil {
		t.Fatal(err)
	}
	return pr
}

// ended waits for the end of a process.
func ended(t *testing.T, pr *process) {
	t.Helper()
	select {
	case <-pr.done:
	case <-time.After(time.Minute):
		t.Fatalf("process %d lives on: %v", pr.pid, pr.reason())
	}
}

// begin begins a session for an image of n layers.
func begin(t *testing.T, p *Pool, ref string, n int) scan.Session {
	t.Helper()
	img := scan.Image{Reference: ref, Digest: digest.FromString(ref), Manifest: []byte("{}"), Config: []byte("{}")}
	for range n {
		img.Layers = append(img.Layers, ocispec.Descriptor{})
	}
	s, err := p.Begin(t.Context(), img, make([]digest.Digest, n))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func land(t *testing.T, s scan.Session, n int) {
	t.Helper()
	for i := range n {
		landOne(t, s, i)
	}
}

func landOne(t *testing.T, s scan.Session, i int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "layer")
	if err := os.WriteFile(path, []byte("bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Layer(i, path); err != nil {
		t.Fatal(err)
	}
}

// scanned runs an image of two layers through p.
func scanned(t *testing.T, p *Pool, ref string) (*scan.SBOM, error) {
	t.Helper()
	s := begin(t, p, ref, 2)
	defer s.Close()
	land(t, s, 2)
	return s.Catalogue(t.Context())
}

func TestCatalogueAndMatch(t *testing.T) {
	p, _ := started(t, 2)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			got, err := scanned(t, p, "fine")
			if err != nil {
				t.Error(err)
				return
			}
			want := &scan.SBOM{JSON: []byte("0:bytes\n1:bytes"), Packages: 2, Distro: "wolfi", DistroVer: "1", Problems: []scan.Problem{{Kind: "k", Detail: "d"}}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
		wg.Go(func() {
			m, err := p.Match(t.Context(), []byte("an SBOM"), scan.Database{Checksum: "c", Dir: "/db"})
			if err != nil || m.Findings[0].ID != "an SBOM in /db c" || !m.DistroKnown {
				t.Errorf("%+v, %v", m, err)
			}
		})
	}
	wg.Wait()
	dirs, _ := filepath.Glob(filepath.Join(p.TempDir, "*", "*"))
	if len(dirs) > 0 {
		t.Errorf("results left behind: %v", dirs)
	}
}

// TestFaults: whatever happens to a child, its scans get an error and no other, and
// the next scan works.
func TestFaults(t *testing.T) {
	tests := []struct {
		name, ref string
		during    func(pr *process)
		want      string // in the error
		content   bool
		survives  bool // the process does
	}{
		{name: "panic in a cataloguer", ref: "panic", want: "a cataloguer's bug", survives: true},
		{name: "crash", ref: "crash", want: "exit status 2"},
		{name: "an image that is none", ref: "content", want: "not an image", content: true, survives: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, log := started(t, 1)
			before := first(t, p)
			s := begin(t, p, tt.ref, 1)
			land(t, s, 1)
			if tt.during != nil {
				go tt.during(before)
			}
			got, err := s.Catalogue(t.Context())
			if got != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Catalogue: %v, %v, want an error with %q\nlog: %s", got, err, tt.want, log)
			}
			var content *scan.ContentError
			if errors.As(err, &content) != tt.content {
				t.Errorf("%v: about the image's content: %v", err, !tt.content)
			}
			s.Close()
			if _, err := scanned(t, p, "fine"); err != nil {
				t.Errorf("the next scan: %v", err)
			}
			if survived := before == first(t, p); survived != tt.survives {
				t.Errorf("process survived: %v", survived)
			}
		})
	}
}

// TestDeadline: work that can't be stopped is killed with its process.
func TestDeadline(t *testing.T) {
	tests := []struct {
		name     string
		run      func(ctx context.Context, p *Pool) error
		survives bool
	}{
		{"a catalogue that hangs", func(ctx context.Context, p *Pool) error {
			s, err := p.Begin(ctx, scan.Image{Reference: "hang"}, nil)
			if err != nil {
				return err
			}
			defer s.Close()
			_, err = s.Catalogue(ctx)
			return err
		}, false},
		{"a match that hangs", func(ctx context.Context, p *Pool) error {
			_, err := p.Match(ctx, []byte("hang"), scan.Database{})
			return err
		}, false},
		{"a match that ends", func(ctx context.Context, p *Pool) error {
			_, err := p.Match(ctx, []byte("wait"), scan.Database{})
			return err
		}, true},
		{"a layer that never lands", func(ctx context.Context, p *Pool) error {
			s, err := p.Begin(ctx, scan.Image{Reference: "fine", Layers: make([]ocispec.Descriptor, 1)}, nil)
			if err != nil {
				return err
			}
			defer s.Close()
			_, err = s.Catalogue(ctx)
			return err
		}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, _ := started(t, 1)
			if tt.survives {
				p.Grace = time.Minute // on a slow machine nothing ends in milliseconds
			}
			pr := first(t, p)
			ended := tt.survives
			for wait := 100 * time.Millisecond; wait == 100*time.Millisecond || !ended; wait *= 4 { // on a slow machine it may not have begun
				ctx, cancel := context.WithTimeout(t.Context(), wait)
				defer cancel()
				if err := tt.run(ctx, p); !errors.Is(err, context.DeadlineExceeded) {
					t.Fatalf("%v, want %v", err, context.DeadlineExceeded)
				}
				select {
				case <-pr.done:
					ended = true
				case <-time.After(map[bool]time.Duration{false: 5 * time.Second}[tt.survives]):
				}
			}
			if _, err := scanned(t, p, "fine"); err != nil {
				t.Errorf("the next scan: %v", err)
			}
			if tt.survives && pr.reason() != nil {
				t.Errorf("the process ended: %v", pr.reason())
			}
		})
	}
}

// TestClosedSession: one that is closed while it works takes its process with it only
// when it can't be stopped, and needs no context to end for it.
func TestClosedSession(t *testing.T) {
	p, _ := started(t, 1)
	pr := first(t, p)
	s := begin(t, p, "hang", 0)
	sitting(t, s)
	go s.Catalogue(t.Context())
	s.Close()
	s.Close()
	ended(t, pr)
}

func TestBadChildren(t *testing.T) {
	for child, want := range map[string]string{"garbage": "not understood", "huge": "not understood", "exit": "exit status 7"} {
		t.Run(child, func(t *testing.T) {
			p, _ := pool(t, child, 1)
			if err := p.Start(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("Start: %v, want %q", err, want)
			}
			if _, err := p.Match(t.Context(), nil, scan.Database{}); err == nil {
				t.Error("Match: no error")
			}
		})
	}
	t.Run("no such program", func(t *testing.T) {
		p, _ := pool(t, "serve", 1)
		p.Command = []string{"/nowhere/sluice", "worker"}
		if err := p.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "/nowhere/sluice") {
			t.Errorf("Start: %v", err)
		}
	})
}

// TestResultOutside: a child that was taken over can't have the gateway read its files.
func TestResultOutside(t *testing.T) {
	p, _ := started(t, 1)
	if _, err := scanned(t, p, "escape"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"result-escape", "../../secret", "/etc/passwd", "", ".", ".."} {
		if b, err := first(t, p).result(name); err == nil {
			t.Errorf("%q: read %d bytes", name, len(b))
		}
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("SLUICE_UPSTREAM_PASSWORD", "hunter2")
	p, _ := started(t, 1)
	got, err := scanned(t, p, "environment")
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{"TMPDIR": true, "HOME": true, "GOMEMLIMIT": true, "GOGC": true, childVar: true, "PWD": true}
	for line := range strings.Lines(string(got.JSON)) {
		if name, _, _ := strings.Cut(line, "="); !allowed[name] {
			t.Errorf("the child has %s", line)
		}
	}
}

func TestStderrIsLogged(t *testing.T) {
	p, log := started(t, 1)
	_, _ = scanned(t, p, "crash")
	<-first(t, p).warm
	if !strings.Contains(log.String(), "in a goroutine that nobody watches") {
		t.Errorf("the log has no word of it:\n%s", log)
	}
}

func TestStartCleans(t *testing.T) {
	p, _ := pool(t, "serve", 1)
	left := filepath.Join(p.TempDir, dirPrefix+"of an earlier gateway")
	if err := os.MkdirAll(filepath.Join(left, "deep"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v", left, err)
	}
}

func TestPoolClosed(t *testing.T) {
	p, _ := started(t, 2)
	s := begin(t, p, "fine", 1)
	p.Close()
	if _, err := s.Catalogue(t.Context()); !errors.Is(err, errClosed) {
		t.Errorf("Catalogue: %v", err)
	}
	s.Close()
	if _, err := p.Match(t.Context(), nil, scan.Database{}); !errors.Is(err, errClosed) {
		t.Errorf("Match: %v", err)
	}
}

func FuzzReadFrame(f *testing.F) {
	var b bytes.Buffer
	(&frameWriter{w: &b}).write(response{ID: 1, File: "x", SBOM: &facts{}})
	f.Add(b.Bytes())
	f.Add([]byte{0, 0, 0, 2, '{', '}', 0, 0, 0, 9, '{'})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		for {
			var res response
			if err := readFrame(r, &res); err != nil {
				return
			}
			var again bytes.Buffer
			if err := (&frameWriter{w: &again}).write(res); err != nil {
				t.Fatal(err)
			}
			var same response
			if err := readFrame(&again, &same); err != nil || !cmp.Equal(res, same) {
				t.Fatalf("%+v became %+v, %v", res, same, err)
			}
		}
	})
}
