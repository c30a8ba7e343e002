package layer

import (
	"context"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// A Budget bounds an image: its layers draw from one Budget, from as many
// goroutines as they like. A nil Budget has no end.
type Budget struct {
	Large *Large // shared with the budgets of other images; nil: no bound

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

// smallWindow is what a zstd frame may have as its window in any pass: encoders of images
// use 8 MiB, and 32 at their best level (klauspost/compress/zstd, EncoderLevel).
const smallWindow = 32 << 20

// Large lets one pass at a time have a zstd window that is larger than others may have,
// whatever image it is for: each is memory of the gateway's, and an image has several
// layers on their way. The zero value is ready.
type Large struct {
	once sync.Once
	slot chan struct{}
}

// enter waits for the slot, or for ctx.
func (l *Large) enter(ctx context.Context) (leave func(), err error) {
	l.once.Do(func() { l.slot = make(chan struct{}, 1) })
	select {
	case l.slot <- struct{}{}:
		return func() { <-l.slot }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// window returns how large a zstd window may be that begins with head, and waits for the
// slot where that is large. Later frames may have no larger ones.
func (b *Budget) window(ctx context.Context, head []byte, most int64) (bytes int64, leave func(), err error) {
	nothing := func() {}
	if b == nil || b.Large == nil || most > 0 && most <= smallWindow {
		return most, nothing, nil
	}
	var h zstd.Header
	if err := h.Decode(head); err == nil && !h.Skippable && max(h.WindowSize, single(h)) <= smallWindow {
		return smallWindow, nothing, nil
	}
	leave, err = b.Large.enter(ctx)
	return most, leave, err
}

// single returns the size of a frame that is its own window, else 0.
func single(h zstd.Header) uint64 {
	if h.SingleSegment {
		return h.FrameContentSize
	}
	return 0
}

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
