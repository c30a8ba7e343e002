package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/time/rate"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/cache/audit"
	"github.com/sluicegate/sluice/cache/objects"
	"github.com/sluicegate/sluice/cache/spool"
	"github.com/sluicegate/sluice/configs"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/policy/decisionlog"
	"github.com/sluicegate/sluice/policy/signature"
	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/proxy/connection"
	"github.com/sluicegate/sluice/proxy/limit"
	"github.com/sluicegate/sluice/proxy/upstream"
	"github.com/sluicegate/sluice/proxy/webhook"
	"github.com/sluicegate/sluice/scan"
	"github.com/sluicegate/sluice/scan/layer"
	"github.com/sluicegate/sluice/scan/vuln"
	"github.com/sluicegate/sluice/scan/worker"
)

// A house is a gateway and everything in it, wired. Fields are in the order in which
// they are built; close takes them down in the other.
type house struct {
	config      configs.Config // at the start; see live
	log         *slog.Logger
	level       *slog.LevelVar // of log
	metrics     *prometheus.Registry
	store       cache.Store
	local       *cache.Local   // the store, where gateways share it; else nil
	forgetful   bool           // the store is none: a running gateway has the real one open
	objects     *objects.Store // where gateways share blobs, else nil
	blobs       *spool.Spool
	layers      *spool.Spool
	databases   *vuln.Databases
	workers     *worker.Pool
	scanner     *scan.Scanner
	fleet       *scan.Fleet // what gateways that share the store agree on, else nil
	audit       *audit.Log
	exceptions  *policy.Exceptions
	policies    map[string]*policy.Engine // by directory, "" is of the bundle or of those built in
	bundle      bundleSource
	decisions   *decisionlog.Log // nil for none
	connections *connection.Vault
	gateway     *proxy.Gateway
	measured    *proxy.Metrics  // of gateway
	hooks       *webhook.Sender // nil for none
	tracing     *tracing        // nil where nobody asked for traces

	building atomic.Pointer[string] // what is still waited for; "" once everything above is there
	warm     atomic.Pointer[string] // "" once a worker is warm, else why none is
	closers  []func() error

	hup       chan os.Signal
	path      string                         // of the configuration, "" for none
	load      func() (configs.Config, error) // reads the configuration again; nil where there is no file
	reloading sync.Mutex
	live      atomic.Pointer[configs.Config] // config, with what was changed since
	reloaded  reloadStatus

	traffic  traffic
	stopping atomic.Bool // set once the gateway only waits for its traffic to end
}

// load returns the configuration that the flags name, with the machine's defaults.
func (g *global) load() (configs.Config, error) {
	c := configs.Default()
	if g.config != "" {
		var err error
		if c, err = configs.Load(g.config); err != nil {
			return c, &exitError{exitUsage, err}
		}
	}
	if g.state != "" {
		c.StateDir = g.state
	}
	c, err := c.Resolve(os.Getenv)
	if err != nil {
		return c, &exitError{exitUsage, fmt.Errorf("configuration %s:\n%w", g.config, err)}
	}
	return c, nil
}

// newHouse returns a house that is to be built.
func newHouse(c configs.Config, log *slog.Logger) *house {
	h := &house{config: c, log: log, level: &slog.LevelVar{}, hup: make(chan os.Signal, 1), metrics: prometheus.NewRegistry()}
	h.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	h.waitsFor("starting")
	return h
}

// current returns the configuration in force.
func (h *house) current() *configs.Config {
	if c := h.live.Load(); c != nil {
		return c
	}
	return &h.config
}

// waitsFor says why the house isn't built yet; "" says that it is.
func (h *house) waitsFor(what string) { h.building.Store(&what) }

// build returns a house that is wired.
func build(ctx context.Context, c configs.Config, log *slog.Logger) (*house, error) {
	h := newHouse(c, log)
	return h, h.build(ctx)
}

// build wires the gateway. On an error what was built is taken down again.
func (h *house) build(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	if err := os.MkdirAll(h.config.StateDir, 0o700); err != nil {
		return fmt.Errorf("state_dir: %w; set it to a folder that may be written", err)
	}
	if err := h.openStore(ctx); err != nil {
		return err
	}
	h.closers = append(h.closers, h.store.Close)
	h.audit = &audit.Log{Store: h.store}
	if err := h.openSpools(); err != nil {
		return err
	}
	if err := h.openScanner(); err != nil {
		return err
	}
	if err := h.openConnections(); err != nil {
		return err
	}
	if err := h.openPolicy(ctx); err != nil {
		return err
	}
	if h.tracing, err = openTracing(ctx, h.log); err != nil {
		return err
	}
	if h.tracing != nil {
		h.closers = append(h.closers, h.tracing.close)
	}
	if err := h.openGateway(); err != nil {
		return err
	}
	if err := h.openHooks(); err != nil {
		return err
	}
	h.waitsFor("")
	return nil
}

