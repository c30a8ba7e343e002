package redis

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/cache/cachetest"
)

func TestStore(t *testing.T) {
	server := startServer(t)
	var n atomic.Int32
	cachetest.Test(t, func(t *testing.T) cache.Store {
		return mustOpen(t, Config{URL: "redis://" + server.addr, Prefix: fmt.Sprintf("test%d:", n.Add(1)), Timeout: 30 * time.Second})
	})
}

// TestTwoStores checks what two gateways see of each other.
func TestTwoStores(t *testing.T) {
	server := startServer(t)
	a := mustOpen(t, Config{URL: "redis://" + server.addr})
	b := mustOpen(t, Config{URL: "unix://" + server.unix})
	other := mustOpen(t, Config{URL: "redis://" + server.addr + "/1"})
	k := cache.Name("verdict", "x")
	if err := a.Put(t.Context(), k, []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Get(t.Context(), k); err != nil || string(got) != "1" {
		t.Errorf("the other gateway's Get = %q, %v", got, err)
	}
	if got, err := b.PutNew(t.Context(), k, []byte("2"), 0); err != nil || string(got) != "1" {
		t.Errorf("the other gateway's PutNew = %q, %v", got, err)
	}
	if _, err := other.Get(t.Context(), k); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get in another database: %v, want a miss", err)
	}
}

func TestKeys(t *testing.T) {
	s := &Store{prefix: "sluice:"}
	for _, test := range []struct {
		key  cache.Key
		want string
	}{
		{cache.Name("tag", "acme/web", "1.2"), "sluice:v2:tag:{acme/web|1.2}"},
		{cache.Name("manifest", "sha256:0f"), "sluice:v2:manifest:{sha256:0f}"},
		{cache.Name("a:b", "c"), "sluice:v2:a%3Ab:{c}"},
		{cache.Name("a", "b:c"), "sluice:v2:a:{b:c}"},
		{cache.Name("k", "{x}|%\n*ä"), "sluice:v2:k:{%7Bx%7D%7C%25%0A%2A%C3%A4}"},
	} {
		if got := s.key(test.key); got != test.want {
			t.Errorf("key(%q) = %s, want %s", test.key, got, test.want)
		}
	}
}

// TestSchema checks that a gateway of another version's keys is never misread, not even by
// one that was there first.
func TestSchema(t *testing.T) {
	server := startServer(t)
	raw, ctx := server.client(t), t.Context()
	k := cache.Name("tag", "acme/web", "1")
	s := mustOpen(t, Config{URL: "redis://" + server.addr})
	if got := raw.Get(ctx, "sluice:schema").Val(); got != "2" {
		t.Errorf("the schema of a store without one is then %q", got)
	}
	for schema, advice := range map[string]string{"3": "run that version", "1": "sluice cache export", "0": "a place of its own", "x": "a place of its own"} {
		if err := raw.Set(ctx, "sluice:schema", schema, 0).Err(); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(ctx, Config{URL: "redis://" + server.addr}); err == nil || !strings.Contains(err.Error(), advice) {
			t.Errorf("Open with schema %q: %v", schema, err)
		}
		if err := s.Ping(ctx); err == nil {
			t.Errorf("Ping with schema %q of a store that was open: no error", schema)
		}
		if err := s.Put(ctx, k, []byte("x"), 0); err == nil || !strings.Contains(err.Error(), "schema") {
			t.Errorf("Put with schema %q: %v", schema, err)
		}
	}
	raw.FlushAll(ctx)
	if err := s.Ping(ctx); err != nil {
		t.Errorf("Ping of an emptied server: %v", err)
	}
	if err := s.Put(ctx, k, []byte("x"), 0); err != nil {
		t.Errorf("Put to an emptied server: %v", err)
	}
	if got := raw.Get(ctx, "sluice:schema").Val(); got != "2" {
		t.Errorf("the schema of an emptied server is then %q", got)
	}
}

