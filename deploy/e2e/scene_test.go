//go:build e2e

package e2e

import (
	"archive/tar"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// A scene is what stands around the gateways: a registry with images behind a pull
// token, a database, and a place where nobody may go.
type scene struct {
	dir      string
	sluice   string // the binary
	shared   string // folder of real data, "" where there is none
	back     string // host of docker-registry itself
	ca       *authority
	front    *front
	trap     *trap
	database string // what sluice db import takes
	username string // of the pull token
	password string
	gateways *atomic.Int32 // how many there have been, of all scenes
	screens  *screens      // what users saw

	images []*image
	// By what policy says of them. The big ones have at least ten layers, each of their
	// own, so that a client that asks for three at a time has to come back.
	small, big, bad, badBig, badLate *image
	// Indexes of two platforms, one with small for this machine's, one with bad.
	multi, badMulti *image
}

// An image is one that the registry holds.
type image struct {
	ref      string // lab/debian:12
	manifest digest.Digest
	named    digest.Digest // what ref resolves to: the manifest, or an index
	config   digest.Digest
	layers   []digest.Digest
	diffIDs  []digest.Digest
	size     int64  // of all layers
	index    bool   // ref names an index
	kev      string // the known exploited vulnerability in it
	layout   string // where it lies as an OCI layout

	// What sluice scan says.
	allowed bool
	state   string
}

// apart returns the same scene with a front of its own, which knows a pull token of its
// own, so that what one story asks of upstream is not counted by another.
func (s *scene) apart(t *testing.T, n int) *scene {
	own := *s
	own.front = newFront(t, s.ca, "http://"+s.back, n)
	own.username, own.password = own.front.newToken()
	return &own
}

func (i *image) repo() string { repo, _, _ := strings.Cut(i.ref, ":"); return repo }

func (i *image) blobs() []digest.Digest { return append([]digest.Digest{i.config}, i.layers...) }

func newScene(t *testing.T) *scene {
	t.Helper()
	need(t, "scene", "docker-registry", "crane", "skopeo", "mmdebstrap")
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{dir: tempDir(t), back: "127.0.0.1:5000", gateways: new(atomic.Int32), screens: &screens{},
		sluice: cmp.Or(os.Getenv("SLUICE_BIN"), filepath.Join(root, "bin", "sluice"))}
	if _, err := os.Stat(s.sluice); err != nil {
		t.Fatalf("%v: make build makes it", err)
	}
	if dir := filepath.Join(root, "..", "shared", "data"); exists(dir) {
		s.shared = dir
	} else {
		t.Logf("%s is not there: the images and the database are samples", dir)
	}
	config := write(t, filepath.Join(s.dir, "registry.yml"), "version: 0.1\nlog: {accesslog: {disabled: true}, level: warn}\nstorage: {filesystem: {rootdirectory: "+filepath.Join(s.dir, "registry")+"}}\nhttp: {addr: \""+s.back+"\"}\n")
	registry := start(t, []string{"OTEL_TRACES_EXPORTER=none"}, "docker-registry", "serve", config)
	registry.await(t, "up", 20*time.Second, func() bool { return answers("tcp", s.back) })
	s.ca = newAuthority(t, s.dir)
	s.front = newFront(t, s.ca, "http://"+s.back, 0)
	s.username, s.password = s.front.newToken()
	s.trap = newTrap(t)
	if r := run(t, nil, "", "crane", "digest", "cgr.dev/lab/any:1"); r.ok() || s.trap.knocked() == 0 {
		t.Fatalf("who goes past the gateway would not be seen: %s", r.out)
	}
	if s.shared != "" {
		s.database = unpackZstd(t, filepath.Join(s.shared, "db", "vulnerability.db.zst"), filepath.Join(s.dir, "db", "vulnerability.db"))
		s.realImages(t)
	} else {
		s.database = sampleDatabase(t, filepath.Join(s.dir, "db"))
		s.sampleImages(t)
	}
	s.bigImages(t)
	for _, i := range s.images {
		s.describe(t, i)
	}
	s.indexes(t)
	return s
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// realImages pushes a real Debian, and the images of the shared data.
func (s *scene) realImages(t *testing.T) {
	archive := func(name string) string { return filepath.Join(s.shared, "images", name) }
	// Docker archives, with the two clients that push them.
	must(t, "crane", "push", "--insecure", archive("wolfi-2025-04-min.tar"), s.back+"/lab/wolfi-min:1")
	must(t, "crane", "push", "--insecure", archive("wolfi-2023-10-python.tar"), s.back+"/lab/wolfi-python:1")
	must(t, "skopeo", "copy", "--dest-tls-verify=false", "docker-archive:"+archive("wolfi-2025-04-node.tar"), "docker://"+s.back+"/lab/wolfi-node:1")
	must(t, "skopeo", "copy", "--dest-tls-verify=false", "docker-archive:"+archive("wolfi-2024-06-db.tar"), "docker://"+s.back+"/lab/wolfi-db:1")
	s.small = s.add("lab/wolfi-min:1", "")
	s.add("lab/wolfi-node:1", "")
	s.add("lab/wolfi-python:1", "")
	s.add("lab/wolfi-db:1", "")

	s.append(t, "lab/java:1", "", archive("java-app.tar"))
	s.bad = s.add("lab/java:1", "CVE-2021-44228")
	meta := filepath.Join(s.dir, "big-meta.tar")
	must(t, "sh", "-c", "xz -dc "+archive("debian12.0-era-big-meta.tar.xz")+" >"+meta)
	s.append(t, "lab/debian-2023:1", "", meta)
	s.add("lab/debian-2023:1", "CVE-2023-44487")

	debian := filepath.Join(os.Getenv("SLUICE_E2E_CACHE"), "debian.tar")
	if !exists(debian) {
		t.Fatalf("%s is not there: run deploy/e2e/install.sh", debian)
	}
	s.append(t, "lab/debian:12", "", splitTar(t, debian, filepath.Join(s.dir, "debian"), 10)...)
	s.big = s.add("lab/debian:12", "")
	// The same with an application in its folder, and without that one's os-release.
	app := filepath.Join(s.dir, "app.tar")
	must(t, "sh", "-c", "cd "+tempDir(t)+" && tar xf "+archive("java-app.tar")+" && tar cf "+app+" app")
	s.append(t, "lab/debian-java:1", "lab/debian:12", app)
	s.add("lab/debian-java:1", "CVE-2021-44228")
}

// indexes pushes indexes of two platforms.
func (s *scene) indexes(t *testing.T) {
	other := s.back + "/lab/other:1"
	must(t, "crane", "mutate", "--insecure", "--set-platform", "linux/s390x", "-t", other, s.back+"/"+s.small.ref)
	index := func(ref string, i image) *image {
		must(t, "crane", "index", "append", "--insecure", "-m", s.back+"/"+i.ref, "-m", other, "-t", s.back+"/"+ref)
		i.ref, i.index = ref, true
		i.named = digest.Digest(strings.TrimSpace(must(t, "crane", "digest", "--insecure", s.back+"/"+ref)))
		return &i
	}
	s.multi, s.badMulti = index("lab/multi:1", *s.small), index("lab/multi-bad:1", *s.bad)
}

// append pushes an image made of archives on a base.
func (s *scene) append(t *testing.T, ref, base string, archives ...string) {
	t.Helper()
	args := []string{"crane", "append", "--insecure", "-t", s.back + "/" + ref}
	if base != "" {
		args = append(args, "-b", s.back+"/"+base)
	} else {
		args = append(args, "--oci-empty-base")
	}
	for _, a := range archives {
		args = append(args, "-f", a)
	}
	must(t, args...)
	must(t, "crane", "mutate", "--insecure", "--set-platform", "linux/amd64", "--cmd", "/bin/sh", "-t", s.back+"/"+ref, s.back+"/"+ref)
}

func (s *scene) add(ref, kev string) *image {
	i := &image{ref: ref, kev: kev}
	s.images = append(s.images, i)
	return i
}

// describe reads off the registry what an image is made of, and keeps a copy of it for
// sluice scan.
func (s *scene) describe(t *testing.T, i *image) {
	t.Helper()
	var m struct {
		Config struct{ Digest digest.Digest }
		Layers []struct {
			Digest digest.Digest
			Size   int64
		}
	}
	raw := must(t, "crane", "manifest", "--insecure", s.back+"/"+i.ref)
	if err := json.Unmarshal([]byte(raw), &m); err != nil {
		t.Fatal(err)
	}
	i.config = m.Config.Digest
	i.manifest = digest.Digest(strings.TrimSpace(must(t, "crane", "digest", "--insecure", s.back+"/"+i.ref)))
	i.named = i.manifest
	for _, l := range m.Layers {
		i.layers, i.size = append(i.layers, l.Digest), i.size+l.Size
	}
	var c struct {
		RootFS struct {
			DiffIDs []digest.Digest `json:"diff_ids"`
		}
	}
	if err := json.Unmarshal([]byte(must(t, "crane", "config", "--insecure", s.back+"/"+i.ref)), &c); err != nil {
		t.Fatal(err)
	}
	i.diffIDs = c.RootFS.DiffIDs
	i.layout = filepath.Join(s.dir, "layouts", strings.NewReplacer("/", "-", ":", "-").Replace(i.ref))
	must(t, "crane", "pull", "--insecure", "--format=oci", s.back+"/"+i.ref, i.layout)
}

func unpackZstd(t *testing.T, from, to string) string {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	r, err := zstd.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, r); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return to
}

// splitTar deals the entries of an archive out to n, by folder, so that a root file
// system makes an image of several layers. Hard links go where their files are.
func splitTar(t *testing.T, from, to string, n int) (files []string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Fatal(err)
	}
	var writers []*tar.Writer
	for i := range n {
		f, err := os.Create(filepath.Join(to, fmt.Sprintf("%d.tar", i)))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files, writers = append(files, f.Name()), append(writers, tar.NewWriter(f))
	}
	part := func(name string) int {
		h := fnv.New32()
		io.WriteString(h, filepath.Dir(filepath.Clean("/"+name)))
		return int(h.Sum32() % uint32(n))
	}
	placed := map[string]int{}
	for r := tar.NewReader(in); ; {
		head, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(strings.TrimPrefix(head.Name, "./"), "dev/") {
			continue // not every engine may make device files
		}
		i := part(head.Name)
		if head.Typeflag == tar.TypeLink {
			i = placed[head.Linkname]
		}
		placed[head.Name] = i
		if err := writers[i].WriteHeader(head); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(writers[i], r); err != nil {
			t.Fatal(err)
		}
	}
	for _, w := range writers {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// digestOf returns what a file really holds.
func digestOf(t *testing.T, path string) digest.Digest {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return digest.NewDigest(digest.SHA256, h)
}
