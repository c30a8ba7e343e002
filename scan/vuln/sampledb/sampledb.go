package sampledb

import (
	"database/sql"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/spf13/afero"
	"gorm.io/gorm"

	"github.com/sluicegate/sluice/scan"
)

// Source is what the database says of its origin.
const Source = "sluice sample database, for demonstration only"

//go:embed advisories.json
var advisories []byte

// Build writes the sample database into dir, which is made where it is missing and
// must not hold one: vulnerability.db, indexed and ready to be matched with, and its
// import.json. It says that it was built at the time given, to the second.
func Build(dir string, built time.Time) (scan.Database, error) {
	db, err := build(dir, built)
	if err != nil {
		return db, fmt.Errorf("build the sample database: %w", err)
	}
	return db, nil
}

func build(dir string, built time.Time) (scan.Database, error) {
	c, err := parse(advisories)
	if err != nil {
		return scan.Database{}, err
	}
	w, err := v6.NewWriter(v6.Config{DBDirPath: dir, CacheSizeKiB: 16 << 10})
	if err != nil {
		return scan.Database{}, err
	}
	built = built.UTC().Truncate(time.Second)
	f := filler{w, c}
	err = errors.Join(f.fill(), date(w, built), w.Close())
	if err != nil {
		return scan.Database{}, err
	}
	if err := v6.Hydrater()(dir); err != nil {
		return scan.Database{}, err
	}
	meta, err := v6.WriteImportMetadata(afero.NewOsFs(), dir, Source)
	if err != nil {
		return scan.Database{}, err
	}
	return scan.Database{Built: built, Checksum: meta.Digest, Dir: dir}, nil
}

// Copy writes the database of into dir, like Build, with another time of building: in a
// tenth of Build's time.
func Copy(of scan.Database, dir string, built time.Time) (scan.Database, error) {
	if err := os.CopyFS(dir, os.DirFS(of.Dir)); err != nil {
		return scan.Database{}, fmt.Errorf("copy the sample database: %w", err)
	}
	db, err := redate(dir, built.UTC().Truncate(time.Second))
	if err != nil {
		return db, fmt.Errorf("copy the sample database: %w", err)
	}
	return db, nil
}

func redate(dir string, built time.Time) (scan.Database, error) {
	db, err := sql.Open("sqlite", filepath.Join(dir, v6.VulnerabilityDBFileName))
	if err != nil {
		return scan.Database{}, err
	}
	_, err = db.Exec("UPDATE db_metadata SET build_timestamp = ?", built)
	err = errors.Join(err, db.Close(), os.Remove(filepath.Join(dir, v6.ImportMetadataFileName)))
	if err != nil {
		return scan.Database{}, err
	}
	meta, err := v6.WriteImportMetadata(afero.NewOsFs(), dir, Source)
	if err != nil {
		return scan.Database{}, err
	}
	return scan.Database{Built: built, Checksum: meta.Digest, Dir: dir}, nil
}

// date sets when the database was built; the writer knows only the present.
func date(w v6.ReadWriter, built time.Time) error {
	owner, ok := w.(interface{ GetDB() *gorm.DB })
	if !ok {
		return errors.New("the writer hides its database")
	}
	return owner.GetDB().Model(&v6.DBMetadata{}).Where("true").Update("build_timestamp", built).Error
}

// A collection is what advisories.json holds: facts, each once.
type collection struct {
	Captured      day                 `json:"captured"`
	Systems       []system            `json:"systems"`
	CVEs          map[string]cve      `json:"cves"`
	Distributions []distributionEntry `json:"distributions"`
	Languages     []languageEntry     `json:"languages"`
}

type system struct {
	Name     string `json:"name"`
	Label    string `json:"label"` // of a rolling distribution
	Major    string `json:"major"`
	Codename string `json:"codename"`
	EOL      *day   `json:"eol"`
}

type cve struct {
	Severity   string  `json:"severity"`
	Vector     string  `json:"vector"` // CVSS 3.1
	Published  *day    `json:"published"`
	EPSS       float64 `json:"epss"`
	Percentile float64 `json:"percentile"`
	KEV        *day    `json:"kev"` // added to CISA's list
	Vendor     string  `json:"vendor"`
	Product    string  `json:"product"`
	Ransomware bool    `json:"ransomware"`
}

// A distributionEntry is a fix in some distributions. "0" as the fixed version says
// that no version was affected.
type distributionEntry struct {
	Systems   []string `json:"systems"`
	Package   string   `json:"package"` // source or origin package
	CVE       string   `json:"cve"`
	Fixed     string   `json:"fixed"`
	Available *day     `json:"available"`
}

type languageEntry struct {
	ID        string   `json:"id"`
	CVE       string   `json:"cve"`
	Severity  string   `json:"severity"`  // where there is no CVE
	Published *day     `json:"published"` // where there is no CVE
	Ecosystem string   `json:"ecosystem"`
	Packages  []string `json:"packages"`
	Available *day     `json:"available"`
	Ranges    []struct {
		Affected string `json:"affected"`
		Fixed    string `json:"fixed"`
	} `json:"ranges"`
}

// A day is written YYYY-MM-DD and stands for its midnight in UTC.
type day struct{ midnight time.Time }

func (d *day) UnmarshalText(b []byte) (err error) {
	d.midnight, err = time.Parse(time.DateOnly, string(b))
	return err
}

func (d *day) time() *time.Time {
	if d == nil {
		return nil
	}
	return &d.midnight
}

func parse(b []byte) (*collection, error) {
	var c collection
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, err
	}
	for _, e := range c.Distributions {
		if _, ok := c.CVEs[e.CVE]; !ok {
			return nil, fmt.Errorf("%s of %s is not among the CVEs", e.CVE, e.Package)
		}
		for _, name := range e.Systems {
			if _, err := c.system(name); err != nil {
				return nil, err
			}
		}
	}
	for _, e := range c.Languages {
		if _, ok := c.CVEs[e.CVE]; !ok && e.CVE != "" {
			return nil, fmt.Errorf("%s of %s is not among the CVEs", e.CVE, e.ID)
		}
	}
	return &c, nil
}

func (c *collection) system(name string) (system, error) {
	for _, s := range c.Systems {
		if s.Name == name {
			return s, nil
		}
	}
	return system{}, fmt.Errorf("%s is not among the systems", name)
}
