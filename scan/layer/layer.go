package layer

import (
	"fmt"

	"github.com/opencontainers/go-digest"
)

// Version names the rules of this package. It belongs in the key under which a
// Result is remembered: a newer guard looks again at what an older one passed.
const Version = "4"

// A Format is how a layer is compressed, as its first bytes tell.
type Format string

const (
	None Format = "none"
	Gzip Format = "gzip"
	Zstd Format = "zstd"
)

// A Result is what one pass over a layer found. It belongs to the compressed
// digest: two blobs with one DiffID can differ in what trails behind it.
type Result struct {
	DiffID       digest.Digest `json:"diff_id"` // sha256 of the uncompressed bytes, all of them
	Compressed   int64         `json:"compressed"`
	Uncompressed int64         `json:"uncompressed"`
	Entries      int           `json:"entries"`           // as archive/tar counts them
	Implied      int           `json:"implied,omitempty"` // directories that have no entry of their own, or a later one; bounds count them too
	Format       Format        `json:"format"`
	Tar          bool          `json:"tar"`      // false: cleanly something else, which was not walked
	Problems     []Problem     `json:"problems"` // never null; at most MaxProblems
}

// MaxProblems is how many Problems of a layer are told one by one.
const MaxProblems = 100

// A Problem is something in a layer that a scanner and a container runtime, or two
// runtimes, read differently. "Nothing found" can't be trusted for such a layer.
type Problem struct {
	Kind   string `json:"kind"`           // one of the constants below
	Path   string `json:"path,omitempty"` // as in the tar, cut at 256 bytes
	Detail string `json:"detail"`         // one line for people
}

// The kinds of Problem. They are stored and shown: never rename one.
const (
	SparseEntry       = "sparse_entry"       // runtimes expand it, the scanner reads the packed bytes
	UnknownEntryType  = "unknown_entry_type" // some take it for a file, some skip it, some refuse it
	TrailingData      = "trailing_data"      // behind an end, where only some look
	AmbiguousFormat   = "ambiguous_format"   // compressed, and a tar as it stands
	AmbiguousName     = "ambiguous_name"     // leaves the root, or is the root and no directory
	AmbiguousSize     = "ambiguous_size"     // a link, directory or device that claims contents
	AmbiguousWhiteout = "ambiguous_whiteout" // names no file, hides a tree, or hits its own layer
	AmbiguousLink     = "ambiguous_link"     // a hard link to what its layer does not hold
	AmbiguousLayout   = "ambiguous_layout"   // a tree that differs with the way in which layers are put together
	AmbiguousType     = "ambiguous_type"     // a mode of another type than the entry's
	GlobalHeader      = "global_header"      // would rename or resize the entries that follow
)

// A FormatError says that a layer's bytes can't be read: damaged, cut short, or in a
// form that a runtime may read and this package does not.
type FormatError struct {
	What string // what was being read: "gzip", "zstd", "tar", …
	Path string // the last entry before the fault, where there is one
	Err  error
}

func (e *FormatError) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("layer is no readable %s: %v", e.What, e.Err)
	}
	return fmt.Sprintf("layer is no readable %s behind %q: %v", e.What, e.Path, e.Err)
}

func (e *FormatError) Unwrap() error { return e.Err }

// A MismatchError says that the bytes are not those that the descriptor names.
type MismatchError struct {
	What      string // "size" or "digest"
	Want, Got string
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("layer's %s is %s, its descriptor says %s", e.What, e.Got, e.Want)
}

// shortPath is a stranger's path as it goes into errors and Problems.
func shortPath(p string) string {
	const most = 256
	if len(p) > most {
		return p[:most] + "…"
	}
	return p
}
