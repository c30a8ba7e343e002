package sbom

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"sync"

	"github.com/anchore/syft/syft"
	"github.com/anchore/syft/syft/cataloging"
)

// revision counts changes of this package that change an SBOM, or the Problems that
// come with it, where no setting below shows them.
const revision = 4

// config returns the configuration of every catalogue: that of the grype command,
// without the files.
func config() *syft.CreateSBOMConfig {
	cfg := syft.DefaultCreateSBOMConfig().WithoutFiles().WithTool("syft", version())
	// Without symbols, advisories on one function of a Go module match every binary
	// that links the module.
	cfg.Packages.Golang = cfg.Packages.Golang.WithCaptureSymbols(cataloging.SymbolScopeAll)
	// It reads go.mod files by the go command, which may ask the network.
	cfg.Packages.Golang.UsePackagesLib = false
	// Folders of whoever runs this, which nothing reads: they would make the SBOM, and the
	// key that it is kept under, depend on the machine.
	cfg.Packages.Golang.LocalModCacheDir, cfg.Packages.JavaArchive.MavenLocalRepositoryDir = "", ""
	// Nothing can match a package without a version.
	cfg.Compliance.MissingVersion = cataloging.ComplianceActionDrop
	return cfg
}

// Recipe returns the version of syft that is built in and a hash of the catalogue
// configuration: what an SBOM depends on besides the image.
func Recipe() (syftVersion, catalogue string, err error) {
	cfg := config()
	if version() == "unknown" {
		return "", "", errors.New("the build information names no version of syft")
	}
	// Everything of the configuration that is exported and can be encoded; the set of
	// cataloguers is syft's own, and belongs to its version.
	raw, err := json.Marshal(struct {
		Revision                                                       int
		Compliance, Search, Relationships, Unknowns, Generation, Files any
		Packages, Licenses, Archive, Selection                         any
	}{
		revision, cfg.Compliance, cfg.Search, cfg.Relationships, cfg.Unknowns, cfg.DataGeneration, cfg.Files,
		cfg.Packages, cfg.Licenses, cfg.Archive, cfg.CatalogerSelection,
	})
	if err != nil {
		return "", "", fmt.Errorf("hash the catalogue configuration: %w", err)
	}
	sum := sha256.Sum256(raw)
	return version(), hex.EncodeToString(sum[:8]), nil
}

// version returns the version of the syft module in this binary. Where the build
// information doesn't say it, as in a test's binary, it is the hash of the binary:
// any other build is then taken for another syft.
var version = sync.OnceValue(func() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			switch {
			case m.Path != "github.com/anchore/syft":
			case m.Replace != nil:
				return m.Replace.Path + "@" + m.Replace.Version
			default:
				return m.Version
			}
		}
	}
	h := sha256.New()
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return "unknown"
	}
	defer f.Close()
	if _, err := io.Copy(h, f); err != nil {
		return "unknown"
	}
	return "built-in-" + hex.EncodeToString(h.Sum(nil)[:8])
})
