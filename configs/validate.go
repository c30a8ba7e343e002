package configs

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Validate returns every problem of c at once, one a line, each naming its key, or nil.
// It looks at nothing but c: whether files exist shows when they are opened.
func (c Config) Validate() error {
	v := &validation{}
	v.address("listen", c.Listen)
	if c.AdminListen != "" {
		v.address("admin_listen", c.AdminListen)
		v.check(c.AdminListen != c.Listen || strings.HasSuffix(c.Listen, ":0"), "admin_listen", "is the address of listen too, choose another port")
	}
	v.check((c.TLS.CertFile == "") == (c.TLS.KeyFile == ""), "tls", "needs both cert_file and key_file, or neither")
	v.store(c.Store, c.Redis)
	v.objects(c.Objects)
	v.check(c.TLS.ClientCAFile == "" || c.TLS.CertFile != "", "tls.client_ca_file", "needs cert_file and key_file: clients show their certificates in TLS")
	v.auth(c)
	v.limits(c.Limits)
	v.upstreams(c)
	v.gate(c.Gate, c.Upstreams)
	v.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	v.oneOf("log.format", c.Log.Format, "text", "json")
	v.database(c.Database)
	v.check(c.Policy.WaiverMax == 0 || c.Policy.WaiverMax >= time.Minute, "policy.waiver_max", "must be 0 (no limit) or at least 1m, not %s", c.Policy.WaiverMax)
	v.bundle(c)
	v.decisionLog(c.DecisionLog)
	v.check(!slices.Contains(c.Policy.VEX, ""), "policy.vex", "holds an empty name")
	v.webhooks(c.Webhooks)
	v.trust(c.Trust)
	v.bounds(c)
	v.add(CheckListen(c.Listen, c.TLS.CertFile != "", c.KnowsCallers(), c.AllowPlainHTTP, c.AllowAnonymous))
	return errors.Join(v.problems...)
}

// CheckListen returns an error that says which keys to set where a gateway must not
// start: it would listen off loopback without TLS, or without a way to know its
// callers, and nobody said in so many words that it should. addr is HOST:PORT; a host
// that is a name other than localhost counts as off loopback.
func CheckListen(addr string, tls, callers, allowPlain, allowAnonymous bool) error {
	if Loopback(addr) {
		return nil
	}
	var missing []string
	if !tls && !allowPlain {
		missing = append(missing, "without TLS: set tls.cert_file and tls.key_file, or allow_plain_http: true where something in front of it ends TLS")
	}
	if !callers && !allowAnonymous {
		missing = append(missing, "without knowing its callers: set auth.htpasswd_file, auth.oidc or tls.client_ca_file, or allow_anonymous: true to let everyone who reaches it pull")
	}
	if missing == nil {
		return nil
	}
	return fmt.Errorf("listen: %s is not loopback, and the gateway does not stand on a network %s", addr, strings.Join(missing, "; nor "))
}

// Loopback reports whether addr, HOST:PORT, can be reached from this machine alone.
func Loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

type validation struct{ problems []error }

func (v *validation) add(err error) {
	if err != nil {
		v.problems = append(v.problems, err)
	}
}

func (v *validation) check(ok bool, key, format string, args ...any) {
	if !ok {
		v.add(fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
	}
}

func (v *validation) oneOf(key, value string, allowed ...string) {
	v.check(slices.Contains(allowed, value), key, "must be one of %s, not %q", strings.Join(allowed, ", "), value)
}

// between checks lo <= d <= hi.
func (v *validation) between(key string, d, lo, hi time.Duration) {
	v.check(d >= lo && d <= hi, key, "must be from %s to %s, not %s", lo, hi, d)
}

func (v *validation) address(key, addr string) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		v.add(fmt.Errorf("%s: %q is no address: write HOST:PORT, such as 127.0.0.1:8080 or :8443", key, addr))
		return
	}
	_, err = strconv.ParseUint(port, 10, 16)
	v.check(err == nil, key, "the port of %q must be a number from 0 to 65535", addr)
}

func (v *validation) store(store string, r Redis) {
	if store == "" {
		v.check(r == Redis{}, "redis", "has settings, and store is no Redis; set store to redis://HOST:PORT/DB")
		return
	}
	u, err := url.Parse(store)
	if err != nil || u.Host == "" || !slices.Contains(redisSchemes, strings.Replace(u.Scheme, "rediss", "redis", 1)) {
		// Not quoted: it may hold a password.
		v.add(errors.New(`store: must be "" for a file in state_dir, or redis://HOST:PORT/DB, redis-cluster://HOST:PORT,HOST:PORT or ` +
			`redis-sentinel://HOST:PORT,HOST:PORT/MASTER/DB, each with rediss for TLS`))
		return
	}
	_, secret := u.User.Password()
	v.check(!secret, "store", "holds a password: remove it here, and put it into the environment as %s, or into a file for redis.password_file", EnvRedisPassword)
	secure := strings.HasPrefix(u.Scheme, "rediss")
	v.check(secure || r.CAFile == "" && r.ServerName == "" && r.CertFile == "" && r.KeyFile == "", "redis", "has settings for TLS, and store is not rediss")
	v.check((r.CertFile == "") == (r.KeyFile == ""), "redis", "needs both cert_file and key_file, or neither")
	v.check(r.SentinelPasswordFile == "" || strings.HasSuffix(u.Scheme, "-sentinel"), "redis.sentinel_password_file", "is for a store behind Sentinels (redis-sentinel://)")
	v.check(r.Timeout >= 0, "redis.timeout", "must not be below 0")
	v.check(r.Connections >= 0, "redis.connections", "must not be below 0")
}

