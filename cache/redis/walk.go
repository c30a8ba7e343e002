package redis

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sluicegate/sluice/cache"
)

var _ cache.Walker = (*Store)(nil)

// scanCount is how many keys a server is to look at in one step of a Walk.
const scanCount = 500

// globEscape has a prefix stand for itself in a pattern of Redis.
var globEscape = strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`, "]", `\]`)

// Walk implements cache.Walker. It needs the rights to SCAN and to MEMORY USAGE.
func (s *Store) Walk(ctx context.Context, kind cache.Kind, do func(cache.Entry) error) error {
	match := globEscape.Replace(s.space()) + "*"
	if kind != "" {
		match = globEscape.Replace(strings.TrimSuffix(s.key(cache.Name(kind)), "}")) + "*"
	}
	tell := serial{do: do}
	return s.eachMaster(ctx, func(ctx context.Context, c redis.Cmdable) error {
		for cursor := uint64(0); ; {
			var entries []cache.Entry
			err := s.run(ctx, "list", cache.Name(kind), func(ctx context.Context) (err error) {
				var keys []string
				if keys, cursor, err = c.Scan(ctx, cursor, match, scanCount).Result(); err == nil {
					entries, err = s.entries(ctx, c, keys)
				}
				return err
			})
			if err != nil {
				return err
			}
			if err := tell.each(entries); err != nil || cursor == 0 {
				return err
			}
		}
	})
}

// A serial calls do for several goroutines, one call at a time, until it fails.
type serial struct {
	mu  sync.Mutex // guards the calls of do, and err
	do  func(cache.Entry) error
	err error
}

func (s *serial) each(entries []cache.Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range entries {
		if s.err == nil {
			s.err = s.do(e)
		}
	}
	return s.err
}

// entries tells of keys that a server had a moment ago.
func (s *Store) entries(ctx context.Context, c redis.Cmdable, keys []string) ([]cache.Entry, error) {
	var (
		found []cache.Entry
		types []*redis.StatusCmd
		ttls  []*redis.DurationCmd
		sizes []*redis.IntCmd
	)
	p := c.Pipeline()
	for _, key := range keys {
		k, ok := s.parseKey(key)
		if !ok { // the key of Ping, and what others put there
			continue
		}
		found = append(found, cache.Entry{Key: k})
		types, ttls, sizes = append(types, p.Type(ctx, key)), append(ttls, p.PTTL(ctx, key)), append(sizes, p.MemoryUsage(ctx, key))
	}
	if len(found) == 0 {
		return nil, nil
	}
	if _, err := p.Exec(ctx); err != nil && err != redis.Nil { // nil: the size of one that is gone
		return nil, err
	}
	var there []cache.Entry
	for i, e := range found {
		if types[i].Val() == "none" {
			continue
		}
		e.Map, e.Size = types[i].Val() == "hash", sizes[i].Val()
		if ttl := ttls[i].Val(); ttl > 0 {
			e.Ends = time.Now().Add(ttl)
		}
		there = append(there, e)
	}
	return there, nil
}
