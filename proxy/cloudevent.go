package proxy

import "time"

// CloudType is what the type of an Event begins with as a CloudEvent.
const CloudType = "dev.sluice."

// A CloudEvent is an Event in the JSON format of CloudEvents 1.0, structured mode. Its ID
// is the Event's: whoever sees the same source and ID again may drop it.
type CloudEvent struct {
	SpecVersion     string    `json:"specversion"`
	ID              string    `json:"id"`
	Source          string    `json:"source"`            // a URN, the same of all gateways that share a Store
	Type            string    `json:"type"`              // dev.sluice.verdict.changed
	Subject         string    `json:"subject,omitempty"` // cgr.dev/acme/web:1@sha256:…
	Time            time.Time `json:"time"`
	DataContentType string    `json:"datacontenttype"`
	Data            Event     `json:"data"` // as /api/v1/events lists it
}

// Cloud returns e as a CloudEvent of a source. What it is about is the image's reference,
// the waiver's ID, the token's upstream or the database's checksum.
func (e *Event) Cloud(source string) CloudEvent {
	c := CloudEvent{SpecVersion: "1.0", ID: e.ID, Source: source, Type: CloudType + e.Type, Time: e.Time.UTC(), DataContentType: "application/json", Data: *e}
	switch {
	case e.Image.Reference != "":
		c.Subject = e.Image.Reference
	case e.Details.Name != "":
		c.Subject = e.Details.Name
	case e.Details.Database != nil:
		c.Subject = e.Details.Database.Checksum
	}
	return c
}
