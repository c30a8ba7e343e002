package deploy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/sluicegate/sluice/configs"
)

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// binary is where the image and the unit have the program.
const binary = "/usr/bin/sluice"

func TestCompose(t *testing.T) {
	var file struct {
		Name     string
		Services map[string]struct {
			Image       string
			Command     []string
			Volumes     []string
			Ports       []string
			Healthcheck struct {
				Test                           []string
				Interval, Timeout, StartPeriod string `yaml:",omitempty"`
			}
			Restart         string
			StopGracePeriod string `yaml:"stop_grace_period"`
			ReadOnly        bool   `yaml:"read_only"`
			Tmpfs           []string
			CapDrop         []string `yaml:"cap_drop"`
			SecurityOpt     []string `yaml:"security_opt"`
		}
		Volumes map[string]any
	}
	if err := yaml.Unmarshal([]byte(read(t, "compose.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	s, ok := file.Services["gateway"]
	if !ok {
		t.Fatal("there is no service named gateway")
	}
	c, err := configs.Load("compose.sluice.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if c, err = c.Resolve(func(k string) string { return map[string]string{"XDG_STATE_HOME": "/var/lib"}[k] }); err != nil {
		t.Fatal(err)
	}
	grace, err := time.ParseDuration(s.StopGracePeriod)
	if err != nil || grace <= c.Gate.Drain {
		t.Errorf("stop_grace_period is %q (%v), which cuts off a drain of %s", s.StopGracePeriod, err, c.Gate.Drain)
	}
	if len(s.Healthcheck.Test) < 3 || s.Healthcheck.Test[0] != "CMD" || s.Healthcheck.Test[1] != binary {
		t.Errorf("healthcheck %q does not run %s", s.Healthcheck.Test, binary)
	}
	if !slices.Contains(s.Volumes, "state:"+c.StateDir) || file.Volumes == nil {
		t.Errorf("no volume keeps %s: %q", c.StateDir, s.Volumes)
	}
	for _, v := range s.Volumes {
		if host, _, _ := strings.Cut(v, ":"); strings.HasPrefix(host, "./") {
			read(t, host)
		}
	}
	// What listens without TLS and callers in the container must be published on
	// loopback alone.
	for _, p := range s.Ports {
		if !strings.HasPrefix(p, "127.0.0.1:") && (c.AllowPlainHTTP || c.AllowAnonymous) {
			t.Errorf("port %s is open to the network without TLS and callers", p)
		}
	}
	if !s.ReadOnly || !slices.Contains(s.CapDrop, "ALL") {
		t.Error("the container may do more than it needs")
	}
}

// TestImage runs image.sh with a docker that looks at what it is given.
func TestImage(t *testing.T) {
	root := t.TempDir()
	for name, mode := range map[string]os.FileMode{"deploy/image.sh": 0o755, "deploy/Dockerfile": 0o644} {
		write(t, filepath.Join(root, name), read(t, filepath.Base(name)), mode)
	}
	docker := filepath.Join(root, "docker")
	write(t, docker, `#!/bin/sh
echo "$@"
for last; do :; done
cd "$last" && find . -printf '%M %P\n'
`, 0o755)
	authorities := filepath.Join(root, "ca.pem")
	write(t, authorities, "-----BEGIN CERTIFICATE-----\n", 0o600)
	run := func(args ...string) (string, error) {
		cmd := exec.Command(filepath.Join(root, "deploy", "image.sh"), args...)
		cmd.Env = append(os.Environ(), "DOCKER="+docker, "CA_CERTIFICATES="+authorities)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}

	if out, err := run(); err == nil || !strings.Contains(out, "make build") {
		t.Errorf("without a binary: %v\n%s", err, out)
	}
	write(t, filepath.Join(root, "bin", "sluice"), "#!/bin/sh\n", 0o755)
	out, err := run("x:1", "--build-arg", "BASE=y")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if want := "build -t x:1 -f deploy/Dockerfile --build-arg BASE=y /"; !strings.HasPrefix(lines[0], want) {
		t.Errorf("docker was called with %q, want %q", lines[0], want)
	}
	got := lines[1:]
	slices.Sort(got)
	want := []string{"-rw-r--r-- ca-certificates.crt", "-rwxr-xr-x sluice", "drwxr-xr-x", "drwxr-xr-x root", "drwxr-xr-x state", "drwxrwxrwt root/tmp"}
	for i := range got {
		got[i] = strings.TrimSpace(got[i])
	}
	if !slices.Equal(got, want) {
		t.Errorf("the context is %q, want %q", got, want)
	}
	fields := strings.Fields(lines[0])
	if context := fields[len(fields)-1]; exists(context) {
		t.Errorf("%s was left behind", context)
	}

	dockerfile := read(t, "Dockerfile")
	for _, line := range []string{"ARG BASE=scratch", "USER 65532:65532", `ENTRYPOINT ["` + binary + `"]`, `CMD ["serve"]`} {
		if !strings.Contains(dockerfile, "\n"+line+"\n") {
			t.Errorf("Dockerfile lacks %s", line)
		}
	}
}

func TestUnit(t *testing.T) {
	unit := read(t, "sluice.service")
	if !strings.Contains(unit, "\nExecStart="+binary+" serve ") {
		t.Errorf("ExecStart does not run %s serve", binary)
	}
	m := regexp.MustCompile(`(?m)^TimeoutStopSec=(\d+)min (\d+)s$`).FindStringSubmatch(unit)
	if m == nil {
		t.Fatal("no TimeoutStopSec of minutes and seconds")
	}
	stop, err := time.ParseDuration(m[1] + "m" + m[2] + "s")
	if drain := configs.Default().Gate.Drain; err != nil || stop <= drain {
		t.Errorf("TimeoutStopSec of %s (%v) cuts off a drain of %s", stop, err, drain)
	}

	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed: the unit was not verified")
	}
	file := filepath.Join(t.TempDir(), "sluice.service")
	write(t, file, strings.ReplaceAll(unit, binary, "/bin/true"), 0o644) // it must exist
	if out, err := exec.Command(analyze, "verify", "--man=no", file).CombinedOutput(); err != nil || strings.Contains(string(out), "sluice.service") {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
