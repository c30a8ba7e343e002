package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/scan/vuln"
)

// reevaluationPath is where the control socket says how far the images that were pulled
// lately are matched with the vulnerability database.
const reevaluationPath = "/api/v1/reevaluation"

func (h *house) serveReevaluation(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(h.gateway.Reevaluation())
}

// A databaseStatus is what `sluice db status -o json` prints.
type databaseStatus struct {
	vuln.Status
	Reevaluation *proxy.Reevaluation `json:"reevaluation,omitempty"` // where a gateway runs
}

// reevaluation asks the gateway that runs in the state's folder; nil where none does.
func (g *global) reevaluation(ctx context.Context) *proxy.Reevaluation {
	c, err := g.load()
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://gateway"+reevaluationPath, nil)
	if err != nil {
		return nil
	}
	resp, err := dialControl(controlSocket(c)).Do(req)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	r := new(proxy.Reevaluation)
	if resp.StatusCode != http.StatusOK || json.NewDecoder(resp.Body).Decode(r) != nil {
		return nil
	}
	return r
}

// reevaluationText says how a re-evaluation stands.
func reevaluationText(r proxy.Reevaluation, now time.Time) string {
	text := fmt.Sprintf("%d of %s pulled lately", r.Done, plural(r.Total, "image"))
	if r.Running {
		text = "re-evaluating: " + text
		if left := r.Left(now); left > 0 {
			text += fmt.Sprintf(", %.1f/s, about %s left", float64(r.Done)/max(now.Sub(r.Started).Seconds(), 0.001), left.Round(time.Second))
		}
	}
	for _, part := range []struct {
		n    int
		what string
	}{{r.Denied, "now denied"}, {r.Allowed, "now allowed"}, {r.Skipped, "not kept any more"}, {r.Failed, "failed, the next pull tries again"}} {
		if part.n > 0 {
			text += fmt.Sprintf(", %d %s", part.n, part.what)
		}
	}
	return text
}

// reevaluationCheck tells of a re-evaluation, which never makes a gateway unready.
func reevaluationCheck(r proxy.Reevaluation) check {
	c := check{Name: "re-evaluation", OK: true}
	if r.Total > 0 {
		c.Detail = reevaluationText(r, time.Now())
	}
	return c
}

// measureReevaluation measures how a re-evaluation goes.
func measureReevaluation(g *proxy.Gateway) []prometheus.Collector {
	of := func(name, help string, f func(proxy.Reevaluation) int) prometheus.Collector {
		return gauge(name, help, nil, func() float64 { return float64(f(g.Reevaluation())) })
	}
	return []prometheus.Collector{
		gauge("sluice_reevaluation_running", "1 while images pulled lately are matched with a new vulnerability database.", nil, func() float64 { return oneIf(g.Reevaluation().Running) }),
		of("sluice_reevaluation_images", "Images of the latest re-evaluation.", func(r proxy.Reevaluation) int { return r.Total }),
		of("sluice_reevaluation_images_done", "Images of it that were looked at.", func(r proxy.Reevaluation) int { return r.Done }),
		of("sluice_reevaluation_images_skipped", "Images of it whose SBOM, manifest or config is not kept any more.", func(r proxy.Reevaluation) int { return r.Skipped }),
		of("sluice_reevaluation_images_failed", "Images of it that could not be matched.", func(r proxy.Reevaluation) int { return r.Failed }),
	}
}
