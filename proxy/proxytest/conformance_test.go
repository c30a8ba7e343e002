package proxytest_test

import (
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/sluicegate/sluice/proxy/proxytest"
)

// The suite's own report ends with lines such as "Pass....: 514". A run that tested
// nothing ends well too, so the number of passes counts.
var tallyRE = regexp.MustCompile(`(?m)^\s*(Pass|FAIL|Skip|Error)\.+:\s+(\d+)$`)

func TestConformance(t *testing.T) {
	binary := findProgram(t, "conformance", "go install github.com/opencontainers/distribution-spec/conformance@latest")
	split := []string{}
	for _, api := range []string{"BLOBS", "MANIFESTS", "TAGS"} {
		split = append(split, "OCI_API_"+api+"_ATOMIC=false", "OCI_API_"+api+"_DELETE=false")
	}
	token := proxytest.Origin{Username: "a/b", Password: "secret"}
	tests := []struct {
		name    string
		version string
		origin  proxytest.Origin
		env     []string
	}{
		{"1.1", "1.1", proxytest.Origin{}, nil},
		{"1.1 without deletes", "1.1", proxytest.Origin{}, split},
		{"dev", "dev", proxytest.Origin{}, nil},
		{"dev without deletes", "dev", proxytest.Origin{}, split},
		// Object stores know nothing of Docker-Content-Digest.
		{"dev behind a blob host", "dev", proxytest.Origin{BlobRedirect: true}, []string{"OCI_API_BLOBS_DIGEST_HEADER=false"}},
		{"dev with tokens", "dev", token, []string{"OCI_USERNAME=a/b", "OCI_PASSWORD=secret"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, tt.origin)
			out := t.TempDir()
			cmd := exec.CommandContext(t.Context(), binary)
			cmd.Dir = out
			cmd.Env = append(os.Environ(),
				"OCI_REGISTRY="+mustURL(t, s.URL()).Host, "OCI_TLS=disabled", "OCI_LOG=warn",
				"OCI_REPO1=conformance/one", "OCI_REPO2=conformance/two",
				"OCI_RESULTS_DIR="+out, "OCI_VERSION="+tt.version, "OCI_DATA_SPARSE=true")
			cmd.Env = append(cmd.Env, tt.env...)
			report, err := cmd.CombinedOutput()
			tally := readTally(report)
			t.Log(tally)
			if err != nil || tally["Pass"] < 100 || tally["FAIL"]+tally["Error"]+tally["Skip"] > 0 {
				t.Errorf("%v, %v\n%s", err, tally, report)
			}
			if leaks := s.Leaks(); len(leaks) > 0 {
				t.Errorf("credentials on the blob host: %v", leaks)
			}
		})
	}
}

func readTally(report []byte) map[string]int {
	tally := map[string]int{}
	for _, m := range tallyRE.FindAllSubmatch(report, -1) {
		n, _ := strconv.Atoi(string(m[2]))
		tally[string(m[1])] += n
	}
	return tally
}

// findProgram finds a program in PATH or where go install puts it.
func findProgram(t *testing.T, name, how string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, env := range []string{"GOBIN", "GOPATH"} {
		text, err := exec.CommandContext(t.Context(), "go", "env", env).Output()
		if err != nil {
			continue
		}
		dir := filepath.Clean(string(text[:max(len(text)-1, 0)]))
		if env == "GOPATH" {
			dir = filepath.Join(dir, "bin")
		}
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	t.Skipf("%s is in neither PATH nor GOBIN: %s", name, how)
	return ""
}

func start(t testing.TB, o proxytest.Origin) *proxytest.Server {
	t.Helper()
	s, err := proxytest.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func mustURL(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
