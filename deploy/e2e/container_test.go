//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// container builds the image and runs it as compose.yaml does: read-only, without
// privileges, its state in a volume.
func (s *scene) container(t *testing.T) {
	need(t, "docker", "docker", "dockerd", "containerd", "runc")
	e := s.startEngine(t, trapIP)
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	// A tree with this binary in it.
	tree := tempDir(t)
	for _, f := range []string{"image.sh", "Dockerfile"} {
		copyFile(t, filepath.Join(root, "deploy", f), filepath.Join(tree, "deploy", f))
	}
	must(t, "install", "-D", s.sluice, filepath.Join(tree, "bin", "sluice"))
	if r := run(t, []string{"DOCKER_HOST=unix://" + e.socket, "DOCKER_BUILDKIT=0"}, "", "sh", filepath.Join(tree, "deploy", "image.sh"), "sluice:e2e"); !r.ok() {
		t.Fatalf("deploy/image.sh: %s", last(r.out, 20))
	}

	g := s.bareGateway(t)
	conf := s.containerConfig(t, g)
	docker := func(t *testing.T, stdin string, args ...string) string {
		t.Helper()
		r := e.docker(t, stdin, args...)
		if !r.ok() {
			t.Errorf("docker %s: exit status %d\n%s", strings.Join(args, " "), r.status, last(r.out, 20))
		}
		return r.out
	}
	options := []string{"--network", "host", "--read-only", "--tmpfs", "/tmp:size=64m", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true",
		"--volume", "state:/var/lib/sluice", "--volume", conf + ":/etc/sluice:ro", "--env", "SLUICE_CONFIG=/etc/sluice/sluice.yaml"}
	sluice := func(t *testing.T, stdin string, args ...string) string {
		t.Helper()
		return docker(t, stdin, append(append(append([]string{"run", "--rm", "--interactive"}, options...), "sluice:e2e"), args...)...)
	}
	sluice(t, "", "db", "import", "/etc/sluice/vulnerability.db")
	sluice(t, s.password, "connection", "set", "cgr.dev", "--username", s.username, "--password-stdin", "--repository", s.small.ref)
	docker(t, "", append(append([]string{"run", "--detach", "--name", "gate"}, options...), "sluice:e2e")...)
	ready := func(t *testing.T) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); g.status("/readyz") != 200; time.Sleep(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the container is not ready: %s\n%s", g.get("/readyz"), docker(t, "", "logs", "gate"))
			}
		}
	}
	ready(t)
	if user := strings.TrimSpace(docker(t, "", "inspect", "--format", "{{.Config.User}}", "gate")); user != "65532:65532" {
		t.Errorf("the container runs as %s", user)
	}
	docker(t, "", "exec", "gate", "/usr/bin/sluice", "healthcheck", "--ready")
	c := s.craneClient(t, g)
	s.denied(t, c, s.bad, "from the container", known)
	s.denied(t, c, s.badBig, "from the container, big", sometime)
	s.allowed(t, c, s.big)
	docker(t, "", "stop", "--time", "30", "gate")
	if status := strings.TrimSpace(docker(t, "", "inspect", "--format", "{{.State.ExitCode}}", "gate")); status != "0" {
		t.Errorf("the container ended with status %s:\n%s", status, docker(t, "", "logs", "gate"))
	}
	docker(t, "", "start", "gate")
	ready(t)
	s.knownToCrane(t, g, s.craneClient(t, g))
	docker(t, "", "rm", "--force", "gate")
}

// containerConfig returns a folder with what a gateway in a container sees as
// /etc/sluice.
func (s *scene) containerConfig(t *testing.T, g *gateway) string {
	t.Helper()
	conf := filepath.Join(g.dir, "conf")
	for from, to := range map[string]string{g.config: "sluice.yaml", s.ca.file: "ca.crt", s.database: "vulnerability.db"} {
		if info, err := os.Stat(from); err == nil && info.IsDir() {
			from = filepath.Join(from, "vulnerability.db")
		}
		must(t, "install", "-D", "-m", "0644", from, filepath.Join(conf, to))
	}
	config := strings.NewReplacer(s.ca.file, "/etc/sluice/ca.crt", "state_dir: "+filepath.Join(g.dir, "state"), "state_dir: /var/lib/sluice").Replace(read(t, g.config))
	if err := os.WriteFile(filepath.Join(conf, "sluice.yaml"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	return conf
}
