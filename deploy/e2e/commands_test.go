//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// wants runs a command and wants an exit status and some patterns in what it prints.
// The pull token's password is never among that.
func (g *gateway) wants(t *testing.T, status int, stdin string, args []string, patterns ...string) string {
	t.Helper()
	r := g.sluice(t, stdin, args...)
	if r.status != status {
		t.Errorf("sluice %s: exit status %d, want %d\n%s", strings.Join(args, " "), r.status, status, last(r.out, 12))
	}
	for _, p := range patterns {
		if !regexp.MustCompile("(?m)" + p).MatchString(r.out) {
			t.Errorf("sluice %s: %q is not in\n%s", strings.Join(args, " "), p, last(r.out, 12))
		}
	}
	if strings.Contains(r.out, g.s.password) {
		t.Errorf("sluice %s prints the pull token's password", strings.Join(args, " "))
	}
	return r.out
}

// commands are run before, during and without a gateway.
func (s *scene) commands(t *testing.T) {
	g := s.bareGateway(t)
	t.Run("without a gateway", func(t *testing.T) { s.offline(t, g) })
	g.start(t)
	t.Run("with a gateway", func(t *testing.T) { s.online(t, g) })
	t.Run("new token", func(t *testing.T) { s.newToken(t, g) })
	g.stop(t)
	if strings.Contains(g.out.String(), s.password) {
		t.Error("the pull token's password is in the log")
	}
}

func (s *scene) offline(t *testing.T, g *gateway) {
	archive := filepath.Join(g.dir, "small.tar")
	must(t, "skopeo", "copy", "oci:"+s.small.layout, "docker-archive:"+archive+":"+s.small.ref)
	bad := filepath.Join(g.dir, "bad.tar")
	must(t, "tar", "-C", s.bad.layout, "-cf", bad, ".")

	g.wants(t, 1, "", []string{"db", "status"}, "not usable", "sluice db import")
	g.wants(t, 1, "", []string{"scan", "docker-archive:" + archive}, "^DENIED", "db_missing", "sluice db import")
	g.wants(t, 3, "", []string{"db", "import", bad}, regexp.QuoteMeta(bad))
	g.wants(t, 3, "", []string{"db", "import", "/nothing"}, "/nothing")
	g.wants(t, 0, "", []string{"db", "import", s.database}, "imported, usable", "checksum")
	out := g.wants(t, 0, "", []string{"db", "status", "-o", "json"})
	if !json.Valid([]byte(out)) {
		t.Errorf("db status -o json prints no JSON:\n%s", out)
	}

	g.wants(t, 0, "", []string{"scan", "docker-archive:" + archive}, "^ALLOWED")
	g.wants(t, 0, "", []string{"scan", "oci:" + s.small.layout}, "^ALLOWED")
	g.wants(t, 1, "", []string{"scan", "oci-archive:" + bad}, "^DENIED", s.bad.kev)
	g.wants(t, 1, "", []string{"scan", "oci:" + s.bad.layout, "-o", "json"}, `"id": "`+s.bad.kev+`"|"`+s.bad.kev+`"`, `"allow": false`)
	g.wants(t, 3, "", []string{"scan", "docker-archive:/nothing"}, "/nothing")
	g.wants(t, 3, "", []string{"scan", "docker-archive:" + s.database}, regexp.QuoteMeta(s.database))
	g.wants(t, 2, "", []string{"scan"}, "arg")
	g.wants(t, 3, "", []string{"verdict", s.small.ref}, "connection refused")

	set := []string{"connection", "set", "cgr.dev", "--username", s.username, "--password-stdin", "--repository", s.small.ref}
	g.wants(t, 0, "", []string{"connection", "list"}, "cgr.dev +none")
	g.wants(t, 1, "wrong", set, "FAIL +login", "not saved")
	g.wants(t, 0, "", []string{"connection", "list"}, "cgr.dev +none")
	g.wants(t, 0, s.password, set, "ok +login", "ok +manifest", "saved", "days left")
	g.wants(t, 0, "", []string{"connection", "list"}, "cgr.dev +store")
	g.wants(t, 0, "", []string{"connection", "test", "cgr.dev", "--repository", s.small.ref}, "ok +login", "ok +manifest")
	g.wants(t, 1, "", []string{"connection", "test", "cgr.dev", "--repository", "lab/nothing:1"}, "FAIL +manifest")
	g.wants(t, 0, "", []string{"scan", "cgr.dev/" + s.small.ref}, "^ALLOWED") // through the pull token
	g.wants(t, 0, "", []string{"connection", "remove", "cgr.dev"})
	g.wants(t, 0, "", []string{"connection", "list"}, "cgr.dev +none")
	g.wants(t, 1, "", []string{"connection", "test", "cgr.dev"}, "FAIL +login")
	g.wants(t, 2, s.password, []string{"connection", "set", "ghcr.io", "--username", "x", "--password-stdin"}, "only cgr.dev")
}

