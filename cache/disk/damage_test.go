package disk

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/sluicegate/sluice/cache"
)

// TestMain lets the test binary stand for another process: see TestCrash.
func TestMain(m *testing.M) {
	switch path := os.Getenv("STORE_TEST_PATH"); os.Getenv("STORE_TEST_HELPER") {
	case "crash":
		writeUntilKilled(path)
	case "full":
		writeUntilFull(path)
	default:
		os.Exit(m.Run())
	}
}

// background is for the helpers, which have no test's context.
var background = context.Background()

func helper(t *testing.T, what, path string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "STORE_TEST_HELPER="+what, "STORE_TEST_PATH="+path)
	cmd.Stderr = os.Stderr
	return cmd
}

// TestDamage flips bits all over the file. Whatever happens, nothing may be read
// that was not written, nothing that was written may be missing, and nothing may
// panic: there is an error, or all is well.
func TestDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := mustOpen(t, path)
	values, maps := fill(t, s)
	mustClose(t, s)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	rng := rand.New(rand.NewPCG(1, 2))
	var offsets []int
	for page := 0; page < len(good); page += pageSize {
		if good[page+8] == 0 && page > 0 { // never written, or in the midst of a value
			continue
		}
		for i := range 24 { // headers, and the first element
			offsets = append(offsets, page+i)
		}
		for range 10 {
			offsets = append(offsets, page+rng.IntN(pageSize))
		}
	}
	opened, failed := 0, 0
	flip := func(at int, bits byte) {
		t.Helper()
		good[at] ^= bits
		if _, err := file.WriteAt(good[at:at+1], int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	for _, at := range offsets {
		bits := byte(1) << rng.IntN(8)
		flip(at, bits)
		s, err := Open(path)
		if err != nil {
			wantAdvice(t, err, path)
			if errors.As(err, new(fault)) {
				t.Fatalf("byte %d of page %d: bbolt found what check should have: %v", at%pageSize, at/pageSize, err)
			}
			opened++
			flip(at, bits)
			continue
		}
		errs := wrong(t, s, values, maps)
		for _, err := range errs {
			wantAdvice(t, err, path)
		}
		if len(errs) > 0 {
			failed++
		}
		mustClose(t, s)
		if t.Failed() {
			t.Fatalf("with a bit of byte %d (of page %d) flipped", at%pageSize, at/pageSize)
		}
		flip(at, bits)
	}
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, good) {
		t.Errorf("opening and reading have changed the file, %v", err)
	}
	t.Logf("%d flips in %d pages: Open found %d, a read %d", len(offsets), len(good)/pageSize, opened, failed)
	if opened == 0 || failed == 0 {
		t.Error("the flips did not reach what they are meant to")
	}
}

func wantAdvice(t *testing.T, err error, path string) {
	t.Helper()
	if errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "move the file aside") {
		t.Errorf("%v: want the path and what to do", err)
	}
}

// TestTruncated cuts the file short at every page.
func TestTruncated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := mustOpen(t, path)
	values, maps := fill(t, s)
	mustClose(t, s)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	for size := info.Size() - 1; size > 0; size -= pageSize {
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		s, err := Open(path)
		if err != nil {
			wantAdvice(t, err, path)
			continue
		}
		if errs := wrong(t, s, values, maps); len(errs) > 0 || t.Failed() {
			t.Fatalf("%d bytes: %v", size, errs)
		}
		mustClose(t, s)
	}
}

// TestDamageWhileOpen damages the file under an open store, whose pages are mapped:
// what Open has checked is no longer so.
func TestDamageWhileOpen(t *testing.T) {
	for name, do := range map[string]func(path string) error{
		"zeros":     func(path string) error { return overwrite(path, 2*pageSize, 0) },
		"ones":      func(path string) error { return overwrite(path, 2*pageSize, 0xff) },
		"truncated": func(path string) error { return os.Truncate(path, 2*pageSize) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "store.db")
			s := mustOpen(t, path)
			values, maps := fill(t, s)
			if err := do(path); err != nil {
				t.Fatal(err)
			}
			errs := wrong(t, s, values, maps)
			if len(errs) != len(values)+len(maps) {
				t.Errorf("%d of %d reads brought an error", len(errs), len(values)+len(maps))
			}
			for range 2 { // also when bbolt has been left with its locks held
				err := s.Put(t.Context(), cache.Name("value", "1"), []byte("x"), 0)
				if err == nil {
					t.Fatal("a write to the damaged file succeeded")
				}
				wantAdvice(t, err, path)
			}
			mustClose(t, s)
		})
	}
}

func overwrite(path string, from int64, with byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(strings.Repeat(string([]byte{with}), int(info.Size()-from))), from)
	return err
}

