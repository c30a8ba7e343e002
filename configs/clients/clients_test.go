package clients

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"
)

var update = flag.Bool("update", false, "write what is rendered to testdata")

var setups = map[string]Setup{
	"tls":   {Gateway: "https://sluice.example.com:8443/", Upstreams: []string{"cgr.dev", "registry.example.com:5000"}, CAFile: "/etc/ssl/sluice-ca.crt"},
	"known": {Gateway: "https://sluice.example.com", Upstreams: []string{"cgr.dev"}},
	"plain": {Gateway: "http://10.0.0.7:8080", Upstreams: []string{"cgr.dev"}},
}

// TestGolden holds every guide to a file that a person has read.
func TestGolden(t *testing.T) {
	for name, setup := range setups {
		for _, client := range Names() {
			t.Run(client+"/"+name, func(t *testing.T) {
				g, err := Render(client, setup)
				if err != nil {
					t.Fatal(err)
				}
				path := filepath.Join("testdata", client+"-"+name+".txt")
				if *update {
					if err := os.WriteFile(path, []byte(g.String()), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(string(want), g.String()); diff != "" {
					t.Errorf("%s (-want +got), -update writes it:\n%s", path, diff)
				}
			})
		}
	}
}

// TestFilesParse reads every file as its client would, and holds it to say what it
// should, and nothing that would let the client go past the gateway.
func TestFilesParse(t *testing.T) {
	parse := func(t *testing.T, f File) (m map[string]any) {
		t.Helper()
		var err error
		switch filepath.Ext(f.Path) {
		case ".toml", ".conf":
			err = toml.Unmarshal([]byte(f.Text), &m)
		case ".yaml":
			err = yaml.UnmarshalWithOptions([]byte(f.Text), &m, yaml.Strict())
		case ".json":
			err = json.Unmarshal([]byte(f.Text), &m)
		default:
			t.Fatalf("%s: no parser", f.Path)
		}
		if err != nil {
			t.Fatalf("%s: %v\n%s", f.Path, err, f.Text)
		}
		return m
	}
	type object = map[string]any
	type list = []any
	for _, test := range []struct {
		client, setup string
		want          map[string]map[string]any
	}{
		{"containerd", "tls", map[string]object{
			"/etc/containerd/certs.d/cgr.dev/hosts.toml":                   {"server": "https://sluice.example.com:8443", "capabilities": list{"pull", "resolve"}, "ca": "/etc/ssl/sluice-ca.crt", "host": object{}},
			"/etc/containerd/certs.d/registry.example.com:5000/hosts.toml": {"server": "https://sluice.example.com:8443", "capabilities": list{"pull", "resolve"}, "ca": "/etc/ssl/sluice-ca.crt", "host": object{}},
		}},
		{"containerd", "plain", map[string]object{
			"/etc/containerd/certs.d/cgr.dev/hosts.toml": {"server": "http://10.0.0.7:8080", "capabilities": list{"pull", "resolve"}, "host": object{}},
		}},
		{"docker", "tls", map[string]object{}},
		{"docker", "plain", map[string]object{"/etc/docker/daemon.json": {"insecure-registries": list{"10.0.0.7:8080"}}}},
		{"podman", "tls", map[string]object{"/etc/containers/registries.conf.d/50-sluice.conf": {"registry": list{
			object{"prefix": "cgr.dev", "location": "sluice.example.com:8443/cgr.dev"},
			object{"prefix": "registry.example.com:5000", "location": "sluice.example.com:8443/registry.example.com:5000"},
		}}}},
		{"crio", "plain", map[string]object{"/etc/containers/registries.conf.d/50-sluice.conf": {"registry": list{
			object{"prefix": "cgr.dev", "location": "10.0.0.7:8080/cgr.dev", "insecure": true},
		}}}},
		{"k3s", "tls", map[string]object{
			"/etc/rancher/k3s/registries.yaml": {
				"mirrors": object{
					"cgr.dev":                   object{"endpoint": list{"https://sluice.example.com:8443"}},
					"registry.example.com:5000": object{"endpoint": list{"https://sluice.example.com:8443"}},
				},
				"configs": object{"sluice.example.com:8443": object{"tls": object{"ca_file": "/etc/ssl/sluice-ca.crt"}}},
			},
			"/etc/rancher/k3s/config.yaml.d/50-sluice.yaml": {"disable-default-registry-endpoint": true},
		}},
		{"k3s", "known", map[string]object{
			"/etc/rancher/k3s/registries.yaml":              {"mirrors": object{"cgr.dev": object{"endpoint": list{"https://sluice.example.com"}}}},
			"/etc/rancher/k3s/config.yaml.d/50-sluice.yaml": {"disable-default-registry-endpoint": true},
		}},
	} {
		t.Run(test.client+"/"+test.setup, func(t *testing.T) {
			g, err := Render(test.client, setups[test.setup])
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]map[string]any{}
			for _, f := range g.Files {
				got[f.Path] = parse(t, f)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestRenderRefuses(t *testing.T) {
	good := setups["tls"]
	for _, test := range []struct {
		name, client string
		change       func(*Setup)
		want         string
	}{
		{"unknown client", "rkt", func(*Setup) {}, `no guide for "rkt", only for containerd, crio, docker, k3s, podman`},
		{"path for a client", "../doc", func(*Setup) {}, "no guide"},
		{"no scheme", "docker", func(s *Setup) { s.Gateway = "sluice.example.com" }, "gateway"},
		{"other scheme", "docker", func(s *Setup) { s.Gateway = "ftp://sluice.example.com" }, "gateway"},
		{"path", "docker", func(s *Setup) { s.Gateway = "https://sluice.example.com/v2" }, "without a user, a path"},
		{"password", "docker", func(s *Setup) { s.Gateway = "https://u:secret@sluice.example.com" }, "without a user"},
		{"no upstreams", "docker", func(s *Setup) { s.Upstreams = nil }, "name at least one"},
		{"TOML in an upstream", "containerd", func(s *Setup) { s.Upstreams = []string{"a\"\n[host.\"https://evil\"]"} }, "no registry's host"},
		{"path in an upstream", "containerd", func(s *Setup) { s.Upstreams = []string{"../../etc"} }, "no registry's host"},
		{"shell in the CA file", "podman", func(s *Setup) { s.CAFile = "/a; rm -rf /" }, "CA file"},
		{"relative CA file", "podman", func(s *Setup) { s.CAFile = "ca.crt" }, "CA file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := good
			test.change(&s)
			g, err := Render(test.client, s)
			if err == nil {
				t.Fatalf("rendered:\n%s", g)
			}
			if !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("error %q, want %q in it", err, test.want)
			}
		})
	}
}
