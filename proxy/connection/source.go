package connection

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/sluicegate/sluice/proxy/upstream"
)

// EnvNames returns the names of the environment variables that hold an upstream's
// credentials: SLUICE_CGR_DEV_USERNAME and SLUICE_CGR_DEV_PASSWORD for cgr.dev.
func EnvNames(name string) (username, password string) {
	stem := "SLUICE_" + strings.Map(func(r rune) rune {
		r = unicode.ToUpper(r)
		if (r < 'A' || r > 'Z') && (r < '0' || r > '9') {
			return '_'
		}
		return r
	}, name)
	return stem + "_USERNAME", stem + "_PASSWORD"
}

// fromEnv returns the environment's credentials, anonymous where it has none.
func fromEnv(getenv func(string) string, name string) (upstream.Credentials, error) {
	user, pass := EnvNames(name)
	c := upstream.Credentials{Username: getenv(user), Password: getenv(pass)}
	if (c.Username == "") != (c.Password == "") {
		return upstream.Credentials{}, fmt.Errorf("environment: only one of %s and %s is set; set both or neither", user, pass)
	}
	return c, nil
}

// maxFile bounds, in bytes, a file with credentials.
const maxFile = 1 << 20

// fromFile reads credentials from a folder with the files username and password (or a
// docker configuration), or from a file: "username:password", a JSON object with
// username and password, or a docker configuration. Two files that change while they
// are read are read again.
func fromFile(path, name string) (upstream.Credentials, error) {
	for range 3 {
		c, err := readCredentials(path, name)
		if err != nil {
			return upstream.Credentials{}, err
		}
		if again, err := readCredentials(path, name); err == nil && again == c {
			return c, nil
		}
	}
	return upstream.Credentials{}, fmt.Errorf("%s: changes while it is read", path)
}

func readCredentials(path, name string) (upstream.Credentials, error) {
	info, err := os.Stat(path)
	if err != nil {
		return upstream.Credentials{}, err
	}
	if !info.IsDir() {
		return readFile(path, name)
	}
	for _, f := range []string{".dockerconfigjson", "config.json"} {
		if _, err := os.Stat(filepath.Join(path, f)); err == nil {
			return readFile(filepath.Join(path, f), name)
		}
	}
	user, err := readBounded(filepath.Join(path, "username"))
	if err != nil {
		return upstream.Credentials{}, err
	}
	pass, err := readBounded(filepath.Join(path, "password"))
	if err != nil {
		return upstream.Credentials{}, err
	}
	return checked(path, strings.TrimSpace(string(user)), strings.TrimSpace(string(pass)))
}

func readFile(path, name string) (upstream.Credentials, error) {
	b, err := readBounded(path)
	if err != nil {
		return upstream.Credentials{}, err
	}
	if b = bytes.TrimSpace(b); bytes.HasPrefix(b, []byte("{")) {
		return parseJSON(path, b, name)
	}
	user, pass, ok := strings.Cut(string(b), ":")
	if !ok {
		return upstream.Credentials{}, fmt.Errorf("%s: neither username:password nor JSON", path)
	}
	return checked(path, user, pass)
}

// dockerConfig is what there is of credentials in a docker configuration.
type dockerConfig struct {
	Auths map[string]struct {
		Auth     string `json:"auth"`
		Username string `json:"username"`
		Password string `json:"password"`
	} `json:"auths"`
	CredsStore  string            `json:"credsStore"`
	CredHelpers map[string]string `json:"credHelpers"`

	Username string `json:"username"`
	Password string `json:"password"`
}

func parseJSON(path string, b []byte, name string) (upstream.Credentials, error) {
	var doc dockerConfig
	if json.Unmarshal(b, &doc) != nil { // its error could quote a password
		return upstream.Credentials{}, fmt.Errorf("%s: not valid JSON", path)
	}
	if doc.Auths == nil && doc.CredsStore == "" && doc.CredHelpers == nil {
		return checked(path, doc.Username, doc.Password)
	}
	for _, key := range dockerKeys(name) {
		a, ok := doc.Auths[key]
		if !ok || (a.Auth == "" && a.Password == "") {
			continue
		}
		if a.Auth == "" {
			return checked(path, a.Username, a.Password)
		}
		plain, err := base64.StdEncoding.DecodeString(a.Auth)
		user, pass, ok := strings.Cut(string(plain), ":")
		if err != nil || !ok {
			return upstream.Credentials{}, fmt.Errorf("%s: auth of %s is not base64 of username:password", path, key)
		}
		return checked(path, user, strings.TrimRight(pass, "\x00"))
	}
	if helper := cmp.Or(doc.CredHelpers[name], doc.CredsStore); helper != "" {
		return upstream.Credentials{}, &helperError{path, name, helper}
	}
	return upstream.Credentials{}, fmt.Errorf("%s: has no entry for %s", path, name)
}

// A helperError is the error for a docker configuration that leaves an upstream to a
// credential helper.
type helperError struct{ path, name, helper string }

func (e *helperError) Error() string {
	return fmt.Sprintf("%s: leaves %s to a credential helper, and sluice runs none unless credential_helpers of the upstream is true; or put the pull token into the file, or use: sluice connection set", e.path, e.name)
}

// dockerKeys are the spellings of an upstream in a docker configuration.
func dockerKeys(name string) []string {
	keys := []string{name, "https://" + name, "https://" + name + "/", "https://" + name + "/v2/", "https://" + name + "/v1/"}
	if name == "docker.io" {
		keys = append(keys, "https://index.docker.io/v1/", "index.docker.io")
	}
	return keys
}

// checked returns credentials whose form is right. Its errors say where they were
// found and never what they are.
func checked(where, username, password string) (upstream.Credentials, error) {
	c := upstream.Credentials{Username: username, Password: password}
	if err := check(c); err != nil {
		return upstream.Credentials{}, fmt.Errorf("%s: %w", where, err)
	}
	return c, nil
}

func check(c upstream.Credentials) error {
	unfit := func(s string) bool { return strings.ContainsFunc(s, unicode.IsControl) }
	switch {
	case c.Username == "":
		return errors.New("the username is empty")
	case c.Password == "":
		return errors.New("the password is empty")
	case unfit(c.Username) || unfit(c.Password):
		return errors.New("the username or password holds a line break or another control character")
	case strings.Contains(c.Username, ":"):
		return errors.New("the username holds a colon, which HTTP can't carry")
	case len(c.Username) > 1024 || len(c.Password) > 32<<10:
		return errors.New("the username or password is too long to be a pull token")
	}
	return nil
}

// readBounded reads a regular file. Anything else, such as a pipe, could block.
func readBounded(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("not a regular file")}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s: larger than %d bytes", path, maxFile)
	}
	return b, err
}
