package scan

import (
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A State tells how much of an image its verdict covers.
type State string

const (
	Complete    State = "complete"    // all of it was read and matched
	Partial     State = "partial"     // something could not be read or matched: Coverage.Problems
	Pending     State = "pending"     // being scanned
	Failed      State = "failed"      // no SBOM, or no match
	Limit       State = "limit"       // past a bound
	Unsupported State = "unsupported" // nothing that a runtime would run
)

// A Cause says why there is no complete verdict. Policy chooses by it.
type Cause string

const (
	CauseNone         Cause = ""
	CauseScanTimeout  Cause = "scan_timeout"
	CauseScanFailed   Cause = "scan_failed"
	CauseScanLimit    Cause = "scan_limit"
	CauseNoRoom       Cause = "no_room" // no disk to fetch or unpack it to: nothing of the image's
	CauseDBMissing    Cause = "db_missing"
	CauseDBStale      Cause = "db_stale"
	CauseStoreDown    Cause = "store_down"
	CausePolicyError  Cause = "policy_error"
	CauseUpstreamDown Cause = "upstream_down"
)

// An Image is what is scanned: the exact bytes of one platform's manifest and config.
type Image struct {
	Reference string               // as a person would write it, for reports: cgr.dev/acme/web:1
	Digest    digest.Digest        // of Manifest
	MediaType string               // of Manifest
	Manifest  []byte               // at most 4 MiB
	Config    []byte               // at most 8 MiB, verified against the manifest
	Layers    []ocispec.Descriptor // bottom first, as in Manifest

	// Fence is the token of the lease under which the image is scanned, where several
	// processes share the Store: what was found under an earlier one doesn't replace what
	// was found under a later one. 0 for none.
	Fence uint64
}

// A Problem is something in an image that could not be read or matched. One is
// enough to keep a verdict from being Complete.
type Problem struct {
	Kind   string        `json:"kind"`            // a stable word, one of Kinds
	Layer  digest.Digest `json:"layer,omitempty"` // compressed digest, where it is one layer's
	Path   string        `json:"path,omitempty"`
	Detail string        `json:"detail"` // one line for people
}

// Coverage is what of an image the scan has seen, as far as "nothing found" depends on it.
type Coverage struct {
	Distro      string    `json:"distro,omitempty"`         // os-release ID, empty where there is none
	DistroVer   string    `json:"distro_version,omitempty"` // VERSION_ID; meaningless for rolling distributions
	DistroKnown bool      `json:"distro_known"`             // the database has data for the distribution, or the image has no distribution packages
	DistroEOL   string    `json:"distro_eol,omitempty"`     // YYYY-MM-DD, where the database knows it
	Problems    []Problem `json:"problems"`                 // never null in JSON; empty only for complete and unsupported
}

// A Database names one build of the vulnerability database.
type Database struct {
	Built    time.Time `json:"built"`
	Checksum string    `json:"checksum"` // as grype reports it, such as "xxh64:…"
	Dir      string    `json:"-"`        // directory that holds vulnerability.db, never rewritten once it is named here

	// Elsewhere is set where other gateways have it and this one does not: verdicts by it
	// count, and none can be made here.
	Elsewhere bool `json:"-"`
}

// Counts holds the number of findings by severity; suppressed ones are not counted.
type Counts struct {
	Critical   int `json:"critical"`
	High       int `json:"high"`
	Medium     int `json:"medium"`
	Low        int `json:"low"`
	Negligible int `json:"negligible"`
	Unknown    int `json:"unknown"`
}

// A Package is one piece of software in an image.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Type    string `json:"type"` // syft's package type: apk, deb, npm, java-archive, …
	PURL    string `json:"purl"`

	Licenses []string `json:"licenses,omitempty"` // SPDX expressions, else what the package says; left out of verdicts: see Licensed
}

// A Fix says whether an advisory is fixed, in which versions, and since when.
type Fix struct {
	State     string   `json:"state"`               // fixed, not-fixed, wont-fix, unknown
	Versions  []string `json:"versions"`            // never null in JSON
	Available string   `json:"available,omitempty"` // YYYY-MM-DD of the first fixed version, where known
}

// A Finding is a known vulnerability that matches a package of an image. Dates are
// YYYY-MM-DD in UTC and are empty where unknown; ages are never stored.
type Finding struct {
	ID           string        `json:"id"`              // CVE where the advisory has exactly one, else the advisory's own ID
	Aliases      []string      `json:"aliases"`         // never null in JSON
	Severity     string        `json:"severity"`        // critical, high, medium, low, negligible, unknown
	CVSS         float64       `json:"cvss"`            // highest base score, 0 where unknown
	EPSS         float64       `json:"epss"`            // probability 0 to 1, 0 where unknown
	Percentile   float64       `json:"epss_percentile"` // share of CVEs whose EPSS is at most this one, 0 to 1; 0 where unknown
	KEV          string        `json:"kev,omitempty"`   // date it was added to CISA's list of known exploited vulnerabilities
	Published    string        `json:"published,omitempty"`
	FirstSeen    string        `json:"first_seen"` // when this gateway first saw the advisory on this package name
	Package      Package       `json:"package"`
	Fix          Fix           `json:"fix"`
	Layer        digest.Digest `json:"layer,omitempty"` // diff ID of the layer that holds the package
	Path         string        `json:"path,omitempty"`
	SuppressedBy *string       `json:"suppressed_by"` // who said that it does not apply, null where nobody did
}

// Summary is the "scan" part of an answer about an image.
type Summary struct {
	State     State     `json:"state"`
	Cause     Cause     `json:"cause,omitempty"`  // set in every state but complete and unsupported
	Detail    string    `json:"detail,omitempty"` // one line for people: what went wrong and what to do
	ScannedAt time.Time `json:"scanned_at,omitzero"`
	Packages  int       `json:"packages"`
	Database  *Database `json:"database,omitempty"`
	Coverage  Coverage  `json:"coverage"`
	Counts    Counts    `json:"counts"`
}

// A Verdict is what is known about an image: facts, and no opinion. It is the same
// for every caller.
type Verdict struct {
	Scan     Summary   `json:"scan"`
	Findings []Finding `json:"findings"` // worst first, never null in JSON

	Sum Sum `json:"-"` // of Findings, where it was made
}
