package sbom

import (
	"github.com/anchore/syft/syft/artifact"
	"github.com/anchore/syft/syft/file"
	"github.com/anchore/syft/syft/pkg"
	"github.com/anchore/syft/syft/sbom"
)

// ownFiles adds to doc, which was made without, the relationship of each package with
// each file that it says it owns and that is there. syft can do it by itself, and then
// carries some twenty thousand of them for a Debian through every step of a catalogue,
// each of which hashes each again by reflection: a third of the catalogue's time.
//
// The outcome is the same. A package that syft drops on the way loses its relationships
// with it, so that those of the packages that are left are all there would be; and each
// cataloguer relates a package with a file once, as is done here.
func ownFiles(doc *sbom.SBOM, files file.PathResolver) {
	for p := range doc.Artifacts.Packages.Enumerate() {
		owner, ok := p.Metadata.(pkg.FileOwner)
		if !ok {
			continue
		}
		owned, err := ownedBy(owner, files)
		if err != nil {
			continue // as syft has it; the resolver has written the error down
		}
		for at := range owned {
			doc.Relationships = append(doc.Relationships, artifact.Relationship{From: p, To: at, Type: artifact.ContainsRelationship})
		}
	}
}

// ownedBy returns where the files of owner lie that are there.
func ownedBy(owner pkg.FileOwner, files file.PathResolver) (map[file.Coordinates]bool, error) {
	out := map[file.Coordinates]bool{}
	for _, path := range owner.OwnedFiles() {
		found, err := files.FilesByPath(path)
		if err != nil {
			return nil, err
		}
		for _, l := range found {
			out[l.Coordinates] = true
		}
	}
	return out, nil
}