// close takes the house down and returns what went wrong with that.
func (h *house) close() error {
	var errs []error
	for i := len(h.closers) - 1; i >= 0; i-- {
		errs = append(errs, h.closers[i]())
	}
	h.closers = nil
	return errors.Join(errs...)
}

func (h *house) openSpools() (err error) {
	c := h.config.Spool
	if h.blobs, err = spool.Open(filepath.Join(c.Dir, "blobs"), int64(c.BlobsQuota)); err != nil {
		return err
	}
	h.closers = append(h.closers, h.blobs.Close)
	if h.layers, err = spool.Open(filepath.Join(c.Dir, "layers"), int64(c.LayersQuota)); err != nil {
		return err
	}
	h.closers = append(h.closers, h.layers.Close)
	return nil
}

// noAgeLimit is the age limit of databases where there is none.
const noAgeLimit = 100 * 365 * 24 * time.Hour

func openDatabases(c configs.Config, log *slog.Logger) *vuln.Databases {
	maxAge := c.Database.MaxAge
	if maxAge == 0 {
		maxAge = noAgeLimit
	}
	return &vuln.Databases{
		Root:     filepath.Join(c.StateDir, "db"),
		URL:      cmp.Or(os.Getenv(configs.EnvDatabaseURL), c.Database.URL),
		CACert:   c.Database.CAFile,
		MaxAge:   maxAge,
		Interval: c.Database.UpdateEvery,
		Offline:  c.Database.UpdateEvery == 0,
		Log:      log,
	}
}

func (h *house) openScanner() error {
	c := h.config
	h.databases = openDatabases(c, h.log)
	var err error
	if h.workers, err = newWorkers(c, filepath.Join(c.Spool.Dir, "layers"), h.databases.Root, h.log); err != nil {
		return err
	}
	h.closers = append(h.closers, h.workers.Close)
	h.scanner = &scan.Scanner{
		Store:      h.store,
		Layers:     h.layers,
		Engine:     h.workers,
		Database:   h.databases.Current,
		Limits:     layerLimits(c.Scan.Limits),
		ImageBytes: int64(c.Scan.Limits.ImageUncompressed),
		Timeout:    c.Scan.Timeout,
		Log:        h.log,
	}
	h.closers = append(h.closers, h.scanner.Close)
	if h.local != nil {
		h.fleet = &scan.Fleet{Store: h.store, Own: h.databases.Current, Fresh: h.databases.Fresh, Behind: h.databases.Hurry, Log: h.log}
		h.scanner.Database = h.fleet.Database
	}
	return nil
}

func layerLimits(c configs.Limits) layer.Limits {
	l := layer.DefaultLimits()
	l.Compressed = int64(c.LayerCompressed)
	l.Uncompressed = int64(c.LayerUncompressed)
	l.Entries = c.LayerEntries
	l.Ratio = int64(c.Ratio)
	return l
}

// openPolicy opens the policies of every upstream. Waivers, kill list and modes are
// the same for all.
func (h *house) openPolicy(ctx context.Context) (err error) {
	if err := h.openExceptions(ctx); err != nil {
		return fmt.Errorf("waivers, policy.vex: %w", err)
	}
	if err := h.openBundle(ctx, filepath.Join(h.config.StateDir, "policies")); err != nil {
		return fmt.Errorf("policy.bundle: %w", err)
	}
	h.policies = map[string]*policy.Engine{}
	for _, dir := range h.policyDirs() {
		c := h.policyConfig(dir)
		c.Exceptions, c.Log = h.exceptions, h.log.With("policies", h.policyName(dir))
		h.policies[dir], err = policy.Open(ctx, c)
		if err != nil {
			return fmt.Errorf("%s: %w", h.policyKeys(dir), err)
		}
	}
	return nil
}

