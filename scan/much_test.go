package scan

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/cache"
)

// muchEngine makes SBOMs that no Store takes, however well they are packed.
type muchEngine struct {
	*fakeEngine
	json []byte
}

func (e muchEngine) Begin(ctx context.Context, img Image, diffIDs []digest.Digest) (Session, error) {
	s, err := e.fakeEngine.Begin(ctx, img, diffIDs)
	return muchSession{s, e.json}, err
}

type muchSession struct {
	Session
	json []byte
}

func (s muchSession) Catalogue(ctx context.Context) (*SBOM, error) {
	b, err := s.Session.Catalogue(ctx)
	if err == nil {
		b.JSON = s.json
	}
	return b, err
}

// TestMuch: an SBOM that is too large to be kept is matched all the same, and when a new
// database comes, the image is to be scanned again: never is a part of the SBOM, or the
// verdict of another database, taken for it.
func TestMuch(t *testing.T) {
	h := newHouse(t)
	json := make([]byte, cache.MaxValue+1)
	rand.NewChaCha8([32]byte{1}).Read(json)
	h.Engine = muchEngine{h.engine, json}
	matched := 0
	h.engine.match = func(_ context.Context, sbom []byte, _ Database) (*Matches, error) {
		matched = len(sbom)
		return &Matches{DistroKnown: true, Problems: []Problem{{Kind: "x"}}}, nil
	}
	b := layerOf(tarOf(t, "a"))
	img := imageOf(t, ociConfig, b)
	if v, _ := h.run(t, img, b); v.Scan.State != Partial || matched != len(json) {
		t.Fatalf("%+v, %d bytes were matched", v.Scan, matched)
	}
	if v, err := h.Known(t.Context(), img.Digest); err != nil || v.Scan.State != Partial {
		t.Errorf("by the same database: %+v, %v", v, err)
	}
	h.db.Checksum = "xxh64:2"
	if v, err := h.Known(t.Context(), img.Digest); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("by a new one: %+v, %v", v, err)
	}
	if v, _ := h.run(t, img, b); v.Scan.State != Partial || v.Scan.Database.Checksum != "xxh64:2" || h.engine.catalogued.Load() != 2 {
		t.Errorf("scanned again: %+v, %d catalogues", v.Scan, h.engine.catalogued.Load())
	}
}
