package configs

import (
	"fmt"
	"regexp"
)

func (v *validation) trust(t Trust) {
	names := map[string]bool{}
	for i, k := range t.Keys {
		key := fmt.Sprintf("trust.keys[%d]", i)
		v.check(k.Name != "", key, "needs a name: policies know the key by it")
		v.check(k.Name == "" || !names[k.Name], key, "has the name of another: %s", k.Name)
		v.check(k.File != "", key, "needs a file with the public key in PEM")
		names[k.Name] = true
	}
	v.check(len(t.Keys) == 0 || t.RootFile != "" || t.IgnoreTlog, "trust.keys", "can't be held against a transparency log, as trust.root_file names none: set it, or ignore_tlog: true to take signatures that are in no log")
	v.check(len(t.Identities) == 0 || t.RootFile != "", "trust.identities", "needs trust.root_file: without it no authority may vouch for anybody")
	v.check(!t.IgnoreTlog && !t.IgnoreCTLog && !t.CurrentTime || len(t.Keys) > 0 || t.RootFile != "", "trust", "ignores checks of signatures and trusts nobody: add keys or root_file")
	for i, id := range t.Identities {
		key := fmt.Sprintf("trust.identities[%d]", i)
		v.check(id.Issuer != "", key, "needs an issuer: any other could name the same subject")
		v.check((id.Subject == "") != (id.Pattern == ""), key, "needs a subject or a pattern, and not both")
		_, err := regexp.Compile(id.Pattern)
		v.check(err == nil, key, "has a pattern that is no regular expression: %v", err)
	}
}
