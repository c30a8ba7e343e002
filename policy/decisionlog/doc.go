// Package decisionlog writes down what was decided: one JSON record for each decision, in
// the format of OPA's decision logs, to a file, to standard output, or to a collector.
//
//	Note ──▶ spared? ──▶ queue ──▶ mask ──▶ file, one record a line
//	         (allows)      │                └▶ buffer ──▶ POST, gzip, arrays of records
//	                       └ full: dropped and counted
//
// Every denial has a record. Of allows a share has one, and the same one to the same caller
// again only after a while. The requests of one pull share a decision, and so a record.
//
// A record names the revision that decided, in bundles.policies.revision. All policies of a
// revision are asked for each decision, so that those which result doesn't name had nothing
// to say. Their names are in the gateway's own log, at its start and at each change
// ("policies decide", "policy changed"), and in GET /api/v1/policies.
//
// # Why
//
// Note never waits: a log that is slow or gone must not hold up a pull. What it costs then
// is records, and these are counted.
//
// OPA's format (https://www.openpolicyagent.org/docs/management-decision-logs) is taken for
// files too, so that there is one to read, and what reads OPA's logs reads ours. Findings
// are not in a record, but for the IDs that violations name: they are facts about the
// image, and the verdict has them.
//
// Whoever may not be named in a log is taken out by the policies, in the rule mask of
// package sluice.log. Where that fails, nothing that it may touch is written.
package decisionlog
