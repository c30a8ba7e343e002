package proxy

import (
	"cmp"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/auth"
	"github.com/sluicegate/sluice/scan"
)

// Metrics are the gateway's measurements. Their labels are bounded: none is taken
// from a stranger.
type Metrics struct {
	registry      prometheus.Registerer
	decisions     *prometheus.CounterVec
	pulls         *prometheus.CounterVec
	pullSeconds   prometheus.Histogram
	holdSeconds   prometheus.Histogram
	upstreamBytes *prometheus.CounterVec
	requests      *prometheus.CounterVec
	sentBytes     prometheus.Counter
	elsewhere     prometheus.Counter
	staleTags     *prometheus.CounterVec
	objects       *prometheus.CounterVec
	objectBytes   *prometheus.CounterVec
	turned        *prometheus.CounterVec
	stepSeconds   *prometheus.HistogramVec
	delaySeconds  prometheus.Histogram
	limited       prometheus.Counter
	requestTime   *prometheus.HistogramVec
	upstreamTime  *prometheus.HistogramVec
	violations    *prometheus.CounterVec

	mu            sync.Mutex      // guards named
	named         map[string]bool // policies that have a label
	events        *prometheus.CounterVec
	eventsDropped *prometheus.CounterVec
}

// NewMetrics registers the gateway's metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	seconds := []float64{.01, .05, .1, .25, .5, 1, 2, 5, 10, 20, 40, 80, 160, 320}
	m := &Metrics{
		registry: r,
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sluice_decisions_total",
			Help: "Decisions, by upstream and outcome (allow, deny, warn, dry-run, off): one for each image scanned, for the caller who asked first, and one for each manifest request answered; pending counts manifests that were served before the decision."}, []string{"upstream", "outcome"}),
		pulls: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sluice_scans_total",
			Help: "Images fetched and scanned, by state of the verdict and cause of its absence."}, []string{"state", "cause"}),
		elsewhere: prometheus.NewCounter(prometheus.CounterOpts{Name: "sluice_scans_elsewhere_total",
			Help: "Images whose verdict another gateway made, while this one held them for its clients."}),
		pullSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "sluice_scan_seconds",
			Help: "Time from the first request of an unknown image to its verdict.", Buckets: seconds}),
		holdSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "sluice_hold_seconds",
			Help: "Time from the headers of a held blob to its decision.", Buckets: seconds}),
		upstreamBytes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sluice_upstream_bytes_total",
			Help: "Bytes of blobs fetched from upstream."}, []string{"upstream"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sluice_requests_total",
			Help: "Requests of the distribution API, by resource and status."}, []string{"resource", "status"}),
		sentBytes: prometheus.NewCounter(prometheus.CounterOpts{Name: "sluice_sent_bytes_total",
			Help: "Bytes of bodies sent to clients."}),
	}
	m.staleTags = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sluice_stale_tags_total",
		Help: "Requests for a tag that were answered from memory since upstream can't be read."}, []string{"upstream"})
	m.objects = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sluice_objects_total",
		Help: "Blobs, by what became of them in the shared object store: found, missing, damaged, broken (off in mid-read), unusable (the store), uploaded, not_uploaded."}, []string{"outcome"})
	m.objectBytes = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sluice_object_bytes_total",
		Help: "Bytes read from the shared object store, and written to it."}, []string{"direction"})
	finer := []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300}
	m.stepSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "sluice_scan_step_seconds",
		Help: "Time that the steps of a scan take, by step; fetch and guard once for each layer.", Buckets: finer}, []string{"step"})
	m.delaySeconds = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "sluice_decision_delay_seconds",
		Help: "Time from the last byte of an image that upstream sent to the decision about it, where there was a verdict.", Buckets: finer})
	m.named = map[string]bool{}
	m.requestTime = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "sluice_request_seconds",
		Help: "Time from a request to the end of its answer, by resource and outcome: that of the decision it follows from, or none.", Buckets: finer}, []string{"resource", "outcome"})
	m.upstreamTime = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "sluice_upstream_request_seconds",
		Help: "Time from a request to an upstream to its headers, by what it was for and its status; 0 is no answer.", Buckets: finer}, []string{"upstream", "op", "status"})
	m.violations = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sluice_violations_total",
		Help: "Violations in decisions, counted as these are, by policy and by what becomes of them; past 200 policies the rest are one."}, []string{"policy", "mode"})
	m.limited = prometheus.NewCounter(prometheus.CounterOpts{Name: "sluice_requests_limited_total",
		Help: "Requests that were refused since their caller, or all callers, had reached a limit."})
	m.turned = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sluice_verdicts_changed_total",
		Help: "Images that a new vulnerability database turned from allowed to denied, or back."}, []string{"to"})
	m.events = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sluice_events_total",
		Help: "Events that this gateway raised before any other, by type, but for those of verdicts that changed."}, []string{"type"})
	m.eventsDropped = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sluice_events_dropped_total",
		Help: "Events of pulls that were lost, for want of room in the queue, or since the store could not take them."}, []string{"reason"})
	r.MustRegister(m.requestTime, m.upstreamTime, m.violations, m.limited, m.events, m.eventsDropped, m.objects, m.objectBytes, m.elsewhere, m.turned, m.stepSeconds, m.delaySeconds, m.staleTags, m.decisions, m.pulls, m.pullSeconds, m.holdSeconds, m.upstreamBytes, m.requests, m.sentBytes)
	return m
}

