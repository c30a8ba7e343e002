package upstream

import (
	"net/http"
	"strings"
)

// A challenge is one of the ways in which a registry asks who is there (RFC 9110, 11.3).
type challenge struct {
	scheme string            // lower case: "bearer", "basic"
	params map[string]string // names in lower case
}

const (
	maxChallenge       = 16 << 10 // bytes of all WWW-Authenticate headers together
	maxChallengeParams = 32
)

// findChallenge returns the challenge to answer: Bearer before Basic, as the
// distribution specification has it; nil where there is neither.
func findChallenge(h http.Header) *challenge {
	var basic *challenge
	for _, c := range parseChallenges(h.Values("WWW-Authenticate")) {
		switch c.scheme {
		case "bearer":
			if c.params["realm"] != "" {
				return &c
			}
		case "basic":
			basic = &c
		}
	}
	return basic
}

// parseChallenges reads WWW-Authenticate headers. What doesn't parse ends the
// header that it is in; what stood before it counts.
func parseChallenges(headers []string) []challenge {
	var cs []challenge
	room := maxChallenge
	for _, h := range headers {
		if room -= len(h); room < 0 {
			break
		}
		cs = appendChallenges(cs, h)
	}
	return cs
}

// appendChallenges reads one header: challenges and their parameters are both
// separated by commas, so a name that "=" follows is a parameter, any other a scheme.
func appendChallenges(cs []challenge, s string) []challenge {
	for {
		s = strings.TrimLeft(s, " \t,")
		name, rest := cutToken(s)
		if name == "" {
			return cs
		}
		after := strings.TrimLeft(rest, " \t")
		if !strings.HasPrefix(after, "=") { // a scheme
			cs = append(cs, challenge{scheme: strings.ToLower(name), params: map[string]string{}})
			if s = after; !strings.HasPrefix(rest, ",") && isToken68(after) {
				_, s = cutToken68(after)
			}
			continue
		}
		value, rest, ok := cutValue(strings.TrimLeft(after[1:], " \t"))
		if !ok || len(cs) == 0 {
			return cs
		}
		p := cs[len(cs)-1].params
		if _, twice := p[strings.ToLower(name)]; !twice && len(p) < maxChallengeParams {
			p[strings.ToLower(name)] = value
		}
		s = rest
	}
}

// cutToken68 cuts credentials in the form that Negotiate and NTLM use.
func cutToken68(s string) (tok, rest string) {
	i := 0
	for i < len(s) && (isTokenChar(s[i]) || s[i] == '/') {
		i++
	}
	for i < len(s) && s[i] == '=' {
		i++
	}
	return s[:i], s[i:]
}

// isToken68 tells such credentials from a parameter ("name=value") and from the next
// scheme ("Bearer realm=…"): they end at a comma or at the end.
func isToken68(s string) bool {
	tok, rest := cutToken68(s)
	rest = strings.TrimLeft(rest, " \t")
	return tok != "" && (rest == "" || rest[0] == ',')
}

func cutToken(s string) (tok, rest string) {
	i := 0
	for i < len(s) && isTokenChar(s[i]) {
		i++
	}
	return s[:i], s[i:]
}

func cutValue(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		value, rest = cutToken(s)
		return value, rest, value != ""
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:], true
		case s[i] == '\\' && i+1 < len(s):
			i++
		}
		b.WriteByte(s[i])
	}
	return "", "", false
}

// isTokenChar is tchar of RFC 9110, 5.6.2.
func isTokenChar(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}
