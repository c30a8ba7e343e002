//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// objects has gateways share blobs by an object store. What three of them are asked for at
// once comes from the registry once; what one has fetched the next one has without it; and
// when the object store is gone, damaged or empty, pulls go on.
func (s *scene) objects(t *testing.T) {
	need(t, "objects", "redis-server", "versitygw", "crane")
	const redis, store = "127.0.0.1:6397", "127.0.0.1:7071"
	startRedis(t, redis)
	bucket := filepath.Join(tempDir(t), "root", "blobs")
	if err := os.MkdirAll(bucket, 0o700); err != nil {
		t.Fatal(err)
	}
	sidecar, certs := tempDir(t), tempDir(t)
	cert, key := s.ca.issue(t, "localhost")
	certFile, keyFile := write(t, filepath.Join(certs, "store.crt"), string(cert)), write(t, filepath.Join(certs, "store.key"), string(key))
	startStore := func() *process {
		p := start(t, []string{"ROOT_ACCESS_KEY=key", "ROOT_SECRET_KEY=secret-of-key"}, "versitygw", "--port", store, "--cert", certFile, "--key", keyFile, "--quiet", "posix", "--sidecar", sidecar, filepath.Dir(bucket))
		p.await(t, "up", 20*time.Second, func() bool { return answers("tcp", store) })
		return p
	}
	server := startStore()
	more := append(s.sharing(t, redis), "objects: {url: https://localhost:7071/blobs/e2e, ca_file: "+s.ca.file+", region: us-east-1, access_key: key, secret_key_file: "+
		write(t, filepath.Join(tempDir(t), "secret"), "secret-of-key\n")+"}")
	gateways := []*gateway{s.newGateway(t, more...), s.bareGateway(t, more...), s.bareGateway(t, more...), s.bareGateway(t, more...)}
	for i, g := range gateways {
		if i > 0 { // which have the first one's pull token, by way of Redis
			s.importDatabase(t, g)
		}
		g.start(t)
	}
	mark := s.front.mark()
	s.pullAt(t, gateways[:3], s.big, true)
	asked := map[string]int{}
	for _, c := range s.front.since(mark, "blobs") {
		asked[c.path]++
	}
	for path, n := range asked {
		if n != 1 {
			t.Errorf("three gateways at once asked the registry for %s %d times", path, n)
		}
	}
	uploaded := func() bool {
		n := 0
		for _, g := range gateways {
			n += int(g.metric(`sluice_objects_total{outcome="uploaded"}`))
		}
		return n >= len(asked)
	}
	gateways[0].await(t, "all is uploaded", time.Minute, uploaded)

	mark = s.front.mark()
	s.allowed(t, s.craneClient(t, gateways[3]), s.big)
	if calls := s.front.since(mark, "blobs"); len(calls) > 0 {
		t.Errorf("what the object store has was fetched from the registry: %v", calls)
	}
	s.denied(t, s.craneClient(t, gateways[3]), s.bad, "with an object store", sometime)

	t.Run("damaged", func(t *testing.T) {
		err := filepath.WalkDir(bucket, func(path string, e os.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt([]byte("damaged"), 100)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		g := s.bareGateway(t, more...)
		s.importDatabase(t, g)
		g.start(t)
		s.allowed(t, s.craneClient(t, g), s.big)
	})
	t.Run("gone", func(t *testing.T) {
		server.end(syscall.SIGKILL, 5*time.Second)
		g := s.bareGateway(t, more...)
		s.importDatabase(t, g)
		g.start(t)
		s.allowed(t, s.craneClient(t, g), s.big)
		if g.metric("sluice_object_store_up") != 0 {
			t.Error("no metric says that the object store is gone")
		}
	})
}