func (v *validation) objects(o Objects) {
	if o.URL == "" {
		v.check(o == Objects{}, "objects", "has settings, and objects.url is not set; write https://HOST/BUCKET")
		return
	}
	v.webURL("objects.url", o.URL, "use objects.access_key")
	u, err := url.Parse(o.URL)
	v.check(err != nil || strings.Trim(u.Path, "/") != "", "objects.url", "names no bucket: write https://HOST/BUCKET")
	v.check(o.AccessKey != "" || o.SecretKeyFile == "", "objects.secret_key_file", "belongs to objects.access_key, which is not set")
}

// redisSchemes are those of a store without TLS.
var redisSchemes = []string{"redis", "redis-cluster", "redis-sentinel"}

func (v *validation) upstreams(c Config) {
	seen := map[string]bool{}
	for i, u := range c.Upstreams {
		key := fmt.Sprintf("upstreams[%d]", i)
		v.check(hostPort(u.Name), key+".name", "%q is no registry's host, such as cgr.dev or registry.example.com:5000", u.Name)
		v.check(!seen[u.Name], key+".name", "%s is listed twice", u.Name)
		seen[u.Name] = true
		v.webURL(key+".url", u.URL, "use `sluice connection set`")
		for _, h := range u.RealmHosts {
			v.check(hostPort(h), key+".realm_hosts", "%q is no host: write it without https:// and path", h)
		}
		for _, h := range u.RedirectHosts {
			v.check(hostPort(h), key+".redirect_hosts", "%q is no host: write it without https:// and path", h)
		}
		if u.TagTTL != nil {
			v.between(key+".tag_ttl", *u.TagTTL, 0, 30*24*time.Hour)
		}
		v.globs(key+".allow", u.Name, u.Allow)
		v.globs(key+".deny", u.Name, u.Deny)
		v.check(!u.CredentialHelpers || u.CredentialsDir != "", key+".credential_helpers", "is for the docker configuration in credentials_dir, which is not set")
		v.check((u.OIDC.TokenFile == "") == (u.OIDC.Identity == ""), key+".oidc", "needs both token_file and identity, or neither")
		v.check(u.OIDC.TokenFile != "" || u.OIDC == (Exchange{}), key+".oidc", "has settings, and token_file is not set")
		v.secureURL(key+".oidc.issuer", u.OIDC.Issuer, false)
		v.check(u.Requests >= 0, key+".requests", "must be 0 (as many as need be) or more, not %d", u.Requests)
	}
	v.check(seen[c.DefaultUpstream], "default_upstream", "%q is not the name of any of upstreams", c.DefaultUpstream)
}

// What a glob over repositories may be made of: what their names are, and wildcards.
var globForm = regexp.MustCompile(`^[a-z0-9._*?-]+(/[a-z0-9._*?-]+)*$`)

// globs refuses what can match no repository: in deny it would let through what it is
// there to stop.
func (v *validation) globs(key, upstream string, globs []string) {
	for _, g := range globs {
		rest, named := strings.CutPrefix(g, upstream+"/")
		switch {
		case named:
			v.check(false, key, "%q matches no repository: leave out the upstream's name and write %q", g, rest)
		case len(g) > 255 || !globForm.MatchString(g):
			v.check(false, key, "%.60q is no glob over names of repositories, such as acme/* or acme/**", g)
		}
	}
}

// webURL checks the URL of a web server. secrets says where credentials go.
func (v *validation) webURL(key, s, secrets string) {
	if s == "" {
		return
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		v.add(fmt.Errorf("%s: must be a URL that begins with https:// or http://", key))
		return
	}
	v.check(u.User == nil, key, "holds credentials: remove them here, and %s", secrets)
	v.check(u.RawQuery == "" && u.Fragment == "", key, "must end with the path, without ? and #")
}

