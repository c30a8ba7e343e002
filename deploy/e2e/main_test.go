//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// Addresses in the tests' own network.
const (
	gatewayIP = "10.231.0.1" // cgr.dev, for the docker engine alone
	trapIP    = "10.231.0.9" // cgr.dev, for everyone else
)

// Each front has addresses of its own, so that stories can be told at the same time:
// upstream and its blob host are registry0.test and blobs0.test, and so on.
const fronts = 9

func frontHosts(n int) (registry, blobs string) {
	return fmt.Sprintf("registry%d.test", n), fmt.Sprintf("blobs%d.test", n)
}

func frontAddrs(n int) (registry, blobs string) {
	return fmt.Sprintf("10.231.1.%d", n), fmt.Sprintf("10.231.2.%d", n)
}

const envInside = "SLUICE_E2E_INSIDE"

func TestMain(m *testing.M) {
	if os.Getenv(envInside) == "" {
		status, err := outside()
		if err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
		}
		os.Exit(status)
	}
	if err := furnish(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// outside runs the tests again in namespaces of their own. Their first process dies
// with this one, and everything that they started with it.
func outside() (int, error) {
	if os.Geteuid() != 0 {
		return 1, errors.New("the tests make namespaces and run a docker engine, which only root may")
	}
	self, err := os.Executable()
	if err != nil {
		return 1, err
	}
	// A folder that is not in memory, since engines lay file systems over it, and whose
	// name is short, since it goes into those of sockets.
	work, err := os.MkdirTemp("/var/tmp", "e2e")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(work)
	cache := os.Getenv("SLUICE_E2E_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return 1, err
		}
		cache = filepath.Join(dir, "sluice-e2e")
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), envInside+"=1", "TMPDIR="+work, "SLUICE_E2E_CACHE="+cache)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("make namespaces: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case <-interrupted:
		cmd.Process.Kill()
		<-done
		return 1, errors.New("interrupted")
	case err := <-done:
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return exit.ExitCode(), nil
		}
		if err != nil {
			return 1, err
		}
		return 0, nil
	}
}

// furnish makes the namespaces fit to live in.
func furnish() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts private: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	// Debian's own clients come first: a docker elsewhere may be another one.
	path := "/usr/sbin:/usr/bin:/sbin:/bin:" + filepath.Join(root, "bin", "tools") + ":" + os.Getenv("PATH")
	for k, v := range map[string]string{"PATH": path, "HTTP_PROXY": "", "HTTPS_PROXY": "", "http_proxy": "", "https_proxy": "", "SSL_CERT_FILE": "", "SSL_CERT_DIR": "", "NO_COLOR": "1", "HOME": os.TempDir(), "XDG_STATE_HOME": "", "SLUICE_CONFIG": "", "SLUICE_GATEWAY": ""} {
		if v == "" {
			err = errors.Join(err, os.Unsetenv(k))
		} else {
			err = errors.Join(err, os.Setenv(k, v))
		}
	}
	if err != nil {
		return err
	}
	if err := errors.Join(ownEtc(), ownFolders("/run", "/var/lib/containers")); err != nil {
		return err
	}
	if err := os.WriteFile("/etc/hosts", []byte(hosts(trapIP)), 0o644); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"}, {"addr", "add", gatewayIP + "/16", "dev", "lo"}, // all of them
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s; is iproute2 installed?", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

// ownFolders hides where engines and clients keep things of the whole machine.
func ownFolders(dirs ...string) error {
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("mount over %s: %w", dir, err)
		}
	}
	return nil
}

// ownEtc lays a file system in memory over /etc, so that a test can write what
// `sluice client-config` says to where it says, and the machine keeps its own.
func ownEtc() error {
	dir := filepath.Join(os.TempDir(), "etc")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	if err := errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755)); err != nil {
		return err
	}
	if err := syscall.Mount("overlay", "/etc", "overlay", 0, "lowerdir=/etc,upperdir="+upper+",workdir="+work); err != nil {
		return fmt.Errorf("mount over /etc: %w", err)
	}
	return nil
}

// hosts is an /etc/hosts by which cgr.dev leads to an address.
func hosts(cgrDev string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "127.0.0.1 localhost\n%s gate.test\n%s cgr.dev\n", gatewayIP, cgrDev)
	for n := range fronts {
		registry, blobs := frontHosts(n)
		registryIP, blobsIP := frontAddrs(n)
		fmt.Fprintf(&b, "%s %s\n%s %s\n", registryIP, registry, blobsIP, blobs)
	}
	return b.String()
}

// moduleRoot returns the folder with go.mod.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	for ; err == nil && dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", errors.Join(errors.New("no go.mod above the working folder"), err)
}

// slowToBuild returns a program that only `make e2e-slow` installs, and skips the test
// where it is not there.
func slowToBuild(t *testing.T, client, program string) (path string) {
	t.Helper()
	excused(t, client)
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(root, "bin", "tools", program)
	if !exists(path) {
		t.Skipf("%s is not installed: make e2e-slow builds it, in some twenty minutes", path)
	}
	return path
}

// excused skips the test of a client that SLUICE_E2E_SKIP names.
func excused(t *testing.T, client string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("SLUICE_E2E_SKIP"), ","), client) {
		t.Skipf("SLUICE_E2E_SKIP names %s", client)
	}
}

// need fails the test where a program is missing, unless it was excused by name.
func need(t *testing.T, client string, programs ...string) {
	t.Helper()
	excused(t, client)
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Fatalf("%s is not installed: run deploy/e2e/install.sh, or excuse it with SLUICE_E2E_SKIP=%s", p, client)
		}
	}
}
