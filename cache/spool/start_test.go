package spool

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("SPOOL_TEST_CRASH"); dir != "" {
		crash(dir)
	}
	os.Exit(m.Run())
}

// crash writes blobs, all the time, until it is killed.
func crash(dir string) {
	s, err := Open(dir, 1<<30)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for i := uint64(0); ; i++ {
		b := content(i, 100_000)
		_, err := s.Fetch(digest.FromBytes(b), int64(len(b)), nil, func(_ context.Context, w io.Writer) error {
			for rest := b; len(rest) > 0; rest = rest[1000:] {
				if _, err := w.Write(rest[:1000]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		if w, err := s.Create(nil); err == nil {
			b := content(i+1000, 50_000)
			w.Write(b)
			w.Commit(digest.FromBytes(b))
		}
		fmt.Println("wrote", i)
	}
}

// A process that is killed at any moment leaves nothing wrong and nothing partial.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	for round := range 5 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "SPOOL_TEST_CRASH="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for range 3 + round*7 { // somewhere in the middle of something
			lines.Scan()
		}
		if !strings.HasPrefix(lines.Text(), "wrote") {
			t.Errorf("the other process says %q", lines.Text())
		}
		cmd.Process.Kill()
		cmd.Wait()

		s := open(t, dir, 1<<30)
		if f := files(t, s, partialDir); len(f) > 0 {
			t.Errorf("partial files are left: %v", f)
		}
		if u := s.Usage(); u.Blobs < 3 || u.Blobs != len(files(t, s, blobsDir)) {
			t.Errorf("%+v, %d files", u, len(files(t, s, blobsDir)))
		}
		if bad, err := s.Verify(t.Context()); err != nil || len(bad) > 0 {
			t.Errorf("wrong blobs: %v, %v", bad, err)
		}
		s.Close()
	}
}

// damage does something to the file of a blob.
var damage = map[string]func(t *testing.T, path string){
	"truncated": func(t *testing.T, path string) { must(t, os.Truncate(path, 50)) },
	"longer":    func(t *testing.T, path string) { must(t, os.Truncate(path, 150)) },
	"removed":   func(t *testing.T, path string) { must(t, os.Remove(path)) },
	"directory": func(t *testing.T, path string) { must(t, os.Remove(path)); must(t, os.Mkdir(path, 0o700)) },
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A file that was damaged from outside is as good as none, and is fetched again.
func TestDamaged(t *testing.T) {
	for name, hurt := range damage {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir(), 1000)
			want := content(1, 100)
			b := put(t, s, want)
			hurt(t, b.Path())
			if _, err := b.File(); err == nil {
				t.Error("File has no error")
			}
			r := b.NewReader(t.Context()) // by the descriptor that is open
			if n, err := io.Copy(io.Discard, r); name == "truncated" && (n != 50 || !errors.Is(err, io.ErrUnexpectedEOF)) {
				t.Errorf("Read: %d bytes, %v", n, err)
			}
			r.Close()
			if _, err := s.Open(b.Digest()); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "damaged") {
				t.Errorf("Open: %v", err)
			}
			b.Close()
			if u := s.Usage(); u.Committed != 0 || u.Idle != 0 {
				t.Errorf("%+v", u)
			}
			put(t, s, want).Close()
		})
		t.Run(name+" between two runs", func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir, 1000)
			b := put(t, s, content(1, 100))
			b.Close()
			s.Close()
			hurt(t, b.Path())
			s = open(t, dir, 1000)
			if _, err := s.Open(b.Digest()); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Open: %v", err)
			}
			if u := s.Usage(); u.Committed != 0 {
				t.Errorf("%+v", u)
			}
		})
	}
}

// flip changes a byte of a file and leaves its size.
func flip(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	b[len(b)/2] ^= 1
	must(t, os.WriteFile(path, b, 0o600))
}