func (v *validation) gate(g Gate, upstreams []Upstream) {
	v.oneOf("gate.mode", g.Mode, "enforce", "warn", "dry-run", "off")
	for i, r := range g.Modes {
		key := fmt.Sprintf("gate.modes[%d]", i)
		v.oneOf(key+".mode", r.Mode, "enforce", "warn", "dry-run", "off")
		v.check(r != ModeRule{Mode: r.Mode}, key, "names none of policy, upstream and repository: what is for all is gate.mode")
		known := slices.ContainsFunc(upstreams, func(u Upstream) bool { return u.Name == r.Upstream })
		v.check(r.Upstream == "" || known, key+".upstream", "%q is none of upstreams", r.Upstream)
		if r.Repository != "" {
			v.check(len(r.Repository) <= 512 && globForm.MatchString(r.Repository), key+".repository", "%.60q is no glob over names of repositories, such as acme/* or acme/**", r.Repository)
		}
	}
	v.between("gate.header_wait", g.HeaderWait, 0, 25*time.Second)
	v.between("gate.manifest_wait", g.ManifestWait, 0, min(g.HeaderWait, 25*time.Second))
	v.between("gate.drip", g.Drip, 100*time.Millisecond, 9*time.Second)
	v.between("gate.hold_cap", g.HoldCap, time.Second, 5*time.Minute-time.Second)
	v.between("gate.tag_ttl", g.TagTTL, 0, 30*24*time.Hour)
	v.between("gate.stale_tags", g.StaleTags, 0, 365*24*time.Hour)
	v.between("gate.negative_ttl", g.NegativeTTL, 0, time.Hour)
	v.between("gate.relation_ttl", g.RelationTTL, time.Hour, 5*365*24*time.Hour)
	v.between("gate.drain", g.Drain, 0, time.Hour)
	v.check(g.Pulls >= 1 && g.Pulls <= 1024, "gate.pulls", "must be from 1 to 1024, not %d", g.Pulls)
}

func (v *validation) database(d Database) {
	v.webURL("database.url", d.URL, "put the whole URL into the environment as "+EnvDatabaseURL)
	v.check(d.UpdateEvery == 0 || d.UpdateEvery >= time.Minute, "database.update_every", "must be 0 (never) or at least 1m, not %s", d.UpdateEvery)
	v.check(d.MaxAge >= 0, "database.max_age", "must be 0 (no limit) or longer, not %s", d.MaxAge)
}

func (v *validation) bounds(c Config) {
	l := c.Scan.Limits
	for _, s := range []struct {
		key  string
		size Size
	}{
		{"spool.blobs_quota", c.Spool.BlobsQuota},
		{"spool.layers_quota", c.Spool.LayersQuota},
		{"scan.limits.layer_compressed", l.LayerCompressed},
		{"scan.limits.layer_uncompressed", l.LayerUncompressed},
		{"scan.limits.image_uncompressed", l.ImageUncompressed},
	} {
		v.check(s.size >= MiB, s.key, "must be at least 1MiB, not %s", s.size)
	}
	v.check(l.LayerCompressed <= c.Spool.BlobsQuota, "scan.limits.layer_compressed", "is %s, which spool.blobs_quota of %s can't hold", l.LayerCompressed, c.Spool.BlobsQuota)
	v.check(l.LayerUncompressed <= l.ImageUncompressed, "scan.limits.layer_uncompressed", "is %s, more than image_uncompressed of %s", l.LayerUncompressed, l.ImageUncompressed)
	v.check(l.ImageUncompressed <= c.Spool.LayersQuota, "scan.limits.image_uncompressed", "is %s, which spool.layers_quota of %s can't hold", l.ImageUncompressed, c.Spool.LayersQuota)
	v.check(l.LayerEntries >= 1, "scan.limits.layer_entries", "must be at least 1, not %d", l.LayerEntries)
	v.check(l.Ratio >= 2, "scan.limits.ratio", "must be at least 2, not %d", l.Ratio)
	v.check(c.Scan.Workers >= 0 && c.Scan.Workers <= 256, "scan.workers", "must be from 0 (as many as the machine carries) to 256, not %d", c.Scan.Workers)
	v.check(c.Scan.WorkerMemory == 0 || c.Scan.WorkerMemory >= 256*MiB, "scan.worker_memory", "must be 0 (what the machine carries) or at least 256MiB, not %s", c.Scan.WorkerMemory)
	v.check(c.Scan.WorkerTemp >= 64*MiB, "scan.worker_temp", "must be at least 64MiB, not %s", c.Scan.WorkerTemp)
	v.between("scan.timeout", c.Scan.Timeout, time.Second, 24*time.Hour)
}

// hostPort reports whether s is a host name or address in lower case, with or
// without a port: what stands before the first slash of an image reference.
func hostPort(s string) bool {
	if s == "" || len(s) > 255 || strings.ContainsAny(s, "/@?#% \\") || s != strings.ToLower(s) {
		return false
	}
	u, err := url.Parse("https://" + s)
	return err == nil && u.Host == s && u.Hostname() != "" && !strings.HasSuffix(s, ":")
}
