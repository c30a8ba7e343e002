package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sluicegate/sluice/proxy/proxytest"
	"github.com/sluicegate/sluice/scan/vuln/sampledb"
)

// A server is a child process.
type server struct {
	registry
	admin string // of a gateway
	cmd   *exec.Cmd
	log   string // file with what it said
	ended chan struct{}
	err   error // why it ended, set before ended is closed
}

// launch starts a program and waits until ready answers 200.
func launch(ctx context.Context, dir, ready string, env []string, name string, args ...string) (*server, error) {
	s := &server{log: filepath.Join(dir, "log"), ended: make(chan struct{})}
	out, err := os.Create(s.log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	s.cmd = exec.Command(name, args...)
	s.cmd.Stdout, s.cmd.Stderr = out, out
	s.cmd.Env = append(os.Environ(), env...)
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { // ends with the process, which stop waits for
		s.err = s.cmd.Wait()
		close(s.ended)
	}()
	if err := s.await(ctx, ready); err != nil {
		return nil, errors.Join(s.fault(err), s.stop())
	}
	return s, nil
}

// await returns when ready answers 200.
func (s *server) await(ctx context.Context, ready string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		if resp, err := http.Get(ready); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-t.C:
		case <-s.ended:
			return fmt.Errorf("it ended: %v", s.err)
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w", ready, ctx.Err())
		}
	}
}

// fault adds the end of the server's log to an error.
func (s *server) fault(err error) error {
	said, _ := os.ReadFile(s.log)
	return fmt.Errorf("%s: %w\n%s", filepath.Base(s.cmd.Path), err, said[max(0, len(said)-3000):])
}

// stop ends the process, and kills it where it does not end by itself.
func (s *server) stop() error {
	select {
	case <-s.ended:
		return nil
	default:
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.ended:
		return nil
	case <-time.After(20 * time.Second):
	}
	_ = s.cmd.Process.Kill()
	<-s.ended
	return fmt.Errorf("%s did not end when it was told to, and was killed", filepath.Base(s.cmd.Path))
}

// A yard is where child processes are started.
type yard struct {
	sluice, distribution string // programs
	dir                  string // for their files
	db                   string // a state folder with the database and nothing else
	mode                 string // of the gateway
	count                int
}

// newYard imports the database once: a folder with a vulnerability.db, or the sample
// database where there is none.
func newYard(ctx context.Context, dir string, o options) (*yard, error) {
	y := &yard{sluice: o.sluice, distribution: o.distribution, dir: dir, db: filepath.Join(dir, "fresh"), mode: "enforce"}
	db := o.database
	if db != "" {
		y.mode = "warn" // what a real database says of the images is not what is measured
	} else {
		db = filepath.Join(dir, "sample-db")
		if _, err := sampledb.Build(db, time.Now()); err != nil {
			return nil, err
		}
	}
	config, err := y.config(y.db, "127.0.0.1:1", "127.0.0.1:0", "127.0.0.1:0", "")
	if err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, y.sluice, "db", "import", db, "--config", config).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("import the database: %w\n%s", err, out)
	}
	return y, nil
}

// config writes a gateway's configuration, defaults but for addresses and what more says.
func (y *yard) config(state, origin, listen, admin, more string) (string, error) {
	if err := os.MkdirAll(state, 0o700); err != nil {
		return "", err
	}
	file := state + ".yaml"
	return file, os.WriteFile(file, fmt.Appendf(nil, "listen: %s\nadmin_listen: %s\nstate_dir: %s\nupstreams:\n"+
		"  - name: cgr.dev\n    url: http://%s\ngate:\n  mode: %s\n  drain: 10s\ndatabase:\n  update_every: 0\n  max_age: 0\n%s",
		listen, admin, state, origin, y.mode, more), 0o600)
}

// gateway starts a gateway in front of an origin that has never seen an image.
func (y *yard) gateway(ctx context.Context, o *origin) (*server, error) {
	return y.gatewayOn(ctx, o, "")
}

// gatewayOn is gateway with more lines of configuration.
func (y *yard) gatewayOn(ctx context.Context, o *origin, more string) (*server, error) {
	y.count++
	state := filepath.Join(y.dir, fmt.Sprintf("gateway-%d", y.count))
	listen, err := freeAddr()
	if err != nil {
		return nil, err
	}
	admin, err := freeAddr()
	if err != nil {
		return nil, err
	}
	config, err := y.config(state, o.Host(), listen, admin, more)
	if err != nil {
		return nil, err
	}
	if err := os.CopyFS(filepath.Join(state, "db"), os.DirFS(filepath.Join(y.db, "db"))); err != nil {
		return nil, err
	}
	env := []string{"SLUICE_CGR_DEV_USERNAME=" + o.username, "SLUICE_CGR_DEV_PASSWORD=" + o.password}
	s, err := launch(ctx, state, "http://"+admin+"/readyz", env, y.sluice, "serve", "--config", config)
	if err != nil {
		return nil, err
	}
	s.url, s.admin = "http://"+listen, "http://"+admin
	return s, nil
}

// cache starts distribution's registry as a pull-through cache of an origin.
func (y *yard) cache(ctx context.Context, o *origin) (*server, error) {
	dir := filepath.Join(y.dir, "distribution")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	listen, err := freeAddr()
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "config.yaml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage:\n  filesystem: {rootdirectory: %s/data}\n"+
		"  cache: {blobdescriptor: inmemory}\nhttp: {addr: %s}\nproxy: {remoteurl: \"http://%s\", username: %q, password: %q, ttl: 168h}\n",
		dir, listen, o.Host(), o.username, o.password)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	s, err := launch(ctx, dir, "http://"+listen+"/v2/", []string{"OTEL_TRACES_EXPORTER=none"}, y.distribution, "serve", config)
	if err != nil {
		return nil, err
	}
	s.url = "http://" + listen
	return s, nil
}

// freeAddr returns an address that nothing listens on.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// An origin is the registry that everything comes from, with a pull token.
type origin struct {
	*proxytest.Server
	username, password string
	about              string // of the way to it
}

// newOrigin starts an origin with images in it: at 0 bytes a second, unshaped.
func newOrigin(about string, bandwidth int64, delay time.Duration, images ...*image) (*origin, error) {
	o := &origin{about: about}
	o.username, o.password = proxytest.PullToken(time.Now().Add(24 * time.Hour))
	var err error
	o.Server, err = proxytest.Start(proxytest.Origin{
		Username: o.username, Password: o.password, TokenTTL: time.Hour, BlobRedirect: true, Bandwidth: bandwidth, Delay: delay,
	})
	if err != nil {
		return nil, err
	}
	for _, img := range images {
		img.push(o.Server)
	}
	return o, nil
}

func (o *origin) direct() registry { return registry{o.URL(), o.username, o.password} }

// get returns the body of an answer 200.
func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %.1000s", url, resp.Status, b)
	}
	return b, err
}
