package policy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicegate/sluice/scan"
)

// TestGolden holds the JSON of an input and an answer to what programs rely on:
// fields may be added here, never renamed.
func TestGolden(t *testing.T) {
	in := sampleFull()
	in.Request = Request{Caller: "anna", Groups: []string{"web"}, Namespace: "payments", Action: "pull"}
	in.Image.Base.Digest, in.Image.Indexes = killedDigest, []string{indexDigest}
	in.Findings[0].Aliases, in.Findings[0].Layer, in.Findings[0].Path = []string{"GHSA-1"}, killedDigest, "/usr/lib/apk/db/installed"
	in.Scan.Coverage.Problems = []scan.Problem{{Kind: "odd", Layer: killedDigest, Path: "/a", Detail: "a file that is odd"}}
	in.Scan.Coverage.DistroVer = "1"
	e := open(t, Config{WaiverFile: write(t, t.TempDir(), "w.yaml", one("advisory: CVE-2025-0002"))})
	d := e.Decide(context.Background(), in)
	d.ID, d.Revision = "ID", "REVISION"
	for name, v := range map[string]any{"input.json": in, "answer.json": NewAnswer(in, d)} {
		got, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, '\n')
		file := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(want, got) {
			t.Errorf("%s (-want +got):\n%s", name, cmp.Diff(string(want), string(got)))
		}
	}
}

// contract is the shape of an answer that was promised first, with the values taken out.
const contract = `{
 "image": {"reference": "", "repository": "", "digest": "", "platform": "", "tags": [""]},
 "scan": {"state": "", "scanned_at": "", "packages": 0,
   "database": {"built": "", "checksum": ""}, "coverage": {"distro": "", "distro_known": true, "problems": []},
   "counts": {"critical": 1, "high": 2, "medium": 0, "low": 0, "negligible": 0, "unknown": 781}},
 "findings": [{"id": "", "aliases": [], "severity": "", "cvss": 7.8, "epss": 0.91, "kev": "", "published": "", "first_seen": "",
   "package": {"name": "", "version": "", "type": "", "purl": ""},
   "fix": {"state": "", "versions": [""], "available": ""}, "layer": "", "path": "", "suppressed_by": null}],
 "decision": {"id": "", "allow": false, "mode": "", "violations": [{"policy": "", "message": "", "findings": [""], "remediation": ""}], "warnings": [], "waived": []}}`

func TestContract(t *testing.T) {
	file, err := os.ReadFile(filepath.Join("testdata", "answer.json"))
	if err != nil {
		t.Fatal(err)
	}
	var want, got any
	if err := json.Unmarshal([]byte(contract), &want); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(file, &got); err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	shape(got, "", names)
	promised := map[string]string{}
	shape(want, "", promised)
	for name, kind := range promised {
		if _, there := names[name]; !there || names[name] != kind && kind != "<nil>" {
			t.Errorf("%s is %s, promised as %s", name, names[name], kind)
		}
	}
}

// shape notes the type at each path.
func shape(v any, path string, into map[string]string) {
	into[path] = fmt.Sprintf("%T", v)
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			shape(x, path+"."+k, into)
		}
	case []any:
		for _, x := range v {
			shape(x, path+"[]", into)
		}
	}
}
