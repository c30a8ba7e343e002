package vuln

import "bytes"

// thin returns packages without their licences, which grype only shows, and without the
// files of a package manager's packages, but for those where a package lies: grype takes
// of them only which package owns another, and that only where the SBOM doesn't say it
// (grype/pkg.FromPackages). A package that isn't written as syft writes it stays as it is.
func thin(packages [][]byte) [][]byte {
	where, ok := locations(packages)
	out := make([][]byte, len(packages))
	for i, p := range packages {
		out[i] = p
		parts, ok2 := members(p)
		if !ok2 {
			continue
		}
		with := map[span][]byte{}
		if licences, ok := parts["licenses"]; ok {
			with[licences] = []byte("[]")
		}
		if metadata, owns := parts["metadata"]; ok && owns && owner(parts["metadataType"].of(p)) {
			with[metadata] = withoutOwned(metadata.of(p), where)
		}
		out[i] = replace(p, with)
	}
	return out
}

// owner reports whether a type of metadata is one whose files grype keeps nothing of. It
// keeps those of Alpine's packages.
func owner(metadataType []byte) bool {
	return string(metadataType) == `"dpkg-db-entry"` || string(metadataType) == `"rpm-db-entry"`
}

// locations returns the paths of all places where a package was found, as they are
// written. It is false where one can't be told, or is written with an escape, so that it
// may be written otherwise elsewhere.
func locations(packages [][]byte) (map[string]bool, bool) {
	out := map[string]bool{}
	for _, p := range packages {
		parts, ok := members(p)
		places, ok2 := elements(parts["locations"].of(p))
		if !ok || !ok2 {
			return nil, false
		}
		for _, at := range places {
			path, _, ok := quoted(at, `{"path":`)
			if !ok || bytes.ContainsRune(path, '\\') {
				return nil, false
			}
			out[string(path)] = true
		}
	}
	return out, true
}

// withoutOwned returns a package's metadata with those of its files alone that lie at one
// of the paths, or whose path is written with an escape.
func withoutOwned(metadata []byte, where map[string]bool) []byte {
	parts, ok := members(metadata)
	files, ok2 := elements(parts["files"].of(metadata))
	if !ok || !ok2 {
		return metadata
	}
	var kept [][]byte
	for _, f := range files {
		path, _, ok := quoted(f, `{"path":`)
		if !ok || where[string(path)] || bytes.ContainsRune(path, '\\') {
			kept = append(kept, f)
		}
	}
	return replace(metadata, map[span][]byte{parts["files"]: list(kept)})
}
