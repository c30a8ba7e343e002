package deploy_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

var metricName = regexp.MustCompile(`\bsluice_[a-z_]+`)

// measured returns the names of all metrics that the gateway's code registers.
func measured(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, dir := range []string{"cmd", "proxy", "policy", "scan"} {
		err := filepath.WalkDir(filepath.Join("..", dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			for _, m := range regexp.MustCompile(`"(sluice_[a-z_]+)"`).FindAllStringSubmatch(read(t, path), -1) {
				names[m[1]] = true
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return names
}

// TestMonitoring: what alerts and dashboard ask for is measured, under that name.
func TestMonitoring(t *testing.T) {
	known := measured(t)
	for _, file := range []string{"alerts.yaml", "dashboard.json"} {
		used := metricName.FindAllString(read(t, filepath.Join("monitoring", file)), -1)
		if len(used) < 10 {
			t.Errorf("%s asks for %d metrics", file, len(used))
		}
		for _, name := range used {
			base := name
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				base = strings.TrimSuffix(base, suffix)
			}
			if !known[name] && !known[base] {
				t.Errorf("%s asks for %s, which nothing measures", file, name)
			}
		}
	}
	var dashboard struct {
		Panels []struct {
			ID      int
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, filepath.Join("monitoring", "dashboard.json"))), &dashboard); err != nil {
		t.Fatal(err)
	}
	ids := map[int]bool{}
	for _, p := range dashboard.Panels {
		if ids[p.ID] || p.Title == "" || len(p.Targets) == 0 {
			t.Errorf("panel %d %q: a second one of its number, or empty", p.ID, p.Title)
		}
		ids[p.ID] = true
	}
	checkRules(t, dashboard.Panels)
}

// checkRules has promtool read the alerts, and the questions of the dashboard as rules.
func checkRules(t *testing.T, panels []struct {
	ID      int
	Title   string
	Targets []struct{ Expr string }
}) {
	t.Helper()
	program, err := exec.LookPath("promtool")
	if err != nil {
		t.Log("no promtool in PATH: the expressions are not checked")
		return
	}
	type rule struct {
		Record string `yaml:"record"`
		Expr   string `yaml:"expr"`
	}
	var rules []rule
	for _, p := range panels {
		for _, target := range p.Targets {
			rules = append(rules, rule{"sluice:panel", strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*").Replace(target.Expr)})
		}
	}
	b, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "dashboard.yaml")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{filepath.Join("monitoring", "alerts.yaml"), file} {
		if out, err := exec.Command(program, "check", "rules", "--lint=none", f).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", f, err, out)
		}
	}
}
