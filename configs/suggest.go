package configs

import (
	"reflect"
	"slices"
	"strings"
)

// suggest returns "; did you mean …?" for an unknown key of the struct t at path, or
// a list of the keys that there are, where none is near. A key that exists elsewhere
// is named with its full path.
func suggest(key, path string, t reflect.Type) string {
	here := keys(t)
	if best, ok := nearest(key, here); ok {
		return "; did you mean " + join(path, best) + "?"
	}
	var elsewhere []string
	for _, full := range Keys() {
		if full[strings.LastIndex(full, ".")+1:] == key {
			elsewhere = append(elsewhere, full)
		}
	}
	if elsewhere != nil {
		return "; did you mean " + strings.Join(elsewhere, " or ") + "?"
	}
	return "; there are: " + strings.Join(here, ", ")
}

// nearest returns the candidate with the smallest edit distance to key, if it is
// within a third of the key's length, and at least 2.
func nearest(key string, candidates []string) (string, bool) {
	if len(key) > 64 {
		return "", false
	}
	best, at := "", max(2, len(key)/3)+1
	for _, c := range candidates {
		if n := distance(normal(key), normal(c)); n < at {
			best, at = c, n
		}
	}
	return best, best != ""
}

// normal makes the spellings of one key the same: manifestWait, manifest-wait.
func normal(key string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(key))
}

// distance is the number of single-byte edits between a and b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// Keys returns the full path of every key, in the order of Config: "listen",
// "tls", "tls.cert_file". Keys of list items have no index: "upstreams.name".
func Keys() []string { return walk("", reflect.TypeFor[Config]()) }

func walk(path string, t reflect.Type) []string {
	if t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var all []string
	for i := range t.NumField() {
		full := join(path, t.Field(i).Tag.Get("yaml"))
		all = append(all, full)
		all = append(all, walk(full, t.Field(i).Type)...)
	}
	return all
}

// keys returns the keys of the struct t alone, sorted.
func keys(t reflect.Type) []string {
	var all []string
	for k := range fields(t) {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}
