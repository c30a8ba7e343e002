package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/cache/disk"
	"github.com/sluicegate/sluice/configs"
	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/proxy/webhook"
)

func hooksOf(c configs.Config) (hooks []webhook.Hook) {
	for _, w := range c.Webhooks {
		h := webhook.Hook{URL: w.URL, SecretFile: w.SecretFile, Types: w.Types}
		if w.Timeout != nil {
			h.Timeout = *w.Timeout
		}
		hooks = append(hooks, h)
	}
	return hooks
}

// openHooks makes what sends events to webhooks, where there are any.
func (h *house) openHooks() error {
	hooks := hooksOf(h.config)
	for i := range hooks {
		if err := hooks[i].Check(); err != nil {
			return fmt.Errorf("webhooks[%d].%w", i, err)
		}
	}
	if len(hooks) == 0 {
		return nil
	}
	h.hooks = &webhook.Sender{Hooks: hooks, Events: h.gateway, Store: h.store, Replica: h.gateway.Replica,
		Metrics: webhook.NewMetrics(h.metrics), Client: webhook.NewClient(), Log: h.log}
	return nil
}

func eventsCommand(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Events: list them, and send again what webhooks did not take",
		Long: `What happened to images and to what they are decided by: first verdicts and those that
changed, denied pulls, waivers, pull tokens and databases that end. Events are kept for 30
days and sent to the configuration's webhooks; those that one did not take within 24 hours
are its dead letters, kept for 30 days.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(eventsList(g), eventsDead(g), eventsRetry(g))
	return cmd
}

func eventsList(g *global) *cobra.Command {
	since := "7d"
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List events, the oldest first, up to 1000",
		Example: "  sluice events list --since 24h\n  sluice events list -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			age, err := days(since)
			if err != nil {
				return usage("--since: %w", err)
			}
			es := []proxy.Event{}
			from := time.Now().Add(-age)
			err = g.withEvents(cmd.Context(), http.MethodGet, eventsPath+"?since="+url.QueryEscape(from.UTC().Format(time.RFC3339)), &es,
				func(s *webhook.Sender) (err error) { es, err = s.Events.Events(cmd.Context(), from); return err })
			if err != nil {
				return err
			}
			if g.output == "json" {
				return printJSON(cmd.OutOrStdout(), es)
			}
			rows := [][]string{{"WHEN", "TYPE", "ABOUT", "DETAIL", "ID"}}
			for _, e := range es {
				about, detail := eventText(&e)
				rows = append(rows, []string{e.Time.UTC().Format(time.RFC3339), clean(e.Type), about, detail, clean(e.ID)})
			}
			table(cmd.OutOrStdout(), rows)
			return nil
		},
	}
	cmd.Flags().StringVar(&since, "since", since, "how far back: 12h, 30d")
	return cmd
}

// eventText says in short what an event is about, and what it says.
func eventText(e *proxy.Event) (about, detail string) {
	about = cmp.Or(e.Image.Reference, e.Details.Name, e.Details.Type, "-")
	var parts []string
	switch e.Type {
	case proxy.VerdictNew, proxy.VerdictChanged, proxy.PullDenied:
		parts = append(parts, "denied")
		if e.After.Allow {
			parts[0] = "allowed"
		}
		if e.LastPull.Caller != "" {
			parts = append(parts, "pulled by "+e.LastPull.Caller)
		}
	}
	if e.Details.Within == "ended" {
		parts = append(parts, "ended "+e.Details.Ends.Format(time.RFC3339))
	} else if !e.Details.Ends.IsZero() {
		parts = append(parts, "ends "+e.Details.Ends.Format(time.RFC3339))
	}
	if e.Details.Owner != "" {
		parts = append(parts, "owner "+e.Details.Owner)
	}
	return clean(about), clean(cmp.Or(strings.Join(parts, ", "), "-"))
}

func eventsDead(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "dead",
		Short: "List the events that webhooks did not take, the newest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			letters := []webhook.DeadLetter{}
			err := g.withEvents(cmd.Context(), http.MethodGet, deadPath, &letters,
				func(s *webhook.Sender) (err error) { letters, err = s.Dead(cmd.Context()); return err })
			if err != nil {
				return err
			}
			if g.output == "json" {
				return printJSON(cmd.OutOrStdout(), letters)
			}
			rows := [][]string{{"GIVEN UP", "HOOK", "TYPE", "ABOUT", "ID", "ERROR"}}
			for _, d := range letters {
				about, _ := eventText(&d.Event)
				rows = append(rows, []string{d.GivenUp.UTC().Format(time.RFC3339), clean(d.Hook), clean(d.Event.Type), about, clean(d.Event.ID), clean(d.Error)})
			}
			table(cmd.OutOrStdout(), rows)
			return nil
		},
	}
}

func eventsRetry(g *global) *cobra.Command {
	return &cobra.Command{
		Use:     "retry ID|all",
		Short:   "Send events again that webhooks did not take",
		Example: "  sluice events retry all",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var n int
			err := g.withEvents(cmd.Context(), http.MethodPost, retryPath+"?id="+url.QueryEscape(args[0]), &n,
				func(s *webhook.Sender) (err error) { n, err = s.Retry(cmd.Context(), args[0]); return err })
			if err != nil {
				return err
			}
			if n == 0 && args[0] != webhook.All {
				return &exitError{exitNo, fmt.Errorf("no webhook has a dead letter %s; `sluice events dead` lists them", clean(args[0]))}
			}
			if g.output == "json" {
				return printJSON(cmd.OutOrStdout(), map[string]int{"retried": n})
			}
			fmt.Fprintf(cmd.OutOrStdout(), "a running gateway sends %s again within a minute\n", plural(n, "event"))
			return nil
		},
	}
}

// Where a running gateway answers about events, for those who may open its socket.
const (
	eventsPath = "/api/v1/events"
	deadPath   = "/api/v1/events/dead"
	retryPath  = "/api/v1/events/retry"
)

// withEvents asks the gateway that has the store open, or else calls do on the store.
func (g *global) withEvents(ctx context.Context, method, path string, into any, do func(*webhook.Sender) error) error {
	c, err := g.load()
	if err != nil {
		return err
	}
	if r := running(c); r != nil {
		return r.callPath(ctx, method, path, nil, into)
	}
	store, err := openStore(ctx, c, nil)
	if errors.Is(err, disk.ErrInUse) { // it has begun to run, or to stop
		if r := running(c); r != nil {
			return r.callPath(ctx, method, path, nil, into)
		}
	}
	if err != nil {
		return err
	}
	defer store.Close()
	return do(sendersOf(c, store, newLog(c.Log, &slog.LevelVar{})))
}

// sendersOf is a Sender that does not run.
func sendersOf(c configs.Config, store cache.Store, log *slog.Logger) *webhook.Sender {
	return &webhook.Sender{Hooks: hooksOf(c), Store: store, Events: &proxy.EventLog{Store: store, Log: log}, Log: log}
}

func (h *house) serveEvents(w http.ResponseWriter, r *http.Request) {
	since, err := time.Parse(time.RFC3339, r.URL.Query().Get("since"))
	if err != nil {
		since = time.Now().Add(-7 * day)
	}
	es, err := h.gateway.Events(r.Context(), since)
	h.answerEvents(w, es, err)
}

func (h *house) serveDead(w http.ResponseWriter, r *http.Request) {
	letters, err := sendersOf(h.config, h.store, h.log).Dead(r.Context())
	h.answerEvents(w, letters, err)
}

func (h *house) serveRetry(w http.ResponseWriter, r *http.Request) {
	n, err := sendersOf(h.config, h.store, h.log).Retry(r.Context(), r.URL.Query().Get("id"))
	h.answerEvents(w, n, err)
}

func (h *house) answerEvents(w http.ResponseWriter, v any, err error) {
	if err != nil {
		h.log.Error("events can't be read", "error", err)
		http.Error(w, "events can't be read: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}
