package redis

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sluicegate/sluice/cache"
	"golang.org/x/sync/errgroup"
)

var _ cache.Watcher = (*Store)(nil)

// beatEvery is how often a Watch makes sure that it is still told of everything.
const beatEvery = 250 * time.Millisecond

// channel is where writes are told.
func (s *Store) channel() string { return s.space() + "changes" }

// What is told of a key is its kind, a newline and its id. A beat has no kind.
func encodeChange(k cache.Key) string { return string(k.Kind()) + "\n" + k.ID() }

// Watch implements cache.Watcher. Its beats go the way of the changes: they are published
// as any write is, and come back behind whatever was published on that server before. In a
// Cluster a beat has come when it came back from every master, since each passes on what
// was written to it.
func (s *Store) Watch(ctx context.Context, beat func(time.Time), changed func(cache.Key)) error {
	sub := s.client.Subscribe(ctx, s.channel())
	defer sub.Close()
	err := s.subscribed(ctx, sub)
	if err == nil {
		w := watch{store: s, me: rand.Text(), beat: beat, changed: changed, heard: time.Now(), sent: map[int]*sent{}}
		both, ends := errgroup.WithContext(ctx)
		both.Go(func() error { return w.send(ends) })
		both.Go(func() error { return w.receive(ends, sub) })
		err = both.Wait()
	}
	return fmt.Errorf("watch: %w", s.unreachable(ctx, err))
}

// subscribed waits until the server has confirmed a subscription.
func (s *Store) subscribed(ctx context.Context, sub *redis.PubSub) error {
	limited, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	_, err := sub.Receive(limited)
	return err
}

// A watch is one call of Watch.
type watch struct {
	store   *Store
	me      string // tells its beats from those of others
	beat    func(time.Time)
	changed func(cache.Key)

	mu    sync.Mutex    // guards what follows, and calls of beat and changed
	sent  map[int]*sent // beats that are not wholly heard yet
	heard time.Time     // when one was last
}

// A sent is a beat that is on its way.
type sent struct {
	at  time.Time
	due int // how often it is still to be heard, below 0 where it was before that is known
}

// send publishes beats until ctx ends or it can't.
func (w *watch) send(ctx context.Context) error {
	for beat := 1; ; beat++ {
		w.mu.Lock()
		w.sent[beat] = &sent{at: time.Now()}
		w.mu.Unlock()
		limited, cancel := context.WithTimeout(ctx, w.store.timeout)
		var servers atomic.Int32
		err := w.store.eachMaster(limited, func(ctx context.Context, c redis.Cmdable) error {
			servers.Add(1)
			return c.Publish(ctx, w.store.channel(), "\n"+w.me+strconv.Itoa(beat)).Err()
		})
		cancel()
		if err != nil {
			return err
		}
		w.hear(beat, int(servers.Load()))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(beatEvery):
		}
	}
}

// hear counts how often a beat is still to be heard: n more, or with -1 once less.
func (w *watch) hear(beat, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.sent[beat]
	if s == nil { // a later one was heard
		return
	}
	if s.due += n; s.due == 0 {
		w.heard = time.Now()
		w.beat(s.at)
		maps.DeleteFunc(w.sent, func(b int, _ *sent) bool { return b <= beat })
	}
}

// receive passes on what is told until ctx ends or its own beats stay away.
func (w *watch) receive(ctx context.Context, sub *redis.PubSub) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		w.mu.Lock()
		left := time.Until(w.heard.Add(w.store.timeout))
		w.mu.Unlock()
		if left <= 0 { // others may still be heard, through another server of a Cluster
			return fmt.Errorf("what it told was not heard again within %v", w.store.timeout)
		}
		m, err := sub.ReceiveTimeout(ctx, left)
		if err != nil {
			return err
		}
		message, ok := m.(*redis.Message)
		if !ok { // subscribed anew
			return errors.New("the connection was lost")
		}
		kind, id, _ := strings.Cut(message.Payload, "\n")
		if kind != "" {
			w.mu.Lock()
			w.changed(cache.KeyOf(cache.Kind(kind), id))
			w.mu.Unlock()
			continue
		}
		if sent, mine := strings.CutPrefix(id, w.me); mine {
			if beat, err := strconv.Atoi(sent); err == nil {
				w.hear(beat, -1)
			}
		}
	}
}
