package upstream

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// A distance says how far from the gateway an address lies: how few others reach it.
type distance int32

const (
	public   distance = iota // anybody reaches it
	private                  // who is in this network (RFC 1918, 4193, 6598)
	loopback                 // who is on this machine
	never                    // where machines are told who they are, and what is no place at all
)

// metadata are addresses of clouds' metadata services that are not link-local.
var metadata = []netip.Addr{
	netip.MustParseAddr("fd00:ec2::254"),   // AWS
	netip.MustParseAddr("100.100.100.200"), // Alibaba
	netip.MustParseAddr("168.63.129.16"),   // Azure
}

var (
	shared = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598
	nat64  = netip.MustParsePrefix("64:ff9b::/96")  // RFC 6052: an IPv4 address in the last four bytes
)

func distanceOf(a netip.Addr) distance {
	a = a.Unmap().WithZone("")
	if nat64.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	switch {
	case a.IsLoopback():
		return loopback
	case !a.IsGlobalUnicast(), slices.Contains(metadata, a):
		return never
	case a.IsPrivate(), shared.Contains(a):
		return private
	}
	return public
}

// A nearError says that a registry sent the gateway to where it may not send it.
type nearError struct{ addr netip.Addr }

func (e *nearError) Error() string {
	return fmt.Sprintf("sent on to %s, which is nearer to this gateway than the registry itself, and is refused; "+
		"if it is the right address, add its host to this upstream's redirect_hosts", e.addr)
}

// outward returns an error if a registry that lies at from may not send the gateway to.
func outward(from distance, to netip.Addr) error {
	if d := distanceOf(to); d == never || d > from {
		return &nearError{to}
	}
	return nil
}

// A dialRule is asked about each address before a connection to it is made. It travels
// in the context of a request, since only the dialer knows what a name has resolved to.
type dialRule func(netip.Addr) error

type dialRuleKey struct{}

// checkDial is net.Dialer's ControlContext.
func checkDial(ctx context.Context, address string) error {
	rule, ok := ctx.Value(dialRuleKey{}).(dialRule)
	if !ok {
		return nil
	}
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	return rule(a.Addr())
}

// ruled returns ctx with the rule for connections to u: the registry's own address
// tells how far it lies; what an operator listed is free; all else leads outward. Where a
// proxy of the environment makes the connection, only addresses that are written out can
// be told.
func (r *Registry) ruled(ctx context.Context, op string, u *url.URL) (context.Context, error) {
	base, err := r.Base()
	if err != nil {
		return nil, err
	}
	if listed(r.RedirectHosts, u) || op == opToken && r.listed(base, u) {
		return ctx, nil
	}
	rule := func(a netip.Addr) error { return outward(distance(r.distance.Load()), a) }
	if sameOrigin(base, u) {
		rule = func(a netip.Addr) error { r.distance.Store(int32(distanceOf(a))); return nil }
	}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		if err := rule(a); err != nil {
			return nil, err
		}
	}
	if p, err := http.ProxyFromEnvironment(&http.Request{URL: u}); p != nil || err != nil {
		return ctx, nil
	}
	return context.WithValue(ctx, dialRuleKey{}, dialRule(rule)), nil
}

// listed reports whether u's host and port are among hosts.
func listed(hosts []string, u *url.URL) bool {
	return slices.ContainsFunc(hosts, func(h string) bool {
		return hostPort(&url.URL{Scheme: u.Scheme, Host: strings.TrimSpace(h)}) == hostPort(u)
	})
}
