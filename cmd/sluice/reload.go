package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicegate/sluice/configs"
	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/proxy/limit"
)

func reloadCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Have the running gateway read its configuration again",
		Long: `Have the running gateway read its configuration file again, which it does by itself some
seconds after the file has changed, and on SIGHUP. Callers, access, limits, upstreams and
the log's level take effect; what needs a restart is said, and keeps its old value. A file
with an error in it changes nothing. Policies, waivers, certificates and mounted credentials
are files of their own, which are followed without this.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := g.load()
			if err != nil {
				return err
			}
			gateway := controlOf(c)
			if gateway == nil {
				return fmt.Errorf("no gateway runs with the state folder %s", c.StateDir)
			}
			var r Reloaded
			if err := gateway.callPath(cmd.Context(), http.MethodPost, reloadPath, nil, &r); err != nil {
				return err
			}
			if g.output == "json" {
				return printJSON(cmd.OutOrStdout(), r)
			}
			w := cmd.OutOrStdout()
			fmt.Fprintln(w, "in force now:", cmp.Or(strings.Join(r.Applied, ", "), "nothing has changed"))
			if len(r.Restart) > 0 {
				fmt.Fprintln(w, "needs a restart:", strings.Join(r.Restart, ", "))
			}
			return nil
		},
	}
}

// reloadPath is where a running gateway is told to read its configuration again, by those
// who may open its socket.
const reloadPath = "/api/v1/reload"

// Reloaded is what became of a configuration that was read again: the keys that changed and
// are in force, and those that wait for a restart.
type Reloaded struct {
	Applied []string `json:"applied"` // never null in JSON
	Restart []string `json:"restart"` // never null in JSON
}

// reloadStatus is what became of the last reload.
type reloadStatus struct {
	mu      sync.Mutex
	problem string   // why the file could not be used
	restart []string // keys that wait for a restart
}

func (s *reloadStatus) set(r Reloaded, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.problem = ""; err != nil {
		s.problem = err.Error()
		return
	}
	s.restart = r.Restart
}

// check says whether the configuration in force is that of the file. It always is a good
// one, so that the gateway is ready all the same.
func (s *reloadStatus) check() check {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := check{Name: "configuration", OK: true}
	switch {
	case s.problem != "":
		c.Detail = "the file can't be used, and what was read before is in force: " + s.problem
	case len(s.restart) > 0:
		c.Detail = "needs a restart: " + strings.Join(s.restart, ", ")
	}
	return c
}

// reload puts in force what has changed in the configuration, or nothing of it.
func (h *house) reload(ctx context.Context) (r Reloaded, err error) {
	h.reloading.Lock()
	defer h.reloading.Unlock()
	defer func() { h.tellReload(ctx, r, err) }()
	if h.load == nil {
		return r, errors.New("the gateway was started without a configuration file: there is nothing to read again")
	}
	next, err := h.load()
	if err != nil {
		return r, err
	}
	old := *h.current()
	r = Reloaded{Applied: []string{}, Restart: []string{}}
	for _, key := range configs.Changed(old, next) {
		if h.changesLive(key, next) {
			r.Applied = append(r.Applied, key)
		} else {
			r.Restart = append(r.Restart, key)
		}
	}
	now := old
	now.Auth, now.Limits, now.AllowAnonymous, now.Log.Level = next.Auth, next.Limits, next.AllowAnonymous, next.Log.Level
	if !slices.Contains(r.Restart, "upstreams") && !slices.Contains(r.Restart, "default_upstream") {
		now.Upstreams, now.DefaultUpstream = next.Upstreams, next.DefaultUpstream
	}
	if err := now.Validate(); err != nil { // together with what keeps its old value
		return Reloaded{}, err
	}
	return r, h.change(old, now)
}

// changesLive reports whether a key takes effect without a restart.
func (h *house) changesLive(key string, next configs.Config) bool {
	switch {
	case key == "upstreams" || key == "default_upstream":
		return !slices.ContainsFunc(next.Upstreams, func(u configs.Upstream) bool {
			_, open := h.policies[policyDirOf(next, u)]
			return !open
		})
	case key == "log.level", key == "allow_anonymous":
		return true
	}
	return strings.HasPrefix(key, "auth.") || strings.HasPrefix(key, "limits.")
}

// change puts now in the place of old. Nothing is changed where something of it can't be.
func (h *house) change(old, now configs.Config) error {
	s := h.gateway.Settings()
	if !reflect.DeepEqual(old.Auth, now.Auth) || old.AllowAnonymous != now.AllowAnonymous {
		a, err := h.openAuth(now)
		if err != nil {
			return err
		}
		a.TakeOver(s.Auth)
		s.Auth = a
	}
	if old.Limits != now.Limits {
		s.Limits = limit.New(limitsOf(now.Limits))
	}
	s.Access = accessOf(now.Auth)
	sources, err := credentialSources(now)
	if err != nil {
		return err
	}
	if s.Upstreams, err = h.upstreams(now, s.Upstreams); err != nil {
		return err
	}
	h.connections.Configure(sources)
	if err := h.gateway.Change(s); err != nil {
		return err
	}
	h.level.Set(levelOf(now.Log))
	h.live.Store(&now)
	return nil
}

func (h *house) tellReload(ctx context.Context, r Reloaded, err error) {
	h.reloaded.set(r, err)
	switch {
	case err != nil:
		h.log.Error("the configuration can't be used; what was read before stays in force", "error", err)
		return
	case len(r.Applied) == 0 && len(r.Restart) == 0:
		h.log.Info("the configuration was read again, and has not changed")
		return
	case len(r.Restart) > 0:
		h.log.Warn("the configuration was read again; some of it needs a restart", "in_force", r.Applied, "needs_restart", r.Restart)
	default:
		h.log.Info("the configuration was read again", "in_force", r.Applied)
	}
	if err := h.audit.Write(ctx, "configuration.reload", "configuration", strings.Join(r.Applied, ", ")); err != nil {
		h.log.Error("the change can't be written to the audit log", "error", err)
	}
}

// configEvery is how often the configuration file is looked at.
const configEvery = 2 * time.Second

// followConfig reads the configuration again on SIGHUP, and when the file has changed and is
// the same at two looks: it may be in mid-write.
func (h *house) followConfig(path string) func(context.Context) error {
	return func(ctx context.Context) error {
		tick := time.NewTicker(configEvery)
		defer tick.Stop()
		used := stampOf(path)
		seen := used
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-h.hup:
				used = stampOf(path)
				seen = used
				_, _ = h.reload(ctx) // which logs
			case <-tick.C:
				now := stampOf(path)
				if path != "" && now == seen && now != used {
					used = now
					_, _ = h.reload(ctx)
				}
				seen = now
			}
		}
	}
}

// A stamp changes with a file.
type stamp struct {
	size     int64
	modified time.Time
	there    bool
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	return stamp{info.Size(), info.ModTime(), true}
}

func (h *house) serveReload(w http.ResponseWriter, r *http.Request) {
	done, err := h.reload(r.Context())
	if err != nil {
		(&proxy.Error{Status: http.StatusBadRequest, Code: "UNSUPPORTED", Message: err.Error()}).Write(w)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(done)
}

func policyDirOf(c configs.Config, u configs.Upstream) string {
	return cmp.Or(u.PolicyDir, c.Policy.Dir)
}

func find(us []configs.Upstream, name string) (u configs.Upstream) {
	if i := slices.IndexFunc(us, func(u configs.Upstream) bool { return u.Name == name }); i >= 0 {
		u = us[i]
	}
	return u
}

// sameRegistry reports whether two upstreams are asked in the same way.
func sameRegistry(a, b configs.Upstream) bool {
	for _, u := range []*configs.Upstream{&a, &b} {
		u.PolicyDir, u.TagTTL, u.Allow, u.Deny, u.CredentialsDir = "", nil, nil, nil, ""
		u.CredentialHelpers, u.OIDC = false, configs.Exchange{}
	}
	return reflect.DeepEqual(a, b)
}
