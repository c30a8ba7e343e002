package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/sluicegate/sluice/"

// A listed package is what go list says of it.
type listed struct {
	ImportPath string
	Imports    []string
}

// The house is built along one line, and only some rooms may use the heavy tools:
//
//	cache ← scan ← policy ← proxy ← cmd/sluice → configs
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "../../...").Output()
	if err != nil {
		t.Fatal(err)
	}
	line := []string{"cache", "scan", "policy", "proxy", "cmd", "configs", "deploy"}
	tools := map[string][]string{ // import path prefix → the only folders that may import it
		"github.com/anchore/syft/":       {"scan/sbom", "scan/vuln"},
		"github.com/anchore/stereoscope": {"scan/sbom"},
		"github.com/anchore/grype/":      {"scan/vuln"},
		"github.com/open-policy-agent/":  {"policy"},
		"github.com/go-jose/":            {"proxy/auth"},
		"github.com/minio/":              {"cache/objects"},
		"github.com/redis/":              {"cache/redis"},
		"github.com/sigstore/":           {"policy/signature"},
		"go.etcd.io/bbolt":               {"cache/disk"},
		"go.opentelemetry.io/":           {"cmd/sluice"},
	}
	var packages int
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages++
		folder := strings.TrimPrefix(p.ImportPath, module)
		room, _, _ := strings.Cut(folder, "/")
		for _, imp := range p.Imports {
			checkTool(t, tools, folder, imp)
			other, ok := strings.CutPrefix(imp, module)
			if !ok {
				continue
			}
			other, _, _ = strings.Cut(other, "/")
			switch from, to := slices.Index(line, room), slices.Index(line, other); {
			case from < 0 || to < 0:
				t.Errorf("%s or %s stands in no room of the house", folder, imp)
			case other == "configs" && room != "configs" && room != "cmd" && room != "deploy":
				t.Errorf("%s imports configs: only cmd/sluice knows settings", folder)
			case to > from && other != "configs":
				t.Errorf("%s imports %s, against the line %s", folder, imp, strings.Join(line[:5], " ← "))
			}
		}
	}
	if packages < 20 {
		t.Errorf("looked at %d packages only", packages)
	}
}

func checkTool(t *testing.T, tools map[string][]string, folder, imp string) {
	for prefix, rooms := range tools {
		if !strings.HasPrefix(imp+"/", prefix) && !strings.HasPrefix(imp, prefix) {
			continue
		}
		if !slices.ContainsFunc(rooms, func(r string) bool { return folder == r || strings.HasPrefix(folder, r+"/") }) {
			t.Errorf("%s imports %s, which only %v may", folder, imp, rooms)
		}
	}
}
