package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicegate/sluice/configs"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/proxy/api"
)

// whatIfPath is where the control socket answers what candidate policies would change.
const whatIfPath = "/api/v1/policies/what-if"

// candidate loads policies that don't decide yet.
func (h *house) candidate(ctx context.Context, name string) (*policy.Engine, error) {
	c := h.policiesIn(name)
	c.Exceptions = h.exceptions
	return policy.Open(ctx, c)
}

// policiesIn is what makes policies of a folder or a bundle that somebody names, with
// waivers, kill list and modes of the configuration. Who signed it counts when a gateway
// is to take it.
func (h *house) policiesIn(name string) policy.Config {
	c := h.policyConfig(name)
	c.Dir, c.Bundle, c.BundleKeys = name, "", nil
	if fi, err := os.Stat(name); err == nil && !fi.IsDir() {
		c.Dir, c.Bundle = "", name
	}
	return c
}

// A whatIf is a question, and what is answered so far.
type whatIf struct {
	dir      string
	days     int
	upstream string

	tell    func(proxy.Change)
	say     func(done, all int)
	changes []proxy.Change // where they are kept
}

func policyWhatIf(g *global) *cobra.Command {
	q := &whatIf{}
	cmd := &cobra.Command{
		Use:   "what-if DIR|BUNDLE",
		Short: "Tell which images other policies would block or allow, and who would notice",
		Long: `Decide about all images that were pulled lately, for each caller that pulled them, by the
policies of a folder or a bundle in place of those in force, and list what would be decided otherwise:
blocked, allowed, warned (served with a violation), cleared (without one any more).
Stored verdicts are used, with today's waivers, VEX, kill list and modes; nothing is
fetched but signatures, where these policies are the first to ask for them, and nothing
is changed. A gateway that runs on this state folder is asked; else its store is
read.

Exit status: 0 nothing would be blocked that is not now, 1 something would, 2 usage, 3
could not find out, also where the policies don't load.`,
		Example: "  sluice policy what-if ./policies\n  sluice policy what-if ./policies --days 7 -o json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if q.days < 1 || q.days > 30 {
				return usage("--days %d: want 1 to 30", q.days)
			}
			q.dir = args[0]
			if _, err := os.Stat(q.dir); err != nil {
				return err
			}
			c, err := g.load()
			if err != nil {
				return err
			}
			if q.upstream != "" && !slices.ContainsFunc(c.Upstreams, func(u configs.Upstream) bool { return u.Name == q.upstream }) {
				return usage("--upstream %s: there is no such upstream in the configuration", clean(q.upstream))
			}
			return q.run(cmd, g, c)
		},
	}
	cmd.Flags().IntVar(&q.days, "days", 30, "how many days back pulls count, 1 to 30")
	cmd.Flags().StringVar(&q.upstream, "upstream", "", "only images of this upstream (default: those that policy.dir decides about)")
	return cmd
}

func (q *whatIf) run(cmd *cobra.Command, g *global, c configs.Config) error {
	w := cmd.OutOrStdout()
	p := newProgress("replaying")
	defer p.done()
	q.say = func(done, all int) { p.say(fmt.Sprintf("%d of %s", done, plural(all, "image"))) }
	q.changes = []proxy.Change{}
	q.tell = func(c proxy.Change) {
		if g.output == "json" {
			q.changes = append(q.changes, c)
			return
		}
		p.done()
		printChange(w, c)
	}
	ask := func() (proxy.WhatIfSummary, error) { return q.here(cmd.Context(), c) }
	if gateway := running(c); gateway != nil {
		ask = func() (proxy.WhatIfSummary, error) { return q.ask(cmd.Context(), gateway) }
	}
	sum, err := ask()
	p.done()
	if err != nil {
		return err
	}
	if g.output == "json" {
		err = printJSON(w, map[string]any{"changes": q.changes, "summary": sum})
	} else {
		printWhatIf(w, sum)
	}
	if err == nil && sum.Blocked > 0 {
		return no()
	}
	return err
}

