package vuln

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/sluicegate/sluice/scan"
)

// envGrype names the grype command, of the version in go.mod, to compare with.
const envGrype = "SLUICE_TEST_GRYPE"

// said is what the grype command says, as far as it is compared.
type said struct {
	Matches        []saidMatch
	IgnoredMatches []saidMatch
}

type saidMatch struct {
	Vulnerability struct {
		ID, Severity string
		Fix          struct {
			State    string
			Versions []string
		}
	}
	Artifact struct{ Name, Version, Type string }
}

// The grype command on the image, by its own catalogue, and on the stored SBOM, finds
// the same as a match. It says of a match what its findings say, severity aside: a
// finding takes NVD's where the advisory has none.
func TestAgainstGrype(t *testing.T) {
	command := os.Getenv(envGrype)
	if command == "" {
		t.Skipf("no grype command: %s doesn't name one", envGrype)
	}
	db := realDatabase(t)
	var m Matcher
	defer m.Close()
	images := map[string]v1.Image{
		"owned by a distribution's package": image(t, suppressedImage().layer(t)),
		"Debian, kernel headers":            image(t, files{"var/lib/dpkg/status": debianStatus, "etc/os-release": "ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n"}.layer(t)),
		"nothing":                           image(t, files{"hello": "world"}.layer(t)),
	}
	for _, g := range goldens {
		images[g.golden] = realImage(t, g.image)
	}
	for name, img := range images {
		t.Run(name, func(t *testing.T) {
			file := catalogue(t, img)
			out, err := m.Match(t.Context(), file, db)
			check(t, err)
			dir := filepath.Join(t.TempDir(), "layout")
			p, err := layout.Write(dir, empty.Index)
			check(t, err)
			check(t, p.AppendImage(img))
			for _, source := range []string{"sbom:" + file, "oci-dir:" + dir} {
				agree(t, strings.SplitN(source, ":", 2)[0], out.Findings, ask(t, command, source, db))
			}
		})
	}
}

// ask runs the grype command without network.
func ask(t *testing.T, command, source string, db scan.Database) said {
	t.Helper()
	c := exec.Command(command, source, "-o", "json", "-q")
	c.Env = append(os.Environ(),
		"GRYPE_DB_CACHE_DIR="+filepath.Dir(db.Dir), "GRYPE_DB_AUTO_UPDATE=false", "GRYPE_DB_VALIDATE_AGE=false",
		"GRYPE_CHECK_FOR_APP_UPDATE=false", "GRYPE_INCLUDE_MATCHER_SUPPRESSIONS=true")
	var stderr bytes.Buffer
	c.Stderr = &stderr
	b, err := c.Output()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", command, source, err, stderr.String())
	}
	var out said
	check(t, json.Unmarshal(b, &out))
	return out
}

func agree(t *testing.T, source string, findings []scan.Finding, grype said) {
	t.Helper()
	named := func(f scan.Finding, m saidMatch) bool {
		return f.Package.Name == m.Artifact.Name && f.Package.Version == m.Artifact.Version && f.Package.Type == m.Artifact.Type &&
			(f.ID == m.Vulnerability.ID || slices.Contains(f.Aliases, m.Vulnerability.ID))
	}
	for _, m := range grype.Matches {
		i := slices.IndexFunc(findings, func(f scan.Finding) bool { return f.SuppressedBy == nil && named(f, m) })
		if i < 0 {
			t.Errorf("%s: only grype finds %s in %s %s", source, m.Vulnerability.ID, m.Artifact.Name, m.Artifact.Version)
			continue
		}
		f := findings[i]
		same := func(a saidMatch) bool { return named(f, a) }
		if n := len(slices.DeleteFunc(slices.Clone(grype.Matches), func(a saidMatch) bool { return !same(a) })); n > 1 {
			continue // several advisories, or places, in one finding
		}
		if d := cmp.Diff(append([]string{}, m.Vulnerability.Fix.Versions...), f.Fix.Versions); d != "" {
			t.Errorf("%s: fixes of %s in %s: %s", source, f.ID, f.Package.Name, d)
		}
		if s := strings.ToLower(m.Vulnerability.Severity); s != "unknown" && s != f.Severity {
			t.Errorf("%s: severity of %s in %s is %s, grype says %s", source, f.ID, f.Package.Name, f.Severity, s)
		}
	}
	for _, f := range findings {
		from := grype.Matches
		if f.SuppressedBy != nil {
			from = grype.IgnoredMatches
		}
		if !slices.ContainsFunc(from, func(m saidMatch) bool { return named(f, m) }) {
			t.Errorf("%s: grype doesn't find %s in %s %s (suppressed by %v)", source, f.ID, f.Package.Name, f.Package.Version, f.SuppressedBy)
		}
	}
	for _, m := range grype.IgnoredMatches {
		if m.Artifact.Name == "linux-libc-dev" {
			continue // not worth telling
		}
		if !slices.ContainsFunc(findings, func(f scan.Finding) bool { return named(f, m) }) {
			t.Errorf("%s: grype sets %s in %s aside, and nothing tells of it", source, m.Vulnerability.ID, m.Artifact.Name)
		}
	}
	t.Logf("%s: %d matches, %d set aside", source, len(grype.Matches), len(grype.IgnoredMatches))
}
