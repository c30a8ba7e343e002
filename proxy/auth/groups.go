package auth

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxGroups  = 1000
	maxMembers = 100_000 // of all groups together
)

// parseGroups reads "group: name name" lines, as Apache's AuthGroupFile has them, and returns
// the groups of each name, sorted. Blank lines and those that begin with # are skipped, a
// group may have several lines. Any bad line refuses the whole file: who lost a group in
// silence could be let in by a rule that is for others.
func parseGroups(path string, b []byte) (map[string][]string, error) {
	of := map[string][]string{}
	groups := map[string]bool{}
	members := 0
	var problems []error
	for i, line := range strings.Split(string(b), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		group, names, ok := strings.Cut(line, ":")
		group = strings.TrimSpace(group)
		switch {
		case !ok:
			problems = append(problems, fmt.Errorf(`%s:%d: is no "group: name name"`, path, i+1))
		case group == "" || len(group) > maxName || !utf8.ValidString(line) || strings.ContainsFunc(group, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }):
			problems = append(problems, fmt.Errorf("%s:%d: a group's name must be 1 to %d bytes of UTF-8 without spaces and control characters", path, i+1, maxName))
		}
		if len(problems) == maxLineErrors {
			break
		}
		groups[group] = true
		for _, name := range strings.Fields(names) {
			members++
			if !slices.Contains(of[name], group) {
				of[name] = append(of[name], group)
			}
		}
		if len(groups) > maxGroups || members > maxMembers {
			return nil, fmt.Errorf("%s:%d: more than %d groups or %d members", path, i+1, maxGroups, maxMembers)
		}
	}
	if problems != nil {
		return nil, errors.Join(problems...)
	}
	for _, gs := range of {
		slices.Sort(gs)
	}
	return of, nil
}
