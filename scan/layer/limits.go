package layer

import (
	"fmt"
	"time"
)

// Limits bound one layer. A zero field is no bound: start from DefaultLimits.
type Limits struct {
	Compressed   int64 // bytes of the blob
	Uncompressed int64 // bytes of the layer once decompressed

	// Ratio is how many times the compressed bytes read so far the uncompressed ones
	// may be, once those are more than RatioAfter.
	Ratio      int64
	RatioAfter int64

	Window      int64         // bytes of memory that a zstd frame may ask for
	Entries     int           // tar entries, and directories that only names of entries tell of
	Name        int           // bytes of a name, and of a link's target
	Depth       int           // elements of a name
	Header      int64         // bytes of headers before one entry's contents
	HeaderTotal int64         // the same over the whole layer
	Time        time.Duration // of the pass, less what src kept it waiting
}

// DefaultLimits returns bounds that real images stay far below, each with its reason.
func DefaultLimits() Limits {
	return Limits{
		// The largest layers in public use, of GPU and model images, are near this.
		Compressed:   8 << 30,
		Uncompressed: 16 << 30,
		// Deflate reaches 1032:1, real layers of some size 30:1. Smaller layers may
		// have any ratio: they hurt nobody.
		Ratio:      200,
		RatioAfter: 64 << 20,
		// What "zstd --long" asks for, and every decoder must accept up to 8 MiB.
		Window: 128 << 20,
		// A scanner keeps 1.6 to 4 KB of memory an entry: about 1 GB.
		Entries: 300_000,
		// PATH_MAX of Linux: no runtime can create a longer one.
		Name: 4096,
		// Scanners walk trees recursively; real images stay below 40.
		Depth: 256,
		// archive/tar takes 1 MiB for each kind of header; extended attributes, the
		// largest honest content, have 64 KiB each.
		Header: 1 << 20,
		// Scanners keep PAX records in memory. With times and owners in PAX it is
		// 1.5 KiB an entry.
		HeaderTotal: 512 << 20,
		// What Uncompressed takes at 100 MB/s, half of what gunzip does.
		Time: 3 * time.Minute,
	}
}

// A LimitError says that a layer is past a bound and was not read to its end.
type LimitError struct {
	What  string // what is bounded, in words: "entries of the layer"
	Limit int64
	Path  string // the entry that was being read, where there is one
}

func (e *LimitError) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("layer has more than %d %s", e.Limit, e.What)
	}
	return fmt.Sprintf("layer has more than %d %s at %q", e.Limit, e.What, e.Path)
}

// past returns a *LimitError where n is more than a limit that is set.
func past(n, limit int64, what, path string) error {
	if limit > 0 && n > limit {
		return &LimitError{What: what, Limit: limit, Path: path}
	}
	return nil
}
