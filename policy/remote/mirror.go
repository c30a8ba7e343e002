package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/cache"
)

const (
	// attempt is how long one try to fetch and check a bundle may take.
	attempt = 2 * time.Minute
	// DefaultEvery is how often a Mirror asks.
	DefaultEvery = time.Minute
)

// A Fetch returns a bundle, of at most policy.MaxBundle bytes, and a tag for it; or nil
// where the one that has the tag seen is still the newest. seen is "" where there is none.
type Fetch func(ctx context.Context, seen string) (b []byte, tag string, err error)

// A Mirror keeps a file the same as a bundle elsewhere. Its fields are set before Open.
type Mirror struct {
	From  string // what errors call the bundle; without secrets
	Fetch Fetch
	Check func(ctx context.Context, b []byte) error // why the bundle can't be used
	File  string                                    // its directory is made where it is missing
	Every time.Duration                             // between two tries; 0 is DefaultEvery
	Log   *slog.Logger                              // what Run does; nil for nothing
	// Store is where gateways tell each other that one of them has a new bundle, so that
	// all ask for it at once. Run looks there twice a second. nil: nowhere.
	Store cache.Store

	mu   sync.Mutex // guards all below
	tag  string     // of what is in File
	sum  string     // of what is in File, once it was fetched
	told string     // the sum that another gateway told last, and that was asked for
	err  error      // why the newest is not in File
}

// KindBundle is under what gateways tell each other of a new bundle.
const KindBundle cache.Kind = "bundle" // where it is from → hash of the newest that one of them has

const (
	bundleTTL = 24 * time.Hour
	newsEvery = 500 * time.Millisecond // so that what one has, all decide by within a second or so
)

// Open brings the file up to date. Where that can't be done and the file holds a bundle
// that Check takes, that one counts, and Behind says so; else the error says why there is
// none.
func (m *Mirror) Open(ctx context.Context) error {
	err := m.update(ctx)
	if err == nil || ctx.Err() != nil {
		return err
	}
	kept, old := os.ReadFile(m.File)
	if old == nil {
		old = m.Check(ctx, kept)
	}
	switch {
	case old == nil:
		m.log().WarnContext(ctx, "the bundle of policies that was kept counts", "error", err)
		return nil
	case errors.Is(old, os.ErrNotExist):
		return fmt.Errorf("%w; and no earlier one is kept", err)
	}
	return fmt.Errorf("%w; and the one that is kept can't be used: %w", err, old)
}

// Run brings the file up to date until ctx ends, and then returns nil. What goes wrong is
// logged when it begins and when it is over.
func (m *Mirror) Run(ctx context.Context) error {
	for {
		if !m.pause(ctx) {
			return nil
		}
		before := m.Behind()
		err := m.update(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && (before == nil || before.Error() != err.Error()):
			m.log().ErrorContext(ctx, "the newest bundle of policies can't be had; the last good one stays", "error", err)
		case err == nil && before != nil:
			m.log().InfoContext(ctx, "the bundle of policies is up to date again", "from", m.From)
		}
	}
}

// pause waits until the next try, or until another gateway has a bundle that isn't here. It
// is false when ctx has ended.
func (m *Mirror) pause(ctx context.Context) bool {
	every := m.Every
	if every <= 0 {
		every = DefaultEvery
	}
	t := time.NewTimer(every*9/10 + rand.N(every/5+1)) // gateways that start together don't ask together
	defer t.Stop()
	look := time.NewTicker(newsEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
			return true
		case <-look.C:
			if m.Store != nil && m.news(ctx) {
				return true
			}
		}
	}
}

// news reports whether another gateway has told of a bundle that isn't here. It is true
// once for each: a server that gives each gateway another one is not asked on and on.
func (m *Mirror) news(ctx context.Context) bool {
	raw, err := m.Store.Get(ctx, m.key())
	if err != nil {
		return false // there is none, or it is asked for in time
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if string(raw) == m.sum { // what comes next is news, also where it was told before
		m.told = ""
		return false
	}
	if string(raw) == m.told {
		return false
	}
	m.told = string(raw)
	return true
}

func (m *Mirror) key() cache.Key { return cache.Name(KindBundle, m.From) }

// tell has other gateways know of a new bundle. That it can't costs them some time.
func (m *Mirror) tell(ctx context.Context, sum string) {
	if m.Store == nil {
		return
	}
	if err := m.Store.Put(ctx, m.key(), []byte(sum), bundleTTL); err != nil {
		m.log().DebugContext(ctx, "can't tell other gateways of a new bundle of policies", "error", err)
	}
}

// Behind returns why the newest bundle is not in the file, or nil.
func (m *Mirror) Behind() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// update fetches the bundle, checks it and puts it in place. A bad one is fetched again
// the next time: what it was checked with may have changed.
func (m *Mirror) update(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	m.mu.Lock()
	seen := m.tag
	m.mu.Unlock()
	b, tag, err := m.Fetch(ctx, seen)
	if err != nil {
		err = fmt.Errorf("fetch the bundle %s: %w", m.From, err)
	}
	if err == nil && b != nil {
		if err = m.Check(ctx, b); err == nil {
			err = m.put(b)
		}
	}
	fetched := err == nil && b != nil
	m.mu.Lock()
	m.err = err
	sum, told := m.sum, m.told
	if fetched {
		m.tag, m.sum = tag, digest.FromBytes(b).String()
		sum = m.sum
	}
	m.mu.Unlock()
	if fetched && sum != told {
		m.tell(ctx, sum)
	}
	return err
}

// put replaces the file as a whole.
func (m *Mirror) put(b []byte) error {
	if old, err := os.ReadFile(m.File); err == nil && bytes.Equal(old, b) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(m.File), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(m.File), "new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone once it is renamed
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), m.File)
}

func (m *Mirror) log() *slog.Logger {
	if m.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return m.Log
}
