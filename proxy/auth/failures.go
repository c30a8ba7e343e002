package auth

import (
	"crypto/sha256"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// burst is how many logins may fail in a row for a name from an address, and every
	// how often there is one more try: a person who mistypes never notices, and a
	// guesser gets 14,400 tries a day.
	burst = 10
	every = 6 * time.Second
	// wider is how many times as many an address may fail for all names together: one
	// guesser behind the address of many keeps none of the others out until then, and
	// who tries a few passwords on every name is stopped all the same. So may a name, from
	// all addresses together.
	wider      = 10
	maxBuckets = 4096 // addresses, names, and names from addresses
)

// failures counts failed logins, by address, by name, and by both.
type failures struct {
	names, addresses, everywhere buckets
}

func newFailures() *failures {
	return &failures{
		names:      buckets{burst: burst, every: every},
		addresses:  buckets{burst: wider * burst, every: every / wider},
		everywhere: buckets{burst: wider * burst, every: every / wider},
	}
}

// A source is where a login comes from, and the name that it claims.
type source struct{ address, name string }

// key is of a bounded length: a name is as long as whoever sends it likes.
func (s source) key() string { return s.address + " " + s.digest() }

func (s source) digest() string {
	sum := sha256.Sum256([]byte(s.name))
	return string(sum[:])
}

// check returns a *TooManyError when from has failed too often.
func (f *failures) check(from source, now time.Time) error {
	wait := max(f.names.wait(from.key(), now, false), f.addresses.wait(from.address, now, true))
	if from.byName() {
		wait = max(wait, f.everywhere.wait(from.digest(), now, false))
	}
	if wait == 0 {
		return nil
	}
	return &TooManyError{RetryAfter: max(time.Second, wait)}
}

// add counts one failure.
func (f *failures) add(from source, now time.Time) {
	f.names.add(from.key(), now)
	f.addresses.add(from.address, now)
	if from.byName() {
		f.everywhere.add(from.digest(), now)
	}
}

// byName reports whether the name is one that somebody could guess a password for. What
// stands for the tokens of an issuer, or for all tokens, is not: anybody could keep all
// others out by bad ones.
func (s source) byName() bool { return s.name != "" && !strings.HasSuffix(s.name, ":") }

// buckets hold a bounded number of tries for each key, which come back with time.
type buckets struct {
	burst int
	every time.Duration // until one try comes back

	mu   sync.Mutex
	by   map[string]*rate.Limiter // guarded by mu; at most maxBuckets
	rest *rate.Limiter            // guarded by mu; shared by all that found no place
}

// wait returns how long key has to, 0 for not at all. Where there is no place left, a
// newcomer is held to what all such share, if shared says so.
func (b *buckets) wait(key string, now time.Time, shared bool) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.by[key]
	if l == nil && shared && len(b.by) >= maxBuckets {
		l = b.rest
	}
	if l == nil {
		return 0
	}
	return time.Duration(max(0, 1-l.TokensAt(now)) * float64(b.every))
}

func (b *buckets) add(key string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.place(key, now).AllowN(now, 1)
}

// place returns the limiter of key. Those that are as good as new are forgotten when
// there are too many; if none is, new ones share one. b.mu is held.
func (b *buckets) place(key string, now time.Time) *rate.Limiter {
	if l := b.by[key]; l != nil {
		return l
	}
	if len(b.by) >= maxBuckets {
		for k, l := range b.by {
			if l.TokensAt(now) >= float64(b.burst) {
				delete(b.by, k)
			}
		}
	}
	l := rate.NewLimiter(rate.Every(b.every), b.burst)
	if len(b.by) < maxBuckets {
		if b.by == nil {
			b.by = map[string]*rate.Limiter{}
		}
		b.by[key] = l
		return l
	}
	if b.rest == nil {
		b.rest = l
	}
	return b.rest
}

// Address returns what a request from there is counted by where its caller has no name.
func Address(remote string) string { return address(remote) }

// address returns what failures are counted by: the IPv4 address, or the first 64
// bits of the IPv6 address, which one machine can have all of.
func address(remote string) string {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return remote
	}
	ip := ap.Addr().Unmap().WithZone("")
	if ip.Is6() {
		if p, err := ip.Prefix(64); err == nil {
			return p.String()
		}
	}
	return ip.String()
}
