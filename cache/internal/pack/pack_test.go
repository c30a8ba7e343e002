package pack

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

const limit = 1 << 20

func newCodec(t testing.TB) *Codec {
	c, err := New(limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestRoundTrip(t *testing.T) {
	c := newCodec(t)
	random := make([]byte, limit)
	_, _ = rand.NewChaCha8([32]byte{}).Read(random)
	for _, test := range []struct {
		name  string
		value []byte
		form  byte
	}{
		{"nil", nil, plain},
		{"short", []byte("short"), plain},
		{"last plain", bytes.Repeat([]byte("a"), compressFrom-1), plain},
		{"first compressed", bytes.Repeat([]byte("a"), compressFrom), compressed},
		{"random", random, plain},
		{"largest", bytes.Repeat([]byte("ab"), limit/2), compressed},
	} {
		t.Run(test.name, func(t *testing.T) {
			packed := c.Pack(test.value)
			if packed[0] != test.form || len(packed) > header+len(test.value) {
				t.Errorf("%d bytes of form %d, want form %d and no growth", len(packed), packed[0], test.form)
			}
			got, err := c.Unpack(packed)
			if err != nil || got == nil || !bytes.Equal(got, test.value) {
				t.Errorf("Unpack = %d bytes, %v, want %d bytes", len(got), err, len(test.value))
			}
		})
	}
}

func TestDamage(t *testing.T) {
	c := newCodec(t)
	for _, value := range []string{"", "short", strings.Repeat("compressed ", 1000)} {
		packed := c.Pack([]byte(value))
		for i := range packed {
			for bit := range 8 {
				damaged := bytes.Clone(packed)
				damaged[i] ^= 1 << bit
				if got, err := c.Unpack(damaged); err == nil && string(got) != value {
					t.Errorf("byte %d, bit %d flipped: another value, and no error", i, bit)
				}
			}
			if got, err := c.Unpack(packed[:i]); err == nil {
				t.Errorf("cut after %d bytes: %.20q and no error", i, got)
			}
		}
	}
}

// TestBomb checks that a small frame can't take much memory.
func TestBomb(t *testing.T) {
	c := newCodec(t)
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	bomb := w.EncodeAll(make([]byte, 64<<20), []byte{compressed, 0, 0, 0, 0})
	if got, err := c.Unpack(bomb); err == nil {
		t.Errorf("%d bytes of zstd became %d", len(bomb), len(got))
	}
}

// FuzzUnpack checks that what unpacks is a value that packs to the same again.
func FuzzUnpack(f *testing.F) {
	c := newCodec(f)
	for _, value := range []string{"", "short", strings.Repeat("compressed ", 200)} {
		f.Add(c.Pack([]byte(value)))
	}
	f.Add([]byte{compressed, 0, 0, 0, 0, 0x28, 0xb5, 0x2f, 0xfd})
	f.Fuzz(func(t *testing.T, packed []byte) {
		value, err := c.Unpack(packed)
		if err != nil {
			return
		}
		if len(value) > limit {
			t.Fatalf("%d bytes", len(value))
		}
		again, err := c.Unpack(c.Pack(value))
		if err != nil || !bytes.Equal(again, value) {
			t.Fatalf("%d bytes became %d, %v", len(value), len(again), err)
		}
	})
}