// TestGarbage checks that what somebody else has put at our keys is an error.
func TestGarbage(t *testing.T) {
	server := startServer(t)
	s := mustOpen(t, Config{URL: "redis://" + server.addr})
	raw, ctx := server.client(t), t.Context()
	k := cache.Name("verdict", "x")
	large := strings.Repeat("a verdict ", 1000)
	if err := s.Put(ctx, k, []byte(large), 0); err != nil {
		t.Fatal(err)
	}
	packed, err := raw.Get(ctx, s.key(k)).Result()
	if err != nil || len(packed) > len(large)/10 {
		t.Fatalf("%d bytes are kept as %d, %v", len(large), len(packed), err)
	}
	for name, garbage := range map[string]string{
		"empty": "", "text": "garbage", "json": `{"scan":{}}`, "cut": packed[:len(packed)-1],
		"flipped": packed[:30] + string(packed[30]^1) + packed[31:], "longer": packed + "x",
	} {
		if err := raw.Set(ctx, s.key(k), garbage, 0).Err(); err != nil {
			t.Fatal(err)
		}
		got, err := s.Get(ctx, k)
		wantDamaged(t, name+": Get", got, err, s.key(k))
		got, err = s.PutNew(ctx, k, []byte("x"), 0)
		wantDamaged(t, name+": PutNew", got, err, s.key(k))
		m := cache.Name("kill", name)
		if err := raw.HSet(ctx, s.key(m), "f", garbage).Err(); err != nil {
			t.Fatal(err)
		}
		if fields, err := s.Fields(ctx, m); fields != nil {
			t.Errorf("%s: Fields = %q, %v", name, fields, err)
		} else {
			wantDamaged(t, name+": Fields", nil, err, s.key(m))
		}
	}
	if err := raw.Del(ctx, s.key(k)).Err(); err != nil {
		t.Fatal(err)
	}
	if err := raw.RPush(ctx, s.key(k), "a list").Err(); err != nil {
		t.Fatal(err)
	}
	got, err := s.Get(ctx, k)
	wantDamaged(t, "Get of a list", got, err, s.key(k))
	_, err = s.Fields(ctx, k)
	wantDamaged(t, "Fields of a list", nil, err, s.key(k))
}

func wantDamaged(t *testing.T, what string, got []byte, err error, key string) {
	t.Helper()
	if err == nil || got != nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), key) || !errors.Is(err, cache.ErrDamaged) {
		t.Errorf("%s = %q, %v, want an error with the key", what, got, err)
	}
}

const secret = "pa ss/wo?rd@#%:x"

func TestPassword(t *testing.T) {
	server := startServer(t, "--requirepass", secret)
	const escaped = "pa%20ss%2Fwo%3Frd%40%23%25%3Ax"
	mustOpen(t, Config{URL: "redis://:" + escaped + "@" + server.addr})
	mustOpen(t, Config{URL: "redis://:wrong@" + server.addr, Password: secret})
	mustOpen(t, Config{URL: "redis://" + server.addr, Username: "default", Password: secret})
	mustOpen(t, Config{URL: "unix://:" + escaped + "@" + server.unix})
	for _, c := range []Config{{URL: "redis://" + server.addr}, {URL: "redis://:" + escaped + "x@" + server.addr}, {URL: "redis://bob@" + server.addr, Password: secret}} {
		_, err := Open(t.Context(), c)
		if err == nil || !strings.Contains(err.Error(), "refuses the user name or password") {
			t.Errorf("Open: %v, want a refusal", err)
		}
		wantNoSecret(t, err)
	}
}

func wantNoSecret(t *testing.T, err error) {
	t.Helper()
	for _, part := range []string{"wo?rd", "wo%3Frd", "rd@", "pa ss", "pa%20", "ss/wo"} {
		if err != nil && strings.Contains(err.Error(), part) {
			t.Errorf("the error holds the password: %v", err)
		}
	}
}

func TestBadURL(t *testing.T) {
	for _, url := range []string{
		"", "redis", "127.0.0.1:6379", "http://127.0.0.1", "redis://", "redis:///1", "redis://127.0.0.1/x", "redis://127.0.0.1/1/2",
		"redis://127.0.0.1/-1", "redis://a,b", "redis-cluster://a,b/1", "redis-cluster://a,,b", "redis-sentinel://a", "redis-sentinel://a/m/x", "redis-cluster://a?x=1", "redis://127.0.0.1:port", "redis://127.0.0.1?db=1", "unix://", "unix://path", "unix:///path?x=1", "unix:///path?db=x",
		"redis://:" + secret + "@127.0.0.1", "redis://:wo?rd@127.0.0.1", "redis://:ss/wo@127.0.0.1", "redis://:pa%20%zz@127.0.0.1",
		"redis:pa ss@127.0.0.1", "redis://127.0.0.1#wo?rd", "pa ss/wo?rd", "://" + secret,
	} {
		_, err := Open(t.Context(), Config{URL: url})
		if !errors.Is(err, errURL) {
			t.Errorf("Open(%q): %v, want that the URL is not valid", url, err)
		}
		wantNoSecret(t, err)
	}
	for _, c := range []Config{{URL: "redis://127.0.0.1", CAFile: "x"}, {URL: "rediss://127.0.0.1", CAFile: "/does/not/exist"}, {URL: "rediss://127.0.0.1", CAFile: "/dev/null"}} {
		if _, err := Open(t.Context(), c); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Open with CAFile %s: %v", c.CAFile, err)
		}
	}
}

