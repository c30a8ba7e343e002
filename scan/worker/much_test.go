package worker

import (
	"strings"
	"testing"

	"github.com/sluicegate/sluice/scan"
)

// TestMuch: a result that is larger than any may be is an error, and its process goes on.
func TestMuch(t *testing.T) {
	p, _ := started(t, 1)
	before := first(t, p)
	if got, err := scanned(t, p, "much"); err == nil || !strings.Contains(err.Error(), "more than 134217728") {
		t.Errorf("an SBOM: %v, %v", got != nil, err)
	}
	if got, err := p.Match(t.Context(), []byte("much"), scan.Database{}); err == nil || !strings.Contains(err.Error(), "more than 134217728") {
		t.Errorf("findings: %v, %v", got != nil, err)
	}
	if _, err := scanned(t, p, "fine"); err != nil || before != first(t, p) {
		t.Errorf("the next scan: %v", err)
	}
}
