package cache

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"sync"
	"time"
)

var _ Walker = (*Memory)(nil)

// memorySweep is how long a Memory keeps what has expired, provided that something
// is written to it.
const memorySweep = time.Minute

// A Memory is a Store in the memory of this process: for tests, and for what need
// not outlive it. It is empty at first, and the zero value is ready for use. It has
// no bound of its own; what expires is dropped.
type Memory struct {
	mu      sync.Mutex // guards what follows; an entry is a value or a map, never both
	entries map[Key]*entry
	swept   time.Time
	closed  bool
}

type entry struct {
	value  []byte            // where fields is nil
	fields map[string][]byte // never empty
	end    time.Time         // zero is never
}

func (e *entry) expired(now time.Time) bool { return !e.end.IsZero() && !now.Before(e.end) }

// begin locks m for one call and drops what has expired under k. Where it returns
// no error, the caller unlocks.
func (m *Memory) begin(ctx context.Context, k Key) (*entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil, fmt.Errorf("store %q: the store is closed", k)
	}
	e := m.entries[k]
	if e != nil && e.expired(time.Now()) {
		delete(m.entries, k)
		return nil, nil
	}
	return e, nil
}

// set stores e under k; the caller holds mu.
func (m *Memory) set(k Key, e *entry) {
	now := time.Now()
	if m.entries == nil {
		m.entries = make(map[Key]*entry)
	}
	if now.Sub(m.swept) >= memorySweep {
		maps.DeleteFunc(m.entries, func(_ Key, e *entry) bool { return e.expired(now) })
		m.swept = now
	}
	m.entries[k] = e
}

// Get implements Store.
func (m *Memory) Get(ctx context.Context, k Key) ([]byte, error) {
	e, err := m.begin(ctx, k)
	if err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	switch {
	case e == nil:
		return nil, fmt.Errorf("get %q: %w", k, ErrNotExist)
	case e.fields != nil:
		return nil, errIsMap("get", k)
	}
	return clone(e.value), nil
}

// Put implements Store.
func (m *Memory) Put(ctx context.Context, k Key, value []byte, ttl time.Duration) error {
	if err := Check(k, "", value, ttl); err != nil {
		return err
	}
	e, err := m.begin(ctx, k)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	if e != nil && e.fields != nil {
		return errIsMap("put", k)
	}
	m.set(k, &entry{value: clone(value), end: end(ttl)})
	return nil
}

// PutNew implements Store.
func (m *Memory) PutNew(ctx context.Context, k Key, value []byte, ttl time.Duration) ([]byte, error) {
	if err := Check(k, "", value, ttl); err != nil {
		return nil, err
	}
	e, err := m.begin(ctx, k)
	if err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	switch {
	case e != nil && e.fields != nil:
		return nil, errIsMap("put", k)
	case e != nil:
		return clone(e.value), nil
	}
	m.set(k, &entry{value: clone(value), end: end(ttl)})
	return clone(value), nil
}

// PutIf implements Store.
func (m *Memory) PutIf(ctx context.Context, k Key, old, value []byte, ttl time.Duration) (bool, error) {
	if err := Check(k, "", value, ttl); err != nil {
		return false, err
	}
	e, err := m.begin(ctx, k)
	if err != nil {
		return false, err
	}
	defer m.mu.Unlock()
	switch {
	case e == nil:
		return false, nil
	case e.fields != nil:
		return false, errIsMap("put", k)
	case !bytes.Equal(e.value, old):
		return bytes.Equal(e.value, value), nil
	}
	m.set(k, &entry{value: clone(value), end: end(ttl)})
	return true, nil
}

// Delete implements Store.
func (m *Memory) Delete(ctx context.Context, k Key) error {
	if _, err := m.begin(ctx, k); err != nil {
		return err
	}
	defer m.mu.Unlock()
	delete(m.entries, k)
	return nil
}

// Fields implements Store.
func (m *Memory) Fields(ctx context.Context, k Key) (map[string][]byte, error) {
	e, err := m.begin(ctx, k)
	if err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	fields := make(map[string][]byte)
	if e == nil {
		return fields, nil
	}
	if e.fields == nil {
		return nil, errIsValue("read the fields of", k)
	}
	for name, value := range e.fields {
		fields[name] = clone(value)
	}
	return fields, nil
}

// PutField implements Store.
func (m *Memory) PutField(ctx context.Context, k Key, field string, value []byte, ttl time.Duration) error {
	if err := Check(k, field, value, ttl); err != nil {
		return err
	}
	e, err := m.begin(ctx, k)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	switch {
	case e == nil:
		e = &entry{fields: make(map[string][]byte), end: end(ttl)}
		m.set(k, e)
	case e.fields == nil:
		return errIsValue("set a field of", k)
	case ttl == 0:
		e.end = time.Time{}
	case !e.end.IsZero() && e.end.Before(end(ttl)):
		e.end = end(ttl)
	}
	e.fields[field] = clone(value)
	return nil
}

// DeleteField implements Store.
func (m *Memory) DeleteField(ctx context.Context, k Key, field string) error {
	e, err := m.begin(ctx, k)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	if e == nil {
		return nil
	}
	if e.fields == nil {
		return errIsValue("delete a field of", k)
	}
	delete(e.fields, field)
	if len(e.fields) == 0 {
		delete(m.entries, k)
	}
	return nil
}

// Walk implements Walker.
func (m *Memory) Walk(ctx context.Context, kind Kind, do func(Entry) error) error {
	if _, err := m.begin(ctx, Key{}); err != nil {
		return err
	}
	var entries []Entry
	for k, e := range m.entries {
		if (kind == "" || k.kind == kind) && !e.expired(time.Now()) {
			size := len(k.kind) + len(k.id) + len(e.value)
			for name, value := range e.fields {
				size += len(name) + len(value)
			}
			entries = append(entries, Entry{k, e.fields != nil, int64(size), e.end})
		}
	}
	m.mu.Unlock()
	for _, e := range entries {
		if err := do(e); err != nil {
			return err
		}
	}
	return nil
}

// Ping implements Store.
func (m *Memory) Ping(ctx context.Context) error {
	if _, err := m.begin(ctx, Key{}); err != nil {
		return err
	}
	m.mu.Unlock()
	return nil
}

// Close implements Store: what m held is gone.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entries, m.closed = nil, true
	return nil
}

func errIsMap(verb string, k Key) error {
	return fmt.Errorf("%s %q: it is a map, not a value: %w", verb, k, ErrDamaged)
}

func errIsValue(verb string, k Key) error {
	return fmt.Errorf("%s %q: it is a value, not a map: %w", verb, k, ErrDamaged)
}

func end(ttl time.Duration) time.Time {
	if ttl == 0 {
		return time.Time{}
	}
	return time.Now().Add(max(ttl, time.Millisecond))
}

// clone returns a copy that is never nil.
func clone(b []byte) []byte { return append([]byte{}, b...) }
