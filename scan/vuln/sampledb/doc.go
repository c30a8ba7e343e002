// Package sampledb builds a real vulnerability database out of a few dozen well-known
// advisories that the program carries, for the demonstration and for tests.
//
//	advisories.json ──▶ Build ──▶ vulnerability.db, import.json
//	                                  └──▶ Archive ──▶ v6/latest.json, v6/….tar.gz ──▶ Handler
//
// The database is written by grype's own writer and holds true facts: identifiers,
// packages, versions, severities, dates. It is far from complete, and whoever serves
// images by it is told so by its name in Source.
//
// # Why
//
// A demonstration and tests that run offline need a database, and a hand-made double
// of one would prove nothing about the real thing.
package sampledb
