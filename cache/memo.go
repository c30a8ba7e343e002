package cache

import "sync"

// A Memo keeps things in the memory of this process that were read out of a Store, or
// made of what was: only such that never change, as what a digest or a Recipe names, so
// that no other user of the Store can contradict them. Those who share a value must not
// change it. It may forget at any time. The zero value is ready, and its methods may be
// called concurrently.
type Memo[K comparable, V any] struct {
	mu   sync.Mutex // guards what follows; cost is the sum of the costs in kept, and at most maxMemo
	kept map[K]memoed[V]
	cost int
}

type memoed[V any] struct {
	value V
	cost  int
}

// Get returns what is kept under k.
func (m *Memo[K, V]) Get(k K) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.kept[k]
	return e.value, ok
}

// maxMemo bounds what one Memo keeps, in bytes: thousands of the usual things, and no
// matter beside what a process takes that scans images.
const maxMemo = 32 << 20

// Put keeps v, of about so many bytes, under k, unless that is more than a quarter of
// what a Memo keeps. Where there is no more room for it everything else is forgotten:
// what is in use is soon back.
func (m *Memo[K, V]) Put(k K, v V, cost int) {
	if cost > maxMemo/4 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cost -= m.kept[k].cost
	if m.kept == nil || m.cost+cost > maxMemo {
		m.kept, m.cost = map[K]memoed[V]{}, 0
	}
	m.kept[k] = memoed[V]{v, cost}
	m.cost += cost
}
