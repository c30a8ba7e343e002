package layer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// rawHeader is a ustar header of any type and size.
func rawHeader(name string, typ byte, size int64) []byte {
	b := make([]byte, 512)
	copy(b, name)
	copy(b[100:], "0000644\x00")
	copy(b[108:], "0000000\x00")
	copy(b[116:], "0000000\x00")
	copy(b[124:], fmt.Sprintf("%011o\x00", size))
	copy(b[136:], "00000000000\x00")
	b[156] = typ
	copy(b[257:], "ustar\x0000")
	return checksum(b)
}

func checksum(b []byte) []byte {
	copy(b[148:], "        ")
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// pad fills b up to a block.
func pad(b []byte) []byte {
	return append(bytes.Clone(b), make([]byte, roundUp(int64(len(b)))-int64(len(b)))...)
}

func pax(records ...string) []byte {
	var out []byte
	for _, r := range records {
		n := len(r) + 3
		for len(fmt.Sprint(n))+len(r)+2 != n {
			n = len(fmt.Sprint(n)) + len(r) + 2
		}
		out = fmt.Appendf(out, "%d %s\n", n, r)
	}
	return out
}

func paxed(typ byte, entry []byte, records ...string) []byte {
	body := pax(records...)
	return join(rawHeader("pax", typ, int64(len(body))), pad(body), entry)
}

// What readers disagree on is told, each with its kind.
func TestProblems(t *testing.T) {
	end := make([]byte, 1024)
	file := join(rawHeader("file", '0', 5), pad([]byte("hello")))
	clean := join(file, end)
	tests := map[string]struct {
		blob []byte
		want []string // kinds
	}{
		"clean":                           {clean, nil},
		"git's global header":             {join(paxed('g', file, "comment=0123abc"), end), nil},
		"padding of 10 KiB":               {join(clean, make([]byte, 9000)), nil},
		"no end marker":                   {file, nil},
		"half an end marker":              {join(file, end[:512]), nil},
		"two whiteouts":                   {join(rawHeader("a/.wh.b", '0', 0), rawHeader(".wh.c", '0', 0), rawHeader("b", '0', 0), end), nil},
		"opaque with contents":            {join(rawHeader("a/.wh..wh..opq", '0', 0), rawHeader("a/b", '0', 0), end), nil},
		"v7 directory":                    {join(rawHeader("dir/", 0, 0), end), nil},
		"gnu sparse":                      {join(sparseHeader("s"), pad([]byte("hello")), end), []string{SparseEntry}},
		"pax sparse 0.1":                  {join(paxed('x', file, "GNU.sparse.numblocks=1", "GNU.sparse.map=0,5", "GNU.sparse.size=5"), end), []string{SparseEntry}},
		"pax sparse, version of tomorrow": {join(paxed('x', file, "GNU.sparse.major=7", "GNU.sparse.minor=0"), end), []string{SparseEntry}},
		"contiguous file":                 {join(rawHeader("f", '7', 5), pad([]byte("hello")), end), []string{UnknownEntryType}},
		"gnu volume header":               {join(rawHeader("f", 'V', 0), end), []string{UnknownEntryType}},
		"solaris acl":                     {join(rawHeader("f", 'A', 5), pad([]byte("hello")), end), []string{UnknownEntryType}},
		"link with contents":              {join(rawHeader("f", '2', 5), end), []string{AmbiguousSize}},
		"directory with contents":         {join(rawHeader("f/", '5', 512), file, end), []string{AmbiguousSize}},
		"global path":                     {join(paxed('g', file, "path=etc/other"), end), []string{GlobalHeader}},
		"global sparse":                   {join(paxed('g', file, "GNU.sparse.size=10"), end), []string{GlobalHeader}},
		"dot dot":                         {join(rawHeader("a/../../b", '0', 0), end), []string{AmbiguousName}},
		"dot dot within":                  {join(rawHeader("a/../b", '0', 0), end), nil},
		"hard link out of the root":       {makeTar(t, tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "../../b"}), []string{AmbiguousName}},
		"root as a file":                  {join(rawHeader("./", '0', 0), end), []string{AmbiguousName}},
		"no name":                         {join(rawHeader("", '0', 5), pad([]byte("hello")), end), []string{AmbiguousName}},
		"whiteout of nothing":             {join(rawHeader("a/.wh.", '0', 0), end), []string{AmbiguousWhiteout}},
		"whiteout of the parent":          {join(rawHeader("a/.wh...", '0', 0), end), []string{AmbiguousWhiteout}},
		"below a whiteout":                {join(rawHeader(".wh.x/", '5', 0), rawHeader(".wh.x/bin/sh", '0', 0), end), []string{AmbiguousWhiteout}},
		"aufs link":                       {join(rawHeader(".wh..wh.plnk/1.2", '0', 0), end), []string{AmbiguousWhiteout}},
		"whiteout, then the file":         {join(rawHeader("a/.wh.b", '0', 0), rawHeader("a/b", '0', 0), end), []string{AmbiguousWhiteout}},
		"file, then its whiteout":         {join(rawHeader("./a/b", '0', 0), rawHeader("a/.wh.b", '0', 0), end), []string{AmbiguousWhiteout}},
		"whiteout of a parent here":       {join(rawHeader("a/.wh.b", '0', 0), rawHeader("a/b/c/d", '0', 0), end), []string{AmbiguousWhiteout}},
		"a second archive":                {join(clean, clean), []string{TrailingData}},
		"a byte behind the end":           {join(clean, make([]byte, 3000), []byte("x")), []string{TrailingData}},
		"behind gzip":                     {join(gz(t, clean), []byte("junk")), []string{TrailingData}},
		"zeros behind gzip":               {join(gz(t, clean), make([]byte, 100)), []string{TrailingData}},
		"one byte behind gzip":            {join(gz(t, clean), []byte{0x1f}), []string{TrailingData}},
		"both tar and zstd":               {bothTarAndZstd(t, clean), []string{AmbiguousFormat}},
		"two at once":                     {join(rawHeader("../s", 'V', 0), end), []string{UnknownEntryType, AmbiguousName}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			res, _, err := copyBytes(t, tt.blob, DefaultLimits(), nil)
			if err != nil {
				t.Fatal(err)
			}
			var kinds []string
			for _, p := range res.Problems {
				kinds = append(kinds, p.Kind)
				if p.Detail == "" {
					t.Errorf("%s has no detail", p.Kind)
				}
			}
			if diff := cmp.Diff(tt.want, kinds); diff != "" || !res.Tar {
				t.Errorf("%s tar %v", diff, res.Tar)
			}
		})
	}
}

