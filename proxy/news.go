package proxy

import (
	"context"
	"time"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/scan"
)

const (
	newsWaiting  = 256              // events of pulls that wait for the Store; past it they are dropped
	newsPatience = 10 * time.Second // for the Store to take one
	newsTries    = 3
	newsLast     = 5 * time.Second // for all that wait when the gateway is closed

	deniedEvery = time.Hour   // before the same denial is told again
	deniedLook  = time.Minute // before the Store is asked again whether it was told
	maxTold     = 20          // violations in an event of a pull, and findings in each
)

// Tell raises an event that is not of a pull, unless one of that type about the same was
// raised before, by any replica. That is remembered for 30 days from when it was told last.
// It reports whether it is news.
func (g *Gateway) Tell(ctx context.Context, kind string, d Details, about ...string) (news bool, err error) {
	return g.tellOnce(ctx, &Event{ID: eventID(append([]string{kind}, about...)...), Time: g.now().UTC(), Type: kind, Details: d})
}

// tellOnce raises e unless it was raised before.
func (g *Gateway) tellOnce(ctx context.Context, e *Event) (news bool, err error) {
	key := cache.Name(kindRaised, e.ID)
	b, err := g.Store.Get(ctx, key)
	if isMiss(err) {
		news, err = g.raise(ctx, e)
		if news {
			g.Metrics.events.WithLabelValues(e.Type).Inc()
		}
		return news, err
	}
	var at time.Time
	if err == nil && (at.UnmarshalText(b) != nil || e.Time.Sub(at) > eventsFor/2) {
		if b, err = e.Time.MarshalText(); err == nil {
			err = g.Store.Put(ctx, key, b, eventsFor)
		}
	}
	return false, err
}

// happened has an event of a pull raised in the background. It never blocks: what there is
// no room for is dropped and counted.
func (g *Gateway) happened(e *Event) {
	select {
	case g.news <- e:
	default:
		g.Metrics.eventsDropped.WithLabelValues("queue").Inc()
	}
}

// follow raises what happened until the gateway is closed, and then what is left.
func (g *Gateway) follow() {
	for {
		select {
		case e := <-g.news:
			g.tellPull(g.ctx, e)
			continue
		case <-g.ctx.Done():
		}
		break
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(g.ctx), newsLast)
	defer cancel()
	for {
		select {
		case e := <-g.news:
			g.tellPull(ctx, e)
		default:
			return
		}
	}
}

// tellPull raises an event of a pull, and tries again where the Store can't take it now.
func (g *Gateway) tellPull(ctx context.Context, e *Event) {
	for try := 1; ; try++ {
		within, cancel := context.WithTimeout(ctx, newsPatience)
		var err error
		if e.Type == PullDenied {
			err = g.tellDenied(within, e)
		} else {
			e.Time = g.now().UTC() // when it appears in the list, whose readers look a minute back only
			_, err = g.tellOnce(within, e)
		}
		cancel()
		if err == nil {
			return
		}
		if try == newsTries || ctx.Err() != nil {
			g.Metrics.eventsDropped.WithLabelValues("store").Inc()
			g.Log.Warn("an event is lost, since the store could not take it", "type", e.Type, "image", e.Image.Reference, "error", err)
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(try) * time.Second):
		}
	}
}

// tellDenied raises e, whose ID is of what it is about, unless that was told within the
// hour by any replica. It is marked first: a crash in between loses it until the next pull
// after that hour, and the decision log has it.
func (g *Gateway) tellDenied(ctx context.Context, e *Event) error {
	if told, err := g.raised(ctx, e.ID); told || err != nil {
		return err
	}
	at := g.now().UTC()
	mine, err := at.MarshalText()
	if err != nil {
		return err
	}
	first, err := g.Store.PutNew(ctx, cache.Name(kindRaised, e.ID), mine, deniedEvery)
	if err != nil || string(first) != string(mine) {
		return err
	}
	told := *e
	told.ID, told.Time = eventID(e.ID, string(mine)), at
	for try := 1; ; try++ { // here, since what is marked is not told again
		if err = g.keepEvent(ctx, &told); err == nil || try == newsTries || ctx.Err() != nil {
			break
		}
	}
	if err == nil {
		g.Metrics.events.WithLabelValues(e.Type).Inc()
	}
	return err
}

// refused raises an event for a denial by policy that is answered to a caller.
func (g *Gateway) refused(e *Error) {
	s := e.denied
	if s == nil {
		return
	}
	repo := Repo{s.input.Image.Registry, s.input.Image.Repository}
	revision := g.policy(repo).Revision()
	id := eventID(PullDenied, repo.String(), s.input.Image.Digest, s.input.Request.Caller, revision)
	if g.noted.fresh("denied "+id, g.now(), deniedLook) {
		return
	}
	g.happened(&Event{
		ID: id, Type: PullDenied, Image: subjectOf(s.input.Image), After: told(s.decision, s.input.Scan),
		LastPull: Puller{s.input.Request.Caller, g.now().UTC()},
		Details:  Details{Decision: s.decision.ID, Policies: revision, Message: e.Message},
	})
}

// verdictNew raises an event for an image whose verdict was stored, if that is its first. s
// is how it was decided for who pulled it.
func (g *Gateway) verdictNew(p *pull, s standing) {
	v := p.verdict.Scan
	if v.State == scan.Unsupported {
		return
	}
	g.happened(&Event{
		ID: eventID(VerdictNew, p.m.Digest.String()), Type: VerdictNew, Image: subjectOf(s.input.Image), After: told(s.decision, v),
		LastPull: Puller{p.caller.Name, p.started.UTC()},
		Details:  Details{State: v.State, Packages: v.Packages, Counts: &v.Counts},
	})
}

func subjectOf(i policy.Image) Subject {
	return Subject{Reference: i.Reference, Repository: i.Repository, Digest: i.Digest, Platform: i.Platform, Tags: append([]string{}, i.Tags...)}
}

// told is what an event of a pull says of a decision: what fits in it.
func told(d policy.Decision, v scan.Summary) Opinion {
	o := Opinion{Allow: d.Allow, Mode: d.Mode, Cause: v.Cause, Database: v.Database, Violations: []policy.Violation{}}
	for _, x := range d.Violations[:min(len(d.Violations), maxTold)] {
		x.Findings = append([]string{}, x.Findings[:min(len(x.Findings), maxTold)]...)
		o.Violations = append(o.Violations, x)
	}
	return o
}
