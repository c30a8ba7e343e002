package vuln

import (
	"bytes"
	"maps"
	"slices"
	"strings"
)

// slim returns syft JSON without what a match takes nothing of: the list of files, the
// relationships that aren't between two packages, which grype passes over, and of each
// package what thin removes. In the SBOM of a Debian that is most of the bytes, and
// decoding is what costs the most in a match. A document that isn't written as syft writes
// it is returned as it is: to tell what is wrong with it is up to the decoder.
func slim(doc []byte) []byte {
	parts, ok := members(doc)
	artifacts, relationships, files := parts["artifacts"], parts["artifactRelationships"], parts["files"]
	packages, ok2 := elements(artifacts.of(doc))
	related, ok3 := elements(relationships.of(doc))
	if !ok || !ok2 || !ok3 || files.to == 0 {
		return doc
	}
	ids := map[string]bool{}
	for _, p := range packages {
		id, _, ok := quoted(p, `{"id":`)
		if !ok {
			return doc
		}
		ids[string(id)] = true
	}
	return replace(doc, map[span][]byte{
		artifacts:     list(thin(packages)),
		relationships: list(between(related, ids)),
		files:         []byte("[]"),
	})
}

// between returns the relationships of which both ends are named in ids, and those that
// aren't written as syft writes them.
func between(related [][]byte, ids map[string]bool) (kept [][]byte) {
	for _, r := range related {
		parent, rest, ok := quoted(r, `{"parent":`)
		child, _, ok2 := quoted(rest, `,"child":`)
		if !ok || !ok2 || ids[string(parent)] && ids[string(child)] {
			kept = append(kept, r)
		}
	}
	return kept
}

// A span is a part of a document.
type span struct{ from, to int }

func (s span) of(doc []byte) []byte { return doc[s.from:s.to] }

// replace returns doc with other values in some places, which don't overlap.
func replace(doc []byte, with map[span][]byte) (out []byte) {
	at := 0
	for _, s := range slices.SortedFunc(maps.Keys(with), func(a, b span) int { return a.from - b.from }) {
		out = append(append(out, doc[at:s.from]...), with[s]...)
		at = s.to
	}
	return append(out, doc[at:]...)
}

// list returns a JSON array.
func list(elements [][]byte) []byte {
	return slices.Concat([]byte("["), bytes.Join(elements, []byte(",")), []byte("]"))
}

// members returns where the values of a JSON object stand, by their names. It is false
// where there is no object, where a name comes twice, or where one is escaped.
func members(doc []byte) (map[string]span, bool) {
	out := map[string]span{}
	if len(doc) == 0 || doc[0] != '{' {
		return nil, false
	}
	for i := 1; ; {
		to := endOfString(doc, i)
		if to < 0 || to >= len(doc) || doc[to] != ':' {
			return nil, false
		}
		name := string(doc[i+1 : to-1])
		value := span{to + 1, endOfValue(doc, to+1)}
		if value.to < 0 || value.to >= len(doc) || out[name].to > 0 || strings.Contains(name, `\`) {
			return nil, false
		}
		out[name] = value
		switch doc[value.to] {
		case ',':
			i = value.to + 1
		case '}':
			return out, true
		default:
			return nil, false
		}
	}
}

// elements returns the elements of a JSON array. It is false where that is written
// otherwise than syft writes one.
func elements(array []byte) (out [][]byte, ok bool) {
	if bytes.Equal(array, []byte("[]")) {
		return nil, true
	}
	for i := 1; i < len(array); {
		end := endOfValue(array, i)
		if end <= i || end >= len(array) {
			return nil, false
		}
		out = append(out, array[i:end])
		switch array[end] {
		case ',':
			i = end + 1
		case ']':
			return out, end == len(array)-1
		default:
			return nil, false
		}
	}
	return nil, false
}

// quoted returns the string that stands in b behind prefix, and what is left.
func quoted(b []byte, prefix string) (s, rest []byte, ok bool) {
	b, ok = bytes.CutPrefix(b, []byte(prefix))
	if !ok {
		return nil, nil, false
	}
	end := endOfString(b, 0)
	if end < 0 {
		return nil, nil, false
	}
	return b[1 : end-1], b[end:], true
}

// endOfValue returns where the JSON value that begins at i ends, -1 where it doesn't.
func endOfValue(b []byte, i int) int {
	depth := 0
	for i < len(b) {
		switch b[i] {
		case '"':
			if i = endOfString(b, i); i < 0 {
				return -1
			}
			if depth == 0 {
				return i
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i // of a number that was the last in its array or object
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',':
			if depth == 0 {
				return i
			}
		}
		i++
	}
	return -1
}

// endOfString returns where the JSON string that begins at i ends, -1 where it doesn't.
func endOfString(b []byte, i int) int {
	if i >= len(b) || b[i] != '"' {
		return -1
	}
	for i++; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return -1
}
