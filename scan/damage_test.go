package scan

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicegate/sluice/cache"
)

// notedStore remembers under which keys values were put.
type notedStore struct {
	cache.Store
	mu   sync.Mutex // guards keys
	keys map[cache.Kind]cache.Key
}

func (n *notedStore) Put(ctx context.Context, k cache.Key, v []byte, ttl time.Duration) error {
	n.mu.Lock()
	n.keys[k.Kind()] = k
	n.mu.Unlock()
	return n.Store.Put(ctx, k, v, ttl)
}

// A value in the Store that can't be read any more is no reason to deny an image until
// its time has passed: it is missing, is said to be so, and is made again. It is never
// taken for a verdict, or for a layer in which nothing runs.
func TestDamagedValues(t *testing.T) {
	for _, kind := range []cache.Kind{kindVerdict, kindSBOM, kindImage, kindLayer} {
		for _, damage := range []string{"", "null", "{}", "[]", "{\"scan\":", "\x00\x01", `{"scan":{"state":"splendid"},"outcome":{}}`} {
			t.Run(string(kind)+"/"+damage, func(t *testing.T) {
				h := newHouse(t)
				var log strings.Builder
				h.Log = slog.New(slog.NewTextHandler(&log, nil))
				store := &notedStore{Store: h.store.Store, keys: map[cache.Kind]cache.Key{}}
				h.store.Store = store
				b := layerOf(tarOf(t, "a"))
				b.mediaType = "application/x-something" // its bytes alone make an image of it
				img := imageOf(t, ociConfig, b)
				want, _ := h.run(t, img, b)
				if want.Scan.State != Complete || store.keys[kind] == (cache.Key{}) {
					t.Fatalf("%+v, stored %v", want.Scan, store.keys)
				}
				if err := store.Put(t.Context(), store.keys[kind], []byte(damage), 0); err != nil {
					t.Fatal(err)
				}
				if kind != kindVerdict { // or it would hide what lies below it
					if err := store.Delete(t.Context(), store.keys[kindVerdict]); err != nil {
						t.Fatal(err)
					}
				}
				if kind == kindLayer {
					if err := store.Delete(t.Context(), store.keys[kindImage]); err != nil {
						t.Fatal(err)
					}
				}
				if v, err := h.Cached(t.Context(), img.Digest); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("Cached: %+v, %v, want a miss", v, err)
				}
				if v, err := h.Known(t.Context(), img.Digest); err == nil && !cmp.Equal(v, want) || err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("Known: %+v, %v, want a miss or the verdict", v, err)
				}
				if v, _ := h.run(t, img, b); !cmp.Equal(v, want) {
					t.Errorf("scanned again: %s", cmp.Diff(want, v))
				}
				if v, err := h.another(t).Cached(t.Context(), img.Digest); err != nil || !cmp.Equal(v, want) {
					t.Errorf("Cached, at last: %+v, %v", v, err)
				}
				if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), string(kind)) {
					t.Errorf("it is not said in the log:\n%s", log.String())
				}
			})
		}
	}
}

// When a finding was first seen counts from today where it can't be read any more.
func TestDamagedFirstSeen(t *testing.T) {
	h := newHouse(t)
	b := layerOf(tarOf(t, "a"))
	img := imageOf(t, ociConfig, b)
	v, _ := h.run(t, img, b)
	k := cache.Name(kindFirstSeen, v.Findings[0].ID, v.Findings[0].Package.Name)
	if err := h.store.Put(t.Context(), k, []byte("long ago"), 0); err != nil {
		t.Fatal(err)
	}
	for i, day := range []int{1, 2} {
		h.db.Checksum = fmt.Sprint("xxh64:", 2+i)
		h.Now = func() time.Time { return time.Date(2026, 8, day, 0, 0, 0, 0, time.UTC) }
		if v, err := h.Known(t.Context(), img.Digest); err != nil || v.Findings[0].FirstSeen != "2026-08-01" {
			t.Errorf("%+v, %v", v, err)
		}
	}
}
