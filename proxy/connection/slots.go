package connection

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sluicegate/sluice/proxy/upstream"
)

// nextPrefix begins the field of the token that comes next for an upstream, whose name
// follows. No upstream's name has a space.
const nextPrefix = "next "

// againAfter is how long a token that was refused is not put in the current's place again.
const againAfter = 10 * time.Minute

// ErrNoNext is the error for an upstream without a next token.
var ErrNoNext = errors.New("there is no next token; store one with: sluice connection set --next")

// SetNext stores credentials that take the place of the current ones once the registry
// refuses these, or these have ended; or when Promote says so.
func (v *Vault) SetNext(ctx context.Context, name string, c upstream.Credentials) error {
	return v.set(ctx, name, nextPrefix+name, c)
}

// Promote puts the next token in the current's place, and keeps the current as the next.
func (v *Vault) Promote(ctx context.Context, name string) error {
	return v.promote(ctx, name, "by hand")
}

func (v *Vault) promote(ctx context.Context, name, why string) error {
	defer v.forget(name)
	next, err := v.stored(ctx, nextPrefix+name)
	if err != nil {
		return fmt.Errorf("next token of %s: %w", name, err)
	}
	if next == nil {
		return fmt.Errorf("%s: %w", name, ErrNoNext)
	}
	current, err := v.stored(ctx, name)
	if err != nil && !errors.Is(err, ErrWrongKey) {
		return fmt.Errorf("current token of %s: %w", name, err)
	}
	if err := v.put(ctx, name, *next); err != nil { // first: whoever stops in between has the next one
		return err
	}
	if current == nil {
		err = v.Store.DeleteField(ctx, storeKey(), nextPrefix+name)
	} else {
		err = v.put(ctx, nextPrefix+name, *current)
	}
	if err != nil {
		return fmt.Errorf("next token of %s: %w", name, err)
	}
	v.log().Warn("the next pull token is the current one now", "upstream", name, "why", why, "username", next.Username)
	return v.Audit.Write(ctx, "connection.promote", name, why)
}

// put seals a record into a field.
func (v *Vault) put(ctx context.Context, field string, r record) error {
	plain, err := json.Marshal(r)
	if err != nil {
		return err
	}
	sealed, err := v.Key.seal(field, plain)
	if err != nil {
		return err
	}
	return v.Store.PutField(ctx, storeKey(), field, sealed, 0)
}

// Refused is told that the registry has refused credentials, and reports whether others are
// in force now, with which it can be asked again: a source has changed, a token was exchanged
// anew, or the next one took the current's place. That a 401 alone calls for, since a 403 may
// be about one repository; and only where try says that the registry takes the next one for
// the very thing that it has refused the current one for.
func (v *Vault) Refused(ctx context.Context, name string, c upstream.Credentials, unauthorized bool, try func(context.Context, upstream.Credentials) error) bool {
	v.mu.Lock()
	if e := v.exchanged[name]; unauthorized && e.creds == c && v.now().Sub(e.tried) >= exchangeAgain {
		e.renew, e.pause = time.Time{}, 0 // and the one that there is holds until another comes
		v.exchanged[name] = e
	}
	delete(v.helped, name)
	v.mu.Unlock()
	v.forget(name)
	r, err := v.current(ctx, name)
	if err != nil {
		return false
	}
	if r.creds != c {
		return true
	}
	if r.source != SourceStore || !unauthorized {
		return false
	}
	next, err := v.stored(ctx, nextPrefix+name)
	if err != nil || next == nil || v.refusedLately(name, c, next) {
		return false
	}
	if err := try(ctx, upstream.Credentials{Username: next.Username, Password: next.Password}); err != nil {
		v.log().Warn("the registry refuses the current pull token, and the next one as well", "upstream", name, "error", err)
		return false
	}
	if err := v.promote(ctx, name, "the registry has refused the current one"); err != nil {
		v.log().Error("the next pull token can't take the current one's place", "upstream", name, "error", err)
		return false
	}
	r, err = v.current(ctx, name)
	return err == nil && r.creds != c
}

// refusedLately notes that c was refused, and reports whether next was, so that two bad
// tokens don't take turns.
func (v *Vault) refusedLately(name string, c upstream.Credentials, next *record) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.refused == nil {
		v.refused = map[string]refusal{}
	}
	last := v.refused[name]
	v.refused[name] = refusal{c, v.now()}
	return last.creds == (upstream.Credentials{Username: next.Username, Password: next.Password}) && v.now().Sub(last.at) < againAfter
}

// A refusal is the last one of an upstream.
type refusal struct {
	creds upstream.Credentials
	at    time.Time
}

// ended has the next token of an upstream take the current's place where that has ended, and
// returns the one that is current then.
func (v *Vault) ended(ctx context.Context, name string, rec *record) *record {
	if !Describe(name, upstream.Credentials{Username: rec.Username, Password: rec.Password}, v.now()).Expired(v.now()) {
		return rec
	}
	next, err := v.stored(ctx, nextPrefix+name)
	if err != nil || next == nil || Describe(name, upstream.Credentials{Username: next.Username, Password: next.Password}, v.now()).Expired(v.now()) {
		return rec
	}
	if err := v.promote(ctx, name, "the current one has ended"); err != nil {
		v.log().Error("the next pull token can't take the current one's place", "upstream", name, "error", err)
		return rec
	}
	return next
}

// nextInfo describes the next token of an upstream, nil where there is none.
func (v *Vault) nextInfo(ctx context.Context, name string) *Info {
	next, err := v.stored(ctx, nextPrefix+name)
	switch {
	case err != nil:
		return &Info{Upstream: name, Source: SourceStore, Problem: err.Error()}
	case next == nil:
		return nil
	}
	info := Describe(name, upstream.Credentials{Username: next.Username, Password: next.Password}, v.now())
	info.Source, info.Set = SourceStore, next.Set
	return &info
}

// isNext reports whether a field of the Store holds a next token.
func isNext(field string) bool { return strings.HasPrefix(field, nextPrefix) }
