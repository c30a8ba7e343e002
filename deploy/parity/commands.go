package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/sluicegate/sluice/scan"
)

// Commands are the programs to compare with.
type commands struct {
	syft, grype string
	dir         string // an empty folder to run in: neither reads a configuration file
}

// ours are the settings under which syft's command says exactly what package sbom does.
var ours = []string{
	"SYFT_GOLANG_CAPTURE_SYMBOLS=all",
	"SYFT_GOLANG_USE_PACKAGES_LIB=false",
	"SYFT_COMPLIANCE_MISSING_VERSION=drop",
	"SYFT_FILE_METADATA_SELECTION=none",
	"SYFT_UNKNOWNS_REMOVE_WHEN_PACKAGES_DEFINED=false",
}

// sbom asks syft's command, with settings besides its defaults.
func (c *commands) sbom(ctx context.Context, s *subject, settings []string) (*document, error) {
	b, err := c.run(ctx, append([]string{"SYFT_CHECK_FOR_APP_UPDATE=false"}, settings...), c.syft, s.args("scan", "--from", "oci-dir", s.layout, "-o", "syft-json", "-q")...)
	if err != nil {
		return nil, err
	}
	return readDocument(b)
}

// matches asks grype's command, with a database.
func (c *commands) matches(ctx context.Context, s *subject, db scan.Database) (*said, error) {
	b, err := c.run(ctx, []string{
		"GRYPE_DB_CACHE_DIR=" + filepath.Dir(db.Dir), "GRYPE_DB_AUTO_UPDATE=false", "GRYPE_DB_VALIDATE_AGE=false",
		"GRYPE_CHECK_FOR_APP_UPDATE=false", "GRYPE_INCLUDE_MATCHER_SUPPRESSIONS=true",
	}, c.grype, s.args("oci-dir:"+s.layout, "-o", "json", "-q")...)
	if err != nil {
		return nil, err
	}
	out := new(said)
	if err := json.Unmarshal(b, out); err != nil {
		return nil, fmt.Errorf("grype: %w", err)
	}
	return out, nil
}

func (s *subject) args(args ...string) []string {
	if s.arch != "" {
		args = append(args, "--platform", "linux/"+s.arch)
	}
	return args
}

// run returns what a program prints. Its environment holds nothing but what is named.
func (c *commands) run(ctx context.Context, env []string, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = c.dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.dir, "TMPDIR=" + c.dir}, env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", filepath.Base(program), args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}
