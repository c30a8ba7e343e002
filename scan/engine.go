package scan

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// An Engine catalogues images and matches what it found: the seam between the
// Scanner, which remembers, and the worker process, which computes. An error of an
// Engine or of its Session is about the machinery (a crash, a deadline, a full
// disk), unless it is a *ContentError, which is about the image's bytes.
type Engine interface {
	// Begin starts a session for one image. diffIDs is what the config claims of the
	// layers, one for each of img.Layers. ctx bounds the whole session: when it ends,
	// every call returns and whatever still works for the session is stopped.
	Begin(ctx context.Context, img Image, diffIDs []digest.Digest) (Session, error)
	// Match finds the known vulnerabilities of an SBOM, which is syft JSON as a
	// Session's Catalogue gave it, in one build of the database. It never returns a
	// part of the matches without an error or a Problem.
	Match(ctx context.Context, sbom []byte, db Database) (*Matches, error)
	// Recipe names everything in the Engine that a result depends on.
	Recipe() Recipe
}

// A Session catalogues one image whose layers arrive one by one. Layer may be called
// concurrently for different layers.
type Session interface {
	// Layer says that the i-th layer, counted from the bottom, lies at path as an
	// uncompressed tar. The file must stand unchanged until Close has returned.
	// Indexing starts at once and goes on after Layer has returned.
	Layer(i int, path string) error
	// Catalogue returns the SBOM of the whole image. It may be called before the last
	// layer has landed, and waits.
	Catalogue(ctx context.Context) (*SBOM, error)
	// Close stops the session, if it is still at work, and releases it. It may be
	// called at any time, more than once, and never blocks for long.
	Close() error
}

// A Recipe names the versions and settings that an Engine's results depend on. Its
// fields are part of keys, so that a change of any is a miss.
type Recipe struct {
	Syft      string `json:"syft"`      // version of syft
	Catalogue string `json:"catalogue"` // hash of the catalogue configuration
	Grype     string `json:"grype"`     // version of grype
	Match     string `json:"match"`     // hash of the match settings
}

// String returns the recipe on one line, for logs and reports.
func (r Recipe) String() string {
	return strings.Join([]string{"syft " + r.Syft, r.Catalogue, "grype " + r.Grype, r.Match}, " ")
}

// An SBOM is what an image holds.
type SBOM struct {
	JSON      []byte    // syft JSON, which Engine.Match reads
	Packages  int       // number of packages in it
	Distro    string    // os-release ID, empty where there is none
	DistroVer string    // os-release VERSION_ID
	Problems  []Problem // what could not be read
	Steps     []Step    // what took how long, where it was made now
}

// Matches is what a database knows about an SBOM.
type Matches struct {
	Findings    []Finding `json:"findings"`             // in any order; FirstSeen is left empty
	DistroKnown bool      `json:"distro_known"`         // as in Coverage
	DistroEOL   string    `json:"distro_eol,omitempty"` // as in Coverage
	Problems    []Problem `json:"problems,omitempty"`   // what could not be matched
	Steps       []Step    `json:"steps,omitempty"`      // what took how long
}

// A ContentError is an error that is a property of the image's bytes: the same bytes
// give it again. It is remembered, where other errors are tried again.
type ContentError struct {
	Detail string // one line for people
}

func (e *ContentError) Error() string { return e.Detail }

// What Scanner.Database returns, wrapped, when there is no database to match with.
var (
	ErrDatabaseMissing = errors.New("no vulnerability database")
	ErrDatabaseStale   = errors.New("the vulnerability database is too old")
)

// ErrDatabaseElsewhere is wrapped by the error of a match that can't be made here yet: other
// gateways decide by a newer database than this one has. It wraps ErrDatabaseMissing.
var ErrDatabaseElsewhere = fmt.Errorf("%w", ErrDatabaseMissing)
