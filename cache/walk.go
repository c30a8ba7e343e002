package cache

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// A Walker is a Store whose entries can be listed.
type Walker interface {
	Store
	// Walk calls do with each entry of a kind, or of every kind where kind is "", in no
	// order and not concurrently, and stops with the error that do returns. An entry that
	// is there all the while is told of at least once, and perhaps twice; one that comes
	// or goes meanwhile may be missing.
	Walk(ctx context.Context, kind Kind, do func(Entry) error) error
}

// An Entry is what Walk tells of an entry.
type Entry struct {
	Key  Key
	Map  bool      // it has fields, not a value
	Size int64     // bytes that it takes in the Store, about
	Ends time.Time // zero is never
}

// Text returns k in one word that can be typed: kind, ":", id. NUL, which joins the parts
// of a Name, becomes "|", and every other byte that is awkward in a shell %XX; braces too,
// which Redis gets around the id. Different keys have different texts.
func (k Key) Text() string {
	return strings.ReplaceAll(escape(string(k.kind)), ":", "%3A") + ":" + escape(k.id)
}

// ParseKey returns the Key whose Text it is given.
func ParseKey(text string) (Key, error) {
	kind, id, ok := strings.Cut(text, ":")
	k := Key{Kind(unescape(kind)), unescape(id)}
	if !ok || k.Text() != text {
		return Key{}, fmt.Errorf("%.100q is no key: one is KIND:ID, such as verdict:0f3c…, with | between the parts of ID", text)
	}
	return k, nil
}

func escape(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/:@+=,"
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c == 0:
			b.WriteByte('|')
		case strings.IndexByte(plain, c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func unescape(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		if s[0] == '%' && len(s) >= 3 {
			if c, err := hex.DecodeString(s[1:3]); err == nil {
				b.WriteByte(c[0])
				s = s[3:]
				continue
			}
		}
		if s[0] == '|' {
			b.WriteByte(0)
		} else {
			b.WriteByte(s[0])
		}
		s = s[1:]
	}
	return b.String()
}
