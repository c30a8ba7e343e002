package vuln

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/anchore/grype/grype/db/v6/distribution"
)

// The strongest reasons why grype's own client of mirrors is not used. Where one of them
// fails, grype has mended it, and what the documentation of this package says of that
// client is to be weighed again.
func TestGrypesClient(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir()) // where it puts what it loads
	const limit = 50 * time.Millisecond
	listing, err := json.Marshal(map[string]any{"status": "active", "schemaVersion": "v6.1.10", "built": time.Now().UTC().Format(time.RFC3339), "path": "x.tar.gz"})
	check(t, err)
	latest := func(h http.HandlerFunc) error {
		m := httptest.NewServer(h)
		defer m.Close()
		c, err := distribution.NewClient(distribution.Config{LatestURL: m.URL, CheckTimeout: limit, UpdateTimeout: limit})
		if err != nil {
			return err
		}
		_, err = c.Latest()
		return err
	}
	t.Run("a mirror that stalls holds it past its limit", func(t *testing.T) {
		var first sync.Once
		arrived, goOn := make(chan struct{}), make(chan struct{})
		done := make(chan error, 1)
		go func() {
			done <- latest(func(w http.ResponseWriter, _ *http.Request) {
				first.Do(func() { close(arrived) })
				<-goOn
				w.Write(listing)
			})
		}()
		<-arrived
		select {
		case err := <-done:
			t.Errorf("it gave up: %v", err)
		case <-time.After(10 * limit):
		}
		close(goOn)
		if err := <-done; err != nil {
			t.Errorf("and at last: %v", err)
		}
	})
	t.Run("a listing has no bound", func(t *testing.T) {
		long := append(bytes.Clone(listing), bytes.Repeat([]byte(" "), 32<<20)...)
		check(t, latest(func(w http.ResponseWriter, _ *http.Request) { w.Write(long) }))
	})
}
