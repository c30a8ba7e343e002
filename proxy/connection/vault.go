package connection

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/cache/audit"
	"github.com/sluicegate/sluice/proxy/upstream"
)

// Kind is the kind of the Store's map of sealed pull tokens, a field an upstream.
const Kind cache.Kind = "connection"

// Sources of credentials, as Info names them.
const (
	SourceEnvironment = "environment"
	SourceFile        = "file"
	SourceStore       = "store"
	SourceOIDC        = "oidc" // an Exchange
	SourceNone        = "none" // anonymous
)

const (
	freshFor    = time.Second      // for which what was read is used; so soon is a new token in force
	staleFor    = 5 * time.Minute  // for which it still is when its source can't be read
	readTimeout = 10 * time.Second // of one reading of the Store
)

// A Vault holds the pull tokens of all upstreams. Its fields are its configuration
// and may not change once a method was called, but for Configure. All methods may be called
// concurrently.
type Vault struct {
	Store cache.Store
	// Key seals what is in the Store; see LoadKey.
	Key Key
	// Upstreams are the configured upstreams, by name. Credentials serves others too;
	// List shows these, and those in the Store.
	Upstreams []string
	// Files names a folder or file with credentials, by upstream. Default nil, none.
	Files map[string]string
	// Helpers are the upstreams for which a docker configuration may name a credential
	// helper, which is then run. Default nil, none.
	Helpers map[string]bool
	// Exchanges are how credentials are had without a stored token, by upstream. Default
	// nil, none.
	Exchanges map[string]*Exchange
	// Getenv is asked for the environment's credentials. Default nil, os.Getenv.
	Getenv func(string) string
	// Now is the clock. Default nil, time.Now.
	Now func() time.Time
	// Log is told of changes, and of sources that can't be read. Default nil, nothing.
	Log *slog.Logger
	// Audit keeps who set and removed what. Default nil, nothing.
	Audit *audit.Log

	reads  singleflight.Group
	mu     sync.Mutex // guards what follows, and Upstreams, Files, Helpers and Exchanges
	known  map[string]reading
	writes int // by Set and Remove; a reading that one overtook is not fresh

	exchanged map[string]exchanged
	helped    map[string]helped
	refused   map[string]refusal
}

// A reading is the credentials in force for an upstream.
type reading struct {
	creds  upstream.Credentials
	source string
	set    time.Time // when they were stored, zero for other sources
	at     time.Time // when they were last read well
	tried  time.Time // when they were last tried to read
	err    error     // of the last try
}

// record is what is sealed.
type record struct {
	Username string    `json:"username"`
	Password string    `json:"password"`
	Set      time.Time `json:"set"`
}

// Set stores credentials for an upstream, sealed, in place of any before. They are in
// force in this process when Set returns, elsewhere a second later, unless the
// environment or a file has credentials for that upstream.
func (v *Vault) Set(ctx context.Context, name string, c upstream.Credentials) error {
	return v.set(ctx, name, name, c)
}

// set seals credentials of an upstream into a field.
func (v *Vault) set(ctx context.Context, name, field string, c upstream.Credentials) error {
	if name == "" {
		return errors.New("set connection: no upstream is named")
	}
	if err := check(c); err != nil {
		return fmt.Errorf("set connection %s: %w", name, err)
	}
	defer v.forget(name)
	if err := v.put(ctx, field, record{c.Username, c.Password, v.now().UTC()}); err != nil {
		return fmt.Errorf("set connection %s: %w", name, err)
	}
	info := Describe(name, c, v.now())
	detail := info.Form + " of " + info.Username
	if !info.Expires.IsZero() {
		detail += ", ends " + info.Expires.UTC().Format(time.RFC3339)
	}
	action := "connection.set"
	if isNext(field) {
		action = "connection.set-next"
	}
	return v.Audit.Write(ctx, action, name, detail)
}

// Sources are where the credentials of upstreams come from: Upstreams, Files, Helpers and
// Exchanges of a Vault.
type Sources struct {
	Upstreams []string
	Files     map[string]string
	Helpers   map[string]bool
	Exchanges map[string]*Exchange
}

// Configure puts other sources in force, in a running gateway.
func (v *Vault) Configure(s Sources) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.Upstreams, v.Files, v.Helpers, v.Exchanges = s.Upstreams, s.Files, s.Helpers, s.Exchanges
	v.exchanged, v.helped = nil, nil
	for name, r := range v.known {
		r.tried = time.Time{} // so that it is read anew
		v.known[name] = r
	}
}

