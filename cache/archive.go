package cache

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"
)

// An archive is a Store in a file: JSON values in a zstd stream, a heading first, then an
// entry each, and at the end how many there were.
type (
	archiveHead struct {
		Sluice  string    `json:"sluice"` // "store"
		Schema  int       `json:"schema"`
		Written time.Time `json:"written"`
	}
	archiveEntry struct {
		Kind    Kind           `json:"kind,omitempty"`
		ID      []byte         `json:"id,omitempty"`
		Ends    time.Time      `json:"ends,omitzero"`
		Value   []byte         `json:"value,omitempty"`
		Map     bool           `json:"map,omitempty"`
		Fields  []archiveField `json:"fields,omitempty"`
		Entries *int           `json:"entries,omitempty"` // of the archive, at its end
	}
	archiveField struct {
		Name  []byte `json:"name"`
		Value []byte `json:"value"`
	}
)

const archiveName = "store"

// maxArchiveMemory bounds what the reader of an archive needs for the windows of zstd.
const maxArchiveMemory = 64 << 20

// Export writes every entry of s to w, as an archive that Import reads, but for those of
// the kinds that are left out, and returns how many. An entry that comes or goes meanwhile
// may be missing. Whoever reads the archive sees where it was cut short.
func Export(ctx context.Context, s Walker, w io.Writer, leaveOut ...Kind) (n int, err error) {
	z, err := zstd.NewWriter(w)
	if err != nil {
		return 0, err
	}
	enc := json.NewEncoder(z)
	if err := enc.Encode(archiveHead{archiveName, Schema, time.Now().UTC()}); err != nil {
		return 0, err
	}
	err = s.Walk(ctx, "", func(e Entry) error {
		if slices.Contains(leaveOut, e.Key.Kind()) {
			return nil
		}
		a, err := archived(ctx, s, e)
		if errors.Is(err, ErrNotExist) {
			return nil
		}
		if err == nil {
			n++
			err = enc.Encode(a)
		}
		return err
	})
	if err == nil {
		err = enc.Encode(archiveEntry{Entries: &n})
	}
	if err != nil { // without its end, so that it can't be taken for whole
		return n, err
	}
	return n, z.Close()
}

func archived(ctx context.Context, s Store, e Entry) (archiveEntry, error) {
	a := archiveEntry{Kind: e.Key.Kind(), ID: []byte(e.Key.ID()), Ends: e.Ends, Map: e.Map}
	if !e.Map {
		var err error
		a.Value, err = s.Get(ctx, e.Key)
		return a, err
	}
	fields, err := s.Fields(ctx, e.Key)
	if err == nil && len(fields) == 0 {
		err = ErrNotExist
	}
	for name, value := range fields {
		a.Fields = append(a.Fields, archiveField{[]byte(name), value})
	}
	return a, err
}

// Imported counts what became of the entries of an archive.
type Imported struct {
	Written int `json:"written"`
	Kept    int `json:"kept"`    // what was there already stays
	Expired int `json:"expired"` // their time ran out since
}

// Import writes the entries of an archive to s. It reads the whole archive first, so that
// one that is damaged, cut short or of another schema writes nothing. What s already has
// under a key, or in a field, stays, unless overwrite is set. An entry lives as long as it
// would have where it came from.
func Import(ctx context.Context, s Store, archive io.ReadSeeker, overwrite bool) (Imported, error) {
	var n Imported
	if err := readArchive(archive, func(a archiveEntry) error { return ctx.Err() }); err != nil {
		return n, err
	}
	if _, err := archive.Seek(0, io.SeekStart); err != nil {
		return n, err
	}
	err := readArchive(archive, func(a archiveEntry) error {
		ttl := time.Duration(0)
		if !a.Ends.IsZero() {
			if ttl = time.Until(a.Ends); ttl <= 0 {
				n.Expired++
				return nil
			}
		}
		written, err := a.writeTo(ctx, s, ttl, overwrite)
		if written {
			n.Written++
		} else {
			n.Kept++
		}
		return err
	})
	return n, err
}

// CountArchive returns how many entries are in an archive, or why it can't be imported.
func CountArchive(archive io.Reader) (n int, err error) {
	err = readArchive(archive, func(archiveEntry) error { n++; return nil })
	return n, err
}

func (a archiveEntry) writeTo(ctx context.Context, s Store, ttl time.Duration, overwrite bool) (bool, error) {
	k := KeyOf(a.Kind, string(a.ID))
	if overwrite {
		if err := s.Delete(ctx, k); err != nil { // it may be a map here and a value there
			return false, err
		}
	}
	there, err := s.Fields(ctx, k)
	if !a.Map {
		if err == nil && len(there) > 0 {
			return false, nil
		}
		if _, err := s.Get(ctx, k); !errors.Is(err, ErrNotExist) {
			return false, err
		}
		_, err := s.PutNew(ctx, k, a.Value, ttl)
		return err == nil, err
	}
	if err != nil { // a value is there
		if _, e := s.Get(ctx, k); e == nil {
			return false, nil
		}
		return false, err
	}
	written := false
	for _, f := range a.Fields {
		if _, ok := there[string(f.Name)]; ok {
			continue
		}
		if err := s.PutField(ctx, k, string(f.Name), f.Value, ttl); err != nil {
			return false, err
		}
		written = true
	}
	return written, nil
}

// readArchive calls do with each entry of an archive.
func readArchive(r io.Reader, do func(archiveEntry) error) error {
	z, err := zstd.NewReader(bufio.NewReader(r), zstd.WithDecoderMaxMemory(maxArchiveMemory), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer z.Close()
	dec := json.NewDecoder(z)
	var head archiveHead
	if err := dec.Decode(&head); err != nil || head.Sluice != archiveName {
		return errors.New("it is no archive of a store: those are made by sluice cache export")
	}
	if err := CheckSchema("the archive", fmt.Sprint(head.Schema), Schema); err != nil {
		return err
	}
	for n := 0; ; n++ {
		var a archiveEntry
		if err := dec.Decode(&a); err != nil {
			return fmt.Errorf("the archive is damaged or cut short behind %d entries (%w): export it again", n, err)
		}
		if a.Entries != nil {
			if *a.Entries != n {
				return fmt.Errorf("the archive is damaged: %d of %d entries are in it; export it again", n, *a.Entries)
			}
			return nil
		}
		if err := Check(KeyOf(a.Kind, string(a.ID)), "", a.Value, 0); err != nil {
			return fmt.Errorf("the archive is damaged: %w", err)
		}
		if err := do(a); err != nil {
			return err
		}
	}
}
