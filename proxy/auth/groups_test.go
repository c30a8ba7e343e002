package auth

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// A caller has the groups of the file, also those that it gets while the gateway runs; a file
// that is spoilt leaves the last good one in force.
func TestGroups(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	a := &Authenticator{Htpasswd: write("users", "anna:"+string(hash)+"\nbob:"+string(hash)+"\n"),
		Groups: write("groups", "# teams\nplatform: anna bob\n\nadmins: anna\nplatform: anna carl\n"), Now: func() time.Time { return now }}
	if err := a.Load(); err != nil {
		t.Fatal(err)
	}
	groups := func(name string) string {
		t.Helper()
		r := httptest.NewRequest("GET", "/v2/", nil)
		r.SetBasicAuth(name, "secret")
		c, err := a.Caller(r)
		if err != nil || c.Name != name {
			t.Fatalf("%+v, %v", c, err)
		}
		return strings.Join(c.Groups, " ")
	}
	if got := []string{groups("anna"), groups("anna"), groups("bob")}; !slices.Equal(got, []string{"admins platform", "admins platform", "platform"}) {
		t.Errorf("groups %q", got)
	}
	for _, step := range [][2]string{{"admins: bob\n", "admins"}, {"admins bob\n", "admins"}, {"ops: bob\n", "ops"}} {
		write("groups", step[0])
		now = now.Add(time.Minute)
		if got := groups("bob"); got != step[1] {
			t.Errorf("with %q: %q, want %q", step[0], got, step[1])
		}
	}
}

func TestBadGroups(t *testing.T) {
	for text, want := range map[string]string{
		"platform anna\n": `g:1: is no "group: name name"`, "\n: anna\n": "g:2: a group's name", "a b: anna\n": "g:1: a group's name",
	} {
		if _, err := parseGroups("g", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}
