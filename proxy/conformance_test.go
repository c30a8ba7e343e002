package proxy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/proxytest"
)

// The distribution specification's own program, split as a gateway is used: what
// reads goes through the gateway and what writes to the origin. The gateway must
// pass as many checks as the origin passes alone, and may skip none.
//
// The gate is on: every image is pulled, scanned and held until its decision. Policies
// that let everything in take the place of the defaults, since the program's images are
// none (their layers are no archives) and would be denied for that.
//
// What stays disabled is no read: deletes, which the gateway refuses, and what a version
// of the specification does not have yet.
func TestConformance(t *testing.T) {
	program := findConformance(t)
	for _, version := range []string{"1.1", "dev"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "all.rego"), []byte(allowAll+"\nunscanned := input.scan.cause # which is let in, too\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			l := newLab(t, fronts(proxytest.Origin{}), func(l *lab, c *policy.Config) {
				c.Dir = dir
				l.gateway.Gate.TagTTL, l.gateway.Gate.NegativeTTL = 0, 0 // tags are pushed again and listed at once
			})
			alone := runConformance(t, program, version, l.origin.URL())
			shim := httptest.NewServer(split(t, l.url, l.origin.URL()))
			defer shim.Close()
			through := runConformance(t, program, version, shim.URL)
			t.Logf("origin alone %v, through the gateway %v", alone.tally, through.tally)
			bad := through.tally["FAIL"] + through.tally["Error"] + through.tally["Skip"]
			if through.tally["Pass"] < 500 || through.tally["Pass"] != alone.tally["Pass"] || bad > 0 {
				t.Errorf("through the gateway: %v\n%s", through.err, through.report)
			}
			for _, line := range leftOut.FindAll(through.report, -1) {
				if !noRead.Match(line) {
					t.Errorf("left out, though it is a read: %s", line)
				}
			}
		})
	}
}

// split sends GET and HEAD to the gateway, and the rest to the origin.
//
// One thing is done for the gateway that no client of a registry does. The program reads
// each blob as soon as it is pushed, when no manifest lists it, and half of its checks
// hang on that; the gateway serves no such blob, by design, so that no digest can be read
// past the gate. So each blob that was pushed is listed by an artifact, whose manifest is
// pulled once. It opens nothing: an image that lists the blob too is the one to decide.
func split(t *testing.T, gateway, origin string) http.Handler {
	to := func(base string) *httputil.ReverseProxy {
		u, err := url.Parse(base)
		if err != nil {
			t.Fatal(err)
		}
		return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u) }}
	}
	read, write := to(gateway), to(origin)
	write.ModifyResponse = func(r *http.Response) error {
		if r.StatusCode == http.StatusCreated && strings.Contains(r.Request.URL.Path, "/blobs/uploads/") {
			return list(gateway, origin, r.Header.Get("Location"))
		}
		return nil
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reads := (r.Method == http.MethodGet || r.Method == http.MethodHead) && !strings.Contains(r.URL.Path, "/blobs/uploads/")
		if reads {
			read.ServeHTTP(w, r)
			return
		}
		write.ServeHTTP(w, r)
	})
}

// list pushes an artifact whose one layer is the blob at location, and pulls its
// manifest through the gateway.
func list(gateway, origin, location string) error {
	u, err := url.Parse(location)
	if err != nil {
		return err
	}
	repo, blob, ok := strings.Cut(u.Path, "/blobs/")
	if !ok {
		return fmt.Errorf("a blob's location is %q", location)
	}
	head, err := http.Head(origin + u.Path)
	if err != nil {
		return err
	}
	head.Body.Close()
	config := ocispec.DescriptorEmptyJSON
	config.Data = nil
	m, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/x-conformance",
		Config: config, Layers: []ocispec.Descriptor{{MediaType: "application/octet-stream", Digest: digest.Digest(blob), Size: head.ContentLength}},
	})
	if err != nil {
		return err
	}
	path := repo + "/manifests/" + digest.FromBytes(m).String()
	put, err := http.NewRequest(http.MethodPut, origin+path, bytes.NewReader(m))
	if err != nil {
		return err
	}
	put.Header.Set("Content-Type", ocispec.MediaTypeImageManifest)
	for _, r := range []*http.Request{put, httptest.NewRequest(http.MethodGet, gateway+path, nil)} {
		r.RequestURI = ""
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode/100 != 2 {
			return fmt.Errorf("%s %s: HTTP %d", r.Method, r.URL, resp.StatusCode)
		}
	}
	return nil
}

// Lines of the report about what was not tried, and those of them that are no reads.
var (
	leftOut = regexp.MustCompile(`(?m)^.*: +(Skip|Disabled)$`)
	noRead  = regexp.MustCompile(`(?i)delete|cancel|tag.param`)
)

type conformance struct {
	tally  map[string]int
	report []byte
	err    error
}

// The report ends with lines such as "Pass....: 514". A run that tested nothing ends
// well too, so the number of passes counts.
var tallyForm = regexp.MustCompile(`(?m)^\s*(Pass|FAIL|Skip|Error)\.+:\s+(\d+)$`)

func runConformance(t *testing.T, program, version, registry string) conformance {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Dir = dir
	repo := "conformance/" + strconv.FormatInt(time.Now().UnixNano(), 36) // of its own for each run
	cmd.Env = append(os.Environ(),
		"OCI_REGISTRY="+strings.TrimPrefix(registry, "http://"), "OCI_TLS=disabled", "OCI_LOG=warn", "OCI_RESULTS_DIR="+dir,
		"OCI_REPO1="+repo+"/one", "OCI_REPO2="+repo+"/two", "OCI_VERSION="+version, "OCI_DATA_SPARSE=true")
	for _, api := range []string{"BLOBS", "MANIFESTS", "TAGS"} {
		cmd.Env = append(cmd.Env, "OCI_API_"+api+"_ATOMIC=false", "OCI_API_"+api+"_DELETE=false")
	}
	c := conformance{tally: map[string]int{}}
	c.report, c.err = cmd.CombinedOutput()
	for _, m := range tallyForm.FindAllSubmatch(c.report, -1) {
		n, _ := strconv.Atoi(string(m[2]))
		c.tally[string(m[1])] += n
	}
	return c
}

func findConformance(t *testing.T) string {
	t.Helper()
	const name = "conformance"
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, env := range []string{"GOBIN", "GOPATH"} {
		text, err := exec.CommandContext(t.Context(), "go", "env", env).Output()
		if err != nil {
			continue
		}
		dir := strings.TrimSpace(string(text))
		if env == "GOPATH" {
			dir = filepath.Join(dir, "bin")
		}
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	t.Skip("conformance is in neither PATH nor GOBIN: go install github.com/opencontainers/distribution-spec/conformance@latest")
	return ""
}