// policyConfig is what of the configuration makes the policies of a directory.
func (h *house) policyConfig(dir string) policy.Config {
	c := policy.Config{Dir: dir, Mode: policy.Mode(h.config.Gate.Mode), WaiverFile: h.config.Policy.WaiverFile, KillFile: h.config.Policy.KillFile}
	for _, r := range h.config.Gate.Modes {
		c.Modes = append(c.Modes, policy.ModeRule{Policy: r.Policy, Upstream: r.Upstream, Repository: r.Repository, Mode: policy.Mode(r.Mode)})
	}
	if dir == "" && h.bundle.file != "" {
		h.bundle.configure(&c, h.config.Policy.Bundle)
	}
	return c
}

// policyName names the policies of a directory.
func (h *house) policyName(dir string) string {
	if dir == "" && h.config.Policy.Bundle.Source != "" {
		return shownSource(h.config.Policy.Bundle)
	}
	return cmp.Or(dir, "built in")
}

// policyKeys names the keys whose files make the policies of a directory.
func (h *house) policyKeys(dir string) string {
	keys := []string{}
	for _, k := range []struct{ name, value string }{
		{"upstreams.policy_dir", dir}, {"policy.bundle", h.bundle.file}, {"policy.waiver_file", h.config.Policy.WaiverFile}, {"policy.kill_file", h.config.Policy.KillFile},
	} {
		if k.name == "upstreams.policy_dir" && dir == h.config.Policy.Dir {
			k.name = "policy.dir"
		}
		if k.value != "" {
			keys = append(keys, k.name)
		}
	}
	return cmp.Or(strings.Join(keys, ", "), "built-in policies")
}

// policyDirs returns the directories of policies in use, that of policy.dir first.
func (h *house) policyDirs() []string {
	dirs := []string{h.config.Policy.Dir}
	for _, u := range h.current().Upstreams {
		if dir := h.policyDir(u.Name); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// policyDir returns the directory whose policies decide about an upstream's images.
func (h *house) policyDir(upstream string) string {
	c := h.current()
	i := slices.IndexFunc(c.Upstreams, func(u configs.Upstream) bool { return u.Name == upstream })
	if i < 0 {
		return c.Policy.Dir
	}
	return cmp.Or(c.Upstreams[i].PolicyDir, c.Policy.Dir)
}

func (h *house) openConnections() (err error) {
	h.connections, err = openVault(h.config, h.store, h.log)
	return err
}

// openVault returns the pull tokens of all upstreams: those of the environment, of
// mounted files, and of the store.
func openVault(c configs.Config, store cache.Store, log *slog.Logger) (*connection.Vault, error) {
	key, err := connection.LoadKey(c.SealKeyFile, c.SealKeyFile == configs.SealKey(c.StateDir), os.Getenv)
	if err != nil {
		return nil, err
	}
	v := &connection.Vault{Store: store, Key: key, Log: log, Audit: &audit.Log{Store: store}}
	s, err := credentialSources(c)
	v.Configure(s)
	return v, err
}

// credentialSources returns where the credentials of a configuration's upstreams come from.
func credentialSources(c configs.Config) (s connection.Sources, err error) {
	s = connection.Sources{Files: map[string]string{}, Helpers: map[string]bool{}, Exchanges: map[string]*connection.Exchange{}}
	owners := map[string]string{}
	for _, u := range c.Upstreams {
		env, _ := connection.EnvNames(u.Name)
		if other := owners[env]; other != "" && os.Getenv(env) != "" {
			return s, fmt.Errorf("upstreams %s and %s would both log in with %s: remove it, and use credentials_dir or `sluice connection set`", other, u.Name, env)
		}
		owners[env] = u.Name
		s.Upstreams = append(s.Upstreams, u.Name)
		s.Helpers[u.Name] = u.CredentialHelpers
		if u.CredentialsDir != "" {
			s.Files[u.Name] = u.CredentialsDir
		}
		if u.OIDC.TokenFile == "" {
			continue
		}
		x := &connection.Exchange{
			TokenFile: u.OIDC.TokenFile, Identity: u.OIDC.Identity,
			Issuer: cmp.Or(u.OIDC.Issuer, "https://issuer.enforce.dev"), Audience: cmp.Or(u.OIDC.Audience, u.Name),
		}
		if x.RootCAs, err = certificates("oidc of upstream "+u.Name, u.OIDC.CAFile); err != nil {
			return s, err
		}
		s.Exchanges[u.Name] = x
	}
	return s, nil
}

func (h *house) openGateway() error {
	c := h.config
	callers, err := h.openAuth(c)
	if err != nil {
		return err
	}
	trust, err := signature.Open(trustOf(c.Trust), h.log)
	if err != nil {
		return err
	}
	if h.decisions, err = openDecisions(c.DecisionLog, h.log); err != nil {
		return err
	}
	h.closers = append(h.closers, h.closeDecisions)
	h.measured = proxy.NewMetrics(h.metrics)
	h.gateway = &proxy.Gateway{
		Store: h.store, Blobs: h.blobs, Scanner: h.scanner, Policy: h.policies[c.Policy.Dir], Trust: trust, Decisions: h.decisions, Auth: callers,
		Access: accessOf(c.Auth), Limits: limit.New(limitsOf(c.Limits)), Gate: gateOf(c.Gate), Metrics: h.measured, Log: h.log, AccessLog: c.Log.Requests,
	}
	if h.tracing != nil {
		h.gateway.Trace = h.tracing.pull
	}
	if h.local != nil {
		h.gateway.Replica = replicaName()
	}
	if err := h.openObjects(); err != nil {
		return err
	}
	if h.objects != nil {
		h.gateway.Objects = h.objects
	}
	if h.gateway.Upstreams, err = h.upstreams(c, nil); err != nil {
		return err
	}
	if err := h.gateway.Start(); err != nil {
		return err
	}
	h.closers = append(h.closers, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), c.Gate.Drain)
		defer cancel()
		return h.gateway.Close(ctx)
	})
	return nil
}

