package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicegate/sluice/configs"
	"github.com/sluicegate/sluice/proxy/api"
	"github.com/sluicegate/sluice/proxy/auth"
	"github.com/sluicegate/sluice/scan"
)

func serveCommand(g *global) *cobra.Command {
	var listen, admin, mode, level string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the gateway",
		Long: `Run the gateway. Without a configuration it listens on 127.0.0.1:8080, fronts cgr.dev
anonymously, keeps its state in $XDG_STATE_HOME/sluice and downloads the vulnerability
database. SIGTERM lets pulls in flight finish. Where OTEL_EXPORTER_OTLP_ENDPOINT is set,
traces go there by OTLP over HTTP. SIGHUP, ` + "`sluice reload`" + `, or a changed file has the configuration
read again.`,
		Example: "  sluice serve\n  sluice serve --config /etc/sluice/sluice.yaml --mode warn",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			load := func() (configs.Config, error) {
				c, err := g.load()
				if err != nil {
					return c, err
				}
				for _, f := range []struct {
					value string
					key   *string
				}{{listen, &c.Listen}, {admin, &c.AdminListen}, {mode, &c.Gate.Mode}, {level, &c.Log.Level}} {
					if f.value != "" {
						*f.key = f.value
					}
				}
				if err := c.Validate(); err != nil {
					return c, &exitError{exitUsage, err}
				}
				return c, nil
			}
			c, err := load()
			if err != nil {
				return err
			}
			return serve(cmd.Context(), c, source{g.config, load})
		},
	}
	f := cmd.Flags()
	f.StringVar(&listen, "listen", "", "address that clients reach (default 127.0.0.1:8080)")
	f.StringVar(&admin, "admin-listen", "", "address of metrics and health (default 127.0.0.1:9090)")
	f.StringVar(&mode, "mode", "", "what becomes of a violation: enforce, warn, dry-run or off (default enforce)")
	f.StringVar(&level, "log-level", "", "debug, info, warn or error (default info)")
	return cmd
}

// A source is where a configuration comes from.
type source struct {
	path string // of its file; "" for none
	load func() (configs.Config, error)
}

// serve runs a gateway until ctx ends, then lets the pulls in flight finish.
// again is how its configuration is read another time.
func serve(ctx context.Context, c configs.Config, again source) (err error) {
	level := &slog.LevelVar{}
	log := newLog(c.Log, level)
	if err := configs.CheckListen(c.Listen, c.TLS.CertFile != "", c.KnowsCallers(), c.AllowPlainHTTP, c.AllowAnonymous); err != nil {
		return &exitError{exitUsage, err}
	}
	h := newHouse(c, log)
	h.level = level
	signal.Notify(h.hup, syscall.SIGHUP) // from the first moment on: it would end the process
	defer signal.Stop(h.hup)
	if again.path != "" {
		h.load, h.path = again.load, again.path
	}
	failed := make(chan error, 3)
	admin := &server{Server: newServer(h.adminHandler(), log)}
	defer admin.stop()
	if c.Store != "" { // which may have to be waited for
		if err := h.listenAdmin(admin, failed); err != nil {
			return err
		}
	}
	err = h.build(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		log.Info("stopped before anything was served")
		return nil
	case err != nil:
		return err
	}
	defer func() {
		admin.stop() // it asks the house
		err = errors.Join(err, h.close())
	}()
	h.measure()
	var background sync.WaitGroup
	backgroundCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer background.Wait()
	defer stop()
	h.watch(backgroundCtx, &background)

	servers, err := h.listen()
	if err != nil {
		return err
	}
	if c.Store == "" {
		if err := h.listenAdmin(admin, failed); err != nil {
			return err
		}
	}
	background.Go(func() { h.report(backgroundCtx) })
	for _, s := range servers {
		s.start(failed)
		defer s.stop()
	}
	log.Info("serving", "listen", c.Listen, "tls", c.TLS.CertFile != "", "upstream", c.DefaultUpstream, "mode", c.Gate.Mode, "state", c.StateDir, "version", versionText())
	select {
	case err = <-failed:
	case <-ctx.Done():
		log.Info("stopping: pulls in flight may finish", "drain", c.Gate.Drain)
		h.stopping.Store(true)
		h.gateway.Drain()
	}
	h.shutDown(context.WithoutCancel(ctx), err == nil, append(servers, admin))
	return err
}

// shutDown ends servers, in their order, after the pulls in flight where those are to be
// waited for.
func (h *house) shutDown(ctx context.Context, wait bool, servers []*server) {
	drain, cancel := context.WithTimeout(ctx, h.config.Gate.Drain)
	defer cancel()
	if wait {
		h.traffic.drain(drain)
	}
	for _, s := range servers {
		if err := s.Shutdown(drain); err != nil {
			h.log.Warn("cut responses that were still open", "error", err)
		}
	}
}

// watch starts everything that follows changes.
func (h *house) watch(ctx context.Context, wg *sync.WaitGroup) {
	watched := map[string]func(context.Context) error{"database": h.followDatabase, "worker": h.keepWorkers, "re-evaluation": h.gateway.Reevaluate, "waivers and VEX": h.followExceptions, "audit of policies": h.auditPolicies, "what ends": h.followEnds}
	watched["configuration"] = h.followConfig(h.path)
	for dir, engine := range h.policies {
		watched["policies "+h.policyName(dir)] = engine.Run
	}
	if h.hooks != nil {
		watched["webhooks"] = h.hooks.Run
	}
	if h.bundle.mirror != nil {
		watched["policy.bundle"] = h.bundle.mirror.Run
	}
	for name, run := range watched {
		wg.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				h.log.Error("stopped following changes", "of", name, "error", err)
			}
		})
	}
}