// watch adds the gauges that are read off a running gateway.
func (m *Metrics) watch(g *Gateway) {
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f)
	}
	m.registry.MustRegister(
		gauge("sluice_pulls_running", "Images being fetched and scanned now.", func() float64 { n, _ := g.queue.length(); return float64(n) }),
		gauge("sluice_pulls_waiting", "Images that wait to be fetched and scanned.", func() float64 { _, n := g.queue.length(); return float64(n) }),
		gauge("sluice_spool_used_bytes", "Bytes of blobs on disk.", func() float64 { return float64(g.Blobs.Usage().Committed) }),
		gauge("sluice_spool_reserved_bytes", "Bytes of disk set aside for blobs on their way.", func() float64 { return float64(g.Blobs.Usage().Reserved) }),
		gauge("sluice_spool_quota_bytes", "Bytes that blobs may take on disk.", func() float64 { return float64(g.Blobs.Usage().Quota) }),
	)
}

// logPull writes the one line of a pull, with the decision for the caller who began it.
// err is why there is no verdict, if there is none; stored says that it is remembered.
func (g *Gateway) logPull(p *pull, err error, stored bool) {
	took := g.now().Sub(p.started)
	if p.elsewhere {
		g.Metrics.elsewhere.Inc()
	} else {
		g.Metrics.pulls.WithLabelValues(string(p.verdict.Scan.State), string(p.verdict.Scan.Cause)).Inc()
	}
	g.Metrics.pullSeconds.Observe(took.Seconds())
	attrs := []any{"image", p.repo.String() + "@" + p.m.Digest.String(), "caller", p.caller.Name,
		"state", p.verdict.Scan.State, "packages", p.verdict.Scan.Packages, "findings", len(p.verdict.Findings),
		"bytes", p.fetched.Load(), "took", took.Round(time.Millisecond)}
	if p.elsewhere {
		attrs = append(attrs, "scanned_by", "another gateway")
	}
	if p.verdict.Scan.Cause != scan.CauseNone {
		attrs = append(attrs, "cause", p.verdict.Scan.Cause, "detail", p.verdict.Scan.Detail)
	}
	if err != nil {
		attrs = append(attrs, "error", err)
	}
	end := scan.Timed(p.steps.Context(g.ctx), scan.StepDecide)
	s, err := g.decide(g.ctx, p.caller, p.repo, p.m, p.verdict)
	end()
	made := ""
	if err == nil {
		made = outcome(s)
	}
	j := p.journey(made)
	g.Metrics.observe(j)
	if p.ended != nil {
		p.ended(j)
	}
	if p.verdict.Scan.Cause == scan.CauseNone {
		attrs = append(attrs, "after_last_byte", j.Delay().Round(time.Millisecond))
	}
	if err != nil {
		g.Log.Error("pull", append(attrs, "undecided", err)...)
		return
	}
	if stored {
		g.verdictNew(p, s)
	}
	g.Metrics.decided(p.repo, s)
	g.Log.Log(g.ctx, level(s), "pull", append(attrs, decisionAttrs(s)...)...)
}

// maxNamed bounds the policies that have a label of their own. Rules make up the names.
const maxNamed = 200

// decided counts a decision, and what policies say in it.
func (m *Metrics) decided(repo Repo, s standing) {
	m.decisions.WithLabelValues(repo.Upstream, outcome(s)).Inc()
	if s.pending() {
		return
	}
	for _, v := range s.decision.Violations {
		m.violations.WithLabelValues(m.label(v.Policy), string(cmp.Or(v.Mode, s.decision.Mode))).Inc()
	}
}

func (m *Metrics) label(policy string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.named[policy] && len(m.named) >= maxNamed {
		return "others"
	}
	m.named[policy] = true
	return policy
}

// ObserveUpstream returns what is told of the requests to an upstream (upstream.Registry).
func (m *Metrics) ObserveUpstream(name string) func(op string, status int, took time.Duration) {
	return func(op string, status int, took time.Duration) {
		if status < 100 || status > 599 { // which no registry has any use for, and each would be a label
			status = 0
		}
		m.upstreamTime.WithLabelValues(name, op, strconv.Itoa(status)).Observe(took.Seconds())
	}
}

// logDecision counts how a manifest request was decided, and logs it unless the
// pull's own line will.
func (g *Gateway) logDecision(caller auth.Caller, repo Repo, m *manifest, s standing) {
	o := outcome(s)
	g.Metrics.decided(repo, s)
	if s.pending() || m.kind == kindArtifact || g.noted.fresh(lineKey(o, caller, repo, m), g.now(), logRefresh) {
		return
	}
	g.Log.Log(g.ctx, level(s), "decision", append([]any{"image", repo.String() + "@" + m.Digest.String(), "caller", caller.Name}, decisionAttrs(s)...)...)
}

// spareLines notes that the line of p tells its caller's decision, however it turns out.
func (g *Gateway) spareLines(p *pull) {
	for _, o := range []string{"allow", "deny", string(policy.Warn), string(policy.DryRun), string(policy.Off)} {
		g.noted.fresh(lineKey(o, p.caller, p.repo, p.m), g.now(), 0)
	}
}

func lineKey(outcome string, caller auth.Caller, repo Repo, m *manifest) string {
	return "log " + outcome + " " + caller.Name + " " + repo.String() + m.Digest.String()
}

// logRefresh spares a line for each of the requests that one pull makes.
const logRefresh = 10 * time.Second

func outcome(s standing) string {
	switch {
	case s.pending():
		return "pending"
	case s.blocked():
		return "deny"
	case !s.decision.Allow:
		return string(s.decision.Mode)
	}
	return "allow"
}

func decisionAttrs(s standing) []any {
	attrs := []any{"decision", outcome(s), "decision_id", s.decision.ID}
	if !s.decision.Allow {
		attrs = append(attrs, "reason", policy.Message(s.decision, s.input.Image, s.input.Findings))
	}
	return attrs
}

func level(s standing) slog.Level {
	if !s.pending() && !s.decision.Allow {
		return slog.LevelWarn
	}
	return slog.LevelInfo
}
