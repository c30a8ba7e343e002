package redis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/cache/internal/pack"
)

var _ cache.Store = (*Store)(nil)

// schema is what is written down of the names of keys and the shapes of values: it goes up
// with cache.Schema, and it went up when ids became hash tags.
const schema = cache.Schema + 1

// minVersion is the first Redis that has SET with both NX and GET.
const minVersion = 7

// A Store is a cache.Store in Redis, made by Open. Its connections are made as they
// are needed, and made anew when they break.
type Store struct {
	client  redis.UniversalClient
	addr    string // for messages
	prefix  string
	timeout time.Duration
	codec   *pack.Codec
	foreign atomic.Pointer[error] // set while the schema is not this code's
}

// Open connects to the server, writes to it, and checks that it is fit to be a
// Store. Its errors name the server and never a password.
func Open(ctx context.Context, c Config) (*Store, error) {
	options, addr, err := c.options()
	if err != nil {
		return nil, err
	}
	codec, err := pack.New(cache.MaxValue)
	if err != nil {
		return nil, err
	}
	s := &Store{
		client:  redis.NewUniversalClient(options),
		addr:    addr,
		prefix:  cmp.Or(c.Prefix, "sluice:"),
		timeout: cmp.Or(c.Timeout, 5*time.Second),
		codec:   codec,
	}
	if err := s.fit(ctx); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// fit returns an error where the server can't be a Store.
func (s *Store) fit(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if err := s.client.Ping(limited).Err(); err != nil {
		return s.unreachable(ctx, err)
	}
	if err := s.eachMaster(limited, func(ctx context.Context, c redis.Cmdable) error {
		info, err := c.Info(ctx).Result()
		if err != nil { // a user that may not ask for it is taken at its word
			return nil
		}
		return fitInfo(s.addr, parseInfo(info))
	}); err != nil {
		return err
	}
	return s.Ping(ctx)
}

// eachMaster calls do with each server that is written to, concurrently in a Cluster.
func (s *Store) eachMaster(ctx context.Context, do func(context.Context, redis.Cmdable) error) error {
	if c, ok := s.client.(*redis.ClusterClient); ok {
		return c.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return do(ctx, c) })
	}
	return do(ctx, s.client)
}

// A downError is a cache.ErrDown that says what it is.
type downError struct{ error }

func (e downError) Is(target error) bool { return target == cache.ErrDown }
func (e downError) Unwrap() error        { return e.error }

// unreachable gives an error of the server, or of the way to it, the words that it needs.
func (s *Store) unreachable(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case redis.HasErrorPrefix(err, "WRONGPASS"), redis.HasErrorPrefix(err, "NOAUTH"):
		return fmt.Errorf("redis at %s refuses the user name or password: %w", s.addr, err)
	case redis.HasErrorPrefix(err, "LOADING"), redis.HasErrorPrefix(err, "CLUSTERDOWN"), redis.HasErrorPrefix(err, "MASTERDOWN"):
		return downError{fmt.Errorf("redis at %s is not ready: %w", s.addr, err)}
	case errors.As(err, new(redis.Error)):
		return fmt.Errorf("redis at %s: %w", s.addr, err)
	}
	return downError{fmt.Errorf("cannot reach Redis at %s: %w", s.addr, err)}
}

func parseInfo(info string) map[string]string {
	fields := make(map[string]string)
	for line := range strings.Lines(info) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			fields[name] = value
		}
	}
	return fields
}

func fitInfo(addr string, info map[string]string) error {
	version := info["redis_version"]
	major, _, _ := strings.Cut(version, ".")
	if n, err := strconv.Atoi(major); err == nil && n < minVersion {
		return fmt.Errorf("redis at %s is version %s; %d or later is needed", addr, version, minVersion)
	}
	policy := info["maxmemory_policy"]
	if strings.HasPrefix(policy, "allkeys-") && info["maxmemory"] != "0" {
		return fmt.Errorf("redis at %s may evict any key when its memory is full (maxmemory-policy %s), also waivers and pull tokens; "+
			"set maxmemory-policy to noeviction or volatile-lru", addr, policy)
	}
	return nil
}

