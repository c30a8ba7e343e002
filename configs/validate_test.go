package configs

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestValidate(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Config)
		want   []string // beginnings of the problems, in order; none is valid
	}{
		{"defaults", func(*Config) {}, nil},
		{"admin off", func(c *Config) { c.AdminListen = "" }, nil},
		{"both on port 0", func(c *Config) { c.Listen, c.AdminListen = "127.0.0.1:0", "127.0.0.1:0" }, nil},
		{"redis", func(c *Config) { c.Store = "redis://r:6379/1" }, nil},
		{"redis user", func(c *Config) { c.Store = "rediss://sluice@r:6379" }, nil},
		{"every zero that means never", func(c *Config) {
			c.Gate.TagTTL, c.Gate.StaleTags, c.Gate.NegativeTTL, c.Gate.ManifestWait, c.Database.UpdateEvery, c.Database.MaxAge = 0, 0, 0, 0, 0, 0
		}, nil},
		{"upstream with port", func(c *Config) {
			c.DefaultUpstream = "127.0.0.1:5000"
			c.Upstreams = []Upstream{{Name: "127.0.0.1:5000", URL: "http://127.0.0.1:5000"}, {Name: "localhost"}}
		}, nil},

		{"webhooks", func(c *Config) {
			s := time.Second
			c.Webhooks = []Webhook{{URL: "https://a.example/x?k=v", SecretFile: "s", Types: []string{"verdict.*"}, Timeout: &s}, {URL: "http://127.0.0.1:1/", SecretFile: "s"}, {URL: "http://b", SecretFile: "s", AllowPlainHTTP: true}}
		}, nil},
		{"webhooks that are none", func(c *Config) {
			long := time.Hour
			c.Webhooks = []Webhook{{URL: "a.example/secret", SecretFile: "s"}, {URL: "http://a.example", SecretFile: "s"}, {URL: "https://u:secret@a.example#x", SecretFile: "s"},
				{URL: "https://b", Types: []string{"Verdict"}, Timeout: &long}, {URL: "https://b", SecretFile: "s"}}
		}, []string{"webhooks[0].url: is no URL: write https://HOST/PATH", "webhooks[1].url: is not https", "webhooks[2].url: holds a password", "webhooks[2].url: must end before #",
			"webhooks[3].secret_file: is missing", `webhooks[3].types: "Verdict" is no glob`, "webhooks[3].timeout: must be from 1s to 1m0s", "webhooks[4].url: is listed twice"}},
		{"too many webhooks", func(c *Config) {
			for i := range 17 {
				c.Webhooks = append(c.Webhooks, Webhook{URL: "https://a/" + strings.Repeat("x", i), SecretFile: "s"})
			}
		}, []string{"webhooks: are 17, at most 16"}},
		{"a decision log", func(c *Config) {
			c.DecisionLog = DecisionLog{File: "-", URL: "https://logs.example", TokenFile: "t", Allows: 0.5}
		}, nil},
		{"a Redis for nobody", func(c *Config) { c.Redis.Username = "sluice" }, []string{"redis: has settings, and store is no Redis"}},
		{"TLS without TLS", func(c *Config) { c.Store, c.Redis.CAFile = "redis-cluster://a:1,b:2", "ca.pem" }, []string{"redis: has settings for TLS, and store is not rediss"}},
		{"Sentinels that are none", func(c *Config) { c.Store, c.Redis.SentinelPasswordFile = "redis://a", "p" }, []string{"redis.sentinel_password_file: is for a store behind Sentinels"}},
		{"half a certificate", func(c *Config) { c.Store, c.Redis.CertFile = "rediss-sentinel://a,b/m", "c.pem" }, []string{"redis: needs both cert_file and key_file"}},
		{"more than all", func(c *Config) { c.DecisionLog.Allows = 1.5 }, []string{"decision_log.allows: must be from 0 to 1"}},
		{"decisions for everyone on the way", func(c *Config) { c.DecisionLog.URL = "http://logs.example" }, []string{"decision_log.url: is not https"}},
		{"a collector that is none", func(c *Config) { c.DecisionLog.URL = "logs.example" }, []string{"decision_log.url: is no URL"}},
		{"a token for nobody", func(c *Config) { c.DecisionLog.TokenFile = "t" }, []string{"decision_log: has a ca_file or a token_file"}},
		{"a bundle of a server", func(c *Config) {
			c.Policy.Bundle.Source, c.Policy.Bundle.TokenFile = "https://policies.example/b.tar.gz", "t"
			c.Policy.Bundle.Keys = []BundleKey{{Name: "a", File: "a.pem"}, {Name: "b", File: "b.pem"}}
		}, nil},
		{"a bundle of a registry", func(c *Config) { c.Policy.Bundle.Source = "oci://cgr.dev/acme/policies@sha256:0" }, nil},
		{"a bundle in a file", func(c *Config) { c.Policy.Bundle.Source = "b.tar.gz" }, nil},
		{"a bundle beside a folder", func(c *Config) { c.Policy.Bundle.Source, c.Policy.Dir = "b.tar.gz", "d" }, []string{"policy.bundle: stands beside policy.dir"}},
		{"keys of no bundle", func(c *Config) { c.Policy.Bundle.Keys = []BundleKey{{Name: "a", File: "a.pem"}} }, []string{"policy.bundle: has settings and no source"}},
		{"keys that nobody can tell apart", func(c *Config) {
			c.Policy.Bundle = Bundle{Source: "b", Every: time.Minute, Keys: []BundleKey{{Name: "a", File: "a.pem"}, {Name: "a", File: "b.pem"}, {}}}
		}, []string{"policy.bundle.keys[1]: has the name", "policy.bundle.keys[2]: needs a name", "policy.bundle.keys[2]: needs a file"}},
		{"a bundle that anybody can change", func(c *Config) { c.Policy.Bundle.Source = "http://policies.example/b.tar.gz" }, []string{"policy.bundle.source: is not https"}},
		{"a password in a bundle's URL", func(c *Config) { c.Policy.Bundle.Source = "https://u:secret@policies.example/b" }, []string{"policy.bundle.source: holds a password"}},
		{"a bundle of nowhere", func(c *Config) { c.Policy.Bundle.Source = "oci://ghcr.io/acme/policies:v1" }, []string{`policy.bundle.source: is in "ghcr.io", which is none of upstreams`}},
		{"a bundle without a repository", func(c *Config) { c.Policy.Bundle.Source = "oci://cgr.dev" }, []string{"policy.bundle.source: \"oci://cgr.dev\" is no artifact"}},
		{"a bundle by another way", func(c *Config) { c.Policy.Bundle.Source = "s3://b/b.tar.gz" }, []string{"policy.bundle.source: \"s3://b/b.tar.gz\" is neither"}},
		{"a bundle asked for all the time", func(c *Config) { c.Policy.Bundle.Source, c.Policy.Bundle.Every = "b", 0 }, []string{"policy.bundle.every: must be"}},
		{"a token for a registry's bundle", func(c *Config) { c.Policy.Bundle.Source, c.Policy.Bundle.TokenFile = "oci://cgr.dev/a/b", "t" }, []string{"policy.bundle: has a ca_file or a token_file"}},

		{"no address", func(c *Config) { c.Listen = "8080" }, []string{`listen: "8080" is no address`, `listen: 8080 is not loopback`}},
		{"named port", func(c *Config) { c.AdminListen = "127.0.0.1:http" }, []string{`admin_listen: the port of`}},
		{"one port twice", func(c *Config) { c.AdminListen = c.Listen }, []string{"admin_listen: is the address of listen"}},
		{"certificate without key", func(c *Config) { c.TLS.CertFile = "c" }, []string{"tls: needs both"}},
		{"key without certificate", func(c *Config) { c.TLS.KeyFile = "k" }, []string{"tls: needs both"}},
		{"store of another kind", func(c *Config) { c.Store = "postgres://u:secret@db" }, []string{"store: must be"}},
		{"store that is no URL", func(c *Config) { c.Store = "redis://:secret@%zz" }, []string{"store: must be"}},
		{"password in store", func(c *Config) { c.Store = "redis://u:secret@r" }, []string{"store: holds a password: remove it here, and put it into the environment as SLUICE_REDIS_PASSWORD"}},
		{"groups without callers", func(c *Config) { c.Auth.GroupsFile = "g" }, []string{"auth.groups_file: has groups of callers that nobody knows"}},
		{"objects without a place", func(c *Config) { c.Objects.Region = "eu-1" }, []string{"objects: has settings, and objects.url is not set"}},
		{"objects without a bucket", func(c *Config) { c.Objects.URL = "https://s3.example.com/" }, []string{"objects.url: names no bucket"}},
		{"objects with a secret", func(c *Config) { c.Objects.URL = "https://u:secret@s3.example.com/b" }, []string{"objects.url: holds credentials: remove them here"}},
		{"no upstreams", func(c *Config) { c.Upstreams = nil }, []string{`default_upstream: "cgr.dev" is not the name`}},
		{"upstream twice", func(c *Config) { c.Upstreams = append(c.Upstreams, c.Upstreams[0]) }, []string{"upstreams[1].name: cgr.dev is listed twice"}},
		{"upstream names that are none", func(c *Config) {
			for _, n := range []string{"", "https://ghcr.io", "ghcr.io/acme", "GHCR.io", "u@ghcr.io", "ghcr.io:", "a b", ":80"} {
				c.Upstreams = append(c.Upstreams, Upstream{Name: n})
			}
		}, []string{"upstreams[1].name", "upstreams[2].name", "upstreams[3].name", "upstreams[4].name", "upstreams[5].name", "upstreams[6].name", "upstreams[7].name", "upstreams[8].name"}},
		{"upstream URLs that are none", func(c *Config) {
			c.Upstreams[0].URL = "cgr.dev"
			c.Upstreams = append(c.Upstreams, Upstream{Name: "a", URL: "https://u:secret@a"}, Upstream{Name: "b", URL: "https://b?x=1"})
		}, []string{"upstreams[0].url: must be a URL", "upstreams[1].url: holds credentials", "upstreams[2].url: must end with the path"}},
		{"redirect host", func(c *Config) {
			c.Upstreams[0].RedirectHosts = []string{"s3.example.com:9000", "https://s3.example.com"}
		}, []string{`upstreams[0].redirect_hosts: "https://s3.example.com" is no host`}},
		{"realm host", func(c *Config) { c.Upstreams[0].RealmHosts = []string{"auth.docker.io", "https://x/token"} }, []string{`upstreams[0].realm_hosts: "https://x/token" is no host`}},
		{"globs", func(c *Config) {
			c.Upstreams[0].Allow = []string{"acme/*", "**", "a?c/**/x-*", "example.com/*"}
		}, nil},
		{"globs that match nothing", func(c *Config) {
			c.Upstreams[0].Deny = []string{"cgr.dev/acme/*", "/acme", "acme/", "Acme/*", "a//b", "", "[ab]/c", "https://x/y"}
			c.Upstreams[0].Allow = []string{"cgr.dev/**"}
		}, []string{`upstreams[0].allow: "cgr.dev/**" matches no repository: leave out the upstream's name and write "**"`,
			`upstreams[0].deny: "cgr.dev/acme/*" matches no repository: leave out the upstream's name and write "acme/*"`,
			"upstreams[0].deny: \"/acme\"", "upstreams[0].deny: \"acme/\"", "upstreams[0].deny: \"Acme/*\"", "upstreams[0].deny: \"a//b\"", "upstreams[0].deny: \"\"", "upstreams[0].deny: \"[ab]/c\"", "upstreams[0].deny: \"https://x/y\""}},
		{"an upstream's tag TTL", func(c *Config) { d := -time.Second; c.Upstreams[0].TagTTL = &d }, []string{"upstreams[0].tag_ttl: must be from 0s"}},
		{"mode of a policy", func(c *Config) { c.Gate.Modes = []ModeRule{{Policy: "x", Mode: "loud"}} }, []string{`gate.modes[0].mode: must be one of enforce, warn, dry-run, off, not "loud"`}},
		{"mode of all", func(c *Config) { c.Gate.Modes = []ModeRule{{Mode: "warn"}} }, []string{"gate.modes[0]: names none of policy, upstream and repository: what is for all is gate.mode"}},
		{"mode of nowhere", func(c *Config) { c.Gate.Modes = []ModeRule{{Upstream: "cgr.de", Mode: "warn"}} }, []string{`gate.modes[0].upstream: "cgr.de" is none of upstreams`}},
		{"mode of no glob", func(c *Config) { c.Gate.Modes = []ModeRule{{Repository: "Acme//x", Mode: "warn"}} }, []string{`gate.modes[0].repository: "Acme//x" is no glob`}},
		{"mode", func(c *Config) { c.Gate.Mode = "dryrun" }, []string{`gate.mode: must be one of enforce, warn, dry-run, off, not "dryrun"`}},
		{"waits", func(c *Config) {
			c.Gate.HeaderWait, c.Gate.ManifestWait, c.Gate.Drip, c.Gate.HoldCap = 30*time.Second, 26*time.Second, 0, 5*time.Minute
		}, []string{"gate.header_wait: must be from 0s to 25s, not 30s", "gate.manifest_wait: must be from 0s to 25s", "gate.drip", "gate.hold_cap: must be from 1s to 4m59s"}},
		{"manifest waits longer than headers", func(c *Config) { c.Gate.HeaderWait = time.Second }, []string{"gate.manifest_wait: must be from 0s to 1s, not 2s"}},
		{"negative", func(c *Config) {
			c.Gate.TagTTL, c.Gate.StaleTags, c.Gate.NegativeTTL, c.Gate.RelationTTL, c.Gate.Drain, c.Gate.Pulls = -1, -1, -1, -1, -1, -1
			c.Database.UpdateEvery, c.Database.MaxAge = -1, -1
			c.Scan.Workers, c.Scan.Timeout = -1, -1
		}, []string{"gate.tag_ttl", "gate.stale_tags", "gate.negative_ttl", "gate.relation_ttl", "gate.drain", "gate.pulls", "database.update_every", "database.max_age", "scan.workers", "scan.timeout"}},
		{"update storm", func(c *Config) { c.Database.UpdateEvery = time.Second }, []string{"database.update_every"}},
		{"waivers and VEX", func(c *Config) { c.Policy.WaiverMax, c.Policy.VEX = -1, []string{"vex", ""} }, []string{"policy.waiver_max: must be 0 (no limit)", "policy.vex: holds an empty name"}},
		{"quotas too small for the limits", func(c *Config) { c.Spool.BlobsQuota, c.Spool.LayersQuota = GiB, GiB }, []string{
			"scan.limits.layer_compressed: is 8GiB, which spool.blobs_quota of 1GiB can't hold",
			"scan.limits.image_uncompressed: is 40GiB, which spool.layers_quota of 1GiB can't hold",
		}},
		{"no bounds", func(c *Config) { c.Scan.Limits = Limits{} }, []string{
			"scan.limits.layer_compressed", "scan.limits.layer_uncompressed", "scan.limits.image_uncompressed", "scan.limits.layer_entries", "scan.limits.ratio"}},
		{"layer larger than image", func(c *Config) { c.Scan.Limits.ImageUncompressed = GiB }, []string{"scan.limits.layer_uncompressed"}},
		{"a worker without room", func(c *Config) { c.Scan.WorkerMemory, c.Scan.WorkerTemp = MiB, 0 }, []string{
			"scan.worker_memory: must be 0 (what the machine carries) or at least 256MiB, not 1MiB", "scan.worker_temp: must be at least 64MiB"}},
		{"log", func(c *Config) { c.Log = Log{Level: "trace", Format: "xml"} }, []string{"log.level", "log.format"}},
		{"on a network", func(c *Config) { c.Listen = ":8080" }, []string{"listen: :8080 is not loopback"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := with(test.change)
			err := c.Validate()
			var got []string
			if err != nil {
				got = strings.Split(err.Error(), "\n")
			}
			if len(got) != len(test.want) {
				t.Fatalf("got %d problems, want %d:\n%v", len(got), len(test.want), err)
			}
			for i, want := range test.want {
				if !strings.HasPrefix(got[i], want) {
					t.Errorf("problem %d is\n%s\nand should begin\n%s", i, got[i], want)
				}
			}
			if err != nil && strings.Contains(strings.ReplaceAll(err.Error(), "secret_file", ""), "secret") {
				t.Errorf("the error shows a password: %v", err)
			}
		})
	}
}

