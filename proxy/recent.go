package proxy

import (
	"cmp"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// recent remembers when something was last done, to spare doing it again. It may
// forget at any time. The zero value is ready.
type recent struct {
	mu sync.Mutex // guards at
	at map[string]time.Time
}

const maxRecent = 16384 // entries; past it all are forgotten, which costs a few writes

// fresh reports whether key was marked less than life ago, and marks it if not.
func (r *recent) fresh(key string, now time.Time, life time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at, ok := r.at[key]; ok && now.Sub(at) < life {
		return true
	}
	if r.at == nil || len(r.at) >= maxRecent {
		r.at = map[string]time.Time{}
	}
	r.at[key] = now
	return false
}

// has reports whether key was marked.
func (r *recent) has(key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.at[key]
	return ok
}

func (r *recent) forget(key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.at, key)
}

// buffers are those of responses that copy right now. The zero value is ready.
type buffers struct{ pool sync.Pool }

func (b *buffers) get() *[]byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return p
	}
	p := make([]byte, copyBuffer)
	return &p
}

func (b *buffers) put(p *[]byte) { b.pool.Put(p) }

func cmpDigest(a, b digest.Digest) int { return cmp.Compare(a, b) }
