package proxy

import (
	"time"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/scan"
)

// Types of events.
const (
	// VerdictNew is about an image that got its first verdict, and how it was decided for
	// who pulled it.
	VerdictNew = "verdict.new"
	// VerdictChanged is about an image that turned from allowed to denied, or back, by a
	// new vulnerability database.
	VerdictChanged = "verdict.changed"
	// PullDenied is about an image that was refused to a caller: one for each image, caller
	// and revision of the policies within an hour.
	PullDenied = "pull.denied"
	// WaiverExpiring is about a waiver that ends within 7 days, and again within 1.
	WaiverExpiring = "waiver.expiring"
	// CredentialExpiring is about a pull token that ends within 14 days, again within 3,
	// and again when it has ended.
	CredentialExpiring = "credential.expiring"
	// DatabaseStale is about a vulnerability database that became too old to decide by.
	DatabaseStale = "database.stale"
	// EventsOmitted stands for all others of its hour which are not kept: those of the type
	// in its details. The log and the metrics have them.
	EventsOmitted = "events.omitted"
)

// EventTypes returns all types of events.
func EventTypes() []string {
	return []string{VerdictNew, VerdictChanged, PullDenied, WaiverExpiring, CredentialExpiring, DatabaseStale, EventsOmitted}
}

// An Event is something that happened, to an image or to what images are decided by. What
// it does not say of its type is left out. Its JSON is stable: fields may be added, never
// renamed.
type Event struct {
	ID       string    `json:"id"` // the same for the same event, whichever replica raised it
	Time     time.Time `json:"time"`
	Type     string    `json:"type"`
	Image    Subject   `json:"image,omitzero"`
	Before   Opinion   `json:"before,omitzero"` // of VerdictChanged
	After    Opinion   `json:"after,omitzero"`
	LastPull Puller    `json:"last_pull,omitzero"` // of PullDenied and VerdictNew: who it is about

	// Advisories, of VerdictChanged, are what made the difference: new in, gone from or
	// changed in the findings that deny the image on one of both sides. Worst first, at
	// most 100, never null in JSON. None: it was no advisory, see the opinions' causes.
	Advisories []Advisory `json:"advisories,omitzero"`

	Details Details `json:"details,omitzero"` // of all but VerdictChanged
}

// Details are what an Event says beside images and opinions about them.
type Details struct {
	Message string `json:"message,omitempty"` // one line for people
	Type    string `json:"type,omitempty"`    // of EventsOmitted

	// Of what ends: the ID of a waiver, or the upstream of a pull token.
	Name   string        `json:"name,omitempty"`
	Within string        `json:"within,omitempty"` // how soon it ends: 14d, 7d, 3d, 1d; ended
	Ends   time.Time     `json:"ends,omitzero"`
	Owner  string        `json:"owner,omitempty"` // of a waiver, as the three that follow
	Ticket string        `json:"ticket,omitempty"`
	Scope  *policy.Scope `json:"scope,omitempty"`
	Source string        `json:"source,omitempty"`

	Database *scan.Database `json:"database,omitempty"` // of DatabaseStale

	State    scan.State   `json:"state,omitempty"` // of VerdictNew, as the two that follow
	Packages int          `json:"packages,omitempty"`
	Counts   *scan.Counts `json:"counts,omitempty"`

	Decision string `json:"decision_id,omitempty"` // of PullDenied, as the one that follows
	Policies string `json:"policies,omitempty"`    // their revision
}

// A Subject is the image of an Event.
type Subject struct {
	Reference  string   `json:"reference"` // with its digest
	Repository string   `json:"repository"`
	Digest     string   `json:"digest"`
	Platform   string   `json:"platform,omitempty"`
	Tags       []string `json:"tags"` // never null in JSON
}

// An Opinion is how an image is decided by one build of the vulnerability database, for
// who pulled it last and under today's policies.
type Opinion struct {
	Allow      bool               `json:"allow"`
	Mode       policy.Mode        `json:"mode"`            // only in enforce does a denial block
	Cause      scan.Cause         `json:"cause,omitempty"` // why its verdict is not complete
	Database   *scan.Database     `json:"database,omitempty"`
	Violations []policy.Violation `json:"violations"` // never null in JSON
}

// blocks reports whether a pull is refused by it.
func (o Opinion) blocks() bool { return !o.Allow && o.Mode == policy.Enforce }

// allowed reports whether the event is one for the better: nothing, or nothing that
// blocks, is held against the image any more.
func (e *Event) allowed() bool { return e.After.Allow || e.Before.blocks() && !e.After.blocks() }

// A Puller is who asked for an image last, to about ten minutes.
type Puller struct {
	Caller string    `json:"caller"` // empty: anonymous
	Time   time.Time `json:"time"`
}

// An Advisory is one that counts in an Event.
type Advisory struct {
	ID       string   `json:"id"`
	Package  string   `json:"package"`
	Version  string   `json:"version"`
	Severity string   `json:"severity"`
	Fixed    []string `json:"fixed"`  // versions, never null in JSON
	Change   string   `json:"change"` // new, gone, changed
}