func TestCheckListen(t *testing.T) {
	const tlsKeys, callerKeys = "set tls.cert_file and tls.key_file, or allow_plain_http: true", "set auth.htpasswd_file, auth.oidc or tls.client_ca_file, or allow_anonymous: true"
	for _, test := range []struct {
		addr                                    string
		tls, callers, allowPlain, allowAnonymus bool
		want                                    []string // none starts
	}{
		{addr: "127.0.0.1:8080"},
		{addr: "127.9.9.9:8080"},
		{addr: "[::1]:8080"},
		{addr: "[::ffff:127.0.0.1]:8080"},
		{addr: "localhost:8080"},
		{addr: ":8080", tls: true, callers: true},
		{addr: ":8080", allowPlain: true, callers: true},
		{addr: ":8080", tls: true, allowAnonymus: true},
		{addr: ":8080", allowPlain: true, allowAnonymus: true},
		{addr: ":8080", want: []string{tlsKeys, callerKeys}},
		{addr: "0.0.0.0:8080", want: []string{tlsKeys, callerKeys}},
		{addr: "[::]:8080", want: []string{tlsKeys, callerKeys}},
		{addr: "10.0.0.1:8080", tls: true, want: []string{callerKeys}},
		{addr: "10.0.0.1:8080", allowPlain: true, want: []string{callerKeys}},
		{addr: "10.0.0.1:8080", callers: true, want: []string{tlsKeys}},
		{addr: "10.0.0.1:8080", allowAnonymus: true, want: []string{tlsKeys}},
		{addr: "localhost.example.com:8080", want: []string{tlsKeys, callerKeys}},
		{addr: "127.0.0.1.example.com:8080", want: []string{tlsKeys, callerKeys}},
		{addr: "nonsense", want: []string{tlsKeys, callerKeys}},
	} {
		err := CheckListen(test.addr, test.tls, test.callers, test.allowPlain, test.allowAnonymus)
		if (err != nil) != (test.want != nil) {
			t.Errorf("%+v: %v", test, err)
			continue
		}
		for _, keys := range []string{tlsKeys, callerKeys} {
			want := strings.Contains(strings.Join(test.want, " "), keys)
			if err != nil && strings.Contains(err.Error(), keys) != want {
				t.Errorf("%+v: names %q: %t, want %t: %v", test, keys, !want, want, err)
			}
		}
	}
}

