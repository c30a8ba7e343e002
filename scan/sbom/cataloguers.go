package sbom

import (
	"fmt"
	"reflect"

	"github.com/anchore/syft/syft"
	"github.com/anchore/syft/syft/cataloging"
	"github.com/anchore/syft/syft/cataloging/pkgcataloging"
	"github.com/anchore/syft/syft/pkg"
	"github.com/anchore/syft/syft/pkg/cataloger/alpine"
	"github.com/anchore/syft/syft/pkg/cataloger/binary"
	"github.com/anchore/syft/syft/pkg/cataloger/debian"
	"github.com/anchore/syft/syft/pkg/cataloger/dotnet"
	"github.com/anchore/syft/syft/pkg/cataloger/golang"
	"github.com/anchore/syft/syft/pkg/cataloger/java"
	"github.com/anchore/syft/syft/pkg/cataloger/javascript"
	"github.com/anchore/syft/syft/pkg/cataloger/kernel"
	"github.com/anchore/syft/syft/pkg/cataloger/php"
	"github.com/anchore/syft/syft/pkg/cataloger/python"
	"github.com/anchore/syft/syft/pkg/cataloger/redhat"
	"github.com/anchore/syft/syft/pkg/cataloger/ruby"
	"github.com/anchore/syft/syft/pkg/cataloger/rust"
	"github.com/anchore/syft/syft/sbom"
)

// costly makes those of syft's cataloguers for images that cost enough to be
// remembered, as syft itself makes them. The others run each time.
func costly(cfg pkgcataloging.Config, m *memo) []pkg.Cataloger {
	var out []pkg.Cataloger
	for _, c := range []pkg.Cataloger{
		alpine.NewDBCataloger(),
		debian.NewDBCataloger(),
		redhat.NewDBCataloger(),
		dotnet.NewDotnetDepsBinaryCataloger(cfg.Dotnet),
		python.NewInstalledPackageCataloger(),
		golang.NewGoModuleBinaryCataloger(cfg.Golang),
		java.NewJvmDistributionCataloger(),
		binary.NewClassifierCataloger(cfg.Binary),
		binary.NewELFPackageCataloger(),
		binary.NewPEPackageCataloger(),
		kernel.NewLinuxKernelCataloger(cfg.LinuxKernel),
		php.NewInterpreterCataloger(),
	} {
		out = append(out, remembered{c, m})
	}
	// These hand each file that they find to a parser, by itself, and return what the
	// parsers return. Others do more with it: see the processors of syft's go-module-binary.
	return append(out,
		byLayer{javascript.NewPackageCataloger(), m, true},
		byLayer{ruby.NewInstalledGemSpecCataloger(), m, true},
		byLayer{rust.NewAuditBinaryCataloger(), m, true},
		byLayer{java.NewArchiveCataloger(cfg.JavaArchive), m, true},
		byLayer{java.NewNativeImageCataloger(), m, false}, // returns nothing at the first error
	)
}

// remember has the costly cataloguers of cfg look into m first. They are taken out of
// syft's selection by name and given back to it.
func remember(cfg *syft.CreateSBOMConfig, m *memo) *syft.CreateSBOMConfig {
	for _, c := range costly(cfg.Packages, m) {
		cfg.CatalogerSelection = cfg.CatalogerSelection.WithRemovals(c.Name())
		cfg.WithCatalogers(pkgcataloging.CatalogerReference{Cataloger: c, AlwaysEnabled: true})
	}
	return cfg
}

// describe has the description of doc's settings say what they come to: those of cfg,
// by whatever way. It is of a type that syft keeps to itself.
func describe(doc *sbom.SBOM, cfg *syft.CreateSBOMConfig) error {
	settings := reflect.ValueOf(doc.Descriptor.Configuration)
	if settings.Kind() != reflect.Struct {
		return fmt.Errorf("syft describes its settings as %T, which is no struct any more", doc.Descriptor.Configuration)
	}
	changed := reflect.New(settings.Type()).Elem()
	changed.Set(settings)
	relationships, ok := field[cataloging.RelationshipsConfig](changed, "Relationships")
	selection, ok2 := field[cataloging.SelectionRequest](changed, "Catalogers", "Requested")
	if !ok || !ok2 {
		return fmt.Errorf("syft's settings, %T, are not those that they were", doc.Descriptor.Configuration)
	}
	*relationships = cfg.Relationships
	selection.RemoveNamesOrTags = cfg.CatalogerSelection.RemoveNamesOrTags
	doc.Descriptor.Configuration = changed.Interface()
	return nil
}

// field returns a pointer to a field of v, by the names that lead to it.
func field[T any](v reflect.Value, names ...string) (*T, bool) {
	for _, name := range names {
		if v = v.FieldByName(name); !v.IsValid() {
			return nil, false
		}
	}
	if !v.CanAddr() || !v.CanSet() {
		return nil, false
	}
	p, ok := v.Addr().Interface().(*T)
	return p, ok
}