// A server is an HTTP server and where it listens.
type server struct {
	*http.Server
	listener net.Listener
	serving  sync.WaitGroup
}

// start serves until stop, and tells failed of an end that nobody asked for.
func (s *server) start(failed chan<- error) {
	s.serving.Go(func() {
		if err := s.run(); !errors.Is(err, http.ErrServerClosed) {
			failed <- err
		}
	})
}

// stop cuts what is open, and returns when nothing is served any more.
func (s *server) stop() {
	s.Close()
	s.serving.Wait()
}

func (s *server) run() error {
	if s.TLSConfig != nil {
		return s.ServeTLS(s.listener, "", "")
	}
	return s.Serve(s.listener)
}

// listenAdmin opens the address for operators, where there is one.
func (h *house) listenAdmin(s *server, failed chan<- error) (err error) {
	if h.config.AdminListen == "" {
		return nil
	}
	if s.listener, err = listenOn("admin_listen", h.config.AdminListen); err != nil {
		return err
	}
	s.start(failed)
	return nil
}

// listen opens every address for clients before the first request is served: a port in use
// is said at once.
func (h *house) listen() (servers []*server, err error) {
	defer func() {
		if err != nil {
			for _, s := range servers {
				s.listener.Close()
			}
		}
	}()
	main, err := h.mainServer()
	if err != nil {
		return nil, err
	}
	servers = append(servers, main)
	control, err := h.controlServer()
	if err != nil {
		return servers, err
	}
	return append(servers, control), nil
}

func (h *house) mainServer() (*server, error) {
	l, err := listenOn("listen", h.config.Listen)
	if err != nil {
		return nil, err
	}
	s := &server{Server: newServer(h.traffic.count(h.tracing.requests(bounded(h.handler()))), h.log), listener: l}
	if h.config.TLS.CertFile == "" {
		return s, nil
	}
	cert := &auth.Certificate{CertFile: h.config.TLS.CertFile, KeyFile: h.config.TLS.KeyFile, ClientCA: h.config.TLS.ClientCAFile, Log: h.log}
	if err := cert.Load(); err != nil {
		l.Close()
		keys := "tls.cert_file, tls.key_file"
		if cert.ClientCA != "" {
			keys += ", tls.client_ca_file"
		}
		return nil, fmt.Errorf("%s: %w", keys, err)
	}
	s.TLSConfig = cert.TLS()
	return s, nil
}

func listenOn(key, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w; stop what uses it, or choose another address", key, addr, errors.Unwrap(err))
	}
	return l, nil
}

// newServer bounds what a client may make the gateway wait for, except for bodies:
// large layers take their time.
func newServer(handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       0,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// handler serves clients. The registry's paths go past the mux, which would answer one
// such as /v2//x by a redirect, in HTML and to every method.
func (h *house) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/api/v1/", &api.Handler{Gateway: h.gateway, Events: h.gateway, Waivers: h.waivers, Policies: h.policySets, Admit: h.gateway.Admit, May: h.gateway.May, Log: h.log, Stopping: h.stopping.Load})
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "This is sluice, a gate in front of "+h.current().DefaultUpstream+". Pull images through it, or ask /api/v1/verdict?image=REF.")
	})
	mux.HandleFunc("/token", h.gateway.ServeToken)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2" || strings.HasPrefix(r.URL.Path, "/v2/") {
			h.gateway.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// policySets lists the policies that decide, those of policy.dir or policy.bundle first.
func (h *house) policySets() (sets []api.PolicySet) {
	for _, dir := range h.policyDirs() {
		e := h.policies[dir]
		s := api.PolicySet{Upstreams: []string{}, Status: e.Status(), Listings: e.Policies()}
		for _, u := range h.current().Upstreams {
			if h.policyDir(u.Name) == dir {
				s.Upstreams = append(s.Upstreams, u.Name)
			}
		}
		sets = append(sets, s)
	}
	return sets
}

// warmUp starts the worker processes before the first pull needs one.
func (h *house) warmUp(ctx context.Context) error {
	err := h.workers.Start(ctx)
	text := ""
	if err != nil {
		text = err.Error()
	} else {
		reportWorkers(h.workers, h.log)
	}
	h.warm.Store(&text)
	return err
}

// keepWorkers warms the worker processes up, and keeps them up until ctx ends.
func (h *house) keepWorkers(ctx context.Context) error {
	if err := h.warmUp(ctx); err != nil && ctx.Err() == nil {
		h.log.Error("a worker could not be started; it is tried again", "error", err)
	}
	h.workers.Keep(ctx)
	return nil
}

func (h *house) workerCheck() check {
	return workersCheck(h.workers, h.warm.Load())
}

// followDatabase keeps the database fresh. The first one is downloaded in sight, since
// nothing can be scanned before it is there.
func (h *house) followDatabase(ctx context.Context) error {
	p := newProgress("downloading the vulnerability database")
	h.databases.Progress = func(done, total int64) {
		if total < 0 {
			p.done()
			return
		}
		p.bytes(done, total)
	}
	if _, err := h.databases.Current(ctx); errors.Is(err, scan.ErrDatabaseMissing) && !h.databases.Offline {
		h.log.Info("downloading the vulnerability database; until it is there, unknown images are denied")
	}
	return h.databases.Run(ctx)
}
