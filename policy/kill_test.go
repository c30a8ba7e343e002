package policy

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A kill list with a bad line holds as far as it can be read, from the start, and the bad
// line is named. A list that can't be read at all is another thing.
func TestKillListWithABadLine(t *testing.T) {
	good := "sha256:" + strings.Repeat("a", 64)
	name := filepath.Join(t.TempDir(), "kill")
	if err := os.WriteFile(name, []byte(good+" # backdoor\nsha256:tooshort\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	e, err := Open(context.Background(), Config{KillFile: name, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if reason, killed := e.Killed(good); !killed || reason != "backdoor" {
		t.Errorf("killed %v, %q", killed, reason)
	}
	for what, text := range map[string]string{"log": log.String(), "status": e.Status().LastError} {
		if !strings.Contains(text, "kill:2:") || !strings.Contains(text, "tooshort") {
			t.Errorf("the %s doesn't name the bad line: %q", what, text)
		}
	}
	if _, err := Open(context.Background(), Config{KillFile: name + ".none"}); err == nil {
		t.Error("a list that isn't there was taken for an empty one")
	}
}
