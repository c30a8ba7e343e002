package connection

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/proxy/upstream"
)

// A State is how a Step ended.
type State string

// The states of a Step.
const (
	OK   State = "ok"
	Warn State = "warn" // it works, and something should be looked at
	Fail State = "fail"
	Skip State = "skip" // not tried, and Detail says why
)

// A Step is one step of a Test. Detail is one line for people; where the step failed
// it says what to do.
type Step struct {
	Name   string        `json:"name"`
	State  State         `json:"state"`
	Detail string        `json:"detail"`
	Took   time.Duration `json:"took_ns"`
}

// A Result is what a Test found.
type Result struct {
	Connection Info   `json:"connection"`
	OK         bool   `json:"ok"` // no step failed
	Steps      []Step `json:"steps"`
}

// The names of the steps, in their order.
const (
	StepToken    = "token"     // what the pull token says of itself
	StepName     = "name"      // the registry's host name resolves
	StepConnect  = "connect"   // TCP, TLS, HTTP version
	StepIdentify = "challenge" // how the registry wants callers to identify
	StepEndpoint = "login"     // the token endpoint takes the credentials
	StepPull     = "manifest"  // a manifest of the repository
	StepBlob     = "blob"      // the storage that blobs are redirected to
)

// stepTimeout bounds each step.
const stepTimeout = 30 * time.Second

// Test tries credentials against a registry, step by step, and tells report (nil for
// nobody) of each step as it ends. repository is what to try to read, with or without
// a tag or digest; without one the last steps are skipped. Nothing that it finds is
// kept: it is advice, and saving credentials should not depend on it.
func Test(ctx context.Context, registry *upstream.Registry, c upstream.Credentials, repository string, report func(Step)) Result {
	t := &test{registry: registry.With(c), creds: c, report: report, now: time.Now()}
	t.repo, t.reference = splitReference(repository)
	t.result.Connection = Describe(registry.Name, c, t.now)
	t.result.OK = true
	for _, s := range []struct {
		name string
		do   func(context.Context) (State, string)
	}{
		{StepToken, t.token}, {StepName, t.name}, {StepConnect, t.connect}, {StepIdentify, t.challenge},
		{StepEndpoint, t.login}, {StepPull, t.manifest}, {StepBlob, t.blob},
	} {
		t.step(ctx, s.name, s.do)
	}
	return t.result
}

// test is one Test under way.
type test struct {
	registry  *upstream.Registry
	creds     upstream.Credentials
	repo      string
	reference string
	report    func(Step)
	now       time.Time
	result    Result

	stop   string // name of the step without which the later ones make no sense
	answer upstream.Answer
	refuse error               // why the challenge is not answered
	config *ocispec.Descriptor // a blob of the repository
}

func (t *test) step(ctx context.Context, name string, do func(context.Context) (State, string)) {
	s := Step{Name: name, State: Skip, Detail: "needs " + t.stop}
	if t.stop == "" {
		ctx, cancel := context.WithTimeout(ctx, stepTimeout)
		defer cancel()
		start := time.Now()
		s.State, s.Detail = do(ctx)
		s.Took = time.Since(start)
	}
	if s.State == Fail {
		t.result.OK = false
		if name != StepToken && t.stop == "" {
			t.stop = name
		}
	}
	t.result.Steps = append(t.result.Steps, s)
	if t.report != nil {
		t.report(s)
	}
}

// token looks at the credentials themselves.
func (t *test) token(context.Context) (State, string) {
	i := t.result.Connection
	what := map[string]string{FormPullToken: "Chainguard pull token of organisation " + i.Organisation, FormAccess: "short-lived access token",
		FormOther: "user name and password"}[i.Form]
	switch {
	case t.creds.Anonymous():
		return Skip, "no credentials: the registry is asked anonymously"
	case i.Expires.IsZero() && i.Form == FormOther:
		return OK, what
	case i.Expires.IsZero():
		return Warn, what + "; its password is no token that says when it expires"
	case i.Expired(t.now):
		return Fail, fmt.Sprintf("%s, expired %s; make a new one with: chainctl auth pull-token create", what, i.Expires.Format(time.DateOnly))
	case i.Expires.Sub(t.now) < ExpirySoon:
		return Warn, fmt.Sprintf("%s, expires %s, in %d days; make a new one soon", what, i.Expires.Format(time.DateOnly), *i.DaysLeft)
	}
	return OK, fmt.Sprintf("%s, expires %s, in %d days", what, i.Expires.Format(time.DateOnly), *i.DaysLeft)
}

