package sbom

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sluicegate/sluice/scan"
)

// shelved returns what is on a shelf, the layer used last first, and who uses it.
func shelved(s *shelf) (layers []*indexed, users int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := s.order.Front(); e != nil; e = e.Next() {
		layers = append(layers, e.Value.(*indexed))
		users += e.Value.(*indexed).users
	}
	return layers, users
}

// open reports whether the file of a layer is.
func open(t *testing.T, x *indexed) bool {
	t.Helper()
	entries, err := x.files.GetByBasename("status")
	if err != nil || len(entries) == 0 {
		t.Fatal(entries, err)
	}
	r, err := x.files.Open(entries[0].Reference)
	if err != nil {
		return false
	}
	defer r.Close()
	_, err = r.Read(make([]byte, 1))
	return err == nil
}

// TestLayersAreIndexedOnce: an image on a base that was seen has only its own layers
// indexed, also where that base is beneath it twice.
func TestLayersAreIndexedOnce(t *testing.T) {
	c, below := fresh(t), base(t)
	first := sampleOf(t, "base", imageOf(t, below))
	want := plainly(t, first)
	agree(t, "base", want, by(t, c, first))
	c.Wait()
	kept, _ := shelved(&c.shelf)
	for name, layer := range uppers(t) {
		s := sampleOf(t, name, imageOf(t, below, layer, below))
		s.tars[0], s.tars[2] = first.tars[0], first.tars[0]
		plain, got := plainly(t, s), by(t, c, s)
		got.Problems = plain.Problems // it looks for no ambiguities
		agree(t, name, plain, got)
	}
	agree(t, "base again", want, by(t, c, first))
	c.Wait()
	now, users := shelved(&c.shelf)
	if len(kept) != 1 || now[0] != kept[0] || len(now) != 1+len(uppers(t)) || users != 0 {
		t.Errorf("%d layers, then %d, %d in use", len(kept), len(now), users)
	}
}

// TestAnotherFile: what another file is said to hold is read again.
func TestAnotherFile(t *testing.T) {
	c := fresh(t)
	s := sampleOf(t, "base", imageOf(t, base(t)))
	if got := by(t, c, s); got.Packages == 0 {
		t.Fatal("no packages")
	}
	s.tars[0] = filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(s.tars[0], tarOf(t, entry{name: "srv/package.json", content: leftPad}), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := by(t, c, s); !strings.Contains(string(got.JSON), "left-pad") || strings.Contains(string(got.JSON), "alpha") {
		t.Errorf("%d packages of another file", got.Packages)
	}
}

// TestLayerThatIsGone: a layer that the store let go is closed, once nobody uses it and
// another comes.
func TestLayerThatIsGone(t *testing.T) {
	c := fresh(t)
	s := sampleOf(t, "base", imageOf(t, base(t)))
	by(t, c, s)
	c.Wait()
	kept, _ := shelved(&c.shelf)
	key := s.diffIDs[0].String() + " " + s.img.Layers[0].MediaType
	used := c.shelf.find(key, kept[0].tar)
	if used != kept[0] {
		t.Fatal("it is not kept")
	}
	if err := os.Remove(s.tars[0]); err != nil {
		t.Fatal(err)
	}
	by(t, c, sampleOf(t, "other", imageOf(t, tarOf(t, entry{name: "x"}))))
	if now, _ := shelved(&c.shelf); len(now) != 1 || now[0] == used {
		t.Errorf("%d layers are kept", len(now))
	}
	if !open(t, used) {
		t.Error("it was closed while in use")
	}
	c.shelf.giveBack(used)
	if open(t, used) {
		t.Error("it is still open")
	}
}

// TestShelfIsBounded: of more entries than may be kept those used last are, and a process
// with little memory keeps little.
func TestShelfIsBounded(t *testing.T) {
	c := fresh(t)
	large := func(name string) sample {
		var entries []entry
		for i := range maxShelved / 4 {
			entries = append(entries, entry{name: fmt.Sprintf("%s/%d", name, i)})
		}
		return sampleOf(t, name, imageOf(t, tarOf(t, entries...)))
	}
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		wg.Go(func() { by(t, c, large(name)) })
	}
	wg.Wait()
	c.Wait()
	kept, users := shelved(&c.shelf)
	if c.shelf.entries > maxShelved || len(kept) < 2 || len(kept) > 4 || users != 0 || len(c.shelf.known) != len(kept) {
		t.Errorf("%d layers with %d entries, %d in use", len(kept), c.shelf.entries, users)
	}
}

// TestFailedLayerIsNotKept: nor does one hold up the others.
func TestFailedLayerIsNotKept(t *testing.T) {
	c := fresh(t)
	s := sampleOf(t, "base", imageOf(t, base(t), tarOf(t, entry{name: "x"})))
	if err := os.WriteFile(s.tars[1], []byte(strings.Repeat("no tar", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	sess, err := c.Begin(t.Context(), s.img, s.diffIDs, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer sess.Close()
	for i, tar := range s.tars {
		if err := sess.Layer(i, tar); err != nil {
			t.Fatal(err)
		}
	}
	var out *scan.SBOM
	if out, err = sess.Catalogue(t.Context()); err == nil || out != nil {
		t.Fatalf("%v, %v", out, err)
	}
	c.Wait()
	if kept, users := shelved(&c.shelf); len(kept) > 1 || users != 0 {
		t.Errorf("%d layers, %d in use", len(kept), users)
	}
}
