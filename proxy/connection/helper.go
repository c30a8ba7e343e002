package connection

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/sluicegate/sluice/proxy/upstream"
)

const (
	helperFor     = time.Minute // for which what a helper said is used: it may ask others
	helperTimeout = 10 * time.Second
	helperGrace   = time.Second // for its pipes to close after its end
	maxHelper     = 64 << 10    // bytes of its answer
)

// helperName is what follows docker-credential- in the name of a program.
var helperName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// fromHelper asks a credential helper of docker's for an upstream's credentials: the
// server's name on its standard input, JSON on its standard output (docker-credential-helpers,
// README, "Development"). No secret is an argument, and of what the helper complains about
// nothing is repeated: it may quote one.
func fromHelper(ctx context.Context, helper, name string) (upstream.Credentials, error) {
	if !helperName.MatchString(helper) {
		return upstream.Credentials{}, fmt.Errorf("%.40q is no name of a credential helper", helper)
	}
	program := "docker-credential-" + helper
	path, err := exec.LookPath(program)
	if err != nil {
		return upstream.Credentials{}, fmt.Errorf("%s is not in PATH: install it, or put the pull token into a file", program)
	}
	var missing error
	for _, server := range dockerKeys(name) {
		c, err := runHelper(ctx, path, server)
		if err == nil {
			return checked(program, c.Username, c.Password)
		}
		if missing = err; !errors.Is(err, errNotThere) {
			break
		}
	}
	return upstream.Credentials{}, fmt.Errorf("%s: %w", program, missing)
}

var errNotThere = errors.New("has no credentials for this registry")

func runHelper(ctx context.Context, path, server string) (c upstream.Credentials, err error) {
	ctx, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "get") //nolint:gosec // its name is checked, and the operator allows helpers
	cmd.Stdin = strings.NewReader(server + "\n")
	cmd.Env = withoutSecrets(os.Environ())
	cmd.WaitDelay = helperGrace
	ownGroup(cmd)
	out := &limited{left: maxHelper}
	cmd.Stdout = out
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		return c, fmt.Errorf("did not answer within %s", helperTimeout)
	case out.left < 0:
		return c, fmt.Errorf("answers with more than %d KiB", maxHelper>>10)
	case err != nil && bytes.Contains(bytes.ToLower(out.b.Bytes()), []byte("credentials not found")):
		return c, errNotThere
	case err != nil:
		return c, fmt.Errorf("fails: %w", err)
	}
	var doc struct{ Username, Secret string }
	if json.Unmarshal(out.b.Bytes(), &doc) != nil {
		return c, errors.New("answers with something else than JSON")
	}
	if doc.Username == "<token>" {
		return c, errors.New("has an identity token, which only docker can use; store a user name and a password with it")
	}
	return upstream.Credentials{Username: doc.Username, Password: doc.Secret}, nil
}

// withoutSecrets returns an environment without the variables that are this program's own.
func withoutSecrets(env []string) (out []string) {
	for _, kv := range env {
		if !strings.HasPrefix(kv, "SLUICE_") {
			out = append(out, kv)
		}
	}
	return out
}

// limited keeps the first bytes of what is written, and fails past them.
type limited struct {
	b    bytes.Buffer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, io.ErrShortWrite
	}
	return l.b.Write(p)
}
