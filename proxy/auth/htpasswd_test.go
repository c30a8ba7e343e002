package auth

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

func TestParseHtpasswd(t *testing.T) {
	good := hashOf(t, "x")
	costly := "$2y$15$" + good[7:]
	for _, test := range []struct {
		name, text string
		names      int
		want       []string // parts of the error; none is accepted
	}{
		{"empty", "", 0, nil},
		{"comments and blank lines", "# a\n\n  \n", 0, nil},
		{"every version", "a:" + good + "\nb:$2y$" + good[4:] + "\nc:$2b$" + good[4:] + "\n", 3, nil},
		{"no newline at the end", "a:" + good, 1, nil},
		{"something behind the hash", "a:" + good + ":Alice\n", 1, nil},
		{"spaces in a name", "build farm:" + good, 1, nil},
		{"sha", "a:" + good + "\n\nb:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n", 0, []string{"f:3: the hash of b is SHA-1, only bcrypt is read: htpasswd -B FILE NAME"}},
		{"md5", "b:$apr1$aaaa$bbbb", 0, []string{"f:1: the hash of b is MD5"}},
		{"crypt", "b:rqXexS6ZhobKA", 0, []string{"f:1: the hash of b is crypt or plain text"}},
		{"plain", "b:secret", 0, []string{"f:1: the hash of b is crypt or plain text"}},
		{"sha512", "b:$6$aa$bb", 0, []string{"f:1: the hash of b is SHA-512 crypt"}},
		{"old bcrypt", "b:$2x$" + good[4:], 0, []string{"f:1: the hash of b is a damaged or outdated bcrypt hash"}},
		{"cut bcrypt", "b:" + good[:59], 0, []string{"f:1: the hash of b is a damaged"}},
		{"no hash", "b:", 0, []string{"f:1: the hash of b is missing"}},
		{"too costly", "b:" + costly, 0, []string{"f:1: the hash of b has no cost from 4 to 14"}},
		{"no colon", good, 0, []string{`f:1: is no "name:hash"`}},
		{"no name", ":" + good, 0, []string{"f:1: the name must be"}},
		{"long name", strings.Repeat("n", 256) + ":" + good, 0, []string{"f:1: the name must be"}},
		{"control character", "a\x00b:" + good, 0, []string{"f:1: the name must be"}},
		{"twice", "a:" + good + "\na:" + good, 0, []string{"f:2: a stands here for the second time"}},
		{"two errors", "a:secret\nb:secret", 0, []string{"f:1: ", "f:2: "}},
	} {
		t.Run(test.name, func(t *testing.T) {
			u, err := parseHtpasswd("f", []byte(test.text))
			if test.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				if len(u.hashes) != test.names {
					t.Errorf("%d names, want %d", len(u.hashes), test.names)
				}
				return
			}
			if err == nil {
				t.Fatalf("accepted: %v", u.hashes)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
			for _, secret := range []string{"secret", good[7:], "5en6G6"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("error %q shows the hash", err)
				}
			}
		})
	}
}

func TestParseHtpasswdBounds(t *testing.T) {
	var all strings.Builder
	for i := range maxUsers + 1 {
		fmt.Fprintf(&all, "u%d:%s\n", i, "$2a$04$"+strings.Repeat("a", 53))
	}
	if _, err := parseHtpasswd("f", []byte(all.String())); err == nil || !strings.Contains(err.Error(), "f:10001: more than 10000 names") {
		t.Errorf("got %v", err)
	}
	_, err := parseHtpasswd("f", []byte(strings.Repeat("x\n", 1000)))
	if n := strings.Count(err.Error(), "\n") + 1; n != maxLineErrors {
		t.Errorf("%d lines of errors, want %d", n, maxLineErrors)
	}
}

// TestDecoy holds an unknown name to cost as much as the costliest known one.
func TestDecoy(t *testing.T) {
	h, err := bcrypt.GenerateFromPassword([]byte("x"), 6)
	if err != nil {
		t.Fatal(err)
	}
	u, err := parseHtpasswd("f", []byte("a:"+hashOf(t, "x")+"\nb:"+string(h)))
	if err != nil {
		t.Fatal(err)
	}
	decoy, known := u.hash("nobody")
	cost, err := bcrypt.Cost(decoy)
	if known || err != nil || cost != 6 {
		t.Errorf("an unknown name: known %t, cost %d, %v", known, cost, err)
	}
}

func FuzzParseHtpasswd(f *testing.F) {
	f.Add("a:$2a$04$" + strings.Repeat("a", 53))
	f.Add("a:{SHA}x\n# c\r\n:\nb:$2")
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 4096 || strings.Contains(text, "$1") { // a decoy of cost 10 and more is too slow here
			t.Skip()
		}
		u, err := parseHtpasswd("f", []byte(text))
		if err != nil {
			return
		}
		for name, hash := range u.hashes {
			if name == "" || strings.Contains(name, ":") || len(hash) != 60 {
				t.Errorf("%q has the hash %q", name, hash)
			}
			if _, err := bcrypt.Cost(hash); err != nil {
				t.Error(err)
			}
		}
	})
}
