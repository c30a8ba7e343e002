package sample

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"math/rand/v2"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// countingHash is a SHA-256 of what was written to it.
type countingHash struct{ hash.Hash }

func newCountingHash() *countingHash { return &countingHash{sha256.New()} }

func (h *countingHash) sum() v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
}

// fillerFile is the mean size of a filler file: images of applications have about
// 27 entries a MiB.
const fillerFile = 36 << 10

// filler makes contents that compress to a third, as software does, by repeating
// what came before about as often. The same seed gives the same bytes.
type filler struct {
	rand  *rand.ChaCha8
	draw  *rand.Rand
	count int
}

func newFiller(seed uint64, name string) *filler {
	key := sha256.Sum256(fmt.Appendf(nil, "%d %s", seed, name))
	r := rand.NewChaCha8(key)
	return &filler{rand: r, draw: rand.New(r)}
}

// next returns another file below dir.
func (f *filler) next(dir string) File {
	f.count++
	size := fillerFile/2 + f.draw.IntN(fillerFile)
	var b bytes.Buffer
	b.Grow(size + 256)
	var fresh [48]byte
	for b.Len() < size {
		f.rand.Read(fresh[:])
		b.Write(fresh[:])
		// Then a stretch of what this file has already, twice as long on average.
		at := f.draw.IntN(b.Len())
		end := min(at+48+f.draw.IntN(112), b.Len())
		b.Write(bytes.Clone(b.Bytes()[at:end]))
	}
	return File{Path: fmt.Sprintf("%s/%03d/%05d.bin", dir, f.count/256, f.count), Data: b.Bytes()[:size]}
}

// fillerLayer returns a layer of about size bytes, compressed: less than one file
// of a hundred kilobytes more.
func fillerLayer(o Options, index int, size int64) (*layer, error) {
	t, err := newTarball(o)
	if err != nil {
		return nil, err
	}
	f := newFiller(o.Seed, fmt.Sprint("layer ", index))
	dir := fmt.Sprintf("opt/filler/%d", index)
	for int64(t.out.Len()) < size {
		if err := t.add(f.next(dir)); err != nil {
			return nil, err
		}
	}
	return t.close()
}
