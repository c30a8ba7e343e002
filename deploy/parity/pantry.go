package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// A pantry keeps what images are made of. What takes long to get is kept in dir from run
// to run; remove that folder to get it anew.
type pantry struct {
	dir    string
	data   string // folder of images and golden lists
	sluice string

	making sync.Mutex // guards dir: one thing is made at a time, and images that share it wait
}

// errMissing says that something is not here and can't be got.
var errMissing = errors.New("not made")

func missing(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errMissing, fmt.Sprintf(format, args...))
}

// shared returns a file of the data folder.
func (p *pantry) shared(name string) (string, error) {
	file := filepath.Join(p.data, "images", name)
	if _, err := os.Stat(file); err != nil {
		return "", missing("no %s", file)
	}
	return file, nil
}

// kept returns a file or folder of dir, which get makes under another name where it
// isn't there.
func (p *pantry) kept(name string, get func(part string) error) (string, error) {
	p.making.Lock()
	defer p.making.Unlock()
	path := filepath.Join(p.dir, name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	fmt.Fprintln(os.Stderr, "making", path)
	part := path + ".part"
	if err := errors.Join(os.RemoveAll(part), os.MkdirAll(filepath.Dir(path), 0o755)); err != nil {
		return "", err
	}
	if err := get(part); err != nil {
		return "", errors.Join(err, os.RemoveAll(part))
	}
	return path, os.Rename(part, path)
}

// named adds to a name what tells recipes apart, so that a change makes a new one.
func named(name string, recipe ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(recipe, "\x00")))
	return name + "-" + hex.EncodeToString(sum[:4])
}

// debianStages is what is done to a Debian, one thing on top of the other; the first is
// minimal.
var debianStages = []string{
	"",
	"install curl git python3-requests python3-yaml ruby-rack ruby-nokogiri perl libmojolicious-perl node-semver node-lodash php-cli",
	"purge --auto-remove git ruby-nokogiri php-cli",
	"install openjdk-17-jre-headless liblog4j2-java libcommons-lang3-java libjackson2-databind-java",
}

// debian returns an archive of the root file system after each stage.
func (p *pantry) debian(ctx context.Context) ([]string, error) {
	dir, err := p.kept(named("debian", debianStages...), func(part string) error {
		if _, err := exec.LookPath("mmdebstrap"); err != nil || os.Geteuid() != 0 {
			return missing("a real Debian needs mmdebstrap, and root")
		}
		if err := os.Mkdir(part, 0o755); err != nil {
			return err
		}
		args := []string{"--quiet", "--mode=root", "--format=null", "--variant=minbase"}
		for i, stage := range debianStages {
			if stage != "" {
				args = append(args, `--customize-hook=APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get --yes -qq --no-install-recommends -oDPkg::Chroot-Directory="$1" `+stage)
			}
			args = append(args, fmt.Sprintf(`--customize-hook=tar -C "$1" --one-file-system --numeric-owner --exclude=./dev --exclude=./tmp/* --exclude=./var/lib/apt/lists --exclude=./var/cache --exclude=./var/log -cf %q .`,
				stageFile(part, i)))
		}
		return p.run(ctx, "", nil, "mmdebstrap", append(args, "bookworm", "/dev/null")...)
	})
	if err != nil {
		return nil, err
	}
	var out []string
	for i := range debianStages {
		out = append(out, stageFile(dir, i))
	}
	return out, nil
}

func stageFile(dir string, i int) string { return filepath.Join(dir, fmt.Sprintf("stage-%d.tar", i)) }

// npm returns a folder with node_modules of the packages given.
func (p *pantry) npm(ctx context.Context, name string, packages ...string) (string, error) {
	return p.kept(filepath.Join("npm", named(name, packages...)), func(part string) error {
		if _, err := exec.LookPath("npm"); err != nil {
			return missing("packages of npm need npm")
		}
		if err := os.MkdirAll(part, 0o755); err != nil {
			return err
		}
		args := append([]string{"install", "--prefix", part, "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"}, packages...)
		if err := p.run(ctx, part, nil, "npm", args...); err != nil {
			return missing("npm: %v", err)
		}
		return nil
	})
}

// goProgram builds a program of the module in testdata, and returns it.
func (p *pantry) goProgram(ctx context.Context, name string) (string, error) {
	p.making.Lock()
	defer p.making.Unlock()
	out := filepath.Join(p.dir, "go", name)
	env := append(os.Environ(), "CGO_ENABLED=0")
	if err := p.run(ctx, filepath.Join("deploy", "parity", "testdata", "goapp"), env, "go", "build", "-trimpath", "-o", out, "./"+name); err != nil {
		return "", missing("go build: %v", err)
	}
	return out, nil
}

// run runs a program and shows nothing of what it says unless it fails.
func (p *pantry) run(ctx context.Context, dir string, env []string, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Env = dir, env
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(said.String())
		return fmt.Errorf("%s: %w: %s", program, err, text[max(0, len(text)-2000):])
	}
	return nil
}
