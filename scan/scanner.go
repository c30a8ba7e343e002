package scan

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/cache/spool"
	"github.com/sluicegate/sluice/scan/layer"
)

// A Scanner makes verdicts and remembers them. Its fields are set before its first
// use; its methods may be called concurrently. A Verdict that it returns may be in
// use by others too: nobody may change it.
type Scanner struct {
	Store  cache.Store
	Layers *spool.Spool // uncompressed tars, by diff ID
	Engine Engine

	// Database returns the database to match with now, or an error that wraps
	// ErrDatabaseMissing or ErrDatabaseStale.
	Database func(context.Context) (Database, error)

	Limits       layer.Limits // of one layer; the zero value is layer.DefaultLimits
	ImageBytes   int64        // uncompressed bytes of all layers of an image; 0 is 64 GiB
	ImageEntries int64        // tar entries of all layers of an image; 0 is 600,000

	// Timeout is how long a catalogue may take once the last layer is there, and how
	// long a match may take. 0 is 5 minutes: the largest images take a minute.
	Timeout time.Duration

	Log *slog.Logger     // nil: nothing is logged
	Now func() time.Time // nil: time.Now

	large    layer.Large
	flights  flights
	verdicts cache.Memo[cache.Key, *Verdict] // reading one takes milliseconds, and every request for an image needs its own
	lists    cache.Memo[cache.Key, []Package]
}

// errTimeout is why work that took longer than Timeout was ended.
var errTimeout = errors.New("it took longer than it may")

// Known returns the verdict on an image scanned before: from the Store, or matched now
// from its stored SBOM when today's database has none yet. It wraps fs.ErrNotExist
// when there is neither; then the image has to be scanned. Whoever asks for one
// digest at a time gets one answer from one match, which ends when nobody waits for
// it any more.
//
// The verdict may say that there is none for now (failed, with a cause): such a one is
// not remembered. Other errors are the Store's, ErrDatabaseElsewhere, or the end of ctx.
func (s *Scanner) Known(ctx context.Context, d digest.Digest) (*Verdict, error) {
	return s.flights.do(ctx, d, func(ctx context.Context) (*Verdict, error) {
		rec, err := s.record(ctx, d)
		if err != nil {
			return nil, err
		}
		if rec.Outcome != nil {
			return rec.Outcome, nil
		}
		s.renew(ctx, d, rec)
		if v, err := s.matched(ctx, rec); err == nil {
			return v, nil
		} else if !errors.Is(err, fs.ErrNotExist) && !databaseError(err) {
			return nil, err
		}
		sbom, err := s.getSBOM(ctx, rec.SBOM)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", d, err)
		}
		return s.match(ctx, rec, sbom)
	})
}

// Cached returns the verdict that stands in the Store for today's database. It wraps
// fs.ErrNotExist when there is none, ErrDatabaseMissing or ErrDatabaseStale when there
// is no database that could have one, and never runs the Engine.
func (s *Scanner) Cached(ctx context.Context, d digest.Digest) (*Verdict, error) {
	rec, err := s.record(ctx, d)
	if err != nil {
		return nil, err
	}
	if rec.Outcome != nil {
		return rec.Outcome, nil
	}
	return s.matched(ctx, rec)
}

// By returns the verdict that stands in the Store for another build of the database than
// today's; of db only Checksum and Built count. It wraps fs.ErrNotExist when there is none,
// or when no database had a say in it.
func (s *Scanner) By(ctx context.Context, d digest.Digest, db Database) (*Verdict, error) {
	rec, err := s.record(ctx, d)
	if err != nil {
		return nil, err
	}
	if rec.SBOM == "" {
		return nil, fmt.Errorf("image %s: its verdict is by no database: %w", d, fs.ErrNotExist)
	}
	key, err := s.verdictKey(rec, db)
	if err != nil {
		return nil, err
	}
	return s.verdict(ctx, key)
}

// Catalogued reports whether an image's SBOM is stored, so that a new database needs
// none of its bytes. A Store that can't be read is a no.
func (s *Scanner) Catalogued(ctx context.Context, d digest.Digest) bool {
	rec, err := s.record(ctx, d)
	return err == nil && rec.SBOM != ""
}

// Guarded reports whether a layer was read to its end before, in whatever image, so that
// a scan may do without its bytes. A Store that can't be read is a no.
func (s *Scanner) Guarded(ctx context.Context, layer ocispec.Descriptor) bool {
	return s.get(ctx, s.layerKey(layer), new(layerRecord)) == nil
}

// SBOM returns the stored SBOM of an image, or an error that wraps fs.ErrNotExist. It
// belongs to the layers: where several images have the same, its source section names
// the one that was scanned first.
func (s *Scanner) SBOM(ctx context.Context, d digest.Digest) (*SBOM, error) {
	rec, err := s.record(ctx, d)
	if err != nil {
		return nil, err
	}
	if rec.SBOM == "" {
		return nil, fmt.Errorf("image %s has no SBOM: %s: %w", d, rec.Outcome.Scan.Detail, fs.ErrNotExist)
	}
	return s.getSBOM(ctx, rec.SBOM)
}

// Close waits for the matches that Known began. Scans are closed by those who began
// them, and the Engine by its owner.
func (s *Scanner) Close() error {
	s.flights.wait()
	return nil
}

// record returns what an image's digest leads to.
func (s *Scanner) record(ctx context.Context, d digest.Digest) (*imageRecord, error) {
	rec := new(imageRecord)
	if err := s.get(ctx, s.imageKey(d), rec); err != nil {
		return nil, fmt.Errorf("image %s: %w", d, err)
	}
	return rec, nil
}

// matched returns the verdict in the Store for today's database.
func (s *Scanner) matched(ctx context.Context, rec *imageRecord) (*Verdict, error) {
	db, err := s.Database(ctx)
	if err != nil {
		if !databaseError(err) {
			err = errors.Join(ErrDatabaseMissing, err)
		}
		return nil, err
	}
	key, err := s.verdictKey(rec, db)
	if err != nil {
		return nil, err
	}
	return s.verdict(ctx, key)
}

// verdict returns the verdict under its key.
func (s *Scanner) verdict(ctx context.Context, key cache.Key) (*Verdict, error) {
	if v, ok := s.verdicts.Get(key); ok {
		return v, nil
	}
	v := new(Verdict)
	if err := s.get(ctx, key, v); err != nil {
		return nil, err
	}
	v.Sum = SumOf(v.Findings)
	const each = 1 << 10 // bytes, about
	s.verdicts.Put(key, v, each*(1+len(v.Findings)+len(v.Scan.Coverage.Problems)))
	return v, nil
}

func databaseError(err error) bool {
	return errors.Is(err, ErrDatabaseMissing) || errors.Is(err, ErrDatabaseStale)
}

func (s *Scanner) limits() layer.Limits {
	if s.Limits == (layer.Limits{}) {
		return layer.DefaultLimits()
	}
	return s.Limits
}

func (s *Scanner) imageBytes() int64 {
	if s.ImageBytes <= 0 {
		return 64 << 30
	}
	return s.ImageBytes
}

func (s *Scanner) imageEntries() int64 {
	if s.ImageEntries <= 0 {
		return 600_000
	}
	return s.ImageEntries
}

func (s *Scanner) timeout() time.Duration {
	if s.Timeout <= 0 {
		return 5 * time.Minute
	}
	return s.Timeout
}

func (s *Scanner) now() time.Time {
	if s.Now == nil {
		return time.Now()
	}
	return s.Now()
}

func (s *Scanner) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}
