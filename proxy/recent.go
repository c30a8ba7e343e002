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

func (r *recent) forget(key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.at, key)
}

// parsed keeps manifests that were read lately, so that neither a client that repeats
// itself nor a blob that many manifests list costs the reading of megabytes of JSON. A
// manifest is never changed, and neither is what its digest names. The zero value is
// ready.
type parsed struct {
	mu    sync.Mutex // guards what follows; bytes is the sum of the bodies in by
	by    map[digest.Digest]*manifest
	bytes int
}

const maxParsed = 32 << 20 // bytes of bodies; past it all are forgotten

func (p *parsed) get(d digest.Digest) *manifest {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.by[d]
}

func (p *parsed) put(m *manifest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.by == nil || p.bytes+len(m.Body) > maxParsed {
		p.by, p.bytes = map[digest.Digest]*manifest{}, 0
	}
	if old := p.by[m.Digest]; old != nil {
		p.bytes -= len(old.Body)
	}
	p.by[m.Digest] = m
	p.bytes += len(m.Body)
}

func cmpDigest(a, b digest.Digest) int { return cmp.Compare(a, b) }
