package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicegate/sluice/cache/audit"
	"github.com/sluicegate/sluice/cache/disk"
	"github.com/sluicegate/sluice/configs"
)

func auditCommand(g *global) *cobra.Command {
	since := "30d"
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "List who changed a pull token, a waiver or a policy, and when",
		Long: `List who changed a pull token, a waiver or a policy, and when, the newest first. Records are
kept in the store for 400 days. Who it was is the user of the machine on which a command
ran; of policies, which are files, it is where they come from.`,
		Example: "  sluice audit --since 7d\n  sluice audit -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := g.load()
			if err != nil {
				return err
			}
			age, err := days(since)
			if err != nil {
				return usage("--since: %w", err)
			}
			rs, err := auditOf(cmd.Context(), c, time.Now().Add(-age))
			if err != nil {
				return err
			}
			if g.output == "json" {
				return printJSON(cmd.OutOrStdout(), rs)
			}
			rows := [][]string{{"WHEN", "WHO", "DID", "WHAT", "DETAIL"}}
			for _, r := range rs {
				rows = append(rows, []string{r.Time.UTC().Format(time.RFC3339), clean(r.Actor), clean(r.Action), clean(r.Subject), clean(r.Detail)})
			}
			table(cmd.OutOrStdout(), rows)
			return nil
		},
	}
	cmd.Flags().StringVar(&since, "since", since, "how far back: 12h, 30d")
	return cmd
}

// days reads a duration in which d may stand for days.
func days(s string) (time.Duration, error) {
	if n, ok := strings.CutSuffix(s, "d"); ok {
		if d, err := strconv.Atoi(n); err == nil && d >= 0 && d <= 10_000 {
			return time.Duration(d) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is no duration such as 12h or 30d", s)
	}
	return d, nil
}

// auditPath is where a running gateway lists changes, for those who may open its socket.
const auditPath = "/api/v1/audit"

// auditOf reads the audit log in the store, or by way of the gateway that has it open.
func auditOf(ctx context.Context, c configs.Config, since time.Time) ([]audit.Record, error) {
	if g := running(c); g != nil {
		return g.audit(ctx, since)
	}
	store, err := openStore(ctx, c, nil)
	if errors.Is(err, disk.ErrInUse) { // it has begun to run, or to stop
		if g := running(c); g != nil {
			return g.audit(ctx, since)
		}
	}
	if err != nil {
		return nil, err
	}
	defer store.Close()
	return (&audit.Log{Store: store}).List(ctx, since)
}

func (c *control) audit(ctx context.Context, since time.Time) (rs []audit.Record, err error) {
	return rs, c.callPath(ctx, http.MethodGet, auditPath+"?since="+url.QueryEscape(since.UTC().Format(time.RFC3339)), nil, &rs)
}

func (h *house) serveAudit(w http.ResponseWriter, r *http.Request) {
	since, err := time.Parse(time.RFC3339, r.URL.Query().Get("since"))
	if err != nil {
		since = time.Now().Add(-30 * 24 * time.Hour)
	}
	rs, err := h.audit.List(r.Context(), since)
	if err != nil {
		h.log.Error("the audit log can't be read", "error", err)
		http.Error(w, "the audit log can't be read: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(rs)
}

// auditPolicies writes down which policies decide, when that changes.
func (h *house) auditPolicies(ctx context.Context) error {
	last := map[string]string{}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		for dir, e := range h.policies {
			s := e.Status()
			if last[dir] == s.Revision {
				continue
			}
			name := h.policyName(dir)
			err := h.audit.Once(ctx, "policy "+name+" "+s.Revision, s.Source, "policy.change", name, fmt.Sprintf("policies: %d, revision %s", s.Policies, s.Revision))
			if err != nil {
				h.log.Warn("a change of policies is not in the audit log yet", "error", err)
				continue
			}
			last[dir] = s.Revision
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