// here answers without a gateway, from its store.
func (q *whatIf) here(ctx context.Context, c configs.Config) (sum proxy.WhatIfSummary, err error) {
	work, err := os.MkdirTemp("", "sluice-what-if-")
	if err != nil {
		return sum, err
	}
	defer os.RemoveAll(work)
	defer outlivePipe()()
	c.Spool.Dir = work // that of the state may be a running gateway's
	h, err := build(ctx, c, slog.New(slog.DiscardHandler))
	if err != nil {
		return sum, err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	engine, err := h.candidate(ctx, q.dir)
	if err != nil {
		return sum, err
	}
	return h.gateway.WhatIf(ctx, proxy.WhatIf{Engine: engine, Upstream: q.upstream, Since: time.Now().AddDate(0, 0, -q.days)}, func(c *proxy.Change, done, all int) error {
		q.say(done, all)
		if c != nil {
			q.tell(*c)
		}
		return nil
	})
}

// ask has a running gateway answer.
func (q *whatIf) ask(ctx context.Context, g *control) (sum proxy.WhatIfSummary, err error) {
	body, err := candidateBody(q.dir)
	if err != nil {
		return sum, err
	}
	query := url.Values{"days": {strconv.Itoa(q.days)}}
	if q.upstream != "" {
		query.Set("upstream", q.upstream)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://gateway"+whatIfPath+"?"+query.Encode(), bytes.NewReader(body))
	if err != nil {
		return sum, err
	}
	resp, err := g.Do(req)
	if err != nil {
		return sum, fmt.Errorf("ask the running gateway: %w", errors.Unwrap(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20)) // what can be read of it
		return sum, gatewayError(resp, b)
	}
	for dec := json.NewDecoder(resp.Body); ; {
		var line api.WhatIfLine
		if err := dec.Decode(&line); err != nil {
			return sum, fmt.Errorf("the gateway's answer ends too early: %w", err)
		}
		switch {
		case line.Error != "":
			return sum, errors.New(clean(line.Error))
		case line.Summary != nil:
			return *line.Summary, nil
		case line.Change != nil:
			q.tell(*line.Change)
		case line.Progress != nil:
			q.say(line.Progress.Done, line.Progress.All)
		}
	}
}

// maxPolicyFiles bounds what is sent of policies, in bytes.
const maxPolicyFiles = 8 << 20

// candidateBody is a folder or a bundle as it is sent to a gateway.
func candidateBody(name string) ([]byte, error) {
	fi, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if fi.IsDir() {
		files, err := policyFiles(name)
		if err != nil {
			return nil, err
		}
		return json.Marshal(files)
	}
	b, err := os.ReadFile(name)
	if err == nil && !bytes.HasPrefix(b, []byte{0x1f, 0x8b}) {
		err = usage("%s is neither a folder of policies nor a bundle (tar.gz)", clean(name))
	}
	return b, err
}

// policyFiles reads what a gateway may read of a folder of policies.
func policyFiles(dir string) (map[string]string, error) {
	files, total := map[string]string{}, 0
	err := policy.WalkFiles(os.DirFS(dir), func(name string) error {
		if !slices.Contains([]string{".rego", ".json", ".yaml", ".yml"}, strings.ToLower(path.Ext(name))) {
			return nil
		}
		b, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if total += len(b); err == nil && total > maxPolicyFiles {
			err = fmt.Errorf("%s: more than %s of policies", dir, bytesText(maxPolicyFiles))
		}
		files[name] = string(b)
		return err
	})
	return files, err
}

// maxNoticed is how many callers a change names.
const maxNoticed = 10

func printChange(w io.Writer, c proxy.Change) {
	p := paletteFor(w)
	word := map[string]string{proxy.NewlyBlocked: p.bad("BLOCKED"), proxy.NewlyAllowed: p.good("ALLOWED"), proxy.NewlyWarned: p.warn("WARNED "), proxy.NoMoreWarned: p.good("CLEARED")}[c.Change]
	fmt.Fprintf(w, "%s  %s\n", cmp.Or(word, clean(c.Change)), clean(c.Image.Reference))
	why, sign := c.After.Violations, "+"
	if c.Change == proxy.NewlyAllowed || c.Change == proxy.NoMoreWarned {
		why, sign = c.Before.Violations, "-"
	}
	for _, v := range why {
		fmt.Fprintf(w, "  %s %s: %s\n", sign, clean(v.Policy), clean(v.Message))
	}
	var who []string
	for _, caller := range c.Callers[:min(len(c.Callers), maxNoticed)] {
		who = append(who, fmt.Sprintf("%s (%s)", cmp.Or(clean(caller.Caller), "anonymous"), caller.Time.UTC().Format(time.RFC3339)))
	}
	if more := len(c.Callers) - maxNoticed; more > 0 {
		who = append(who, fmt.Sprintf("%d more", more))
	}
	fmt.Fprintf(w, "  %s\n\n", p.dim("pulled by "+strings.Join(who, ", ")))
}

func printWhatIf(w io.Writer, s proxy.WhatIfSummary) {
	fmt.Fprintf(w, "%s, %s: %d newly blocked, %d newly allowed, %d warned, %d cleared\n", plural(s.Images, "image"), plural(s.Requests, "request"), s.Blocked, s.Allowed, s.Warned, s.Cleared)
	if s.Skipped > 0 {
		fmt.Fprintf(w, "%s not looked at: no verdict on them is kept any more\n", plural(s.Skipped, "image"))
	}
	if s.Failed > 0 {
		fmt.Fprintf(w, "%s on which policies could not decide\n", plural(s.Failed, "image"))
	}
	if s.Note != "" {
		fmt.Fprintln(w, clean(s.Note))
	}
}