// Remove removes the stored credentials of an upstream, the next ones too; that there are none is no
// error. What the environment or a file holds stays in force.
func (v *Vault) Remove(ctx context.Context, name string) error {
	defer v.forget(name)
	for _, field := range []string{nextPrefix + name, name} {
		if err := v.Store.DeleteField(ctx, storeKey(), field); err != nil {
			return fmt.Errorf("remove connection %s: %w", name, err)
		}
	}
	return v.Audit.Write(ctx, "connection.remove", name, "")
}

// Credentials returns the credentials in force for an upstream, anonymous where no
// source has any. The sources are read at most once a second. One that can't be read
// leaves the last credentials in force for five minutes; then, or where there were
// none, it is an error.
func (v *Vault) Credentials(ctx context.Context, name string) (upstream.Credentials, error) {
	r, err := v.current(ctx, name)
	return r.creds, err
}

// For returns Credentials for one upstream, as upstream.Registry takes it.
func (v *Vault) For(name string) func(context.Context) (upstream.Credentials, error) {
	return func(ctx context.Context) (upstream.Credentials, error) { return v.Credentials(ctx, name) }
}

// List describes the connection of each configured upstream and of each that is in
// the Store, by name. An entry whose credentials can't be read has a Problem.
func (v *Vault) List(ctx context.Context) ([]Info, error) {
	stored, err := v.Store.Fields(ctx, storeKey())
	if err != nil {
		return nil, fmt.Errorf("list connections: %w", err)
	}
	maps.DeleteFunc(stored, func(field string, _ []byte) bool { return isNext(field) })
	v.mu.Lock()
	names := slices.Concat(v.Upstreams, slices.Collect(maps.Keys(stored)), slices.Collect(maps.Keys(v.Files)))
	v.mu.Unlock()
	slices.Sort(names)
	list := []Info{}
	for _, name := range slices.Compact(names) {
		info, err := v.Info(ctx, name)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("list connections: %w", ctx.Err())
		}
		if err != nil {
			info.Problem = err.Error()
		}
		list = append(list, info)
	}
	return list, nil
}

// Info describes the connection in force for an upstream, as read now.
func (v *Vault) Info(ctx context.Context, name string) (Info, error) {
	v.forget(name)
	r, err := v.current(ctx, name)
	info := Describe(name, r.creds, v.now())
	info.Source, info.Set = r.source, r.set
	if r.source == SourceStore {
		info.Next = v.nextInfo(ctx, name)
	}
	if err == nil && r.err != nil {
		info.Problem = r.err.Error() + "; what was read before stays in force for a while"
	}
	return info, err
}

