package scan

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/scan/layer"
)

// What the Scanner keeps in the Store.
const (
	kindLayer     cache.Kind = "layer"   // compressed digest, size, guard → what the guard found
	kindImage     cache.Kind = "image"   // image digest, guard, catalogue → imageRecord
	kindSBOM      cache.Kind = "sbom"    // diff IDs, config, catalogue → SBOM
	kindVerdict   cache.Kind = "verdict" // SBOM, guard's problems, match, database → Verdict
	kindFirstSeen cache.Kind = "seen"    // advisory, package name → date
)

// schema is the version of all that is stored and of the rules by which a verdict is
// put together. It is part of every key.
const schema = "1"

// How long things are remembered after they were made: long enough that what is still
// pulled is rarely made again, short enough that the rest goes away. An image and its SBOM
// are kept on when somebody asks for its verdict renewAfter later, since new databases need
// them for as long as the image is in use.
const (
	contentTTL = 90 * 24 * time.Hour // layers, images, SBOMs
	verdictTTL = 30 * 24 * time.Hour // of one database: the next is a day away
	renewAfter = 30 * 24 * time.Hour
)

// How long a verdict stands that needed no database: a day, so that a fault of ours
// ends by itself; past a bound an hour, since one of the bounds is time, and a machine
// under load says little about an image.
const (
	outcomeTTL = 24 * time.Hour
	limitTTL   = time.Hour
)

// An imageRecord leads from an image's digest to what is known of it.
type imageRecord struct {
	SBOM    string    `json:"sbom,omitempty"`    // the id of its SBOM's key
	Guard   []Problem `json:"guard,omitempty"`   // what the guard saw in its layers
	Outcome *Verdict  `json:"outcome,omitempty"` // in place of an SBOM: settled without one
	Kept    time.Time `json:"kept,omitzero"`     // when this and the SBOM were last written together
	Fence   uint64    `json:"fence,omitempty"`   // of the lease that it was scanned under
}

func (s *Scanner) layerKey(d ocispec.Descriptor) cache.Key {
	return cache.Recipe(kindLayer, schema, d.Digest.String(), strconv.FormatInt(d.Size, 10), s.guard())
}

func (s *Scanner) imageKey(d digest.Digest) cache.Key {
	r := s.Engine.Recipe()
	return cache.Recipe(kindImage, schema, d.String(), s.guard(), fmt.Sprint(s.imageBytes(), s.imageEntries()), r.Syft, r.Catalogue)
}

// guard names the rules of the stream guard: two values share what they passed.
func (s *Scanner) guard() string {
	return fmt.Sprintf("%s %+v", layer.Version, s.limits())
}

// sbomKey names the SBOM of ordered layers. Of an image's config it holds what syft
// and stereoscope read: the operating system decides how hard links to lower layers
// are understood, and all three are part of what is reported of the source. The rest
// (entrypoint, environment, labels, history) changes nothing in the packages.
func (s *Scanner) sbomKey(diffIDs []digest.Digest, c imageConfigFile) cache.Key {
	r := s.Engine.Recipe()
	parts := []string{schema, r.Syft, r.Catalogue, c.OS, c.Architecture, c.Variant}
	for _, d := range diffIDs {
		parts = append(parts, d.String())
	}
	return cache.Recipe(kindSBOM, parts...)
}

// verdictKey names the verdict on an image by one build of the database.
func (s *Scanner) verdictKey(rec *imageRecord, db Database) (cache.Key, error) {
	guard, err := json.Marshal(rec.Guard)
	if err != nil {
		return cache.Key{}, err
	}
	sum := sha256.Sum256(guard)
	r := s.Engine.Recipe()
	return cache.Recipe(kindVerdict, schema, rec.SBOM, hex.EncodeToString(sum[:]), r.Grype, r.Match,
		db.Checksum, db.Built.UTC().Format(time.RFC3339)), nil
}

// imageConfigFile is what the Scanner reads of an image's config.
type imageConfigFile struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant"`
	RootFS       struct {
		DiffIDs []digest.Digest `json:"diff_ids"`
	} `json:"rootfs"`
}

// A stored value can tell that it is not one that was ever stored.
type stored interface{ check() error }

func (v *Verdict) check() error {
	switch v.Scan.State {
	case Complete, Partial, Failed, Limit, Unsupported:
		return nil
	}
	return fmt.Errorf("a verdict in the state %.40q", v.Scan.State)
}

func (r *imageRecord) check() error {
	if r.Outcome != nil {
		return r.Outcome.check()
	}
	if r.SBOM == "" {
		return errors.New("neither an SBOM nor an outcome")
	}
	return nil
}

// A layerRecord is what the guard found in a layer. Without its check an empty one would
// be a layer in which nothing runs.
type layerRecord layer.Result

func (r *layerRecord) check() error { return r.DiffID.Validate() }

// get reads JSON out of the Store. A miss wraps fs.ErrNotExist, and so does a value that
// can't be read any more: it is logged, and made again.
func (s *Scanner) get(ctx context.Context, k cache.Key, v stored) error {
	b, err := s.Store.Get(ctx, k)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return s.damaged(k, err)
	}
	if err := v.check(); err != nil {
		return s.damaged(k, err)
	}
	return nil
}

// damaged logs a stored value that can't be read, and returns a miss.
func (s *Scanner) damaged(k cache.Key, err error) error {
	s.log().Warn("a stored value can't be read; it is made again", "key", k, "error", err)
	return fmt.Errorf("stored %s: %w (%w)", k, fs.ErrNotExist, err)
}