// TestCrash kills a process in the midst of its writes. What it was told to be
// written must be there.
func TestCrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	last := 0
	for round := range 5 {
		cmd := helper(t, "crash", path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var acknowledged []string
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			acknowledged = append(acknowledged, lines.Text())
			if len(acknowledged) == 300+170*round {
				_ = cmd.Process.Kill()
			}
		}
		_ = cmd.Wait()
		s := mustOpen(t, path)
		fields, err := s.Fields(t.Context(), cache.Name("map", "a"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range acknowledged {
			if got, err := s.Get(t.Context(), cache.Name("value", name)); err != nil || string(got) != long(name) {
				t.Errorf("round %d: Get(%s) = %.20q, %v", round, name, got, err)
			}
			if string(fields[name]) != name {
				t.Errorf("round %d: field %s = %q", round, name, fields[name])
			}
		}
		if len(fields) < last+len(acknowledged) {
			t.Errorf("round %d: %d fields, want those of all rounds", round, len(fields))
		}
		last = len(fields)
		mustClose(t, s)
	}
}

func long(name string) string { return strings.Repeat(name+" ", 1000) }

// writeUntilKilled prints the name of each entry once it has been written.
func writeUntilKilled(path string) {
	s, err := Open(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var out sync.Mutex // keeps lines whole
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := 0; ; j++ {
				name := fmt.Sprint(os.Getpid(), "/", i, "/", j)
				err := errors.Join(
					s.Put(background, cache.Name("value", name), []byte(long(name)), 0),
					s.PutField(background, cache.Name("map", "a"), name, []byte(name), 0))
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				out.Lock()
				fmt.Println(name)
				out.Unlock()
			}
		})
	}
	all.Wait()
}

// TestFull lets a process reach the limit of what it may write to a file, as it
// would reach the end of a disk.
func TestFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	out, err := helper(t, "full", path).Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s := mustOpen(t, path)
	n := 0
	for name := range strings.Lines(string(out)) {
		name = strings.TrimSpace(name)
		if got, err := s.Get(t.Context(), cache.Name("value", name)); err != nil || string(got) != random(name) {
			t.Errorf("Get(%s) = %d bytes, %v", name, len(got), err)
		}
		n++
	}
	if n < 10 {
		t.Errorf("only %d entries were written", n)
	}
}

func random(name string) string {
	b := make([]byte, 50_000)
	_, _ = rand.NewChaCha8([32]byte([]byte(strings.Repeat(name, 32)[:32]))).Read(b)
	return string(b)
}

func writeUntilFull(path string) {
	signal.Ignore(syscall.SIGXFSZ)
	limit := &syscall.Rlimit{Cur: 3 << 20, Max: 3 << 20}
	s, err := Open(path)
	if err == nil {
		err = syscall.Setrlimit(syscall.RLIMIT_FSIZE, limit)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for i := range 100 {
		name := fmt.Sprint("entry ", i)
		if err = s.Put(background, cache.Name("value", name), []byte(random(name)), 0); err != nil {
			break
		}
		fmt.Println(name)
	}
	if err == nil || !strings.Contains(err.Error(), "can't write to the store "+path) {
		fmt.Fprintln(os.Stderr, "on a full disk:", err)
		os.Exit(1)
	}
	// What is there can be read, and what fits into free pages can be written.
	if got, err := s.Get(background, cache.Name("value", "entry 3")); err != nil || string(got) != random("entry 3") {
		fmt.Fprintln(os.Stderr, "Get on a full disk:", err)
		os.Exit(1)
	}
	if err := errors.Join(s.Ping(background), s.Close()); err != nil {
		fmt.Fprintln(os.Stderr, "Ping and Close on a full disk:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// FuzzDecode checks that no record is decoded that encode would not have written.
func FuzzDecode(f *testing.F) {
	key := entryKey(cache.Name("kind", "id"))
	for _, r := range []record{{value, 0, []byte("packed")}, head(1, 2), {field, 7, nil}} {
		f.Add(key, r.encode(key))
	}
	f.Fuzz(func(t *testing.T, key, b []byte) {
		r, err := decode(key, b)
		if err != nil {
			return
		}
		if again := r.encode(key); string(again) != string(b) {
			t.Errorf("%x was decoded, and encoded as %x", b, again)
		}
	})
}

// FuzzCheck checks that no file makes the checker panic, hang or take much memory.
// Each edit is an offset of 3 bytes and a byte to put there; the meta pages'
// checksums are made right again, so that what they say is followed.
func FuzzCheck(f *testing.F) {
	path := filepath.Join(f.TempDir(), "seed.db")
	s := mustOpen(f, path)
	fill(f, s)
	mustClose(f, s)
	seed, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	if err := check(bytes.NewReader(seed), int64(len(seed))); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{})
	f.Add([]byte{0, 0, pageHeader + 16, 5, 0, 0x10, pageHeader + 16, 5}) // other roots
	f.Add([]byte{0, 0, pageHeader + 47, 0xff})                           // more pages than there are
	f.Add([]byte{0, 0x30, 12, 0xff, 0, 0x40, 15, 0xff})                  // long pages
	f.Fuzz(func(t *testing.T, edits []byte) {
		file := bytes.Clone(seed)
		for ; len(edits) >= 4; edits = edits[4:] {
			file[(int(edits[0])<<16|int(edits[1])<<8|int(edits[2]))%len(file)] = edits[3]
		}
		for _, meta := range [][]byte{file[pageHeader:], file[pageSize+pageHeader:]} {
			sum := fnv.New64a()
			sum.Write(meta[:metaSummed])
			order.PutUint64(meta[metaSummed:], sum.Sum64())
		}
		_ = check(bytes.NewReader(file), int64(len(file)))
	})
}
