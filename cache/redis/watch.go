package redis

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
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
// as any write is, and come back behind whatever was published on that server before.
func (s *Store) Watch(ctx context.Context, beat func(time.Time), changed func(cache.Key)) error {
	sub := s.client.Subscribe(ctx, s.channel())
	defer sub.Close()
	err := s.subscribed(ctx, sub)
	if err == nil {
		w := watch{store: s, me: rand.Text(), began: time.Now(), beat: beat, changed: changed}
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
	began   time.Time
	beat    func(time.Time)
	changed func(cache.Key)
}

// send publishes beats until ctx ends or it can't.
func (w *watch) send(ctx context.Context) error {
	for {
		limited, cancel := context.WithTimeout(ctx, w.store.timeout)
		err := w.store.client.Publish(limited, w.store.channel(), "\n"+w.me+time.Since(w.began).String()).Err()
		cancel()
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(beatEvery):
		}
	}
}

// receive passes on what is told until ctx ends or its own beats stay away.
func (w *watch) receive(ctx context.Context, sub *redis.PubSub) error {
	heard := time.Now()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		left := time.Until(heard.Add(w.store.timeout))
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
			w.changed(cache.KeyOf(cache.Kind(kind), id))
			continue
		}
		if sent, mine := strings.CutPrefix(id, w.me); mine {
			heard = time.Now()
			if after, err := time.ParseDuration(sent); err == nil {
				w.beat(w.began.Add(after))
			}
		}
	}
}
