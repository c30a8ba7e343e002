package configs_test

import (
	"log/slog"
	"testing"

	"github.com/sluicegate/sluice/policy"
)

// TestPolicyFiles has policy read the example files that are meant for it.
func TestPolicyFiles(t *testing.T) {
	_, err := policy.Open(t.Context(), policy.Config{
		WaiverFile: "waivers.yaml",
		KillFile:   "kill.txt",
		Log:        slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
}
