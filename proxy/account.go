package proxy

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/sluicegate/sluice/proxy/auth"
	"github.com/sluicegate/sluice/scan"
)

// An account is what the access line of a request says beside what the meter counts. The
// methods of a nil account do nothing.
type account struct {
	began  time.Time
	caller auth.Caller
	route  route

	mu       sync.Mutex // guards what follows
	decision string     // the last one, which the answer follows from; "" for none
	id       string     // of it
	verdict  scan.State
	upstream time.Duration // waited for answers of the registry
	held     time.Duration // waited for a verdict
}

type accountKey struct{}

// withAccount returns a request whose account is a.
func withAccount(r *http.Request, a *account) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), accountKey{}, a))
}

func accountOf(ctx context.Context) *account {
	a, _ := ctx.Value(accountKey{}).(*account)
	return a
}

// decided notes a decision, or that there is none yet.
func (a *account) decided(s standing) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.decision, a.id, a.verdict = outcome(s), s.decision.ID, s.input.Scan.State
}

// asked notes that an answer of the registry was waited for since start. Several at once
// count each.
func (a *account) asked(start time.Time) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.upstream += time.Since(start)
}

// waited notes that a verdict was waited for since start.
func (a *account) waited(start time.Time) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held += time.Since(start)
}

// logRequest measures a request, and writes its access line.
func (g *Gateway) logRequest(w *meter, r *http.Request, a *account) {
	a.mu.Lock()
	g.Metrics.requestTime.WithLabelValues(string(w.resource), cmp.Or(a.decision, "none")).Observe(time.Since(a.began).Seconds())
	a.mu.Unlock()
	if !g.AccessLog || !g.Log.Enabled(r.Context(), slog.LevelInfo) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	attrs := []slog.Attr{
		slog.String("method", printable(r.Method, 20)), slog.String("resource", string(w.resource)),
		slog.String("caller", a.caller.Name), slog.String("address", a.caller.Address),
	}
	if a.route.repo.Name != "" {
		image := a.route.repo.String()
		switch {
		case a.route.digest != "":
			image += "@" + a.route.digest.String()
		case a.route.reference != "":
			image += ":" + a.route.reference
		}
		attrs = append(attrs, slog.String("image", image))
	} else {
		attrs = append(attrs, slog.String("path", printable(r.URL.Path, 200)))
	}
	attrs = append(attrs, slog.Int("status", w.status), slog.Int64("bytes", w.bytes),
		slog.Duration("took", time.Since(a.began).Round(time.Microsecond)),
		slog.Duration("upstream", a.upstream.Round(time.Microsecond)), slog.Duration("held", a.held.Round(time.Microsecond)))
	if a.decision != "" {
		attrs = append(attrs, slog.String("verdict", string(a.verdict)), slog.String("decision", a.decision))
	}
	if a.id != "" {
		attrs = append(attrs, slog.String("decision_id", a.id))
	}
	g.Log.LogAttrs(r.Context(), slog.LevelInfo, "request", attrs...)
}
