package configs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// with returns the defaults, changed by f.
func with(f func(*Config)) Config {
	c := Default()
	f(&c)
	return c
}

func TestParse(t *testing.T) {
	for _, test := range []struct {
		name, in string
		want     Config
	}{
		{"nothing", "", Default()},
		{"only comments", "# a\n# b\n", Default()},
		{"only a document marker", "---\n", Default()},
		{"marker before and after", "---\nlisten: :1\n...\n", with(func(c *Config) { c.Listen = ":1" })},
		{"one key in a group leaves its neighbours", "gate:\n  hold_cap: 1m30s\n", with(func(c *Config) { c.Gate.HoldCap = 90 * time.Second })},
		{"flow style", "gate: {mode: warn, strict: true, pulls: 3}", with(func(c *Config) { c.Gate.Mode, c.Gate.Strict, c.Gate.Pulls = "warn", true, 3 })},
		{"zero durations", "gate: {tag_ttl: 0, stale_tags: 0s}", with(func(c *Config) { c.Gate.TagTTL, c.Gate.StaleTags = 0, 0 })},
		{"sizes", "spool: {blobs_quota: 512MiB, layers_quota: 2 TiB}", with(func(c *Config) { c.Spool.BlobsQuota, c.Spool.LayersQuota = 512*MiB, 2*TiB })},
		{"a list replaces the default", "upstreams:\n- name: a\n  realm_hosts: [b, c]\n- {name: d, url: http://d:5000}\n", with(func(c *Config) {
			c.Upstreams = []Upstream{{Name: "a", RealmHosts: []string{"b", "c"}}, {Name: "d", URL: "http://d:5000"}}
		})},
		{"a list item's optional duration", "upstreams: [{name: a, tag_ttl: 0s}, {name: b, tag_ttl: 90s, deny: [\"x/**\"], allow: [x/*], policy_dir: /p}, {name: c, tag_ttl: \"\"}]", with(func(c *Config) {
			zero, some := time.Duration(0), 90*time.Second
			c.Upstreams = []Upstream{{Name: "a", TagTTL: &zero}, {Name: "b", TagTTL: &some, Deny: []string{"x/**"}, Allow: []string{"x/*"}, PolicyDir: "/p"}, {Name: "c"}}
		})},
		{"quoted", "listen: \"[::1]:80\"\nadmin_listen: ''\n", with(func(c *Config) { c.Listen, c.AdminListen = "[::1]:80", "" })},
		{"windows line ends", "listen: :1\r\nadmin_listen: :2\r\n", with(func(c *Config) { c.Listen, c.AdminListen = ":1", ":2" })},
		{"JSON", `{"listen": ":1", "gate": {"pulls": 2}}`, with(func(c *Config) { c.Listen, c.Gate.Pulls = ":1", 2 })},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Parse("f.yaml", []byte(test.in))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for _, test := range []struct {
		name, in string
		want     []string // each in the error, in a line of its own
	}{
		{"misspelt", "gate:\n  manifest_wiat: 2s\n", []string{"f.yaml:2: there is no key gate.manifest_wiat; did you mean gate.manifest_wait?"}},
		{"camel case", "stateDir: /x\n", []string{"f.yaml:1: there is no key stateDir; did you mean state_dir?"}},
		{"in the wrong group", "\ntag_ttl: 2s\n", []string{"f.yaml:2: there is no key tag_ttl; did you mean upstreams.tag_ttl or gate.tag_ttl?"}},
		{"like none", "tls:\n  zzzzzzzzzz: 1\n", []string{"f.yaml:2: there is no key tls.zzzzzzzzzz; there are: cert_file, client_ca_file, key_file"}},
		{"in a list item", "upstreams:\n  - name: a\n    urll: b\n", []string{"f.yaml:3: there is no key upstreams[0].urll; did you mean upstreams[0].url?"}},
		{"all at once", "gate: {mode: 3}\nlog:\n  lvel: info\n  format: [a]\n", []string{
			"f.yaml:1: gate.mode must be a text, not 3: put it in quotes",
			"f.yaml:3: there is no key log.lvel; did you mean log.level?",
			"f.yaml:4: log.format must be a text, not a list: put it in quotes",
		}},
		{"twice", "listen: :1\nlog: {}\nlisten: :2\n", []string{"f.yaml:3:", "listen"}},
		{"no value", "listen: :1\ngate:\n", []string{"f.yaml:2: gate has no value: give it one, or remove the line"}},
		{"null", "listen: null\n", []string{"f.yaml:1: listen has no value"}},
		{"tilde", "listen: ~\n", []string{"f.yaml:1: listen has no value"}},
		{"empty list item", "upstreams:\n  -\n", []string{"f.yaml:2: upstreams[0] has no value"}},
		{"text for a share", "decision_log: {allows: all}", []string{`f.yaml:1: decision_log.allows must be a number, not "all"`}},
		{"text for a number", "gate: {pulls: \"8\"}", []string{`f.yaml:1: gate.pulls must be a whole number, not "8"`}},
		{"fraction for a number", "gate: {pulls: 8.5}", []string{"f.yaml:1: gate.pulls must be a whole number, not 8.5"}},
		{"huge number", "gate: {pulls: 18446744073709551615}", []string{"f.yaml:1: gate.pulls must be a whole number"}},
		{"yes for true", "gate: {strict: yes}", []string{`f.yaml:1: gate.strict must be true or false, not "yes"`}},
		{"text for true", "gate: {strict: \"true\"}", []string{`f.yaml:1: gate.strict must be true or false, not "true"`}},
		{"number for a duration", "gate: {hold_cap: 240}", []string{"f.yaml:1: gate.hold_cap must be a duration such as 20s, 4m or 2h, not 240"}},
		{"bad optional duration", "upstreams:\n- name: a\n  tag_ttl: never\n", []string{"f.yaml:3: upstreams[0].tag_ttl must be a duration such as 20s, 4m or 2h"}},
		{"one glob that is no list", "upstreams:\n- name: a\n  deny: acme/*\n", []string{"f.yaml:3: upstreams[0].deny must be a list"}},
		{"a glob taken for an alias", "upstreams:\n- name: a\n  deny:\n  - **/x\n", []string{"f.yaml:4: ", `put a text that begins with "*" in quotes`}},
		{"days", "gate: {relation_ttl: 30d}", []string{"f.yaml:1: gate.relation_ttl must be a duration"}},
		{"decimal size", "spool: {blobs_quota: 20GB}", []string{`f.yaml:1: spool.blobs_quota: "20GB" is no size`}},
		{"size without unit", "spool: {blobs_quota: 20}", []string{`f.yaml:1: spool.blobs_quota: "20" is no size`}},
		{"group for a text", "listen:\n  port: 1\n", []string{"f.yaml:2: listen must be a text, not a group of keys"}},
		{"text for a group", "gate: enforce\n", []string{`f.yaml:1: gate must be a group of keys, not "enforce"`}},
		{"group for a list", "upstreams:\n  name: cgr.dev\n", []string{"f.yaml:2: upstreams must be a list, not a group of keys: write each item behind a dash"}},
		{"block for a text", "listen: |\n  :1\n", []string{"f.yaml:1: listen must be a text, not a block of text"}},
		{"list for the file", "- a\n", []string{"f.yaml:1: the file must be a group of keys, not a list"}},
		{"text for the file", "hello\n", []string{`f.yaml:1: the file must be a group of keys, not "hello"`}},
		{"number for a key", "1: a\n", []string{"f.yaml:1: 1 is no key"}},
		{"anchor", "gate: &g {mode: warn}\n", []string{"f.yaml:1: gate: anchors, aliases and tags are not read here"}},
		{"alias", "listen: &l :1\nadmin_listen: *l\n", []string{"f.yaml:1: listen: anchors", "f.yaml:2: admin_listen: anchors"}},
		{"merge", "gate:\n  <<: {mode: warn}\n", []string{"f.yaml:2: << is no key"}},
		{"tag", "listen: !!str 1\n", []string{"f.yaml:1: listen: anchors, aliases and tags are not read here"}},
		{"two documents", "listen: :1\n---\nlisten: :2\n", []string{"f.yaml:3: a second document begins here"}},
		{"directive", "%YAML 1.2\n---\nlisten: :1\n", []string{"f.yaml:1: directives are not read here"}},
		{"broken", "listen: [\n", []string{"f.yaml:1: "}},
		{"tab", "gate:\n\tmode: warn\n", []string{"f.yaml:2: "}},
		{"too large", strings.Repeat("#", MaxFile+1), []string{"f.yaml: larger than 1024 KiB"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Parse("f.yaml", []byte(test.in))
			if err == nil {
				t.Fatalf("accepted: %+v", got)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error\n%v\nlacks %q", err, want)
				}
			}
			if diff := cmp.Diff(Config{}, got); diff != "" {
				t.Errorf("returned a configuration beside the error:\n%s", diff)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(filepath.Join(dir, "none.yaml")); !os.IsNotExist(unwrap(err)) || !strings.Contains(err.Error(), "none.yaml") {
		t.Errorf("missing file: %v", err)
	}
	if _, err := Load(dir); err == nil {
		t.Error("a folder was loaded")
	}
	path := filepath.Join(dir, "s.yaml")
	if err := os.WriteFile(path, []byte("gate: {modus: warn}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.HasPrefix(err.Error(), path+":1: ") {
		t.Errorf("error without file and line: %v", err)
	}
}

func unwrap(err error) error {
	for {
		u, ok := err.(interface{ Unwrap() error })
		if !ok {
			return err
		}
		err = u.Unwrap()
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"sluice.yaml", "production.yaml", "reference.yaml", "waivers.yaml"} {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("a: &a [*a]\n<<: *a\n? [x]\n: y\n--- !!map {}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse("f", b)
		if err != nil && !cmp.Equal(c, Config{}) {
			t.Error("a configuration beside an error")
		}
		if err == nil {
			_ = c.Validate() // whatever was read can be judged
		}
	})
}