func TestResolve(t *testing.T) {
	env := func(m map[string]string) func(string) string { return func(k string) string { return m[k] } }
	for _, test := range []struct {
		name string
		env  map[string]string
		dir  string // "" is an error
	}{
		{"XDG", map[string]string{"XDG_STATE_HOME": "/x", "HOME": "/h"}, "/x/sluice"},
		{"HOME", map[string]string{"HOME": "/h"}, "/h/.local/state/sluice"},
		{"relative XDG", map[string]string{"XDG_STATE_HOME": "x", "HOME": "/h"}, "/h/.local/state/sluice"},
		{"neither", nil, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Default().Resolve(env(test.env))
			if test.dir == "" {
				if err == nil || !strings.Contains(err.Error(), "set state_dir") {
					t.Fatalf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := with(func(c *Config) {
				c.StateDir = test.dir
				c.SealKeyFile = filepath.Join(test.dir, "seal.key")
				c.Spool.Dir = filepath.Join(test.dir, "spool")
			})
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}

	t.Run("what is set stays", func(t *testing.T) {
		c := with(func(c *Config) {
			c.StateDir, c.SealKeyFile, c.Spool.Dir, c.Scan.Workers = "s", "k", "d", 3
			c.Upstreams[0].URL = "http://u"
		})
		got, err := c.Resolve(env(nil))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	t.Run("invalid", func(t *testing.T) {
		if _, err := (Config{}).Resolve(env(nil)); err == nil {
			t.Error("the zero Config was accepted")
		}
	})
}

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{"0": 0, "1B": 1, "1500B": 1500, "64KiB": 64 << 10, "1 MiB": MiB, "20GiB": 20 * GiB, "3TiB": 3 * TiB} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("%q: %d, %v", text, s, err)
		}
		if got, want := s.String(), strings.ReplaceAll(text, " ", ""); got != want {
			t.Errorf("%q is written %q", want, got)
		}
	}
	for _, text := range []string{"", "B", "GiB", "20", "-1GiB", "1.5GiB", "20GB", "20G", "20gib", "0x1B", "9223372036854775807KiB", "99999999999999999999B", "1GiB 2MiB", "1Gi B"} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is %d", text, s)
		}
	}
}
