// Command parity compares this program with the syft and grype commands of the same
// versions, on images built of real packages, and fails where they differ.
//
//	                      ┌── syft, our settings ──────┐
//	                      ├── syft, its own defaults ──┤
//	corpus ── OCI layout ─┤                            ├── compare ── table
//	                      ├── grype, its own defaults ─┤
//	                      └── guard, layer store,      │
//	                          sluice worker, match ────┘
//	                                        golden lists ──┘
//
// The gateway's side is what a pull takes: a scan.Scanner over a layer store, with the
// worker process of the real binary. Its layers are remembered from image to image, as
// in a gateway. The commands read the image from an OCI layout by a provider that is
// named, without network, and grype the very build of the database that the worker
// matches with.
//
// # What is equal
//
// With syft's command under our settings (ours, below): every artifact with every field,
// IDs included, all relationships with their IDs, the files, the distribution, the
// source's ID, layers, manifest and config. Only what names the caller is left out: the
// name under which the image was asked for, and the description of the tool.
//
// With syft's command under its defaults the same holds but for what our settings
// change, no more:
//   - symbols of Go binaries are kept, as the grype command has it: advisories on one
//     function would else match every program that links the module. They are a part of
//     the package's ID, so that relationships are compared with IDs translated;
//   - packages without a version are dropped, as the grype command has it;
//   - what could not be read of a file is kept also where packages were found in it: a
//     half of a package database is no package database;
//   - files are not catalogued: no digests, no metadata of files and of executables, and
//     so no relationship that is made from executables ("dependency-of" between a package
//     that an ELF note names and the owner of a library that it loads). All others are
//     there: "contains", "evident-by", "ownership-by-file-overlap", "dependency-of" of
//     package databases.
//
// With the grype command under its defaults, which search the image by itself: each of
// its rows, those that it ignores included, is told by exactly one finding, and no
// finding is without a row. See expected for how a row becomes a finding.
//
// # Why
//
// The rules by which rows become findings are written here once more, from the command's
// JSON alone and not from the library that package vuln uses, so that a mistake in one
// shows in the other.
//
// The settings under which syft is compared are given to its command as environment
// variables; were one of them misspelt, the artifacts would differ.
package main
