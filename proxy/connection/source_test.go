package connection

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicegate/sluice/proxy/upstream"
)

func TestEnvNames(t *testing.T) {
	for name, want := range map[string]string{"cgr.dev": "CGR_DEV", "localhost:5000": "LOCALHOST_5000", "my-reg.example": "MY_REG_EXAMPLE"} {
		if u, p := EnvNames(name); u != "SLUICE_"+want+"_USERNAME" || p != "SLUICE_"+want+"_PASSWORD" {
			t.Errorf("%s: %s, %s", name, u, p)
		}
	}
	half := func(k string) string { return map[string]string{"SLUICE_X_PASSWORD": marker}[k] }
	if _, err := fromEnv(half, "x"); err == nil || strings.Contains(err.Error(), marker) || !strings.Contains(err.Error(), "SLUICE_X_USERNAME") {
		t.Errorf("a password alone: %v", err)
	}
}

func TestFiles(t *testing.T) {
	auth := base64.StdEncoding.EncodeToString([]byte("user:" + marker))
	good := upstream.Credentials{Username: "user", Password: marker}
	for _, tt := range []struct {
		what  string
		files map[string]string // "" is the file itself
		want  string            // part of the error, "" is success
	}{
		{"two files", map[string]string{"username": "user\n", "password": marker + "\n"}, ""},
		{"user:password", map[string]string{"": "user:" + marker + "\n"}, ""},
		{"JSON", map[string]string{"": `{"username":"user","password":"` + marker + `"}`}, ""},
		{"docker", map[string]string{"": `{"auths":{"x":{"auth":"eDp5"},"cgr.dev":{"auth":"` + auth + `"}}}`}, ""},
		{"docker, by URL", map[string]string{"": `{"auths":{"https://cgr.dev/v1/":{"auth":"` + auth + `"}}}`}, ""},
		{"docker, by name", map[string]string{"": `{"auths":{"cgr.dev":{"username":"user","password":"` + marker + `"}}}`}, ""},
		{"image pull secret", map[string]string{".dockerconfigjson": `{"auths":{"cgr.dev":{"auth":"` + auth + `"}}}`}, ""},
		{"docker's folder", map[string]string{"config.json": `{"auths":{"cgr.dev":{"auth":"` + auth + `"}}}`}, ""},

		{"nothing", nil, "no such file"},
		{"one of two", map[string]string{"password": marker}, "no such file"},
		{"empty", map[string]string{"": ""}, "neither"},
		{"empty password", map[string]string{"username": "user", "password": "\n"}, "password is empty"},
		{"two lines", map[string]string{"": "user:" + marker + "\nuser:" + marker}, "line break"},
		{"broken JSON", map[string]string{"": `{"username":"` + marker}, "not valid JSON"},
		{"wrong JSON", map[string]string{"": `{"username":5,"password":"` + marker + `"}`}, "not valid JSON"},
		{"docker, others only", map[string]string{"": `{"auths":{"x":{"auth":"` + auth + `"}}}`}, "no entry for cgr.dev"},
		{"docker, a helper", map[string]string{"": `{"auths":{"cgr.dev":{}},"credsStore":"desktop"}`}, "credential helper"},
		{"docker, bad base64", map[string]string{"": `{"auths":{"cgr.dev":{"auth":"` + marker + `"}}}`}, "not base64"},
		{"too large", map[string]string{"": "user:" + strings.Repeat(marker, 1<<17)}, "larger than"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "secret")
			for name, s := range tt.files {
				if name == "" {
					write(t, filepath.Dir(path), "secret", s)
					continue
				}
				if err := os.MkdirAll(path, 0o700); err != nil {
					t.Fatal(err)
				}
				write(t, path, name, s)
			}
			c, err := fromFile(path, "cgr.dev")
			if tt.want == "" && (err != nil || c != good) {
				t.Errorf("got %v, %v", c, err)
			}
			if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path)) {
				t.Errorf("got %v, want %q and the path", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), marker) {
				t.Errorf("a password in %v", err)
			}
		})
	}
	if _, err := fromFile("/dev/zero", "cgr.dev"); err == nil {
		t.Error("a device was read")
	}
}

// A mounted secret is replaced by swapping a symbolic link.
func TestMountedSecretSwap(t *testing.T) {
	f := newVault(t)
	dir := t.TempDir()
	for _, gen := range []string{"1", "2"} {
		d := filepath.Join(dir, "..gen"+gen)
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, d, "username", "user"+gen)
		write(t, d, "password", marker+gen)
	}
	swap := func(gen string) {
		t.Helper()
		if err := os.Symlink("..gen"+gen, filepath.Join(dir, "..new")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..new"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	swap("1")
	for _, name := range []string{"username", "password"} {
		if err := os.Symlink("..data/"+name, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	f.Files["cgr.dev"] = dir
	f.want(t, "cgr.dev", upstream.Credentials{Username: "user1", Password: marker + "1"})
	swap("2")
	f.clock.advance(freshFor)
	f.want(t, "cgr.dev", upstream.Credentials{Username: "user2", Password: marker + "2"})
}

func FuzzCredentialsFile(f *testing.F) {
	f.Add([]byte(`{"auths":{"cgr.dev":{"auth":"dTpw"}}}`))
	f.Add([]byte("user:password"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := os.CreateTemp(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		defer os.Remove(file.Name())
		file.Write(b)
		file.Close()
		if c, err := readFile(file.Name(), "cgr.dev"); err == nil && check(c) != nil {
			t.Errorf("%q gives unfit credentials", b)
		}
	})
}