// Close implements cache.Store.
func (s *Store) Close() error {
	err := s.client.Close()
	s.codec.Close()
	if errors.Is(err, redis.ErrClosed) {
		return nil
	}
	return err
}

// run is ask, of a server whose schema is this code's.
func (s *Store) run(ctx context.Context, verb string, k cache.Key, do func(context.Context) error) error {
	if foreign := s.foreign.Load(); foreign != nil {
		return *foreign
	}
	return s.ask(ctx, verb, k, do)
}

// ask gives do, some commands, their deadline, and their error the words it needs. A nil
// answer of the server is redis.Nil, as go-redis has it.
func (s *Store) ask(ctx context.Context, verb string, k cache.Key, do func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	err := do(limited)
	switch {
	case err == nil || err == redis.Nil:
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	case redis.HasErrorPrefix(err, "WRONGTYPE"):
		return fmt.Errorf("%s %q in Redis at %s: the key %s is not of the type it should have: %w: %w", verb, k, s.addr, s.key(k), cache.ErrDamaged, err)
	case limited.Err() != nil: // not wrapped: it is not the caller's deadline
		return downError{fmt.Errorf("%s %q: no answer from Redis at %s within %v", verb, k, s.addr, s.timeout)}
	case redis.HasErrorPrefix(err, "OOM"):
		return fmt.Errorf("%s %q: the memory of Redis at %s is full: give it more (maxmemory), or shorten what is kept: %w: %w", verb, k, s.addr, cache.ErrFull, err)
	}
	return downError{fmt.Errorf("%s %q: %w", verb, k, s.unreachable(ctx, err))}
}

// unpack is Unpack with an error that says where.
func (s *Store) unpack(verb string, k cache.Key, packed string) ([]byte, error) {
	value, err := s.codec.Unpack([]byte(packed))
	if err != nil {
		return nil, fmt.Errorf("%s %q: %w, or is not from sluice, in Redis at %s under %s: %w; delete that key there to go on without it",
			verb, k, cache.ErrDamaged, s.addr, s.key(k), err)
	}
	return value, nil
}

