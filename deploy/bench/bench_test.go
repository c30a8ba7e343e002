package main

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
)

func TestBetween(t *testing.T) {
	for _, c := range []struct {
		name, page, want string
		ok               bool
	}{
		{"empty", "a\n" + opening + "\n" + closing + "\nb", "a\n" + opening + "\nT\n" + closing + "\nb", true},
		{"replaced", "a" + opening + "old\nold" + closing, "a" + opening + "\nT\n" + closing, true},
		{"no markers", "a", "", false},
		{"not closed", opening, "", false},
		{"the wrong way round", closing + opening, "", false},
		{"twice", opening + closing + opening + closing, "", false},
	} {
		got, err := between(c.page, "T\n")
		if got != c.want || (err == nil) != c.ok {
			t.Errorf("%s: got %q, %v, want %q", c.name, got, err, c.want)
		}
	}
}

func TestMedian(t *testing.T) {
	for want, of := range map[time.Duration][]time.Duration{3: {3}, 2: {1, 3}, 5: {9, 1, 5}, 4: {100, 3, 5, 1}} {
		if got := median(of); got != want {
			t.Errorf("median of %v is %v, want %v", of, got, want)
		}
	}
}

// tiny is an image of one invented layer.
func tiny(t *testing.T) *image {
	t.Helper()
	w, err := newInventor("tiny")
	if err != nil {
		t.Fatal(err)
	}
	w.filler("tiny", 1, 300<<10, 3)
	l, err := w.close()
	if err != nil {
		t.Fatal(err)
	}
	img, err := newImage("bench/tiny", "tiny, of one layer", []*layer{l})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func startOrigin(t *testing.T, img *image) *origin {
	t.Helper()
	o, err := newOrigin("unshaped", 0, 0, img)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o
}

func TestPull(t *testing.T) {
	img := tiny(t)
	for _, s := range []shape{configFirst, sideBySide} {
		o := startOrigin(t, img)
		if err := img.fetchedOnce(o.Server); err == nil {
			t.Error("an image that nobody pulled was fetched")
		}
		if took, err := pull(context.Background(), o.direct(), img, s); err != nil || took <= 0 {
			t.Errorf("%s: took %s, %v", s, took, err)
		}
		if err := img.fetchedOnce(o.Server); err != nil {
			t.Errorf("%s: %v", s, err)
		}
		if _, err := pull(context.Background(), o.direct(), img, s); err != nil {
			t.Errorf("%s: %v", s, err)
		}
		if err := img.fetchedOnce(o.Server); err == nil {
			t.Errorf("%s: two pulls count as one", s)
		}
	}
}

func TestPullFails(t *testing.T) {
	img := tiny(t)
	wrong := bytes.Clone(img.blobs[1].data)
	wrong[len(wrong)/2]++
	for name, c := range map[string]struct {
		spoil func(*origin)
		want  string
	}{
		"other bytes":    {func(o *origin) { o.PutBlobAs(img.repo, img.blobs[1].Digest, wrong) }, "are not sha256"},
		"too few bytes":  {func(o *origin) { o.PutBlobAs(img.repo, img.blobs[1].Digest, wrong[:100]) }, "100 bytes came"},
		"no such blob":   {func(o *origin) { o.DeleteBlob(img.repo, img.blobs[1].Digest) }, "404"},
		"no such image":  {func(o *origin) { o.Delete(img.repo, img.tag) }, "404"},
		"wrong password": {func(o *origin) { o.password = "wrong" }, "no token"},
	} {
		o := startOrigin(t, img)
		c.spoil(o)
		if _, err := pull(context.Background(), o.direct(), img, sideBySide); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q in it", name, err, c.want)
		}
	}
}

func TestInventedIsTheSameEachTime(t *testing.T) {
	var seen [2][]digest.Digest
	for i := range seen {
		layers, err := inventedLayers(0.03)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range layers {
			if l.entries == 0 {
				t.Error("a layer is empty")
			}
			seen[i] = append(seen[i], l.diffID)
		}
	}
	if d := cmp.Diff(seen[0], seen[1]); d != "" {
		t.Error(d)
	}
}

func TestDebianLayers(t *testing.T) {
	var rootfs bytes.Buffer
	w := tar.NewWriter(&rootfs)
	for _, h := range []*tar.Header{
		{Name: "./", Typeflag: tar.TypeDir}, {Name: "./dev/null", Typeflag: tar.TypeChar}, {Name: "./etc/os-release", Size: 3},
		{Name: "./usr/bin/perl", Size: 3}, {Name: "./usr/lib/perl", Typeflag: tar.TypeLink, Linkname: "./usr/bin/perl"},
		{Name: "./usr/share/doc/x", Size: 3},
	} {
		h.Mode = 0o644
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			io.WriteString(w, "abc")
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "rootfs.tar")
	if err := os.WriteFile(file, rootfs.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	layers, err := debianLayers(file)
	if err != nil {
		t.Fatal(err)
	}
	var got [][]string
	for _, l := range layers {
		got = append(got, names(t, l))
	}
	want := [][]string{{"etc/os-release"}, nil, {"usr/share/doc/x"}, nil, {"usr/bin/perl", "usr/lib/perl → usr/bin/perl"}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// names lists a layer's entries, and holds its bytes against what it says of them.
func names(t *testing.T, l *layer) (out []string) {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(l.data))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if digest.FromBytes(raw) != l.diffID || int64(len(raw)) != l.unpacked {
		t.Errorf("%d bytes are %s, the layer says %d and %s", len(raw), digest.FromBytes(raw), l.unpacked, l.diffID)
	}
	for tr := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		name := h.Name
		if h.Typeflag == tar.TypeLink {
			name += " → " + h.Linkname
		}
		out = append(out, name)
	}
}

func TestReport(t *testing.T) {
	img := tiny(t)
	r := &report{when: time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC), runs: 3,
		pulls: []*firstPull{{image: img, origin: &origin{about: "unshaped"}, shape: sideBySide, packages: 7,
			direct: []time.Duration{2e9, 1e9, 9e9}, gateway: []time.Duration{3e9, 3e9, 2e9}}},
		warm: []*load{{about: "blobs", bytes: true, gateway: []float64{3 << 20}, distribution: []float64{2 << 20}}}}
	for _, want := range []string{
		"2026-01-02", "medians of 3",
		"| tiny | unshaped | config beside 3 layers | **1.50** | 1.0 s | 3.0 s | 2.0 s |",
		"- tiny, of one layer; 1 layers", "7 packages",
		"| blobs | **1.50** | 3 MiB/s | 2 MiB/s |",
	} {
		if got := r.markdown(); !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
}
