package scan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/cache"
)

// kindPackages are the lists of packages that were read out of SBOMs, by the SBOM's id.
const kindPackages cache.Kind = "packages"

// Bounds on what is kept of a package's licences: what a package says of itself may be
// a whole text.
const (
	maxLicenses = 64
	maxLicense  = 200 // bytes
)

// Packages returns what is in an image that was scanned before, from its stored SBOM: in
// the SBOM's order, with their licences. It wraps fs.ErrNotExist where there is no SBOM.
// Reading it out of the SBOM takes up to a tenth of a second, the first time for each
// SBOM. The slice is shared: nobody may change it.
func (s *Scanner) Packages(ctx context.Context, d digest.Digest) ([]Package, error) {
	rec, err := s.record(ctx, d)
	if err != nil {
		return nil, err
	}
	if rec.SBOM == "" {
		return nil, fmt.Errorf("image %s has no SBOM: %s: %w", d, rec.Outcome.Scan.Detail, cache.ErrNotExist)
	}
	key := cache.Recipe(kindPackages, schema, packagesShape, rec.SBOM)
	if list, ok := s.lists.Get(key); ok {
		return list, nil
	}
	var list packageList
	if err := s.get(ctx, key, &list); errors.Is(err, cache.ErrNotExist) {
		sbom, err := s.getSBOM(ctx, rec.SBOM)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", d, err)
		}
		if list.Packages, err = readPackages(sbom.JSON); err != nil {
			return nil, fmt.Errorf("image %s: read the packages of its SBOM: %w", d, err)
		}
		s.put(ctx, key, list, contentTTL)
	} else if err != nil {
		return nil, err
	}
	size := 0
	for _, p := range list.Packages {
		size += 200 + len(p.Name) + len(p.Version) + len(p.PURL) + 50*len(p.Licenses)
	}
	s.lists.Put(key, list.Packages, size)
	return list.Packages, nil
}

// packagesShape changes whenever something else is made of the same SBOM.
const packagesShape = "1"

type packageList struct {
	Packages []Package `json:"packages"`
}

func (l *packageList) check() error {
	if l.Packages == nil {
		return errors.New("no list of packages")
	}
	return nil
}

// readPackages returns the packages of syft JSON, never nil.
func readPackages(doc []byte) ([]Package, error) {
	var sbom struct {
		Artifacts []struct {
			Package
			Licenses []struct {
				Value      string `json:"value"`
				Expression string `json:"spdxExpression"`
			} `json:"licenses"`
		} `json:"artifacts"`
	}
	if err := json.Unmarshal(doc, &sbom); err != nil {
		return nil, err
	}
	out := make([]Package, len(sbom.Artifacts))
	for i, a := range sbom.Artifacts {
		out[i] = a.Package
		out[i].Licenses = nil
		for _, l := range a.Licenses {
			text := l.Expression
			if text == "" {
				text = strings.Join(strings.Fields(l.Value), " ")
			}
			if len(text) > maxLicense {
				text = strings.ToValidUTF8(text[:maxLicense], "") + "…"
			}
			if text != "" && len(out[i].Licenses) < maxLicenses && !slices.Contains(out[i].Licenses, text) {
				out[i].Licenses = append(out[i].Licenses, text)
			}
		}
		slices.Sort(out[i].Licenses)
	}
	return out, nil
}

// Licensed returns findings with the licences of their packages, which a verdict doesn't
// hold, from an image's list of packages. The findings given are not changed.
func Licensed(findings []Finding, packages []Package) []Finding {
	type name struct{ name, version, kind, purl string }
	by := make(map[name][]string, len(packages))
	for _, p := range packages {
		n := name{p.Name, p.Version, p.Type, p.PURL}
		if old, both := by[n]; both { // in two places, of which each may say something
			p.Licenses = slices.Compact(slices.Sorted(slices.Values(slices.Concat(old, p.Licenses))))
		}
		by[n] = p.Licenses
	}
	out := slices.Clone(findings)
	for i := range out {
		p := &out[i].Package
		p.Licenses = by[name{p.Name, p.Version, p.Type, p.PURL}]
	}
	return out
}
