package policy

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// heard is a log handler that passes the messages on.
type heard chan slog.Record

func (h heard) Enabled(context.Context, slog.Level) bool { return true }
func (h heard) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h heard) WithGroup(string) slog.Handler            { return h }
func (h heard) Handle(_ context.Context, r slog.Record) error {
	h <- r
	return nil
}

// next waits for the outcome of a change.
func (h heard) next(t *testing.T, want string) string {
	t.Helper()
	for {
		select {
		case r := <-h:
			if !strings.HasPrefix(r.Message, "policy changed") && !strings.HasPrefix(r.Message, "policy files") {
				continue // decisions that could not be made
			}
			text := ""
			r.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
			if r.Message != want {
				t.Fatalf("heard %q%s, want %q", r.Message, text, want)
			}
			return text
		case <-time.After(30 * time.Second):
			t.Fatalf("nothing heard, want %q", want)
		}
	}
}

const (
	changed = "policy changed"
	refused = "policy files have errors; what was good before stays"
)

// follow runs an engine until the test ends.
func follow(t *testing.T, c Config) (*Engine, heard) {
	t.Helper()
	h := make(heard, 100)
	c.Log = slog.New(h)
	e := open(t, c)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return e, h
}

func allows(e *Engine, in Input) bool { return e.Decide(context.Background(), in).Allow }

// TestFollow is the life of a policy directory: changed, broken, mended; and of the
// kill list beside it, which is followed while the policies are broken.
func TestFollow(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "policies")
	write(t, dir, "a.rego", tame)
	kill := write(t, root, "kill", "# none\n")
	e, h := follow(t, Config{Dir: dir, KillFile: kill})
	in := clean()
	first := e.Revision()
	if !allows(e, in) {
		t.Fatal("denied at first")
	}

	write(t, dir, "a.rego", strings.Replace(tame, `== "denied"`, `== ""`, 1))
	h.next(t, changed)
	if allows(e, in) || e.Revision() == first {
		t.Error("the change has no effect: a decision from before it is remembered")
	}

	write(t, dir, "b.rego", "package sluice.policies.b\nviolations contains {")
	if text := h.next(t, refused); !strings.Contains(text, "b.rego:2") {
		t.Errorf("logged%s", text)
	}
	if st := e.Status(); !strings.Contains(st.LastError, "b.rego:2") || st.Policies != 2 {
		t.Errorf("status %+v", st)
	}
	if allows(e, in) {
		t.Error("a broken file loosened the policies")
	}

	write(t, root, "kill", in.Image.Digest+" # now\n")
	h.next(t, refused) // the policies still are broken, and it is said again
	if reason, ok := e.Killed(in.Image.Digest); !ok || reason != "now" {
		t.Error("the kill list waits for the policies")
	}
	write(t, root, "kill", "sha256:oops\n"+killedDigest+"\n")
	h.next(t, refused)
	for _, d := range []string{in.Image.Digest, killedDigest} {
		if _, ok := e.Killed(d); !ok {
			t.Errorf("%s is not killed after a typing error", d)
		}
	}
	write(t, root, "kill", killedDigest+"\n")
	h.next(t, refused)
	if _, ok := e.Killed(in.Image.Digest); ok {
		t.Error("a digest that was taken off a good list is still killed")
	}

	if err := os.Remove(filepath.Join(dir, "b.rego")); err != nil {
		t.Fatal(err)
	}
	h.next(t, changed)
	write(t, dir, "new/c.rego", "package sluice.policies.c\nwarnings contains {\"policy\": \"c\", \"message\": \"m\"}")
	h.next(t, changed)
	if st := e.Status(); st.LastError != "" || st.Policies != 3 || st.Killed != 1 {
		t.Errorf("status %+v", st)
	}

	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	h.next(t, refused)
	if st := e.Status(); st.Policies != 3 || allows(e, in) {
		t.Errorf("the policies went with their directory: %+v", st)
	}
}

// TestFollowConfigMap swaps files as the kubelet does: a directory beside, then one
// rename of the link that all files are reached through.
func TestFollowConfigMap(t *testing.T) {
	root := t.TempDir()
	swap := func(version, waivers string) {
		t.Helper()
		write(t, filepath.Join(root, version), "waivers.yaml", waivers)
		write(t, filepath.Join(root, version), "a.rego", tame)
		tmp := filepath.Join(root, "..data_tmp")
		if err := os.Symlink(version, tmp); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, filepath.Join(root, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	swap("..1", "waivers: []\n")
	for _, name := range []string{"waivers.yaml", "a.rego"} {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	e, h := follow(t, Config{Dir: root, WaiverFile: filepath.Join(root, "waivers.yaml")})
	in := clean()
	in.Request.Caller = "denied"
	if allows(e, in) || e.Status().Policies != 2 {
		t.Fatal("allowed at first")
	}
	swap("..2", one("policy: tame"))
	h.next(t, changed)
	if !allows(e, in) {
		t.Error("the new waiver has no effect")
	}
	swap("..3", one("policy: tame")+"oops: 1\n")
	h.next(t, refused)
	if !allows(e, in) || !strings.Contains(e.Status().LastError, "waivers.yaml:7: unknown key") {
		t.Errorf("status %+v", e.Status())
	}
}

// TestHalfWritten keeps a file growing, valid at each moment, for longer than it
// takes to notice: only its last state is used.
func TestHalfWritten(t *testing.T) {
	root := t.TempDir()
	kill := write(t, root, "kill", killedDigest+"\n"+indexDigest+"\n")
	e, h := follow(t, Config{KillFile: kill})
	if err := os.WriteFile(kill, nil, 0o600); err != nil { // truncated, as by an editor or cp
		t.Fatal(err)
	}
	if err := os.WriteFile(kill, []byte(indexDigest+"\n# done\n"+killedDigest+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.next(t, changed)
	for _, d := range []string{killedDigest, indexDigest} {
		if _, ok := e.Killed(d); !ok {
			t.Errorf("%s was let go", d)
		}
	}
}

func TestConcerns(t *testing.T) {
	e := &Engine{c: Config{Dir: "/etc/sluice/policies/", WaiverFile: "/state/waivers.yaml", KillFile: "/state/kill"}}
	for name, want := range map[string]bool{
		"/etc/sluice/policies/a.rego": true, "/etc/sluice/policies": true, "/etc/sluice/policies-old": false,
		"/state/waivers.yaml": true, "/state/kill": true, "/state/store.db": false, "/state/..data": true,
	} {
		if got := e.concerns(name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