func TestVerify(t *testing.T) {
	s := open(t, t.TempDir(), 1000)
	good, bad := put(t, s, content(1, 100)), put(t, s, content(2, 100))
	good.Close()
	flip(t, bad.Path())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Verify(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Verify with a context that has ended: %v", err)
	}
	got, err := s.Verify(t.Context())
	if diff := cmp.Diff([]digest.Digest{bad.Digest()}, got); diff != "" || err != nil {
		t.Errorf("%s %v", diff, err)
	}
	bad.Close()
	if u := s.Usage(); u.Blobs != 1 || u.Idle != 100 {
		t.Errorf("%+v", u)
	}
}

// After another boot, what is there is hashed before it is served.
func TestBoot(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 1000)
	if s.boot == "" {
		t.Skip("needs /proc/sys/kernel/random/boot_id")
	}
	good, bad, again := put(t, s, content(1, 100)), put(t, s, content(2, 100)), put(t, s, content(3, 100))
	for _, b := range []*Blob{good, bad, again} {
		b.Close()
	}
	s.Close()
	flip(t, bad.Path())
	must(t, os.WriteFile(filepath.Join(dir, bootFile), []byte("another"), 0o600))

	// By hand, so that the background check does not begin.
	lock, err := lockDir(dir)
	must(t, err)
	s = newSpool(dir, 1000, lock)
	unsure, err := s.load()
	if err != nil || !unsure {
		t.Fatalf("load: %v, %v", unsure, err)
	}
	for _, b := range []*Blob{good, bad, again} {
		if _, err := s.Open(b.Digest()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open before the check: %v", err)
		}
	}
	put(t, s, content(3, 100)).Close()
	s.checkUnsure()
	if diff := cmp.Diff([]bool{true, false, true}, has(t, s, content(1, 100), content(2, 100), content(3, 100))); diff != "" {
		t.Error(diff)
	}
	b, err := s.Open(good.Digest())
	must(t, err)
	if b.Path() != good.Path() {
		t.Errorf("it lies at %s", b.Path())
	}
	b.Close()
	if f := files(t, s, unsureDir); len(f) > 0 {
		t.Errorf("unsure files are left: %v", f)
	}
	checkInvariant(t, s)
	must(t, s.Close())

	// The same by itself.
	must(t, os.WriteFile(filepath.Join(dir, bootFile), []byte("a third"), 0o600))
	s = open(t, dir, 1000)
	s.wg.Wait()
	b, err = s.Open(good.Digest())
	must(t, err)
	b.Close()
	if u := s.Usage(); u.Blobs != 2 {
		t.Errorf("the next run: %+v", u)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, 1000)
	if _, err := Open(dir, 1000); err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second spool in one directory: %v", err)
	}
	if _, err := Open(filepath.Join(dir, "lock", "x"), 1000); err == nil || !strings.Contains(err.Error(), "choose another directory") {
		t.Errorf("a directory that can't be: %v", err)
	}
	if _, err := Open(t.TempDir(), 0); err == nil {
		t.Error("a quota of nothing is accepted")
	}
	s := open(t, filepath.Join(dir, "new"), 1000)
	if fi, err := os.Stat(s.dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", fi.Mode(), err)
	}
}

// Files that are none of ours are left alone.
func TestForeignFiles(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, 1000).Close()
	hex := digest.FromString("x").Encoded()
	for _, name := range []string{"README", "sha256/ab/nonsense.1", "sha256/zz/" + hex + ".1", "md5/ab/abcd.1",
		"sha256/" + hex[:2] + "/" + hex, "sha256/" + hex[:2] + "/" + hex + ".-1", "sha256/" + hex[:2] + "/" + hex + ".1.1"} {
		path := filepath.Join(dir, blobsDir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o700))
		must(t, os.WriteFile(path, []byte("x"), 0o600))
	}
	s := open(t, dir, 1000)
	if u := s.Usage(); u.Blobs != 0 || len(files(t, s, blobsDir)) != 7 {
		t.Errorf("%+v %v", u, files(t, s, blobsDir))
	}
}
