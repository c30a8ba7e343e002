package redis

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/cache/cachetest"
)

// startCluster starts a Cluster of three nodes and returns their addresses with commas.
func startCluster(t *testing.T) string {
	t.Helper()
	var addrs []string
	for _, n := range startNodes(t) {
		addrs = append(addrs, n.addr)
	}
	return strings.Join(addrs, ",")
}

func startNodes(t *testing.T) (nodes []*server) {
	t.Helper()
	const slots = 16384
	var buses []string
	for i := range 3 {
		bus := freePort(t)
		_, port, _ := net.SplitHostPort(bus)
		n := startServer(t, "--cluster-enabled", "yes", "--cluster-port", port, "--cluster-node-timeout", "5000")
		nodes, buses = append(nodes, n), append(buses, port)
		if err := n.client(t).Do(t.Context(), "CLUSTER", "ADDSLOTSRANGE", slots*i/3, slots*(i+1)/3-1).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for i, n := range nodes[1:] {
		host, port, _ := net.SplitHostPort(n.addr)
		if err := nodes[0].client(t).Do(t.Context(), "CLUSTER", "MEET", host, port, buses[i+1]).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range nodes {
		wait(t, "the nodes to know each other", func() bool {
			info, err := n.client(t).Do(t.Context(), "CLUSTER", "INFO").Text()
			return err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:3")
		})
	}
	return nodes
}

func wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * patience); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestClusterStore(t *testing.T) {
	addrs := startCluster(t)
	var n atomic.Int32
	cachetest.Test(t, func(t *testing.T) cache.Store {
		return mustOpen(t, Config{URL: "redis-cluster://" + addrs, Prefix: fmt.Sprintf("test%d:", n.Add(1)), Timeout: 30 * time.Second})
	})
}

// TestClusterWatch checks that what is written through any node is told of by any other.
func TestClusterWatch(t *testing.T) {
	addrs := startCluster(t)
	ours := mustOpen(t, Config{URL: "redis-cluster://" + addrs})
	first, _, _ := strings.Cut(addrs, ",") // one node is enough to find the others
	theirs := mustOpen(t, Config{URL: "redis-cluster://" + first})
	w := watchStore(t.Context(), ours)
	receive(t, w.beats, "beat")
	for i := range 30 { // of which each node has some
		k := cache.Name("value", fmt.Sprint(i))
		if err := theirs.Put(t.Context(), k, nil, 0); err != nil {
			t.Fatal(err)
		}
		if got := receive(t, w.changes, "change"); got != k {
			t.Fatalf("told of %q, want %q", got, k)
		}
	}
}

// TestClusterWatchDeaf checks that there is no beat where one of the masters can't pass on what
// is written to it, though the one that is listened to can.
func TestClusterWatchDeaf(t *testing.T) {
	nodes := startNodes(t)
	s := mustOpen(t, Config{URL: "redis-cluster://" + nodes[0].addr, Timeout: 2 * time.Second})
	for _, stuck := range nodes {
		ctx, cancel := context.WithCancel(t.Context())
		w := watchStore(ctx, s)
		receive(t, w.beats, "beat")
		if err := stuck.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		stopped := time.Now()
		receive(t, w.end, "end of the watch")
		cancel()
		for len(w.beats) > 0 {
			if at := <-w.beats; at.After(stopped) {
				t.Errorf("a beat of %v after %s stood still", at.Sub(stopped), stuck.addr)
			}
		}
		if err := stuck.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		wait(t, "the Cluster", func() bool { return s.Ping(t.Context()) == nil })
	}
}

// A sentinelSetup is a master, its replica, and three Sentinels that watch them.
type sentinelSetup struct {
	master, replica *server
	addrs           string // of the Sentinels
}

func startSentinels(t *testing.T) *sentinelSetup {
	t.Helper()
	program, err := exec.LookPath("redis-sentinel")
	if err != nil {
		t.Skip("no redis-sentinel in PATH: install the package redis-sentinel (Debian) to run this test")
	}
	s := &sentinelSetup{master: startServer(t)}
	host, port, _ := net.SplitHostPort(s.master.addr)
	s.replica = startServer(t, "--replicaof", host, port)
	var addrs []string
	for range 3 {
		addr := freePort(t)
		_, own, _ := net.SplitHostPort(addr)
		dir := t.TempDir()
		conf := filepath.Join(dir, "sentinel.conf")
		text := fmt.Sprintf("bind 127.0.0.1\nport %s\ndir %s\nsentinel monitor sluice %s %s 2\nsentinel down-after-milliseconds sluice 1500\nsentinel failover-timeout sluice 10000\n", own, dir, host, port)
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program, conf, "--sentinel")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		addrs = append(addrs, addr)
	}
	s.addrs = strings.Join(addrs, ",")
	for _, addr := range addrs {
		wait(t, "the Sentinels to know each other and the replica", func() bool {
			c := (&server{addr: addr}).client(t)
			info, err := c.Info(t.Context(), "sentinel").Result()
			return err == nil && strings.Contains(info, "slaves=1,sentinels=3")
		})
	}
	return s
}

