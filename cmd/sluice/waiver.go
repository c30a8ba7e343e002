package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicegate/sluice/cache/audit"
	"github.com/sluicegate/sluice/cache/disk"
	"github.com/sluicegate/sluice/configs"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/api"
)

func waiverCommand(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "waiver",
		Short: "Exceptions to policy: add, list, remove",
		Long: `Exceptions to policy, each with an owner, a reason, a scope and an end. What is added here
is kept in the store, beside the waivers of policy.waiver_file. A gateway that runs on
this state folder decides by a change at once; others that share its store, within a
second.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(waiverAdd(g), waiverList(g), waiverRemove(g))
	return cmd
}

func waiverAdd(g *global) *cobra.Command {
	var w policy.Waiver
	cmd := &cobra.Command{
		Use:   "add",
		Short: "Add a waiver",
		Long: `Add a waiver. All that is given of its scope must match: with --advisory or --package it
sets findings aside, with --policy what that policy says, and with none of the three
everything about the images that it is for.

Exit status: 0 added, 1 not added, since the ID is taken, 2 usage, 3 could not find out.`,
		Example: `  sluice waiver add --advisory CVE-2026-1234 --repository 'acme/*' --expires 30d \
    --owner anna@example.com --reason 'not reachable: we parse no XML' --ticket SEC-431`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := g.load()
			if err != nil {
				return err
			}
			return withWaivers(cmd.Context(), c, func(b api.WaiverBook) error {
				added, err := b.Add(cmd.Context(), w)
				if err != nil {
					return waiverExit(err)
				}
				warnOf(cmd.ErrOrStderr(), added)
				if g.output == "json" {
					return printJSON(cmd.OutOrStdout(), added)
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "added waiver %s, which ends %s\n", clean(added.ID), added.Ends.Format(time.RFC3339))
				return err
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&w.ID, "id", "", "name of the waiver (default: one is made)")
	f.StringVar(&w.Owner, "owner", "", "who answers for it")
	f.StringVar(&w.Reason, "reason", "", "why it is right")
	f.StringVar(&w.Ticket, "ticket", "", "where it is followed up")
	f.StringVar(&w.Expires, "expires", "", "when it ends: a date (through its end in UTC), an RFC 3339 time, or a duration such as 30d or 12h")
	f.StringVar(&w.Scope.Advisory, "advisory", "", "ID or alias of a vulnerability")
	f.StringVar(&w.Scope.Package, "package", "", "glob over names of packages")
	f.StringVar(&w.Scope.Repository, "repository", "", "glob over acme/web and cgr.dev/acme/web")
	f.StringVar(&w.Scope.Digest, "digest", "", "digest of the image, or of an index that lists it")
	f.StringVar(&w.Scope.Namespace, "namespace", "", "Kubernetes namespace")
	f.StringVar(&w.Scope.Policy, "policy", "", "name of a policy")
	return cmd
}

func waiverList(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List all waivers, those that end first in front",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := g.load()
			if err != nil {
				return err
			}
			return withWaivers(cmd.Context(), c, func(b api.WaiverBook) error {
				ws, err := b.List(cmd.Context())
				if err != nil {
					return waiverExit(err)
				}
				if g.output == "json" {
					return printJSON(cmd.OutOrStdout(), ws)
				}
				printWaivers(cmd.OutOrStdout(), ws)
				warnOf(cmd.ErrOrStderr(), ws...)
				return nil
			})
		},
	}
}

func waiverRemove(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "remove ID",
		Short: "Remove a waiver",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.load()
			if err != nil {
				return err
			}
			return withWaivers(cmd.Context(), c, func(b api.WaiverBook) error {
				if err := b.Remove(cmd.Context(), args[0]); err != nil {
					return waiverExit(err)
				}
				if g.output == "json" {
					return nil
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "removed waiver %s\n", clean(args[0]))
				return err
			})
		},
	}
}

// waiverExit gives an error the exit status of whose fault it is.
func waiverExit(err error) error {
	var blame *policy.WaiverError
	if !errors.As(err, &blame) {
		return err
	}
	status := exitNo
	if blame.Kind == policy.WaiverInvalid {
		status = exitUsage
	}
	return &exitError{status, errors.New(clean(blame.Message))}
}

// warnOf tells of waivers that set nothing aside, as a running gateway knows it.
func warnOf(w io.Writer, ws ...policy.WaiverStatus) {
	for _, x := range ws {
		if x.Warning != "" {
			fmt.Fprintf(w, "%s waiver %s: %s\n", paletteFor(w).warn("warning:"), clean(x.ID), clean(x.Warning))
		}
	}
}

func printWaivers(w io.Writer, ws []policy.WaiverStatus) {
	p := paletteFor(w)
	rows := [][]string{{"WAIVER", "STATE", "ENDS", "SCOPE", "OWNER", "TICKET", "FROM", "REASON"}}
	for _, x := range ws {
		state := map[string]string{policy.WaiverExpiring: p.warn(x.State), policy.WaiverExpired: p.bad(x.State)}[x.State]
		rows = append(rows, []string{clean(x.ID), cmp.Or(state, x.State), x.Ends.Format(time.RFC3339), clean(x.Scope.String()), clean(x.Owner), clean(x.Ticket), x.Source, clean(x.Reason)})
	}
	table(w, rows)
}

// withWaivers opens the waivers where they are kept: in the store, or through the gateway
// that has the embedded store open.
func withWaivers(ctx context.Context, c configs.Config, do func(api.WaiverBook) error) error {
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return fmt.Errorf("state_dir: %w", err)
	}
	if g := running(c); g != nil {
		return do(controlWaivers{g})
	}
	store, err := openStore(ctx, c, nil)
	if errors.Is(err, disk.ErrInUse) { // it has begun to run, or to stop
		if g := running(c); g != nil {
			return do(controlWaivers{g})
		}
	}
	if err != nil {
		return err
	}
	defer store.Close()
	x := &policy.Exceptions{Store: store, Audit: &audit.Log{Store: store}, MaxLife: c.Policy.WaiverMax, Filed: func() ([]policy.Waiver, error) { return policy.ReadWaivers(c.Policy.WaiverFile) }}
	if err := x.Open(ctx); err != nil {
		return err
	}
	return do(x)
}

// controlWaivers are the waivers of a running gateway, through its control socket.
type controlWaivers struct{ *control }

var _ api.WaiverBook = controlWaivers{}

func (c controlWaivers) List(ctx context.Context) (ws []policy.WaiverStatus, err error) {
	return ws, c.waivers(ctx, http.MethodGet, "", nil, &ws)
}

func (c controlWaivers) Add(ctx context.Context, w policy.Waiver) (added policy.WaiverStatus, err error) {
	return added, c.waivers(ctx, http.MethodPost, "", w, &added)
}

func (c controlWaivers) Remove(ctx context.Context, id string) error {
	return c.waivers(ctx, http.MethodDelete, "/"+url.PathEscape(id), nil, nil)
}

func (c controlWaivers) waivers(ctx context.Context, method, path string, body, into any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://gateway/api/v1/waivers"+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return fmt.Errorf("ask the running gateway: %w", errors.Unwrap(err))
	}
	defer resp.Body.Close()
	if b, err = io.ReadAll(io.LimitReader(resp.Body, 64<<20)); err != nil {
		return fmt.Errorf("ask the running gateway: %w", err)
	}
	kind := map[int]policy.WaiverErrorKind{
		http.StatusBadRequest: policy.WaiverInvalid, http.StatusConflict: policy.WaiverTaken, http.StatusNotFound: policy.WaiverUnknown,
	}[resp.StatusCode]
	switch {
	case kind != "":
		return &policy.WaiverError{Kind: kind, Message: gatewayError(resp, b).Error()}
	case resp.StatusCode != http.StatusOK:
		return gatewayError(resp, b)
	case into == nil:
		return nil
	}
	return json.Unmarshal(b, into)
}
