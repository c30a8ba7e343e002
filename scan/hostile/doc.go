// Package hostile makes images that mean harm: bombs that go off in whoever reads them,
// layers that a scanner and a runtime would read differently, and what looks like these
// and is sound. It is for tests; nothing else imports it.
//
//	Cases ──► Case ──► Image: manifest, config, layers ──► a scanner, a runtime, a fuzzer
//
// A Case says which verdicts are right for it. Only one whose contents every runtime
// reads in one way, and nothing of which is hidden from a scanner, may be complete, and
// says why.
package hostile
