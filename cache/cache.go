package cache

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

// ErrNotExist is what Get returns on a miss. It is fs.ErrNotExist, so callers
// test with errors.Is and need not import this package for it.
var ErrNotExist = fs.ErrNotExist

// ErrDamaged is wrapped by the error of reading what has other bytes than were stored, and
// by that of using what is of another type.
var ErrDamaged = errors.New("what is stored was damaged")

// MaxValue is the largest value, in bytes, that a Store accepts.
const MaxValue = 64 << 20

// MaxKey is the longest key, kind and id together, and the longest name of a
// field, in bytes, that a Store accepts.
const MaxKey = 4 << 10

// A Kind is the type of thing that a key names, such as "verdict" or "manifest".
// Each package that stores something declares its kinds as constants; the list
// of all of them is in this package's documentation.
type Kind string

// A Key names one entry. It is made by Recipe, where the entry is computed, or by
// Name, where it is not.
type Key struct {
	kind Kind
	id   string
}

// Name returns the key of a thing that has a name: an image digest, a tag, or
// several parts that are a name together. Different parts are different keys,
// whatever bytes they hold.
func Name(kind Kind, parts ...string) Key {
	joined := make([]string, len(parts))
	for i, p := range parts {
		joined[i] = partEscape.Replace(p)
	}
	return Key{kind, strings.Join(joined, "\x00")}
}

// KeyOf returns the Key whose Kind and ID are these.
func KeyOf(kind Kind, id string) Key { return Key{kind, id} }

// partEscape keeps NUL, which joins the parts of a Name, out of each part. Nothing
// that has a sane name is changed by it.
var partEscape = strings.NewReplacer("\x01", "\x01\x02", "\x00", "\x01\x01")

// Recipe returns the key of a computed thing: the hash of everything that went
// into it, versions of the tools included. A changed ingredient is another key,
// so nothing is ever invalidated. The parts are hashed with their lengths:
// ("a", "bc") and ("ab", "c") differ.
func Recipe(kind Kind, parts ...string) Key {
	h := sha256.New()
	var n [8]byte
	for _, p := range append([]string{string(kind)}, parts...) {
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write([]byte(p))
	}
	return Key{kind, hex.EncodeToString(h.Sum(nil))}
}

// Kind returns the kind of thing that k names.
func (k Key) Kind() Kind { return k.kind }

// ID returns the part of k behind its kind: the hash of a Recipe in hexadecimal, or
// the parts of a Name with a NUL between them.
func (k Key) ID() string { return k.id }

// String returns "kind/id". It may hold any byte: print it with %q.
func (k Key) String() string { return string(k.kind) + "/" + k.id }

// Check returns the error of a write that every Store refuses: a key or a field
// longer than MaxKey, a value longer than MaxValue, a ttl below 0. Stores call it
// before they write; field is empty where there is none.
func Check(k Key, field string, value []byte, ttl time.Duration) error {
	switch {
	case len(k.kind)+len(k.id) > MaxKey:
		return fmt.Errorf("store %s/%.40q…: the key has %d bytes, at most %d are accepted", k.kind, k.id, len(k.kind)+len(k.id), MaxKey)
	case len(field) > MaxKey:
		return fmt.Errorf("store %q: the name of a field has %d bytes, at most %d are accepted", k, len(field), MaxKey)
	case len(value) > MaxValue:
		return fmt.Errorf("store %q: the value has %d bytes, at most %d are accepted", k, len(value), MaxValue)
	case ttl < 0:
		return fmt.Errorf("store %q: the time to live is %v; it must be above 0, or 0 for ever", k, ttl)
	}
	return nil
}

// A Store remembers small things: verdicts, SBOMs, manifests, relations.
//
// Every Store guarantees, and cachetest checks:
//
//   - An entry is a value of up to MaxValue bytes, or a map of named fields; the
//     two never share a key: to use one as the other is an error that wraps ErrDamaged and changes nothing.
//     A value may be empty. A map with no fields does not exist.
//   - A write that returned nil is seen by every later read of every user of the
//     Store, and survives a crash of the process.
//   - A value read is the whole value as it was written, or an error; a damaged or
//     unreachable Store is an error and never a miss.
//   - An entry whose time to live (ttl) has passed is a miss. A ttl of 0 is for ever,
//     one below 0 an error. Less than a millisecond counts as one.
//   - All methods may be called concurrently. Slices passed in are not kept, and
//     slices returned belong to the caller.
//   - A context that ends makes the call return its error; whether the write took
//     place is then unknown.
type Store interface {
	// Get returns the value under k, or an error that wraps ErrNotExist.
	Get(ctx context.Context, k Key) ([]byte, error)
	// Put stores a value under k in place of any before it.
	Put(ctx context.Context, k Key, value []byte, ttl time.Duration) error
	// PutNew stores a value under k only where there is none, atomically among all
	// users of the Store, and returns the value that is there afterwards.
	PutNew(ctx context.Context, k Key, value []byte, ttl time.Duration) ([]byte, error)
	// PutIf stores a value under k only where the value there is old, atomically among all
	// users of the Store, and reports whether value is there afterwards. So writers who must
	// know which of them it was write different values.
	PutIf(ctx context.Context, k Key, old, value []byte, ttl time.Duration) (bool, error)
	// Delete removes the value or the map under k; that there is none is no error.
	Delete(ctx context.Context, k Key) error

	// Fields returns the map under k, empty where there is none. It reads the whole
	// map: maps are for hundreds of small fields.
	Fields(ctx context.Context, k Key) (map[string][]byte, error)
	// PutField sets one field of the map under k, atomically with respect to other
	// fields, and renews the ttl of the whole map, which is never shortened by it: the
	// map then lives until the later of its end before and now + ttl.
	PutField(ctx context.Context, k Key, field string, value []byte, ttl time.Duration) error
	// DeleteField removes one field of the map under k; that there is none is no error.
	DeleteField(ctx context.Context, k Key, field string) error

	// Ping returns nil when the Store can be read and written now.
	Ping(ctx context.Context) error
	// Close releases what the Store holds. No other call may follow.
	Close() error
}

// A Watcher is a Store that several processes share, and that tells each what the others
// write.
type Watcher interface {
	Store
	// Watch calls changed with the key of each entry that anybody writes or deletes, this
	// process included, and beat with a moment: of everything written before it, as seen
	// by the Store, changed was called. The first beat comes once the Store is listened
	// to. An entry that ends by its ttl is no change. Watch returns when ctx ends or the
	// Store is lost from hearing, with the reason. It calls nothing concurrently.
	Watch(ctx context.Context, beat func(time.Time), changed func(Key)) error
}