func (t *test) name(ctx context.Context) (State, string) {
	base, err := t.registry.Base()
	if err != nil {
		return Fail, err.Error()
	}
	host := base.Hostname()
	if net.ParseIP(host) != nil {
		return Skip, host + " is an address"
	}
	proxy, _ := http.ProxyFromEnvironment(&http.Request{URL: base})
	addrs, err := net.DefaultResolver.LookupHost(ctx, host)
	switch {
	case err != nil && proxy != nil:
		return Warn, fmt.Sprintf("%s does not resolve here; the proxy %s may know it", host, proxy.Host)
	case err != nil:
		return Fail, fmt.Sprintf("%s does not resolve (%s); check its spelling and this machine's DNS", host, errorText(err))
	}
	if len(addrs) > 4 {
		addrs = append(addrs[:4], "…")
	}
	return OK, host + " is " + strings.Join(addrs, ", ")
}

func (t *test) connect(ctx context.Context) (State, string) {
	t.answer, t.refuse = t.registry.Hello(ctx)
	if t.answer.Status == 0 {
		return Fail, connectDetail(t.refuse)
	}
	a := t.answer
	if a.TLS == nil {
		return Warn, a.Proto + " without TLS: whoever is on the way can read the credentials"
	}
	detail := a.Proto + " over " + tls.VersionName(a.TLS.Version)
	if len(a.TLS.PeerCertificates) > 0 {
		cert := a.TLS.PeerCertificates[0]
		detail += ", certificate good until " + cert.NotAfter.Format(time.DateOnly)
		if endsSoon(cert, t.now) {
			return Warn, detail + "; it should have been renewed by now"
		}
	}
	if a.Proto != "HTTP/2.0" {
		return Warn, detail + "; without HTTP/2, which cgr.dev requires: something on the way may end TLS"
	}
	return OK, detail
}

// endsSoon reports whether less than a tenth of a certificate's life is left, by
// when any automatic renewal is overdue.
func endsSoon(c *x509.Certificate, now time.Time) bool {
	return c.NotAfter.Sub(now) < c.NotAfter.Sub(c.NotBefore)/10
}

// connectDetail tells apart why there is no answer.
func connectDetail(err error) string {
	var e *upstream.Error
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	var timeout net.Error
	why := errorText(err)
	switch {
	case errors.As(err, &e) && e.Status != 0:
		return why + "; this does not look like a container registry: check the upstream's url"
	case errors.As(err, &authority):
		return why + "; the certificate comes from an authority that this machine does not trust: set the upstream's ca_file"
	case errors.As(err, &name), errors.As(err, &invalid):
		return why + "; the certificate is not good for this name or this time: check the url and this machine's clock"
	case errors.As(err, &record):
		return why + "; it does not speak TLS there: check the port, or write the url with http://"
	case errors.As(err, &timeout) && timeout.Timeout():
		return why + "; nothing answers: check the network, a firewall and the proxy settings"
	}
	return why + "; check the network, a firewall and the proxy settings"
}

func (t *test) challenge(context.Context) (State, string) {
	a := t.answer
	switch {
	case t.refuse != nil:
		return Fail, errorText(t.refuse)
	case a.Scheme == "bearer" && !a.Trusted && !t.creds.Anonymous():
		return Warn, fmt.Sprintf("tokens come from %s, another host, which is asked without credentials; if it is the right one, add it to realm_hosts", a.Realm)
	case a.Scheme == "bearer":
		return OK, "tokens come from " + a.Realm
	case a.Scheme == "basic":
		return OK, "user name and password with each request (Basic)"
	case t.creds.Anonymous():
		return OK, "no credentials are asked for"
	}
	return Warn, "no credentials are asked for; those given are never used"
}

func (t *test) login(ctx context.Context) (State, string) {
	if t.answer.Scheme != "bearer" {
		return Skip, "there is no token endpoint"
	}
	expires, err := t.registry.Identify(ctx, t.repo)
	if err != nil {
		return Fail, t.loginDetail(err)
	}
	who := "the pull token"
	if t.creds.Anonymous() {
		who = "an anonymous caller"
	}
	what := ""
	if t.repo != "" {
		what = " for " + t.repo
	}
	return OK, fmt.Sprintf("%s gets a token%s, good for %s", who, what, time.Until(expires).Round(time.Second))
}