// sparseHeader is an old GNU header of a file with 5 bytes at its start and a hole.
func sparseHeader(name string) []byte {
	b := rawHeader(name, 'S', 5)
	copy(b[257:], "ustar  \x00")
	clear(b[345:512])
	copy(b[386:], "00000000000\x0000000000005\x00")
	copy(b[483:], "00000010000\x00")
	return checksum(b)
}

// bothTarAndZstd has a skippable frame for the name of its first tar entry, and the
// rest of that tar inside the frame.
func bothTarAndZstd(t *testing.T, hidden []byte) []byte {
	body := make([]byte, 0x01010101) // a length without zero bytes goes on as a name
	blob := join(rawHeader("\x50\x2a\x4d\x18\x01\x01\x01\x01", '0', 0), body[:len(body)-504], zst(t, hidden))
	if _, err := countEntries(blob); err != nil {
		t.Fatal(err)
	}
	return blob
}

func TestManyProblems(t *testing.T) {
	var blob []byte
	for range 500 {
		blob = append(blob, rawHeader("../x", '0', 0)...)
	}
	res, _, err := copyBytes(t, blob, DefaultLimits(), nil)
	if err != nil || len(res.Problems) != MaxProblems || !strings.Contains(res.Problems[MaxProblems-1].Detail, "more problems") {
		t.Errorf("%d problems, %v", len(res.Problems), err)
	}
}