// put stores JSON. That it can't be stored costs only a repetition: it is logged.
func (s *Scanner) put(ctx context.Context, k cache.Key, v any, ttl time.Duration) {
	b, err := json.Marshal(v)
	if err == nil {
		err = s.Store.Put(ctx, k, b, ttl)
	}
	if err != nil {
		s.log().Warn("a result is not remembered", "key", k, "error", err)
	}
}

// publish stores what an image's digest leads to, unless somebody has who got the lease on
// its scan later: of two who scan one image, since one of them was taken for dead, the
// later one's word counts.
func (s *Scanner) publish(ctx context.Context, d digest.Digest, rec *imageRecord, ttl time.Duration) {
	k := s.imageKey(d)
	if rec.Fence == 0 {
		s.put(ctx, k, rec, ttl)
		return
	}
	b, err := json.Marshal(rec)
	for stored := false; err == nil && !stored; {
		var there []byte
		if there, err = s.Store.PutNew(ctx, k, b, ttl); err != nil || bytes.Equal(there, b) {
			break
		}
		old := new(imageRecord)
		if json.Unmarshal(there, old) == nil && old.check() == nil && old.Fence > rec.Fence {
			s.log().Info("what another replica has found meanwhile stands", "image", d)
			return
		}
		stored, err = s.Store.PutIf(ctx, k, there, b, ttl)
	}
	if err != nil {
		s.log().Warn("a result is not remembered", "key", k, "error", err)
	}
}

// An sbomHeader is what stands before the syft JSON of a stored SBOM.
type sbomHeader struct {
	Packages  int       `json:"packages"`
	Distro    string    `json:"distro,omitempty"`
	DistroVer string    `json:"distro_version,omitempty"`
	Problems  []Problem `json:"problems,omitempty"`
}

// encodeSBOM packs an SBOM: zstd over the header's length in four bytes, the header
// as JSON, the syft JSON.
func encodeSBOM(b *SBOM) ([]byte, error) {
	head, err := json.Marshal(sbomHeader{b.Packages, b.Distro, b.DistroVer, b.Problems})
	if err != nil {
		return nil, err
	}
	plain := make([]byte, 0, 4+len(head)+len(b.JSON))
	plain = binary.BigEndian.AppendUint32(plain, uint32(len(head)))
	plain = append(append(plain, head...), b.JSON...)
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	return enc.EncodeAll(plain, nil), enc.Close()
}

// maxSBOM bounds an SBOM that is unpacked, in bytes. One package takes 5 to 20 kB.
const maxSBOM = 1 << 30

func decodeSBOM(packed []byte) (*SBOM, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxSBOM))
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	plain, err := dec.DecodeAll(packed, nil)
	if err != nil {
		return nil, err
	}
	if len(plain) < 4 || uint64(binary.BigEndian.Uint32(plain)) > uint64(len(plain)-4) {
		return nil, errors.New("its header is cut short")
	}
	end := 4 + int(binary.BigEndian.Uint32(plain))
	var head sbomHeader
	if err := json.Unmarshal(plain[4:end], &head); err != nil {
		return nil, err
	}
	return &SBOM{JSON: plain[end:], Packages: head.Packages, Distro: head.Distro, DistroVer: head.DistroVer, Problems: head.Problems}, nil
}

// renew has an image's record and its SBOM kept on, where that was not done lately. That
// it can't be done is logged: the next one who asks tries again.
func (s *Scanner) renew(ctx context.Context, d digest.Digest, rec *imageRecord) {
	if s.now().Sub(rec.Kept) < renewAfter {
		return
	}
	k := cache.Name(kindSBOM, rec.SBOM)
	packed, err := s.Store.Get(ctx, k)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		err = s.Store.Put(ctx, k, packed, contentTTL)
	}
	if err != nil {
		s.log().Warn("an SBOM is not kept on", "key", k, "error", err)
		return
	}
	rec.Kept = s.now().UTC()
	s.put(ctx, s.imageKey(d), rec, contentTTL)
}

// getSBOM reads the SBOM with the key id given. A miss wraps fs.ErrNotExist, and so does
// an SBOM that can't be read any more.
func (s *Scanner) getSBOM(ctx context.Context, id string) (*SBOM, error) {
	k := cache.Name(kindSBOM, id)
	packed, err := s.Store.Get(ctx, k)
	if err != nil {
		return nil, err
	}
	return s.unpackSBOM(k, packed)
}

// unpackSBOM reads what stands under k. One that can't be read wraps fs.ErrNotExist.
func (s *Scanner) unpackSBOM(k cache.Key, packed []byte) (*SBOM, error) {
	b, err := decodeSBOM(packed)
	if err != nil {
		return nil, s.damaged(k, err)
	}
	return b, nil
}

// putSBOM stores an SBOM, and logs that it can't be.
func (s *Scanner) putSBOM(ctx context.Context, k cache.Key, b *SBOM) {
	packed, err := encodeSBOM(b)
	if err == nil && len(packed) > cache.MaxValue {
		err = fmt.Errorf("it has %d bytes, a Store takes %d", len(packed), cache.MaxValue)
	}
	if err == nil {
		err = s.Store.Put(ctx, k, packed, contentTTL)
	}
	if err != nil {
		s.log().Warn("an SBOM is not remembered", "key", k, "error", err)
	}
}
