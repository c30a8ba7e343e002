package connection

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A folder of credentials that goes missing is shown from then on, also while what was
// read of it before is still in force; one that never was there is said in the log.
func TestMissingFolder(t *testing.T) {
	f := newVault(t)
	dir := filepath.Join(t.TempDir(), "creds")
	f.Files["cgr.dev"] = dir
	problem := func() Info {
		list, err := f.List(t.Context())
		if err != nil || len(list) != 1 {
			t.Fatalf("%v, %v", list, err)
		}
		return list[0]
	}
	if i := problem(); !strings.Contains(i.Problem, dir) || i.Source != SourceFile {
		t.Errorf("one that never was there: %+v", i)
	}
	if n := strings.Count(f.log.String(), "credentials can't be read"); n != 1 || !strings.Contains(f.log.String(), dir) {
		t.Errorf("logged %d times: %s", n, f.log)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "username", "someone")
	write(t, dir, "password", marker)
	if i := problem(); i.Problem != "" || i.Username != "someone" {
		t.Errorf("one that is there: %+v", i)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if i := problem(); !strings.Contains(i.Problem, dir) || !strings.Contains(i.Problem, "stays in force") || i.Username != "someone" {
		t.Errorf("one that went missing: %+v", i)
	}
}