// GNU tar's own sparse files, in all its formats.
func TestRealSparse(t *testing.T) {
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skipf("needs GNU tar: %v", err)
	}
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "holes"))
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("data"), 1<<20)
	f.Truncate(2 << 20)
	f.Close()
	for _, format := range [][]string{{"--format=gnu"}, {"--format=posix", "--sparse-version=0.0"}, {"--format=posix", "--sparse-version=0.1"}, {"--format=posix", "--sparse-version=1.0"}} {
		args := append([]string{"-C", dir, "--sparse", "-cf", "-"}, format...)
		blob, err := exec.Command("tar", append(args, "holes")...).Output()
		if err != nil {
			t.Skipf("needs GNU tar with --sparse: %v", err)
		}
		res, _, err := copyBytes(t, gz(t, blob), DefaultLimits(), nil)
		if err != nil || len(res.Problems) != 1 || res.Problems[0].Kind != SparseEntry || len(blob) > 100_000 {
			t.Errorf("%v: %+v, %v", format, res, err)
		}
	}
}

// Every bound stops a layer, and says which it was.
func TestLimits(t *testing.T) {
	many := makeTar(t, make([]tar.Header, 50)...)
	plain := small(t)
	tests := map[string]struct {
		blob   []byte
		set    func(*Limits)
		budget *Budget
		what   string
	}{
		"compressed":                  {plain, func(l *Limits) { l.Compressed = 100 }, nil, "compressed bytes"},
		"uncompressed":                {gz(t, plain), func(l *Limits) { l.Uncompressed = 100_000 }, nil, "uncompressed bytes"},
		"ratio":                       {gz(t, make([]byte, 4<<20)), func(l *Limits) { l.RatioAfter = 1 << 20 }, nil, "uncompressed bytes for each compressed one"},
		"window":                      {zstdWindow(t, plain, 8<<20), func(l *Limits) { l.Window = 4 << 20 }, nil, "bytes of zstd window"},
		"entries":                     {many, func(l *Limits) { l.Entries = 49 }, nil, "entries"},
		"directories without entries": {join(rawHeader(strings.Repeat("d/", 40), '0', 0), rawHeader("e/f", '0', 0)), func(l *Limits) { l.Entries = 41 }, nil, "entries"},
		"name":                        {plain, func(l *Limits) { l.Name = 200 }, nil, "bytes of name"},
		"link":                        {makeTar(t, tar.Header{Name: "a", Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("x", 5000)}), nil, nil, "bytes of name"},
		"depth":                       {makeTar(t, tar.Header{Name: strings.Repeat("d/", 257), Typeflag: tar.TypeDir}), nil, nil, "directories in a name"},
		"header":                      {join(paxed('x', rawHeader("a", '0', 0), "SCHILY.xattr.a="+strings.Repeat("x", 50_000))), func(l *Limits) { l.Header = 40_000 }, nil, "bytes of headers for one entry"},
		"header of archive/tar":       {join(paxed('x', rawHeader("a", '0', 0), "SCHILY.xattr.a="+strings.Repeat("x", 3<<20))), func(l *Limits) { l.Header = 0 }, nil, "bytes of headers for one entry"},
		"many headers":                {bytes.Repeat(paxed('x', nil, "a="+strings.Repeat("x", 1000)), 2000), nil, nil, "bytes of headers for one entry"},
		"headers":                     {plain, func(l *Limits) { l.HeaderTotal = 4000 }, nil, "bytes of headers"},
		"bytes of the image":          {gz(t, plain), nil, NewBudget(300_000, 1000), "uncompressed bytes of the image"},
		"entries of the image":        {plain, nil, NewBudget(1<<30, 13), "entries of the image"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			lim := DefaultLimits()
			if tt.set != nil {
				tt.set(&lim)
			}
			_, _, err := copyBytes(t, tt.blob, lim, tt.budget)
			var limit *LimitError
			if !errors.As(err, &limit) || limit.What != tt.what {
				t.Fatalf("%v", err)
			}
			if name == "compressed" {
				return // about the descriptor, and nothing was read
			}
			desc := describe(tt.blob)
			desc.Digest = digest.FromString("the good one")
			_, err = Copy(t.Context(), io.Discard, bytes.NewReader(tt.blob), desc, lim, nil)
			if errors.As(err, &limit) {
				t.Errorf("with another digest: %v", err)
			}
		})
	}
	if _, _, err := copyBytes(t, plain, Limits{}, nil); err != nil {
		t.Errorf("without any limit: %v", err)
	}
}

