package configs

import (
	"strings"
	"testing"
)

// Trust that can't work, or that is less than it looks, is told of before anything starts.
func TestTrust(t *testing.T) {
	key := TrustedKey{"release", "cosign.pub"}
	id := TrustedIdentity{Issuer: "https://issuer.test", Subject: "release@acme.test"}
	for _, tt := range []struct {
		name  string
		trust Trust
		want  string // "" for fine
	}{
		{"none", Trust{}, ""},
		{"key and root", Trust{RootFile: "root.json", Keys: []TrustedKey{key}}, ""},
		{"key without a log", Trust{Keys: []TrustedKey{key}, IgnoreTlog: true}, ""},
		{"identity", Trust{RootFile: "root.json", Identities: []TrustedIdentity{id}}, ""},
		{"key without root that should be in a log", Trust{Keys: []TrustedKey{key}}, "ignore_tlog: true"},
		{"key without a name", Trust{RootFile: "r", Keys: []TrustedKey{{"", "cosign.pub"}}}, "trust.keys[0]: needs a name"},
		{"key without a file", Trust{RootFile: "r", Keys: []TrustedKey{{"release", ""}}}, "trust.keys[0]: needs a file"},
		{"two keys of one name", Trust{RootFile: "r", Keys: []TrustedKey{key, key}}, "trust.keys[1]: has the name of another: release"},
		{"identity without root", Trust{Identities: []TrustedIdentity{id}}, "needs trust.root_file"},
		{"identity of any issuer", Trust{RootFile: "r", Identities: []TrustedIdentity{{Subject: "a@b"}}}, "needs an issuer"},
		{"identity of nobody", Trust{RootFile: "r", Identities: []TrustedIdentity{{Issuer: "i"}}}, "needs a subject or a pattern"},
		{"identity said twice", Trust{RootFile: "r", Identities: []TrustedIdentity{{Issuer: "i", Subject: "a", Pattern: "a"}}}, "and not both"},
		{"no pattern", Trust{RootFile: "r", Identities: []TrustedIdentity{{Issuer: "i", Pattern: "a)|(b"}}}, "no regular expression"},
		{"checks ignored for nobody", Trust{IgnoreTlog: true}, "trusts nobody"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := Default()
			c.Trust = tt.trust
			err := c.Validate()
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("Validate: %v, want %q", err, tt.want)
			}
		})
	}
}