func (t *test) loginDetail(err error) string {
	why := errorText(err)
	var e *upstream.Error
	errors.As(err, &e)
	switch {
	case e == nil || e.Status == 0:
		return why + "; the token endpoint can't be reached: check the network and the proxy settings"
	case upstream.Denied(err) && t.creds.Anonymous():
		return why + "; anonymous callers may not read this: set a pull token with sluice connection set"
	case upstream.Denied(err) && t.answer.Scheme == "bearer" && !t.answer.Trusted:
		return why + "; it was asked without credentials, being on another host: see realm_hosts"
	case e.Status == http.StatusUnauthorized:
		return why + "; the user name or password is wrong, expired or revoked: make a new pull token and set it"
	case e.Status == http.StatusForbidden && t.repo != "":
		return why + "; the pull token is known but may not read " + t.repo + ": check the organisation, its entitlement and the role registry.pull"
	case e.Status == http.StatusForbidden:
		return why + "; the pull token is known but lacks a role: it needs registry.pull"
	}
	return why + "; the token endpoint has a problem of its own: try again later"
}

func (t *test) manifest(ctx context.Context) (State, string) {
	if t.repo == "" {
		return Skip, "no repository is named"
	}
	name := t.repo + ":" + t.reference
	if strings.Contains(t.reference, ":") {
		name = t.repo + "@" + t.reference
	}
	desc, err := t.registry.Resolve(ctx, t.repo, t.reference)
	if err != nil {
		return Fail, t.manifestDetail(name, err)
	}
	t.config = t.findConfig(ctx, desc)
	return OK, name + " is " + desc.Digest.String()
}

func (t *test) manifestDetail(name string, err error) string {
	why := errorText(err)
	var e *upstream.Error
	errors.As(err, &e)
	switch {
	case upstream.NotFound(err):
		return why + "; there is no " + name + ", or it is hidden from this pull token: check its spelling"
	case upstream.Denied(err) && e.Status == http.StatusUnauthorized:
		return why + "; the registry does not accept the credentials for " + name
	case upstream.Denied(err):
		return why + "; the pull token may not read " + name + ": check the organisation and its entitlement"
	case upstream.Unavailable(err):
		return why + "; the registry can't be read now: try again later"
	}
	return why
}

// findConfig returns a small blob of what was resolved, nil where it has none: the
// config of an image, of the first image of an index.
func (t *test) findConfig(ctx context.Context, desc ocispec.Descriptor) *ocispec.Descriptor {
	for range 2 {
		m, err := t.registry.Manifest(ctx, t.repo, desc.Digest.String())
		if err != nil {
			return nil
		}
		var doc struct {
			Config    *ocispec.Descriptor  `json:"config"`
			Manifests []ocispec.Descriptor `json:"manifests"`
		}
		if json.Unmarshal(m.Body, &doc) != nil || doc.Config != nil || len(doc.Manifests) == 0 {
			return doc.Config
		}
		desc = doc.Manifests[0]
	}
	return nil
}

func (t *test) blob(ctx context.Context) (State, string) {
	switch {
	case t.repo == "":
		return Skip, "no repository is named"
	case t.config == nil:
		return Skip, "found no blob to try"
	}
	host, err := t.registry.BlobHost(ctx, t.repo, *t.config)
	if err != nil {
		return Fail, errorText(err) + "; manifests can be read and blobs can't: allow this machine to reach the host named, which the registry redirects to"
	}
	return OK, "blobs come from " + host
}

// errorText is err's text without the repetition of what was asked.
func errorText(err error) string {
	var e *upstream.Error
	if !errors.As(err, &e) {
		return err.Error()
	}
	short := *e
	s := short.Error()
	return strings.TrimPrefix(s, short.Op+" ")
}

// splitReference cuts REPOSITORY[:TAG|@DIGEST], with the tag latest where it has none.
func splitReference(s string) (repo, reference string) {
	if repo, d, ok := strings.Cut(s, "@"); ok {
		return repo, d
	}
	i := strings.LastIndexByte(s, ':')
	if i < strings.LastIndexByte(s, '/') || i < 0 {
		return s, "latest"
	}
	return s[:i], s[i+1:]
}