func (s *scene) online(t *testing.T, g *gateway) {
	c := s.craneClient(t, g)
	if r := c.pull(t, s.small); r.ok() {
		t.Errorf("pulled without a pull token:\n%s", r.out)
	} else if !strings.Contains(r.out, "sluice connection") {
		t.Errorf("without a pull token a client is not told what to do:\n%s", r.out)
	}
	set := []string{"connection", "set", "cgr.dev", "--username", s.username, "--password-stdin", "--repository", s.small.ref}
	g.wants(t, 1, "wrong", set, "not saved")
	g.wants(t, 0, s.password, set, "saved")
	g.wants(t, 0, "", []string{"connection", "list"}, "cgr.dev +store")
	g.wants(t, 0, "", []string{"connection", "list", "-o", "json"}, `"source": "store"`)
	g.wants(t, 0, "", []string{"connection", "test", "cgr.dev", "--repository", s.small.ref}, "ok +login", "ok +manifest")
	s.allowed(t, c, s.small)

	// It was scanned from a folder before: the gateway has to read its config all the same.
	g.wants(t, 0, "", []string{"verdict", s.small.ref}, "^ALLOWED", "linux/amd64, .* complete")
	g.wants(t, 0, "", []string{"verdict", "cgr.dev/" + s.small.ref}, "^ALLOWED")
	g.wants(t, 1, "", []string{"verdict", s.bad.ref}, "^DENIED", s.bad.kev)
	g.wants(t, 1, "", []string{"verdict", s.bad.repo() + "@" + s.bad.manifest.String(), "-o", "json"}, `"state": "complete"`, s.bad.kev)
	g.wants(t, 3, "", []string{"verdict", "lab/nothing:1"}, "lab/nothing")
	// Beside a gateway that has the store open, and the pull token in it.
	g.wants(t, 3, "", []string{"scan", "cgr.dev/" + s.small.ref}, "cgr.dev/"+s.small.ref)
	g.wants(t, 0, "", []string{"scan", "oci:" + s.small.layout}, "^ALLOWED")
	g.wants(t, 1, "", []string{"scan", "oci:" + s.bad.layout}, "^DENIED")
	g.wants(t, 0, "", []string{"db", "status"}, "usable")
}

// newToken rotates the pull token under a gateway that runs.
func (s *scene) newToken(t *testing.T, g *gateway) {
	old := s.password
	s.username, s.password = s.front.newToken()
	c := s.craneClient(t, g)
	r := c.pull(t, s.big)
	if r.ok() || !strings.Contains(r.out, "sluice connection") {
		t.Errorf("with a dead pull token, crane's user should read about sluice connection: exit status %d\n%s", r.status, last(r.out, 3))
	}
	t.Logf("crane, dead pull token: %s", last(r.out, 1))
	// What is here is served without the registry.
	s.allowed(t, c, s.small)
	g.wants(t, 1, "", []string{"connection", "test", "cgr.dev"}, "FAIL +login")
	g.connect(t)
	s.allowed(t, c, s.big)
	if strings.Contains(g.out.String(), old) {
		t.Error("the old password is in the log")
	}
}