func TestUnreachable(t *testing.T) {
	addr := freePort(t)
	_, err := Open(t.Context(), Config{URL: "redis://:" + "wo%3Frd@" + addr})
	if err == nil || !strings.Contains(err.Error(), "cannot reach Redis at "+addr) {
		t.Errorf("nobody listens: %v", err)
	}
	wantNoSecret(t, err)

	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	start := time.Now()
	_, err = Open(t.Context(), Config{URL: "redis://" + silent.Addr().String(), Timeout: 300 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "cannot reach Redis at "+silent.Addr().String()) || time.Since(start) > 5*time.Second {
		t.Errorf("nobody answers: %v after %v", err, time.Since(start))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err = Open(ctx, Config{URL: "redis://" + silent.Addr().String()}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a deadline: %v", err)
	}
}

// TestOutage checks that a server that has gone is an error, and that one that is
// stuck is too, in time.
func TestOutage(t *testing.T) {
	server := startServer(t)
	s := mustOpen(t, Config{URL: "redis://" + server.addr, Timeout: 500 * time.Millisecond})
	k := cache.Name("kill", "all")
	raw := server.client(t)
	if err := raw.Do(t.Context(), "CLIENT", "PAUSE", "2000").Err(); err != nil {
		t.Fatal(err)
	}
	_, err := s.Get(t.Context(), k)
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), server.addr) {
		t.Errorf("Get of a stuck server: %v", err)
	}
	server.kill()
	for name, call := range map[string]func() error{
		"Get":    func() error { _, err := s.Get(t.Context(), k); return err },
		"Fields": func() error { _, err := s.Fields(t.Context(), k); return err },
		"Put":    func() error { return s.Put(t.Context(), k, nil, 0) },
		"Ping":   func() error { return s.Ping(t.Context()) },
	} {
		err := call()
		if err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), server.addr) {
			t.Errorf("%s of a server that has gone: %v", name, err)
		}
	}
}

func TestTLS(t *testing.T) {
	cert, key := certificate(t, "redis.test")
	tlsAddr := freePort(t)
	_, port, _ := net.SplitHostPort(tlsAddr)
	startServer(t, "--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert, "--tls-auth-clients", "no")
	s := mustOpen(t, Config{URL: "rediss://" + tlsAddr, CAFile: cert, ServerName: "redis.test"})
	if err := s.Put(t.Context(), cache.Name("a", "b"), []byte("x"), 0); err != nil {
		t.Error(err)
	}
	for _, c := range []Config{{URL: "rediss://" + tlsAddr, ServerName: "redis.test"}, {URL: "rediss://" + tlsAddr, CAFile: cert}} {
		if _, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("Open with %+v: %v, want that the certificate is not accepted", c, err)
		}
	}
}

// TestClientCertificate has a server demand one.
func TestClientCertificate(t *testing.T) {
	cert, key := certificate(t, "redis.test")
	strange, strangeKey := certificate(t, "redis.test")
	addr := freePort(t)
	_, port, _ := net.SplitHostPort(addr)
	startServer(t, "--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert, "--tls-auth-clients", "yes")
	c := Config{URL: "rediss://" + addr, CAFile: cert, ServerName: "redis.test", CertFile: cert, KeyFile: key}
	s := mustOpen(t, c)
	if err := s.Put(t.Context(), cache.Name("a", "b"), []byte("x"), 0); err != nil {
		t.Error(err)
	}
	for _, pair := range [][2]string{{"", ""}, {strange, strangeKey}} {
		c.CertFile, c.KeyFile = pair[0], pair[1]
		if _, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("Open with the certificate %q: %v, want that it is not accepted", pair[0], err)
		}
	}
}

func TestFit(t *testing.T) {
	for _, test := range []struct{ info, want string }{
		{"redis_version:7.0.15\r\nmaxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n", ""},
		{"redis_version:7.2.4\r\nmaxmemory:1000\r\nmaxmemory_policy:volatile-lru\r\n", ""},
		{"redis_version:8.0.0\r\n", ""},
		{"", ""},
		{"redis_version:6.2.14\r\n", "7 or later is needed"},
		{"redis_version:7.0.15\r\nmaxmemory:1000\r\nmaxmemory_policy:allkeys-lru\r\n", "set maxmemory-policy to noeviction"},
	} {
		err := fitInfo("127.0.0.1:1", parseInfo(test.info))
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%q: %v, want %q", test.info, err, test.want)
		}
	}
	server := startServer(t, "--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru")
	if _, err := Open(t.Context(), Config{URL: "redis://" + server.addr}); err == nil || !strings.Contains(err.Error(), "waivers") {
		t.Errorf("Open of a server that evicts: %v", err)
	}
}

// TestReadOnly checks that a replica, which can't be written, is not taken for a Store.
func TestReadOnly(t *testing.T) {
	server := startServer(t, "--replicaof", "127.0.0.1", "1", "--replica-serve-stale-data", "yes")
	if _, err := Open(t.Context(), Config{URL: "redis://" + server.addr}); err == nil || !strings.Contains(err.Error(), "READONLY") {
		t.Errorf("Open of a replica: %v", err)
	}
}
