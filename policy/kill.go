package policy

import (
	"fmt"
	"maps"
	"strings"

	"github.com/opencontainers/go-digest"
)

const (
	maxKillFile  = 8 << 20 // bytes: about a hundred thousand digests
	maxKillError = 5       // lines that one error names
)

// A killList maps the digests that are never served to the reason given, which may
// be empty.
type killList map[string]string

func (k killList) find(digest string, more ...string) (string, bool) {
	if reason, ok := k[digest]; ok && digest != "" {
		return reason, true
	}
	for _, d := range more {
		if reason, ok := k[d]; ok {
			return reason, true
		}
	}
	return "", false
}

// merged returns a list of all that is in k or in o.
func (k killList) merged(o killList) killList {
	m := maps.Clone(k)
	if m == nil {
		m = killList{}
	}
	maps.Copy(m, o)
	return m
}

// parseKillFile reads one digest a line, with an optional "# reason" behind it.
// Blank lines and comments are skipped.
//
// A bad line doesn't spoil the others: all good lines are returned together with
// an error that names the bad ones, since whoever edits a kill list is in a hurry.
func parseKillFile(name string, data []byte) (killList, error) {
	return parseKillLines(name, strings.Split(string(data), "\n"))
}

func parseKillLines(name string, lines []string) (killList, error) {
	k := killList{}
	var bad []string
	for i, line := range lines {
		text, reason, _ := strings.Cut(line, "#")
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		d, err := digest.Parse(text)
		if err != nil {
			bad = append(bad, fmt.Sprintf("%s:%d: %s is no digest (want sha256: and 64 hex digits)", name, i+1, quote(text)))
			continue
		}
		k[d.String()] = clip(strings.TrimSpace(reason), maxMessage/2)
	}
	if n := len(bad); n > maxKillError {
		bad = append(bad[:maxKillError], fmt.Sprintf("and %d more", n-maxKillError))
	}
	if len(bad) > 0 {
		return k, fmt.Errorf("%s", strings.Join(bad, "; "))
	}
	return k, nil
}