// refusals are starts that can't be, and what they say.
func (s *scene) refusals(t *testing.T) {
	g := s.newGateway(t)
	g.start(t)
	other := s.bareGateway(t)
	serve := func(t *testing.T, status int, patterns []string, args ...string) {
		t.Helper()
		other.wants(t, status, "", append([]string{"serve"}, args...), patterns...)
	}
	t.Run("port in use", func(t *testing.T) {
		serve(t, 3, []string{"listen " + g.host, "in use", "another address"}, "--listen", g.host)
		serve(t, 3, []string{"admin_listen " + g.admin, "in use"}, "--admin-listen", g.admin)
	})
	t.Run("state in use", func(t *testing.T) {
		serve(t, 3, []string{"another sluice"}, "--state-dir", filepath.Join(g.dir, "state"))
	})
	t.Run("off loopback", func(t *testing.T) {
		serve(t, 2, []string{"tls.cert_file", "auth.htpasswd_file"}, "--listen", gatewayIP+":8443")
	})
	t.Run("state can't be written", func(t *testing.T) {
		dir := tempDir(t)
		if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		defer syscall.Unmount(dir, 0)
		serve(t, 3, []string{"state_dir", regexp.QuoteMeta(dir), "read-only"}, "--state-dir", filepath.Join(dir, "state"))
	})
	t.Run("disk full", func(t *testing.T) {
		dir := tempDir(t)
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4k"); err != nil {
			t.Fatal(err)
		}
		defer syscall.Unmount(dir, 0)
		serve(t, 3, []string{"no space left"}, "--state-dir", filepath.Join(dir, "state"))
	})
	t.Run("store is damaged", func(t *testing.T) {
		dir := tempDir(t)
		file := write(t, filepath.Join(dir, "store.db"), strings.Repeat("no store at all\n", 4096))
		serve(t, 3, []string{regexp.QuoteMeta(file), "move|delete|remove"}, "--state-dir", dir)
		if !strings.HasPrefix(read(t, file), "no store at all") {
			t.Error("the damaged store was overwritten")
		}
	})
	t.Run("no Redis", func(t *testing.T) {
		other := s.bareGateway(t, "store: redis://127.0.0.1:1/0")
		other.wants(t, 3, "", []string{"connection", "list"}, "Redis at 127.0.0.1:1") // serve waits for it
	})
}

// withoutDatabase: not ready, every unknown image denied, and what to do is said.
func (s *scene) withoutDatabase(t *testing.T) {
	g := s.bareGateway(t)
	g.connect(t)
	g.launch(t)
	c := s.craneClient(t, g)
	unready := func(t *testing.T, reason string) {
		t.Helper()
		if body := g.get("/readyz"); g.status("/readyz") != 503 || !strings.Contains(body, reason) {
			t.Errorf("readyz: %s", body)
		}
		r := c.pull(t, s.small)
		if r.ok() || c.arrived(t, s.small) == nil || !strings.Contains(r.out, "blocked by policy db_missing") || !strings.Contains(r.out, "sluice db import") {
			t.Errorf("a pull without a database: exit status %d\n%s", r.status, last(r.out, 3))
		}
		g.wants(t, 1, "", []string{"verdict", s.small.ref}, "db_missing")
	}
	unready(t, "sluice db import")

	s.importDatabase(t, g)
	g.await(t, "ready", 30*time.Second, func() bool { return g.status("/readyz") == 200 })
	s.allowed(t, c, s.small) // at once: what was said without a database is forgotten

	t.Run("damaged", func(t *testing.T) {
		g.stop(t)
		err := filepath.Walk(filepath.Join(g.dir, "state", "db"), func(path string, i os.FileInfo, err error) error {
			if err == nil && i.Mode().IsRegular() && strings.HasSuffix(path, ".db") {
				err = os.WriteFile(path, []byte("no database at all"), 0o600)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		g.wants(t, 1, "", []string{"db", "status"}, "not usable", "sluice db (update|import)")
		g.launch(t)
		if g.status("/readyz") != 503 {
			t.Errorf("ready with a damaged database: %s", g.get("/readyz"))
		}
		for _, i := range s.images {
			if r := g.sluice(t, "", "verdict", i.ref, "--wait", "30s"); r.ok() && i != s.small {
				t.Errorf("%s is allowed with a damaged database:\n%s", i.ref, last(r.out, 10))
			}
		}
		s.importDatabase(t, g)
		g.await(t, "ready", 30*time.Second, func() bool { return g.status("/readyz") == 200 })
		s.allowed(t, c, s.small)
		s.denied(t, c, s.bad, "after a damaged database", known)
	})
}