// Get implements cache.Store.
func (s *Store) Get(ctx context.Context, k cache.Key) ([]byte, error) {
	var packed string
	err := s.run(ctx, "get", k, func(ctx context.Context) (err error) {
		packed, err = s.client.Get(ctx, s.key(k)).Result()
		return err
	})
	if err == redis.Nil {
		return nil, fmt.Errorf("get %q: %w", k, cache.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	return s.unpack("get", k, packed)
}

// Put implements cache.Store.
func (s *Store) Put(ctx context.Context, k cache.Key, value []byte, ttl time.Duration) error {
	if err := cache.Check(k, "", value, ttl); err != nil {
		return err
	}
	packed := s.codec.Pack(value)
	return s.run(ctx, "put", k, func(ctx context.Context) error {
		return s.script(ctx, putScript, k, packed, milliseconds(ttl)).Err()
	})
}

// PutNew implements cache.Store.
func (s *Store) PutNew(ctx context.Context, k cache.Key, value []byte, ttl time.Duration) ([]byte, error) {
	if err := cache.Check(k, "", value, ttl); err != nil {
		return nil, err
	}
	packed := s.codec.Pack(value)
	var there string
	err := s.run(ctx, "put", k, func(ctx context.Context) (err error) {
		there, err = s.script(ctx, putNewScript, k, packed, milliseconds(ttl)).Text()
		return err
	})
	if err == redis.Nil { // there was none
		return append([]byte{}, value...), nil
	}
	if err != nil {
		return nil, err
	}
	return s.unpack("put", k, there)
}

// PutIf implements cache.Store.
func (s *Store) PutIf(ctx context.Context, k cache.Key, old, value []byte, ttl time.Duration) (bool, error) {
	if err := cache.Check(k, "", value, ttl); err != nil {
		return false, err
	}
	stored := false
	err := s.run(ctx, "put", k, func(ctx context.Context) (err error) {
		stored, err = s.script(ctx, putIfScript, k, s.codec.Pack(value), milliseconds(ttl), s.codec.Pack(old)).Bool()
		return err
	})
	return stored && err == nil, err
}

// Delete implements cache.Store.
func (s *Store) Delete(ctx context.Context, k cache.Key) error {
	return s.run(ctx, "delete", k, func(ctx context.Context) error {
		return s.script(ctx, deleteScript, k).Err()
	})
}

// Fields implements cache.Store.
func (s *Store) Fields(ctx context.Context, k cache.Key) (map[string][]byte, error) {
	var packed map[string]string
	err := s.run(ctx, "read the fields of", k, func(ctx context.Context) (err error) {
		packed, err = s.client.HGetAll(ctx, s.key(k)).Result()
		return err
	})
	if err != nil {
		return nil, err
	}
	fields := make(map[string][]byte, len(packed))
	for name, p := range packed {
		if fields[name], err = s.unpack("read the fields of", k, p); err != nil {
			return nil, err
		}
	}
	return fields, nil
}

// PutField implements cache.Store.
func (s *Store) PutField(ctx context.Context, k cache.Key, field string, value []byte, ttl time.Duration) error {
	if err := cache.Check(k, field, value, ttl); err != nil {
		return err
	}
	packed := s.codec.Pack(value)
	return s.run(ctx, "set a field of", k, func(ctx context.Context) error {
		return s.script(ctx, putFieldScript, k, packed, milliseconds(ttl), field).Err()
	})
}

// DeleteField implements cache.Store.
func (s *Store) DeleteField(ctx context.Context, k cache.Key, field string) error {
	return s.run(ctx, "delete a field of", k, func(ctx context.Context) error {
		return s.script(ctx, deleteFieldScript, k, field).Err()
	})
}

// Ping implements cache.Store: it writes a small key, and looks whether the schema is still
// this code's. Where it isn't, the Store refuses everything until it is.
func (s *Store) Ping(ctx context.Context) error {
	var found string
	ping := cache.Name("ping")
	err := s.ask(ctx, "write to", ping, func(ctx context.Context) error {
		if err := s.client.Set(ctx, s.space()+"ping", time.Now().UTC().Format(time.RFC3339), time.Hour).Err(); err != nil {
			return err
		}
		// A server that was emptied lost it.
		if err := s.client.SetArgs(ctx, s.prefix+"schema", schema, redis.SetArgs{Mode: "NX"}).Err(); err != nil && err != redis.Nil {
			return err
		}
		var err error
		found, err = s.client.Get(ctx, s.prefix+"schema").Result()
		return err
	})
	if err != nil {
		return err
	}
	err = cache.CheckSchema(fmt.Sprintf("what is in Redis at %s under %q", s.addr, s.prefix), found, schema)
	if err != nil {
		s.foreign.Store(&err)
	} else {
		s.foreign.Store(nil)
	}
	return err
}

// space begins every key but that of the schema.
func (s *Store) space() string { return s.prefix + "v" + strconv.Itoa(schema) + ":" }

// key returns where k lies. Its id is a hash tag: what is known of one thing under several
// kinds is on one node of a Cluster.
func (s *Store) key(k cache.Key) string {
	kind, id, _ := strings.Cut(k.Text(), ":") // which escapes braces, and a colon in the kind
	return s.space() + kind + ":{" + id + "}"
}

// parseKey returns the Key that lies at key, and whether it is one of this Store's.
func (s *Store) parseKey(key string) (cache.Key, bool) {
	text, ours := strings.CutPrefix(key, s.space())
	kind, tag, braced := strings.Cut(text, ":{")
	id, whole := strings.CutSuffix(tag, "}")
	k, err := cache.ParseKey(kind + ":" + id)
	return k, ours && braced && whole && err == nil
}

// milliseconds returns ttl as Redis has it; 0 is for ever, and less than 1 is 1.
func milliseconds(ttl time.Duration) int64 {
	if ttl == 0 {
		return 0
	}
	return int64((ttl + time.Millisecond - 1) / time.Millisecond)
}
