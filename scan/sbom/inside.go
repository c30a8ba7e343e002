package sbom

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/anchore/syft/syft/file"
	"github.com/anchore/syft/syft/pkg"
	syftsbom "github.com/anchore/syft/syft/sbom"
)

// javaArchives are the names that syft opens as Java archives, on a disk and in others.
var javaArchives = []string{".jar", ".war", ".ear", ".par", ".sar", ".nar", ".jpi", ".hpi", ".kar", ".far", ".lpkg", ".rar", ".zap"}

// Bounds of looking into archives. Past one, what is there was not looked into, which
// is said.
const (
	maxInside = 1 << 30 // bytes that are unpacked for one image
	maxNested = 16      // archives in one another
)

// inside looks into the Java archives of an image. Of one that lies in another syft says
// nothing where it can't be read, and of no other that lies there with it; nor does it
// of a file that names what was built into an archive.
//
// An archive that a package came of is believed, and looked into only where that costs
// nothing, since it is stored as it is. So of an image without troubles hardly more is
// read than the archives' directories.
type inside struct {
	found map[string]bool // virtual paths of which packages came, and those above them
	out   silences
	left  int64 // bytes that may still be unpacked
}

func lookInside(found *syftsbom.SBOM, files file.Resolver, out silences) {
	in := &inside{found: map[string]bool{}, out: out, left: maxInside}
	for p := range found.Artifacts.Packages.Enumerate(pkg.JavaPkg, pkg.JenkinsPluginPkg) {
		if m, ok := p.Metadata.(pkg.JavaArchive); ok {
			for i, c := range m.VirtualPath + ":" {
				if c == ':' {
					in.found[m.VirtualPath[:i]] = true
				}
			}
		}
	}
	for _, ext := range append(slices.Clone(javaArchives), ".zip") {
		at, _ := files.FilesByGlob("**/*" + ext) // an error is written down by the resolver
		for _, l := range at {
			in.file(l, files)
		}
	}
}

// file looks into an archive of the image. One that is no archive at all is the
// cataloguer's to tell.
func (in *inside) file(l file.Location, files file.Resolver) {
	r, err := files.FileContentsByLocation(l)
	if err != nil {
		return
	}
	defer r.Close()
	at, ok := r.(readSeekerAt)
	if !ok {
		in.out.add(l.Coordinates, javaCataloguer, "it can't be looked into")
		return
	}
	size, err := at.Seek(0, io.SeekEnd)
	if err != nil {
		return
	}
	if z, err := zip.NewReader(at, size); err == nil {
		in.archive(z, at, l.Coordinates, l.AccessPath, 1)
	}
}

const javaCataloguer = "java-archive-cataloger"

// archive looks at what one archive holds, at a virtual path.
func (in *inside) archive(z *zip.Reader, r io.ReaderAt, at file.Coordinates, virtual string, depth int) {
	for _, f := range z.File {
		var err error
		switch inner := virtual + ":" + f.Name; {
		case depth == maxNested && isJavaArchive(f.Name):
			err = fmt.Errorf("more than %d archives lie in one another", maxNested)
		case isJavaArchive(f.Name) && in.found[inner]:
			err = in.stored(f, r, at, inner, depth)
		case isJavaArchive(f.Name):
			err = in.unpack(f, at, inner, depth)
		case namesPackages(f.Name):
			err = in.copy(io.Discard, f)
		}
		if err != nil {
			in.out.add(at, javaCataloguer, "%s in it can't be read: %v", f.Name, err)
		}
	}
}

// stored looks into an archive that lies in another as it is.
func (in *inside) stored(f *zip.File, r io.ReaderAt, at file.Coordinates, virtual string, depth int) error {
	if f.Method != zip.Store {
		return nil
	}
	from, err := f.DataOffset()
	if err != nil {
		return err
	}
	section := io.NewSectionReader(r, from, int64(f.UncompressedSize64))
	z, err := zip.NewReader(section, section.Size())
	if err != nil {
		return err
	}
	in.archive(z, section, at, virtual, depth+1)
	return nil
}

// unpack looks into an archive that no package came of, all of which must be readable.
func (in *inside) unpack(f *zip.File, at file.Coordinates, virtual string, depth int) (err error) {
	tmp, err := os.CreateTemp("", "inside-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tmp.Close(), os.Remove(tmp.Name())) }()
	if err := in.copy(tmp, f); err != nil {
		return err
	}
	size, err := tmp.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	z, err := zip.NewReader(tmp, size)
	if err != nil {
		return err
	}
	in.archive(z, tmp, at, virtual, depth+1)
	return nil
}

// copy unpacks f to its end, where its checksum is compared.
func (in *inside) copy(to io.Writer, f *zip.File) error {
	r, err := f.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	n, err := io.Copy(to, io.LimitReader(r, in.left+1))
	if in.left -= n; err == nil && in.left < 0 {
		in.left = 0
		err = errors.New("there is more in archives than is looked into")
	}
	return err
}

func isJavaArchive(name string) bool { return slices.Contains(javaArchives, path.Ext(name)) }

// namesPackages reports whether a file of an archive says which packages are in it.
func namesPackages(name string) bool {
	return name == "META-INF/MANIFEST.MF" || strings.HasSuffix(name, "pom.properties") || strings.HasSuffix(name, "pom.xml")
}
