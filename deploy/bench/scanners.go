package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// scanners are the commands that people run, of the versions that are built in.
type scanners struct {
	syft, grype string
	db          string // what grype calls its cache: the folder of the same build
	dir         string // an empty folder to run in
}

func findScanners(o options, y *yard) (*scanners, error) {
	tools := filepath.Join(filepath.Dir(o.sluice), "tools")
	s := &scanners{syft: filepath.Join(tools, "syft"), grype: filepath.Join(tools, "grype"), dir: filepath.Join(y.dir, "scanners")}
	for _, program := range []string{s.syft, s.grype} {
		if _, err := os.Stat(program); err != nil {
			return nil, fmt.Errorf("%w; run make tools", err)
		}
	}
	found, err := filepath.Glob(filepath.Join(y.db, "db", "*", "6", "vulnerability.db"))
	if err != nil || len(found) != 1 {
		return nil, fmt.Errorf("%d databases lie under %s, not one (%v)", len(found), y.db, err)
	}
	s.db = filepath.Dir(filepath.Dir(found[0]))
	return s, os.MkdirAll(s.dir, 0o700)
}

// run scans an image with both commands.
func (c *commandRow) run(ctx context.Context, s *scanners, row *verdictRow) error {
	for _, one := range []struct {
		took    *[]time.Duration
		top     *int64
		program string
		args    []string
	}{
		{&c.syft, &c.syftTop, s.syft, []string{"scan", "oci-dir:" + c.layout, "-o", "syft-json", "-q"}},
		{&c.grype, &c.top, s.grype, []string{"oci-dir:" + c.layout, "-o", "json", "-q"}},
	} {
		took, top, err := s.time(ctx, one.program, one.args...)
		if err != nil {
			return err
		}
		*one.took, *one.top = append(*one.took, took), max(*one.top, top)
	}
	fmt.Fprintf(os.Stderr, "%-50.50s syft %s, grype %s\n", row.image.about, spread(c.syft), spread(c.grype))
	return nil
}

// time runs a command, and returns how long it took and how much memory it held.
func (s *scanners) time(ctx context.Context, program string, args ...string) (time.Duration, int64, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = s.dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "TMPDIR=" + s.dir, "SYFT_CHECK_FOR_APP_UPDATE=false", "GRYPE_CHECK_FOR_APP_UPDATE=false",
		"GRYPE_DB_CACHE_DIR=" + s.db, "GRYPE_DB_AUTO_UPDATE=false", "GRYPE_DB_VALIDATE_AGE=false",
	}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.Discard, &said
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	// Not by its rusage, which counts what this process held when it started it.
	var top int64
	over := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		for t := time.NewTicker(sampleEvery); ; {
			select {
			case <-t.C:
				top = max(top, statusBytes(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid), "VmHWM"))
			case <-over:
				t.Stop()
				return
			}
		}
	})
	err := cmd.Wait()
	took := time.Since(began)
	close(over)
	watching.Wait()
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w\n%.2000s", filepath.Base(program), err, said.Bytes())
	}
	return took, top, nil
}

// write writes the image as an OCI layout.
func (i *image) write(dir string) error {
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return err
	}
	manifest := newBlob(ocispec.MediaTypeImageManifest, i.manifest)
	for _, b := range append(i.blobs[:len(i.blobs):len(i.blobs)], manifest) {
		if err := os.WriteFile(filepath.Join(blobs, b.Digest.Encoded()), b.data, 0o644); err != nil {
			return err
		}
	}
	index, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{{MediaType: manifest.MediaType, Digest: digest.FromBytes(i.manifest), Size: manifest.Size}}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "index.json"), index, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644)
}
