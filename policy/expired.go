package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluicegate/sluice/policy/vex"
	"github.com/sluicegate/sluice/scan"
)

// suppress splits the findings of in into those that policies see and those that VEX
// documents or waivers set aside. A statement comes before a waiver: it says that there is
// nothing to except.
func (s *snapshot) suppress(in *Input, waivers activeWaivers) (active []scan.Finding, waived []Waived) {
	sets := []*vex.Set{s.vex}
	if s.attested {
		sets = append(sets, attestedVEX(&in.Image))
	}
	if s.vex == nil && len(sets) == 1 {
		return waivers.findings(in)
	}
	img := vexImage(&in.Image)
	left := *in
	left.Findings = make([]scan.Finding, 0, len(in.Findings))
	seen := map[[2]string]bool{}
	for i := range in.Findings {
		f := &in.Findings[i]
		st, found := vex.Find(sets, &img, f)
		if !found || !st.Status.Suppresses() || f.SuppressedBy != nil {
			left.Findings = append(left.Findings, *f)
			continue
		}
		if id := [2]string{f.ID, f.Package.PURL}; !seen[id] {
			seen[id] = true
			waived = append(waived, Waived{
				VEX: st.Document, Status: string(st.Status), Finding: f.ID,
				Package: f.Package.Name, PURL: f.Package.PURL, Owner: st.Author, Reason: st.Why,
			})
		}
	}
	active, more := waivers.findings(&left)
	return active, append(waived, more...)
}

// missedVEX adds to what would change each rule what VEX says of its findings that is about
// another image or package: for each finding, of the first of them.
func (s *snapshot) missedVEX(in *Input, rules []Rule) {
	sets := []*vex.Set{s.vex}
	if s.attested {
		sets = append(sets, attestedVEX(&in.Image))
	}
	img := vexImage(&in.Image)
	for i := range rules {
		r := &rules[i]
		for j := range r.Findings[:min(maxFixes, len(r.Findings))] {
			f := &r.Findings[j]
			for _, m := range vex.Misses(sets, &img, f) {
				r.Changes = append(r.Changes, clip(fmt.Sprintf("%s says that %s is %s, of %s: that is not %s in this image. Where it is meant, name %s as the product there",
					cmp.Or(m.Place, "The attested VEX document "+m.Document), f.ID, m.Status, strings.Join(m.Products, ", "), f.Package.Name, cmp.Or(f.Package.PURL, "the image by its digest")), maxMessage))
			}
		}
	}
}

func vexImage(a *Image) vex.Image {
	return vex.Image{
		Registry: a.Registry, Repository: a.Repository, Platform: a.Platform, Tags: a.Tags,
		Digests: append([]string{a.Digest}, a.Indexes...),
	}
}

// attestedVEX returns the statements of an image's attestations: of those alone whose
// signature was verified and is about the image or an index of it. What can't be read
// suppresses nothing.
func attestedVEX(a *Image) *vex.Set {
	var docs []*vex.Document
	for i := range a.Attestations {
		t := &a.Attestations[i]
		mine := t.Subject == a.Digest || slices.Contains(a.Indexes, t.Subject)
		if !t.Verified || !mine || t.Predicate == nil || !vex.IsPredicate(t.PredicateType) {
			continue
		}
		if d, err := vex.FromPredicate(t.Predicate); err == nil {
			docs = append(docs, d)
		}
	}
	return vex.NewSet(docs)
}

// by says who set a finding or a violation aside.
func (w *Waived) by() string {
	if w.VEX == "" {
		return "waiver " + w.Waiver
	}
	s := "vex " + w.VEX + " " + w.Status
	if w.Reason != "" {
		s += ": " + w.Reason
	}
	return clip(s, maxField)
}

// tellExpired adds to what each violation says to do the waiver that would have set it
// aside, or one of its findings, and has ended: of several, the one that did so last.
func (w *waiverSet) tellExpired(in *Input, active []scan.Finding, vs []Violation) {
	var over activeWaivers
	for i := range w.all {
		if x := &w.all[i]; !in.Now.Before(x.until) && x.Scope.images(in) {
			over = append(over, x)
		}
	}
	if len(over) == 0 {
		return
	}
	slices.SortStableFunc(over, func(a, b *Waiver) int { return b.until.Compare(a.until) })
	by := byAdvisory(over)
	for i := range vs {
		v := &vs[i]
		last := over.lastFor(v, by, active)
		if last == nil {
			continue
		}
		said := fmt.Sprintf("Waiver %s for this ended %s.", clip(last.ID, 60), endText(last))
		if v.Remediation != "" {
			said += " " + v.Remediation
		}
		v.Remediation = clip(said, maxMessage)
	}
}

// lastFor returns the first of w that is for a violation, or for a finding of it.
func (w activeWaivers) lastFor(v *Violation, by findingWaivers, active []scan.Finding) *Waiver {
	var last *Waiver
	for _, x := range w {
		if x.Scope.violation(v) {
			last = x
			break
		}
	}
	for i := range active {
		f := &active[i]
		if !slices.Contains(v.Findings, f.ID) {
			continue
		}
		if x := by.find(f); x != nil && (last == nil || x.until.After(last.until)) {
			last = x
		}
	}
	return last
}

// endText is the last day that a waiver held for, or the instant at which it ended.
func endText(w *Waiver) string {
	if _, err := time.Parse(time.DateOnly, w.Expires); err == nil {
		return w.Expires
	}
	return w.until.Format(time.RFC3339)
}

// Reminders say when to tell of waivers that end within 7 days, or have ended: once a day
// for each, and of one that is over for 7 days. The zero value is ready; it may not be used
// concurrently.
type Reminders struct{ told map[string]time.Time }

// Due returns those of ws that it is time to tell of, and notes that they were told.
func (r *Reminders) Due(ws []WaiverStatus, now time.Time) []WaiverStatus {
	told := map[string]time.Time{}
	var due []WaiverStatus
	for _, w := range ws {
		if w.State == WaiverActive || now.Sub(w.Ends) > expiringSoon {
			continue
		}
		id := w.Source + " " + w.ID + " " + w.State
		at, before := r.told[id]
		if !before || now.Sub(at) >= 24*time.Hour {
			due, at = append(due, w), now
		}
		told[id] = at
	}
	r.told = told
	return due
}
