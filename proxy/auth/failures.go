package auth

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// burst is how many logins an address may fail in a row, and every how often it
	// gets one more try: a person who mistypes never notices, and a guesser gets
	// 14,400 tries a day.
	burst        = 10
	every        = 6 * time.Second
	maxAddresses = 4096
)

// failures counts failed logins by address. The zero value is ready.
type failures struct {
	mu        sync.Mutex
	addresses map[string]*rate.Limiter // guarded by mu; at most maxAddresses
	rest      *rate.Limiter            // guarded by mu; shared by all that found no place
}

// check returns a *TooManyError when from has failed too often.
func (f *failures) check(from string, now time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.addresses[from]
	if l == nil && len(f.addresses) >= maxAddresses {
		l = f.rest
	}
	if l == nil {
		return nil
	}
	if missing := 1 - l.TokensAt(now); missing > 0 {
		return &TooManyError{RetryAfter: max(time.Second, time.Duration(missing*float64(every)))}
	}
	return nil
}

// add counts one failure.
func (f *failures) add(from string, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.place(from, now).AllowN(now, 1)
}

// place returns the limiter of from. Those that are as good as new are forgotten when
// there are too many; if none is, new addresses share one.
func (f *failures) place(from string, now time.Time) *rate.Limiter {
	if l := f.addresses[from]; l != nil {
		return l
	}
	if len(f.addresses) >= maxAddresses {
		for a, l := range f.addresses {
			if l.TokensAt(now) >= burst {
				delete(f.addresses, a)
			}
		}
	}
	l := rate.NewLimiter(rate.Every(every), burst)
	if len(f.addresses) < maxAddresses {
		if f.addresses == nil {
			f.addresses = map[string]*rate.Limiter{}
		}
		f.addresses[from] = l
		return l
	}
	if f.rest == nil {
		f.rest = l
	}
	return f.rest
}

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