// current returns the reading of an upstream, read anew when it is a second old.
func (v *Vault) current(ctx context.Context, name string) (reading, error) {
	if r, ok := v.fresh(name); ok {
		return r.usable(v.now())
	}
	flight := v.reads.DoChan(name, func() (any, error) {
		if r, ok := v.fresh(name); ok { // of a flight that landed since
			return r, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
		defer cancel()
		return v.refresh(ctx, name), nil
	})
	select {
	case res := <-flight:
		return res.Val.(reading).usable(v.now())
	case <-ctx.Done():
		return reading{source: SourceNone}, ctx.Err()
	}
}

// fresh returns the reading of an upstream where it is younger than a second.
func (v *Vault) fresh(name string) (reading, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	r, ok := v.known[name]
	return r, ok && v.now().Sub(r.tried).Abs() < freshFor
}

// usable returns r where its credentials may be used at now.
func (r reading) usable(now time.Time) (reading, error) {
	if r.err != nil && (r.at.IsZero() || now.Sub(r.at) > staleFor) {
		return reading{source: r.source}, r.err
	}
	return r, nil
}

// refresh reads an upstream's sources and remembers what came of it.
func (v *Vault) refresh(ctx context.Context, name string) reading {
	v.mu.Lock()
	old, had := v.known[name]
	writes := v.writes
	v.mu.Unlock()
	creds, source, set, err := v.read(ctx, name)
	now := v.now()
	r := reading{creds: creds, source: source, set: set, at: now, tried: now}
	if err != nil {
		r = old
		r.err, r.tried = err, now
		if r.source == "" {
			r.source = source
		}
		switch {
		case !had:
			v.log().Error("credentials can't be read", "upstream", name, "source", source, "error", err)
		case old.err == nil:
			v.log().Warn("credentials can't be read; the last ones stay in force for a while", "upstream", name, "source", source, "error", err)
		}
	} else if had && old.creds != creds {
		v.log().Info("credentials changed", "upstream", name, "source", source, "username", creds.Username)
		v.auditChange(ctx, name, source, old, creds)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.known == nil {
		v.known = map[string]reading{}
	}
	if v.writes != writes {
		r.tried = time.Time{}
	}
	v.known[name] = r
	return r
}

// auditChange keeps that credentials have changed which nobody has set here: those of a file.
func (v *Vault) auditChange(ctx context.Context, name, source string, old reading, now upstream.Credentials) {
	if source != SourceFile && old.source != SourceFile {
		return
	}
	if err := v.Audit.Write(ctx, "connection.changed", name, "from "+old.source+" to "+source+", of "+cmp.Or(now.Username, "nobody")); err != nil {
		v.log().Error("the change can't be written to the audit log", "upstream", name, "error", err)
	}
}

// read asks the sources of an upstream in their order.
func (v *Vault) read(ctx context.Context, name string) (c upstream.Credentials, source string, set time.Time, err error) {
	getenv := v.Getenv
	if getenv == nil {
		getenv = os.Getenv
	}
	if c, err = fromEnv(getenv, name); err != nil || !c.Anonymous() {
		return c, SourceEnvironment, set, err
	}
	v.mu.Lock()
	path := v.Files[name]
	v.mu.Unlock()
	if path != "" {
		c, err = v.fromFile(ctx, path, name)
		return c, SourceFile, set, err
	}
	v.mu.Lock()
	x := v.Exchanges[name]
	v.mu.Unlock()
	if x != nil {
		c, err = v.exchange(ctx, name, x)
		return c, SourceOIDC, set, err
	}
	rec, err := v.stored(ctx, name)
	if err != nil {
		return c, SourceStore, set, fmt.Errorf("stored connection %s: %w", name, err)
	}
	if rec == nil {
		return c, SourceNone, set, nil
	}
	rec = v.ended(ctx, name, rec)
	return upstream.Credentials{Username: rec.Username, Password: rec.Password}, SourceStore, rec.Set, nil
}

// fromFile is fromFile, with the help of a credential helper where that is allowed.
func (v *Vault) fromFile(ctx context.Context, path, name string) (upstream.Credentials, error) {
	c, err := fromFile(path, name)
	var left *helperError
	v.mu.Lock()
	known, may := v.helped[name], v.Helpers[name]
	v.mu.Unlock()
	if !errors.As(err, &left) || !may {
		return c, err
	}
	if known.helper == left.helper && v.now().Sub(known.at) < helperFor {
		return known.creds, nil
	}
	if c, err = fromHelper(ctx, left.helper, name); err != nil {
		return c, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.helped == nil {
		v.helped = map[string]helped{}
	}
	v.helped[name] = helped{left.helper, c, v.now()}
	return c, nil
}

// helped is what a credential helper said.
type helped struct {
	helper string
	creds  upstream.Credentials
	at     time.Time
}

// stored returns what is sealed in a field, the name of an upstream or nextPrefix and that;
// nil where nothing is.
func (v *Vault) stored(ctx context.Context, field string) (*record, error) {
	fields, err := v.Store.Fields(ctx, storeKey())
	if err != nil || fields[field] == nil {
		return nil, err
	}
	plain, err := v.Key.unseal(field, fields[field])
	if err != nil {
		return nil, err
	}
	var rec record
	if json.Unmarshal(plain, &rec) != nil { // its error could quote a password
		return nil, errors.New("the stored record is damaged; set the connection again")
	}
	return &rec, nil
}

// forget has the next reading of an upstream ask its sources.
func (v *Vault) forget(name string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.writes++
	if r, ok := v.known[name]; ok {
		r.tried = time.Time{}
		v.known[name] = r
	}
	v.reads.Forget(name) // a reading under way may have seen what was before
}

func storeKey() cache.Key { return cache.Name(Kind, "all") }

func (v *Vault) now() time.Time {
	if v.Now != nil {
		return v.Now()
	}
	return time.Now()
}

func (v *Vault) log() *slog.Logger {
	if v.Log != nil {
		return v.Log
	}
	return slog.New(slog.DiscardHandler)
}
