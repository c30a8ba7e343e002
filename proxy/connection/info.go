package connection

import (
	"math"
	"regexp"
	"time"

	"github.com/sluicegate/sluice/proxy/upstream"
)

// Forms of user names, as Info names them.
const (
	FormPullToken = "pull token"   // a Chainguard pull token
	FormAccess    = "access token" // a short-lived Chainguard token, user name _token
	FormOther     = "password"
	FormNone      = "anonymous"
)

// pullTokenUser is the user name of a Chainguard pull token: the organisation's ID,
// then that of the identity and what it lies in.
var pullTokenUser = regexp.MustCompile(`^([0-9a-f]{40})(/[0-9a-f]{16})+$`)

// ExpirySoon is how long before its end a pull token is warned of, and ExpiryUrgent how
// long before it is an error.
const (
	ExpirySoon   = 14 * 24 * time.Hour
	ExpiryUrgent = 3 * 24 * time.Hour
)

// An Info describes a connection without its password. What is said of the token was
// read from the token itself and not verified.
type Info struct {
	Upstream     string    `json:"upstream"`
	Source       string    `json:"source"`
	Username     string    `json:"username,omitempty"`
	Form         string    `json:"form"`
	Organisation string    `json:"organisation,omitempty"` // the ID of the Chainguard organisation
	Issued       time.Time `json:"issued,omitzero"`
	Expires      time.Time `json:"expires,omitzero"` // zero: it doesn't say
	DaysLeft     *int      `json:"days_left,omitempty"`
	Set          time.Time `json:"set,omitzero"` // when it was stored
	Problem      string    `json:"problem,omitempty"`
	Next         *Info     `json:"next,omitempty"`    // what takes its place
	Refused      string    `json:"refused,omitempty"` // why the registry refuses it, while it is not asked again
}

// Describe says what can be told of credentials offline.
func Describe(name string, c upstream.Credentials, now time.Time) Info {
	info := Info{Upstream: name, Source: SourceNone, Username: c.Username, Form: FormNone}
	if c.Anonymous() {
		return info
	}
	info.Form = FormOther
	if m := pullTokenUser.FindStringSubmatch(c.Username); m != nil {
		info.Form, info.Organisation = FormPullToken, m[1]
	} else if c.Username == "_token" {
		info.Form = FormAccess
	}
	claims, err := upstream.ReadClaims(c.Password)
	if err != nil {
		return info
	}
	info.Issued, info.Expires = claims.IssuedAt, claims.Expires
	if !claims.Expires.IsZero() {
		days := int(math.Floor(claims.Expires.Sub(now).Hours() / 24))
		info.DaysLeft = &days
	}
	return info
}

// An Urgency says how soon a pull token ends.
type Urgency int

// What there is to do about it.
const (
	Lasting Urgency = iota // nothing, or it doesn't say
	Soon                   // within 14 days
	Urgent                 // within 3 days
	Ended
)

// Urgency says how soon the token ends, as of now.
func (i Info) Urgency(now time.Time) Urgency {
	left := i.Expires.Sub(now)
	switch {
	case i.Expires.IsZero() || left >= ExpirySoon:
		return Lasting
	case left >= ExpiryUrgent:
		return Soon
	case left > 0:
		return Urgent
	}
	return Ended
}

// Expired reports whether the token says that it has ended at now.
func (i Info) Expired(now time.Time) bool { return !i.Expires.IsZero() && !now.Before(i.Expires) }
