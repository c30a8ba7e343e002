package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/auth"
	"github.com/sluicegate/sluice/scan"
)

// Answer says all there is to say about an image to a caller: the same that a pull
// would be told. ref is written as for a pull, with or without the upstream's name;
// platform (os/arch[/variant]) picks the child of an index. An image that was never
// pulled is fetched and scanned; where that isn't done by the deadline the answer's
// scan state is pending.
func (g *Gateway) Answer(ctx context.Context, caller auth.Caller, ref, platform string, deadline time.Time) (policy.Answer, error) {
	s, answer, err := g.ask(ctx, caller, ref, platform, deadline)
	if answer != nil || err != nil {
		return orNone(answer), err
	}
	return policy.NewAnswer(s.input, s.decision), nil
}

// A Question is about an image that somebody may want to run.
type Question struct {
	Image     string
	Platform  string
	Namespace string // Kubernetes namespace that it is to run in, "" where there is none
	Action    string // pull, check or admission
}

// Check is Answer with what policies are told of the request taken from q. It leaves no
// trace but the one that an Answer leaves.
func (g *Gateway) Check(ctx context.Context, caller auth.Caller, q Question, deadline time.Time) (policy.Answer, error) {
	s, answer, err := g.ask(ctx, caller, q.Image, q.Platform, deadline)
	if answer != nil || err != nil {
		return orNone(answer), err
	}
	s.input.Request.Namespace, s.input.Request.Action = q.Namespace, q.Action
	repo := Repo{Upstream: s.input.Image.Registry, Name: s.input.Image.Repository}
	return policy.NewAnswer(s.input, g.opinion(ctx, repo, s.input)), nil
}

// Explain is Answer with what each policy says and doesn't, and what would change the
// outcome.
func (g *Gateway) Explain(ctx context.Context, caller auth.Caller, ref, platform string, deadline time.Time) (policy.Explanation, error) {
	s, answer, err := g.ask(ctx, caller, ref, platform, deadline)
	if answer != nil || err != nil {
		return policy.Explain(orNone(answer)), err
	}
	repo := Repo{Upstream: s.input.Image.Registry, Name: s.input.Image.Repository}
	return g.policy(repo).Explain(ctx, s.input, s.decision), nil
}

func orNone(a *policy.Answer) policy.Answer {
	if a == nil {
		return policy.Answer{}
	}
	return *a
}

// ask finds out where an image stands for a caller by the deadline. An image that can't be
// gated has an answer at once.
func (g *Gateway) ask(ctx context.Context, caller auth.Caller, ref, platform string, deadline time.Time) (s standing, answer *policy.Answer, err error) {
	rt, err := g.parseReference(ref)
	if err != nil {
		return s, nil, err
	}
	if err := g.admit(caller, rt.repo); err != nil {
		return s, nil, err
	}
	m, err := g.imageOf(ctx, rt, platform)
	if e := (*Error)(nil); errors.As(err, &e) && e.Code == codeDenied && e.cause == nil { // upstream's own refusals have a cause
		a := refused(rt, e)
		return s, &a, nil
	}
	if err != nil {
		return s, nil, err
	}
	if s, err = g.stand(ctx, caller, rt.repo, m, high); err != nil {
		return s, nil, err
	}
	if s.decision.ID == "" { // pending, or passed without a verdict in a mode that doesn't hold
		p, err := g.pending(ctx, caller, rt.repo, m, s.pull)
		if err != nil {
			return s, nil, err
		}
		if s, err = g.await(ctx, caller, p, deadline); err != nil {
			return s, nil, err
		}
	}
	if s.pending() {
		s, err = g.timedOut(ctx, caller, rt.repo, m)
	}
	return s, nil, err
}

// refused is the answer about an image that can't be gated, so that there was nothing to
// decide: its manifest is one that clients would read differently.
func refused(rt route, e *Error) policy.Answer {
	in := policy.Input{Scan: failedVerdict(scan.CauseScanFailed, e.Message).Scan, Findings: []scan.Finding{}}
	in.Image = policy.Image{Reference: rt.repo.String() + ":" + rt.reference, Registry: rt.repo.Upstream, Repository: rt.repo.Name, Digest: rt.digest.String(), Tags: []string{}}
	if rt.digest != "" {
		in.Image.Reference = rt.repo.String() + "@" + rt.digest.String()
	} else {
		in.Image.Tags = []string{rt.reference}
	}
	return policy.NewAnswer(in, policy.Decision{Mode: policy.Enforce, Cause: scan.CauseScanFailed, Waived: []policy.Waived{}, Warnings: []policy.Violation{},
		Violations: []policy.Violation{{Policy: string(scan.CauseScanFailed), Message: strings.TrimPrefix(e.Message, "blocked by policy: "), Findings: []string{}}}})
}

func (g *Gateway) pending(ctx context.Context, caller auth.Caller, repo Repo, m *manifest, p *pull) (*pull, error) {
	if p != nil && p != notBegun {
		return p, nil
	}
	return g.begin(ctx, caller, repo, m, false)
}

// parseReference reads [upstream/]repository[:tag][@digest].
func (g *Gateway) parseReference(ref string) (route, error) {
	bad := func(why string) error {
		return &Error{Status: http.StatusBadRequest, Code: codeNameInvalid, Message: "image " + printable(ref, 200) + ": " + why}
	}
	if ref == "" {
		return route{}, bad("name one, such as image=cgr.dev/chainguard/python:latest")
	}
	rt := route{resource: rManifest, reference: "latest"}
	name, d, hasDigest := strings.Cut(ref, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name, rt.reference = name[:i], name[i+1:]
		if !tagForm.MatchString(rt.reference) {
			return route{}, bad("not a valid tag")
		}
	}
	var err error
	if hasDigest {
		if rt.digest, err = parseDigest(d); err != nil {
			return route{}, err
		}
		rt.reference = d
	}
	rt.repo, err = g.repo(name, "")
	return rt, err
}

// imageOf returns the manifest that a pull of rt for a platform would run.
func (g *Gateway) imageOf(ctx context.Context, rt route, platform string) (*manifest, error) {
	d, _, err := g.resolve(ctx, rt)
	if err != nil {
		return nil, err
	}
	for range maxIndexDepth {
		m, err := g.fetchManifest(ctx, rt.repo, d)
		if err != nil || m.kind != kindIndex {
			return m, err
		}
		var offered []string
		if d, offered = childFor(m, platform); d == "" {
			has := "its index names no platform"
			if len(m.children) == 0 {
				has = "its index is empty"
			} else if len(offered) > 0 {
				has = "it has " + strings.Join(offered, ", ")
			}
			return nil, &Error{Status: http.StatusNotFound, Code: codeManifestUnknown,
				Message: fmt.Sprintf("%s has no image for %s; %s", rt.repo, printable(platform, 40), has)}
		}
	}
	return nil, refuse("its indexes are nested too deeply")
}

func childFor(index *manifest, platform string) (found digest.Digest, offered []string) {
	for _, c := range index.children {
		if c.Platform == nil {
			continue
		}
		p := policy.Platform(*c.Platform)
		if p == platform || found == "" && strings.HasPrefix(p, platform+"/") {
			found = c.Digest
		}
		offered = append(offered, printable(p, 40))
	}
	return found, offered
}