func trustOf(c configs.Trust) signature.Config {
	t := signature.Config{RootFile: c.RootFile, IgnoreTlog: c.IgnoreTlog, IgnoreCTLog: c.IgnoreCTLog, CurrentTime: c.CurrentTime}
	for _, k := range c.Keys {
		t.Keys = append(t.Keys, signature.Key{Name: k.Name, File: k.File})
	}
	for _, i := range c.Identities {
		t.Identities = append(t.Identities, signature.Identity{Issuer: i.Issuer, Subject: i.Subject, Pattern: i.Pattern})
	}
	return t
}

func gateOf(c configs.Gate) proxy.Gate {
	g := proxy.DefaultGate()
	g.Strict = c.Strict
	g.ManifestWait, g.HeaderWait, g.Drip, g.HoldCap = c.ManifestWait, c.HeaderWait, c.Drip, c.HoldCap
	g.TagTTL, g.StaleTags, g.NegativeTTL, g.RelationTTL = c.TagTTL, c.StaleTags, c.NegativeTTL, c.RelationTTL
	g.Pulls = c.Pulls
	return g
}

// registry returns the reader of an upstream, with the pull token in force for it.
func (h *house) registry(u configs.Upstream) (*upstream.Registry, error) {
	r := newRegistry(u, h.log)
	var err error
	if r.RootCAs, err = authorities(u); err != nil {
		return nil, err
	}
	r.Credentials = h.connections.For(u.Name)
	if h.measured != nil { // which it is in a gateway
		r.Observe = h.measured.ObserveUpstream(u.Name)
	}
	r.Refused = func(ctx context.Context, c upstream.Credentials, unauthorized bool, try func(context.Context, upstream.Credentials) error) bool {
		return h.connections.Refused(ctx, u.Name, c, unauthorized, try)
	}
	return r, nil
}

func newRegistry(u configs.Upstream, log *slog.Logger) *upstream.Registry {
	return &upstream.Registry{Name: u.Name, URL: u.URL, RealmHosts: u.RealmHosts, RedirectHosts: u.RedirectHosts, UserAgent: "sluice/" + strings.Trim(versionText(), "()"), Log: log, Limit: requestsOf(u)}
}

// requestsOf returns the limit on requests to an upstream, nil for none. A second's worth
// may come at once.
func requestsOf(u configs.Upstream) *rate.Limiter {
	if u.Requests == 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(u.Requests), u.Requests)
}

func authorities(u configs.Upstream) (*x509.CertPool, error) {
	return certificates("upstream "+u.Name, u.CAFile)
}

// certificates reads the authorities of whose says, nil for the system's.
func certificates(whose, file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("ca_file of %s: %w", whose, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca_file of %s: no PEM certificate in %s", whose, file)
	}
	return pool, nil
}

// newLog returns the log that a configuration asks for, to standard error, and sets level,
// by which it can be changed.
func newLog(c configs.Log, level *slog.LevelVar) *slog.Logger {
	level.Set(levelOf(c))
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, o))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, o))
}

func levelOf(c configs.Log) (level slog.Level) {
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		return slog.LevelInfo
	}
	return level
}
