package layer

import "sync"

// A Budget bounds an image: its layers draw from one Budget, from as many
// goroutines as they like. A nil Budget has no end.
type Budget struct {
	mu      sync.Mutex // guards all below
	bytes   int64      // left
	entries int64      // left
	limit   [2]int64   // what bytes and entries began with, for the error
}

// NewBudget returns a Budget of so many uncompressed bytes and tar entries.
func NewBudget(bytes, entries int64) *Budget {
	return &Budget{bytes: bytes, entries: entries, limit: [2]int64{bytes, entries}}
}

// DefaultBudget returns the bounds of an image: 64 GiB uncompressed, four times
// a layer's bound, and 600,000 entries, about 2 GB of a scanner's memory.
func DefaultBudget() *Budget { return NewBudget(64<<30, 600_000) }

// draw takes bytes and entries off the budget, or returns a *LimitError. What was
// drawn is not given back: a layer that fails makes its image fail.
func (b *Budget) draw(bytes, entries int64) error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bytes -= bytes
	b.entries -= entries
	if b.bytes < 0 {
		return &LimitError{What: "uncompressed bytes of the image", Limit: b.limit[0]}
	}
	if b.entries < 0 {
		return &LimitError{What: "entries of the image", Limit: b.limit[1]}
	}
	return nil
}
