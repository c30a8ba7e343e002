package policy

import (
	"time"

	"github.com/sluicegate/sluice/scan"
)

// A Mode says what becomes of a violation.
type Mode string

const (
	Enforce Mode = "enforce" // the pull is refused
	Warn    Mode = "warn"    // served, with a Warning header, counted and logged
	DryRun  Mode = "dry-run" // served and logged
	Off     Mode = "off"     // not decided at all; only the kill list holds
)

// Input is what a decision is made from: the document that Rego sees as "input".
// Fields may be added, never renamed.
type Input struct {
	Request  Request        `json:"request"`
	Image    Image          `json:"image"`
	Scan     scan.Summary   `json:"scan"`
	Findings []scan.Finding `json:"findings"`
	Packages []scan.Package `json:"packages,omitempty"` // all of the SBOM; only where a policy refers to them
	History  History        `json:"history"`
	Now      time.Time      `json:"now"` // the decision's time, so that a replay decides the same

	// Sum is that of a verdict's findings: a decision about one that stands need not look at
	// each of them.
	Sum scan.Sum `json:"-"`
}

// A Request says who asks. It holds nothing that differs between HEAD and GET, or
// between tag and digest, so that these always agree.
type Request struct {
	Caller    string   `json:"caller"` // "" for an anonymous caller
	Groups    []string `json:"groups"`
	Namespace string   `json:"namespace,omitempty"` // Kubernetes namespace, where it is known
	Action    string   `json:"action"`              // pull, check, admission
}

// An Image is the "image" part of an answer, and of the input.
type Image struct {
	Reference   string            `json:"reference"`
	Registry    string            `json:"registry"`   // the upstream's name: cgr.dev
	Repository  string            `json:"repository"` // acme/web
	Digest      string            `json:"digest"`
	Platform    string            `json:"platform"` // linux/amd64
	Tags        []string          `json:"tags"`     // known to point at the digest or an index of it; facts, not what was asked for
	MediaType   string            `json:"media_type,omitempty"`
	Created     string            `json:"created,omitempty"` // RFC 3339, as the config claims
	User        string            `json:"user,omitempty"`
	Env         []string          `json:"env,omitempty"`    // names of the variables that the config sets, never their values
	Size        int64             `json:"size,omitempty"`   // bytes of all layers as they are stored
	Layers      int               `json:"layers,omitempty"` // how many
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Base        *Base             `json:"base,omitempty"`
	Indexes     []string          `json:"indexes,omitempty"` // digests of indexes that list the image

	Signatures   []Signature   `json:"signatures,omitempty"`   // only where a policy refers to them
	Attestations []Attestation `json:"attestations,omitempty"` // only where a policy refers to them

	Aliases []string `json:"-"` // the manifest's digests by every algorithm and those of its blobs, for the kill list alone
}

// A Base is the image that another one says it was built from.
type Base struct {
	Name         string `json:"name,omitempty"`
	Digest       string `json:"digest,omitempty"`
	LatestDigest string `json:"latest_digest,omitempty"` // what Name points at now
	Outdated     *bool  `json:"outdated,omitempty"`      // absent where the gateway can't know
	Verified     *bool  `json:"verified,omitempty"`      // the image begins with the layers of Digest; absent where the gateway can't know
}

// A Signature is one that was found on the image or an index of it. One that could not
// be verified is there too, with the reason.
type Signature struct {
	Verified bool   `json:"verified"`
	Kind     string `json:"kind"`               // key, keyless
	Format   string `json:"format"`             // cosign-tag, bundle
	Subject  string `json:"subject"`            // the digest that is signed
	Key      string `json:"key,omitempty"`      // name of the trusted key
	Issuer   string `json:"issuer,omitempty"`   // of the identity, as the certificate has it
	Identity string `json:"identity,omitempty"` // e-mail address or URI
	Time     string `json:"time,omitempty"`     // RFC 3339, where a log or a time stamp proves it
	Error    string `json:"error,omitempty"`    // why it is not verified
}

// An Attestation is a signed statement about the image or an index of it.
type Attestation struct {
	Signature
	PredicateType string `json:"predicate_type"`
	Predicate     any    `json:"predicate,omitempty"` // absent where it is larger than 64 KiB or not verified
}

// History is what the gateway remembers of an image from before.
type History struct {
	FirstSeen         string `json:"first_seen,omitempty"` // RFC 3339
	PreviouslyAllowed bool   `json:"previously_allowed"`
	LastAllowed       string `json:"last_allowed,omitempty"` // RFC 3339
}

// A Violation is one thing that a policy holds against an image.
type Violation struct {
	Policy      string   `json:"policy"`
	Message     string   `json:"message"`
	Findings    []string `json:"findings"`              // IDs, worst first, never null in JSON
	Remediation string   `json:"remediation,omitempty"` // what to do, as an imperative sentence
	Mode        Mode     `json:"mode,omitempty"`        // what becomes of it; only enforce blocks
}

// A Waived names a finding or violation that a waiver, or a finding that a VEX document
// has set aside.
type Waived struct {
	Waiver  string `json:"waiver"`           // the waiver's ID, "" where a document did it
	VEX     string `json:"vex,omitempty"`    // the document's ID; its author is the owner, its justification the reason
	Status  string `json:"status,omitempty"` // not_affected, fixed: as the document says
	Finding string `json:"finding,omitempty"`
	Package string `json:"package,omitempty"` // name of the finding's package: one advisory may be waived in one package and not in another
	PURL    string `json:"purl,omitempty"`    // of the package: a document is about one version
	Policy  string `json:"policy,omitempty"`
	Owner   string `json:"owner"`
	Reason  string `json:"reason"`
	Expires string `json:"expires"` // RFC 3339, "" where a document did it
}

// A Decision is an opinion about a caller and an image.
type Decision struct {
	ID         string      `json:"id"`
	Allow      bool        `json:"allow"`           // what the policies say, whatever the mode
	Mode       Mode        `json:"mode"`            // of the strictest violation; without one, the strictest there could have been
	Cause      scan.Cause  `json:"cause,omitempty"` // policy_error where policy could not decide
	Violations []Violation `json:"violations"`      // never null in JSON
	Warnings   []Violation `json:"warnings"`        // never null in JSON
	Waived     []Waived    `json:"waived"`          // never null in JSON
	Revision   string      `json:"revision"`        // of the policies and waivers that decided
}

// Blocks reports whether the image must not be served: the policies deny it and the
// mode enforces that.
func (d Decision) Blocks() bool { return !d.Allow && d.Mode == Enforce }

// An Answer is all there is to say about an image: the same JSON from every command
// and from the API.
type Answer struct {
	Image    Image          `json:"image"`
	Scan     scan.Summary   `json:"scan"`
	Findings []scan.Finding `json:"findings"`
	Decision Decision       `json:"decision"`
}

// Scanned reports whether the answer is more than that the image is being scanned.
func (a Answer) Scanned() bool { return a.Scan.State != scan.Pending }
