package decisionlog

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/sluicegate/sluice/policy"
)

// apply removes and replaces what masks name, and notes in the record which. A path that
// leads nowhere is nothing to hide.
func apply(doc map[string]any, masks []policy.Mask) error {
	var erased, masked []string
	for _, m := range masks {
		path, err := pointer(m.Path)
		if err != nil {
			return err
		}
		switch hit := set(doc, path, m); {
		case hit && m.Remove:
			erased = append(erased, m.Path)
		case hit:
			masked = append(masked, m.Path)
		}
	}
	if erased != nil {
		doc["erased"] = erased
	}
	if masked != nil {
		doc["masked"] = masked
	}
	return nil
}

// pointer reads a JSON pointer (RFC 6901) below /input or /result: what tells decisions
// apart stays.
func pointer(s string) ([]string, error) {
	parts := strings.Split(s, "/")
	if len(parts) < 2 || parts[0] != "" || parts[1] != "input" && parts[1] != "result" {
		return nil, fmt.Errorf("the path %q of a mask is not below /input or /result", s)
	}
	for i, p := range parts {
		parts[i] = strings.ReplaceAll(strings.ReplaceAll(p, "~1", "/"), "~0", "~")
	}
	return parts[1:], nil
}

// set removes or replaces what a path leads to, and reports whether there was anything.
// An element of an array that is removed becomes null, so that others keep their places.
func set(at any, path []string, m policy.Mask) bool {
	key, last := path[0], len(path) == 1
	switch at := at.(type) {
	case map[string]any:
		child, ok := at[key]
		switch {
		case last && m.Remove:
			delete(at, key)
			return ok
		case last:
			at[key] = m.Value
			return true
		}
		return ok && set(child, path[1:], m)
	case []any:
		i, err := strconv.Atoi(key)
		if err != nil || i < 0 || i >= len(at) {
			return false
		}
		if last {
			at[i] = m.Value // nil where it is removed
			return true
		}
		return set(at[i], path[1:], m)
	}
	return false
}
