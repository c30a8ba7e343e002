package vuln

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Another process is downloading: who waits says for whom and for how long, gives up in
// the end, which is no failed check, and has the build once the other one is done.
func TestWaitForAnotherProcess(t *testing.T) {
	m := newMirror(t)
	want := m.publish(t, time.Hour)
	arrived, goOn := make(chan struct{}), make(chan struct{})
	m.breaks(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, ".gz") {
				close(arrived)
				<-goOn
			}
			h.ServeHTTP(w, r)
		})
	})
	dir := t.TempDir()
	other, output := child(t, &Databases{Root: dir, URL: m.URL})
	select {
	case <-arrived:
	case <-time.After(time.Minute):
		t.Fatal(other.Wait(), output)
	}
	m.heals()

	who := fmt.Sprintf("process %d, since 20", other.Process.Pid)
	var told []string
	lines := make(said, 9)
	d := &Databases{Root: dir, URL: m.URL, bounds: bounds{wait: 300 * time.Millisecond}, Log: slog.New(slog.NewTextHandler(lines, nil)),
		Waiting: func(who string, most time.Duration) { told = append(told, fmt.Sprint(who, " ", most)) }}
	_, _, err := d.Update(t.Context(), nil)
	if !errors.Is(err, errBusy) || !strings.Contains(err.Error(), who) || len(told) != 1 || !strings.HasPrefix(told[0], who) || !strings.HasSuffix(told[0], "Z 300ms") {
		t.Errorf("%v, told %q, want %q", err, told, who)
	}
	if line := <-lines; !strings.Contains(line, "waiting for it") || !strings.Contains(line, who) {
		t.Error(line)
	}
	if n := d.Counts(); n.Checks != 0 || !d.LastCheck().Time.IsZero() {
		t.Errorf("it counts as a check: %+v, %+v", n, d.LastCheck())
	}

	d.bounds.wait = time.Minute
	d.Waiting = func(string, time.Duration) { close(goOn) }
	_, changed, err := d.Update(t.Context(), nil)
	check(t, err)
	check(t, other.Wait())
	if changed {
		t.Error("it was downloaded twice")
	}
	usable(t, d, want)
}
