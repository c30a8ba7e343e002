package webhook

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/proxy"
)

// A List has the events to send.
type List interface {
	// Events returns the events after a time, oldest first, proxy.MaxEvents at most.
	Events(ctx context.Context, since time.Time) ([]proxy.Event, error)
	// Source returns what they name as their source.
	Source(ctx context.Context) (string, error)
}

// Pace says how soon things are done.
type Pace struct {
	Poll   time.Duration // between looks for new events
	First  time.Duration // before a second try; each that fails doubles it,
	Max    time.Duration // up to this
	GiveUp time.Duration // after so long without one that got through
	Lease  time.Duration // before another gateway goes on for one that died
}

// DefaultPace returns the pace that hooks are served at.
func DefaultPace() Pace {
	return Pace{Poll: 2 * time.Second, First: 10 * time.Second, Max: time.Hour, GiveUp: 24 * time.Hour, Lease: 30 * time.Second}
}

// A Sender sends events to hooks. Gateways that share a Store and have the same hooks send
// each event once. Its fields must not change while it runs.
type Sender struct {
	Hooks   []Hook // each URL once
	Events  List
	Store   cache.Store
	Replica string       // names this gateway among those that share the Store
	Metrics *Metrics     // required by Run
	Client  *http.Client // as NewClient returns it; required by Run
	Pace    Pace         // zero: DefaultPace
	Log     *slog.Logger // required by Run
}

// Metrics count deliveries. Their labels come from the configuration alone.
type Metrics struct {
	deliveries *prometheus.CounterVec
	dead       *prometheus.GaugeVec
	backlog    *prometheus.GaugeVec
}

// NewMetrics registers the metrics of webhooks.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sluice_webhook_deliveries_total",
			Help: "Tries to deliver events, by hook and outcome: delivered, failed; given_up counts events, not tries, lost those that were dropped from a full list of dead letters."}, []string{"hook", "outcome"}),
		dead: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "sluice_webhook_dead_letters",
			Help: "Events that were given up and can be sent again, as the gateway knows that serves the hook; 0 on the others."}, []string{"hook"}),
		backlog: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "sluice_webhook_backlog",
			Help: "Events that wait to be delivered, up to 1000, as the gateway knows that serves the hook; 0 on the others."}, []string{"hook"}),
	}
	r.MustRegister(m.deliveries, m.dead, m.backlog)
	return m
}

// Run sends events until ctx ends. What was not taken by then is sent after the next start.
func (s *Sender) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for i := range s.Hooks {
		l := &line{Sender: s, hook: &s.Hooks[i], name: s.Hooks[i].Name(), id: s.Hooks[i].id(), pace: s.Pace}
		if l.pace == (Pace{}) {
			l.pace = DefaultPace()
		}
		for _, outcome := range []string{"delivered", "failed", "given_up", "lost"} {
			s.Metrics.deliveries.WithLabelValues(l.name, outcome)
		}
		l.quiet()
		wg.Go(func() { l.run(ctx) })
	}
	wg.Wait()
	return nil
}

// A line is what waits for one hook.
type line struct {
	*Sender
	hook     *Hook
	name, id string
	pace     Pace

	at      progress
	stored  []byte    // of at, as it is in the Store
	storedS time.Time // Since in it
	trouble string    // the last that was logged, "" once all is well
}

// quiet says that this gateway knows nothing of the hook.
func (l *line) quiet() {
	l.Metrics.backlog.WithLabelValues(l.name).Set(0)
	l.Metrics.dead.WithLabelValues(l.name).Set(0)
}

// run serves the hook whenever no other gateway does, until ctx ends.
func (l *line) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := l.lead(ctx)
		l.quiet()
		if err != nil && ctx.Err() == nil && !errors.Is(err, cache.ErrHeld) && !errors.Is(err, cache.ErrLost) {
			l.tell("a webhook waits, since the store can't be used", err)
		}
		wait(ctx, l.pace.Lease/3)
	}
}

// lead serves the hook under its lease.
func (l *line) lead(ctx context.Context) error {
	lease, err := cache.Acquire(ctx, l.Store, "webhook "+l.id, cmp.Or(l.Replica, "this gateway"), l.pace.Lease)
	if err != nil {
		return err
	}
	defer lease.Release()
	err = l.serve(cache.Direct(lease.Context()))
	if lost := context.Cause(lease.Context()); errors.Is(lost, cache.ErrLost) {
		return lost
	}
	return err
}

// serve sends what waits, and what comes, until ctx ends.
func (l *line) serve(ctx context.Context) error {
	if err := l.load(ctx); err != nil {
		return err
	}
	source, err := l.Events.Source(ctx)
	if err != nil {
		return err
	}
	if err := l.countDead(ctx); err != nil {
		return err
	}
	known := map[string]bool{} // to be sent again, at the last look
	for ctx.Err() == nil {
		waiting, asked, err := l.waiting(ctx)
		if err != nil {
			return err
		}
		l.Metrics.backlog.WithLabelValues(l.name).Set(float64(len(waiting)))
		urged := false // somebody has asked for a try since
		now := map[string]bool{}
		for _, it := range waiting {
			if it.again {
				urged, now[it.ID] = urged || !known[it.ID], true
			}
		}
		known = now
		switch until := time.Until(l.at.Next); {
		case len(waiting) == 0:
			if err := l.rest(ctx, asked); err != nil {
				return err
			}
			wait(ctx, l.pace.Poll)
		case until > 0 && until <= l.pace.GiveUp && !urged: // longer, and somebody's clock was off
			wait(ctx, min(until, 15*l.pace.Poll))
		default:
			if err := l.sendAll(ctx, waiting, source); err != nil {
				return err
			}
		}
	}
	return nil
}

// grace is how long an event that is on its way may still be when the gateway stops: cut
// off, it would come twice.
const grace = 2 * time.Second

// sendAll sends events in their order, until one is not taken.
func (l *line) sendAll(ended context.Context, waiting []item, source string) error {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ended))
	defer cancel()
	defer context.AfterFunc(ended, func() { time.AfterFunc(grace, cancel) })()
	for i := range waiting {
		if ended.Err() != nil {
			return nil
		}
		err := l.post(ctx, &waiting[i].Event, source)
		if err != nil && ctx.Err() != nil {
			return nil // which says nothing of the receiver
		}
		if err != nil {
			l.Metrics.deliveries.WithLabelValues(l.name, "failed").Inc()
			return l.failed(ctx, waiting[i:], err)
		}
		l.Metrics.deliveries.WithLabelValues(l.name, "delivered").Inc()
		l.Metrics.backlog.WithLabelValues(l.name).Set(float64(len(waiting) - i - 1))
		l.well()
		if err := l.delivered(ctx, waiting[i]); err != nil {
			return err
		}
	}
	return nil
}

// backoff returns how long to wait after so many tries in a row that failed: doubled each
// time, and up to half less, so that hooks that failed together don't come back together.
func (p Pace) backoff(tries int) time.Duration {
	d := p.Max
	if shift := tries - 1; shift < 20 {
		d = min(p.Max, p.First<<shift)
	}
	return d - rand.N(d/2+1)
}

// tell logs trouble once, until it is another or over.
func (l *line) tell(message string, err error) {
	if text := message + err.Error(); l.trouble != text {
		l.trouble = text
		l.Log.Warn(message, "hook", l.name, "error", err)
	}
}

func (l *line) well() {
	if l.trouble != "" {
		l.trouble = ""
		l.Log.Info("a webhook is delivered again", "hook", l.name)
	}
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
