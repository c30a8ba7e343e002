package scan

import "github.com/sluicegate/sluice/scan/layer"

// Kinds of Problem that stand for a whole verdict: there is no SBOM, or no match. They
// are stored and shown: never rename one.
const (
	KindConfigUnreadable = "config_unreadable" // the image's config can't be read
	KindLayerCount       = "layer_count"       // config and manifest name different numbers of layers
	KindLayerDiffers     = "layer_differs"     // a layer is not what the config says of it
	KindLayerUnreadable  = "layer_unreadable"  // damaged, cut short, or no tar
	KindLayerType        = "layer_type"        // of a type that can't be scanned, such as EROFS
	KindLayerEncrypted   = "layer_encrypted"   // of an encrypted type
	KindLayerLimit       = "layer_limit"       // one layer is past a bound
	KindImageLimit       = "image_limit"       // all layers together are past a bound
	KindImageUnreadable  = "image_unreadable"  // a catalogue can't be made of what the layers hold
	KindCatalogueFailed  = "catalogue_failed"  // the catalogue failed, or its worker did
	KindCatalogueTimeout = "catalogue_timeout" // the catalogue took longer than scan.timeout
	KindMatchFailed      = "match_failed"      // the match failed: its worker, or a query of the database
	KindMatchTimeout     = "match_timeout"     // the match took longer than scan.timeout
)

// Kinds of Problem that leave an SBOM and a match, neither of them of everything.
const (
	KindCataloguerFailed  = "cataloguer_failed"  // a cataloguer could not read a file that it should have read
	KindReadFailed        = "read_failed"        // a file or a search failed in a way that cataloguers hide
	KindDistroMissing     = "distro_missing"     // packages of a distribution, but nothing says which
	KindDistroUnknown     = "distro_unknown"     // the database has no data for the distribution
	KindForeignPackages   = "foreign_packages"   // packages of a type that the distribution doesn't have
	KindPackageUnmatched  = "package_unmatched"  // the matcher failed on a package
	KindVersionUnreadable = "version_unreadable" // there are advisories, and no way to compare
)

// Kinds returns every kind of Problem that Coverage can hold: what settles a verdict;
// each Cause, where that is all there is to say; what catalogue and match left out; and
// what the stream guard saw (package layer says more of these).
func Kinds() []string {
	return []string{
		KindConfigUnreadable, KindLayerCount, KindLayerDiffers, KindLayerUnreadable, KindLayerType, KindLayerEncrypted,
		KindLayerLimit, KindImageLimit, KindImageUnreadable, KindCatalogueFailed, KindCatalogueTimeout, KindMatchFailed, KindMatchTimeout,

		string(CauseScanTimeout), string(CauseScanFailed), string(CauseScanLimit), string(CauseNoRoom), string(CauseDBMissing),
		string(CauseDBStale), string(CauseStoreDown), string(CausePolicyError), string(CauseUpstreamDown),

		KindCataloguerFailed, KindReadFailed, KindDistroMissing, KindDistroUnknown, KindForeignPackages,
		KindPackageUnmatched, KindVersionUnreadable,

		layer.SparseEntry, layer.UnknownEntryType, layer.TrailingData, layer.AmbiguousFormat, layer.AmbiguousName, layer.AmbiguousSize,
		layer.AmbiguousWhiteout, layer.AmbiguousLink, layer.AmbiguousLayout, layer.AmbiguousType, layer.GlobalHeader,
	}
}

// Unscanned returns the verdict that there is none for now, for a cause that is all
// there is to say. Coverage names it too: an empty list of problems is for what was
// read and matched to the end.
func Unscanned(cause Cause, detail string) *Verdict {
	return &Verdict{
		Scan: Summary{State: Failed, Cause: cause, Detail: detail,
			Coverage: Coverage{Problems: []Problem{{Kind: string(cause), Detail: detail}}}},
		Findings: []Finding{},
	}
}