// zstdWindow compresses b as a stream of unknown length with a window of n.
func zstdWindow(t *testing.T, b []byte, n int) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithWindowSize(n))
	if err != nil {
		t.Fatal(err)
	}
	w.Write(b)
	w.Flush()
	w.Write(b)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Waiting for src does not count as time, working does.
func TestTime(t *testing.T) {
	blob := gz(t, small(t))
	lim := DefaultLimits()
	lim.Time = time.Nanosecond
	_, err := Copy(t.Context(), io.Discard, bytes.NewReader(blob), describe(blob), lim, nil)
	var limit *LimitError
	if !errors.As(err, &limit) || limit.What != whatTime {
		t.Errorf("no time at all: %v", err)
	}
	p := &pass{src: &source{ctx: t.Context(), waited: time.Hour}, lim: Limits{Time: time.Minute}, begin: time.Now().Add(-time.Hour)}
	if err := p.bounds(1, 1); err != nil {
		t.Errorf("an hour of waiting: %v", err)
	}
}

// A bomb is stopped long before it has gone off.
func TestBombs(t *testing.T) {
	// 10 GB of zeros as one file in gzip: 256 MB a member, forty times.
	var member bytes.Buffer
	w, _ := gzip.NewWriterLevel(&member, gzip.BestSpeed)
	zeros := make([]byte, 1<<20)
	for range 256 {
		w.Write(zeros)
	}
	w.Close()
	bomb := join(gz(t, rawHeader("zeros", '0', 8<<30-1)), bytes.Repeat(member.Bytes(), 40))
	dst := &counting{}
	_, err := Copy(t.Context(), dst, bytes.NewReader(bomb), describe(bomb), DefaultLimits(), nil)
	var limit *LimitError
	if !errors.As(err, &limit) || !strings.Contains(limit.What, "for each compressed") || limit.Path != "zeros" {
		t.Errorf("zeros: %v", err)
	}
	if dst.n > 600<<20 {
		t.Errorf("%d bytes were written before the bound", dst.n)
	}

	entries := bytes.Repeat(rawHeader("f", '0', 0), 10_000)
	million := bytes.Repeat(zst(t, entries), 100)
	lim := DefaultLimits()
	lim.Ratio = 0
	_, err = Copy(t.Context(), io.Discard, bytes.NewReader(million), describe(million), lim, nil)
	if !errors.As(err, &limit) || limit.What != "entries" || limit.Limit != 300_000 {
		t.Errorf("a million entries: %v", err)
	}
}

type counting struct{ n int64 }

func (c *counting) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

// Layers of an image draw on one budget at the same time, and exactly as far as it goes.
func TestBudgetIsShared(t *testing.T) {
	blob := gz(t, small(t))
	res, _, err := copyBytes(t, blob, DefaultLimits(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, short := range []int64{0, 1} {
		budget := NewBudget(8*res.Uncompressed-short, 1000)
		errs := make([]error, 8)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() {
				_, errs[i] = Copy(t.Context(), io.Discard, bytes.NewReader(blob), describe(blob), DefaultLimits(), budget)
			})
		}
		wg.Wait()
		err := errors.Join(errs...)
		var limit *LimitError
		if (short == 0) != (err == nil) || short > 0 && !errors.As(err, &limit) {
			t.Errorf("%d bytes too few: %v", short, err)
		}
	}
}

// A size in a descriptor is only a word: nothing is allocated from it.
func TestHugeDescriptor(t *testing.T) {
	desc := ocispec.Descriptor{Digest: digest.FromString("x"), Size: 1 << 62}
	_, err := Copy(t.Context(), io.Discard, strings.NewReader("abc"), desc, Limits{}, nil)
	var mismatch *MismatchError
	if !errors.As(err, &mismatch) || mismatch.Got != "3" {
		t.Errorf("%v", err)
	}
}
