//go:build e2e

package e2e

import (
	"cmp"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestDemo: the story that newcomers see first ends as it should; it checks itself.
func TestDemo(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, cmp.Or(os.Getenv("SLUICE_BIN"), filepath.Join("..", "..", "bin", "sluice")), "demo")
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "All as it should be") {
		t.Errorf("%v\n%s", err, out)
	}
}
