package policy

import "strings"

// MatchGlob reports whether all of s matches pattern, in which "*" stands for any
// text without "/", "**" for any text, "?" for one character but "/". It takes time
// in proportion to the product of their lengths at most.
func MatchGlob(pattern, s string) bool {
	if i := strings.IndexAny(pattern, "*?"); i < 0 {
		return pattern == s
	} else if !strings.HasPrefix(s, pattern[:i]) { // most don't match, and this is cheap
		return false
	}
	// reach[i]: the pattern so far matches s[:i].
	reach := make([]bool, len(s)+1)
	reach[0] = true
	for pattern != "" {
		next := make([]bool, len(s)+1)
		switch {
		case strings.HasPrefix(pattern, "**"):
			pattern = strings.TrimLeft(pattern, "*")
			for i, on := 0, false; i <= len(s); i++ {
				on = on || reach[i]
				next[i] = on
			}
		case pattern[0] == '*':
			pattern = pattern[1:]
			for i, on := 0, false; i <= len(s); i++ {
				on = reach[i] || on && s[i-1] != '/'
				next[i] = on
			}
		default:
			for i := range len(s) {
				next[i+1] = reach[i] && (s[i] == pattern[0] || pattern[0] == '?' && s[i] != '/')
			}
			pattern = pattern[1:]
		}
		reach = next
	}
	return reach[len(s)]
}