func TestSentinelStore(t *testing.T) {
	s := startSentinels(t)
	var n atomic.Int32
	cachetest.Test(t, func(t *testing.T) cache.Store {
		return mustOpen(t, Config{URL: "redis-sentinel://" + s.addrs + "/sluice", Prefix: fmt.Sprintf("test%d:", n.Add(1)), Timeout: 30 * time.Second})
	})
}

// TestFailOver checks that a Store behind Sentinels works again within seconds after its
// master was killed, that until then there are errors and never misses, and that a Watch
// hears the new master.
func TestFailOver(t *testing.T) {
	s := startSentinels(t)
	store := mustOpen(t, Config{URL: "redis-sentinel://" + s.addrs + "/sluice/0", Timeout: 2 * time.Second})
	k := cache.Name("value", "a")
	if err := store.Put(t.Context(), k, []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	replica := s.replica.client(t)
	wait(t, "the replica to have it", func() bool { return replica.Exists(t.Context(), store.key(k)).Val() == 1 })
	w := watchStore(t.Context(), store)
	receive(t, w.beats, "beat")
	s.master.kill()
	killed := time.Now()
	receive(t, w.end, "end of the watch")
	wait(t, "the fail-over", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		got, err := store.Get(ctx, k)
		if errors.Is(err, fs.ErrNotExist) || err == nil && string(got) != "1" {
			t.Fatalf("in the middle of a fail-over: %q, %v", got, err)
		}
		return err == nil && store.Put(ctx, k, []byte("1"), 0) == nil
	})
	t.Logf("written again %v after the master's death", time.Since(killed).Round(time.Second))
	w = watchStore(t.Context(), store)
	receive(t, w.beats, "beat")
}

// TestUserRights checks that the rights which the documentation lists are enough, and that
// nothing else is asked for.
func TestUserRights(t *testing.T) {
	server := startServer(t)
	rule := append([]any{"ACL", "SETUSER", "sluice", "on", ">secret"}, rights()...)
	if err := server.client(t).Do(t.Context(), rule...).Err(); err != nil {
		t.Fatal(err)
	}
	cachetest.Test(t, func(t *testing.T) cache.Store {
		return mustOpen(t, Config{URL: "redis://" + server.addr, Username: "sluice", Password: "secret", Prefix: "sluice:" + t.Name() + ":", Timeout: 30 * time.Second})
	})
	w := watchStore(t.Context(), mustOpen(t, Config{URL: "redis://" + server.addr, Username: "sluice", Password: "secret"}))
	receive(t, w.beats, "beat")
	_, err := Open(t.Context(), Config{URL: "redis://" + server.addr, Username: "sluice", Password: "secret", Prefix: "other:"})
	if err == nil || !strings.Contains(err.Error(), "NOPERM") {
		t.Errorf("Open with a prefix that the user may not use: %v", err)
	}
}

// rights are those of the documentation.
func rights() (all []any) {
	for _, r := range strings.Fields("~sluice:* &sluice:* -@all +ping +info +hello +command|info +cluster|slots +cluster|shards +cluster|nodes +subscribe +unsubscribe +publish " +
		"+evalsha +eval +type +get +set +unlink +hgetall +hset +hdel +pttl +pexpire +persist +scan +memory|usage") {
		all = append(all, r)
	}
	return all
}
