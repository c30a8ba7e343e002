package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/scan"
)

// printExplanation writes an explanation for people: the rules that speak, what is set
// aside, what would change the outcome, and the rules that say nothing.
func printExplanation(w io.Writer, e policy.Explanation) {
	p := paletteFor(w)
	fmt.Fprintf(w, "%s  %s\n", verdictWord(p, e.Answer), clean(e.Image.Reference))
	fmt.Fprintf(w, "%s\n", p.dim(fmt.Sprintf("mode %s, policies and waivers %s, decision %s", e.Decision.Mode, clean(e.Decision.Revision), clean(e.Decision.ID))))
	for _, r := range e.Rules {
		printRule(w, p, r)
	}
	if len(e.Rules) == 0 {
		fmt.Fprintln(w, "\nno rule has anything to say")
	}
	for _, x := range e.Decision.Waived {
		by, until := "waiver "+x.Waiver+" of "+x.Owner, " until "+x.Expires
		if x.VEX != "" {
			by, until = "VEX "+x.VEX+" ("+x.Status+")", ""
		}
		what := cmp.Or(x.Finding, x.Policy, "everything")
		if x.Package != "" {
			what += " in " + x.Package
		}
		fmt.Fprintf(w, "\n%s %s by %s%s: %s\n", p.dim("~ set aside:"), clean(what), clean(by), clean(until), clean(cmp.Or(x.Reason, "-")))
	}
	printProblems(w, p, e.Scan.Coverage)
	printOutlook(w, e)
	printSilent(w, e)
}

func printRule(w io.Writer, p palette, r policy.Rule) {
	mark := p.warn("!")
	if r.Blocks {
		mark = p.bad("✗")
	}
	fmt.Fprintf(w, "\n%s %s (%s): %s\n", mark, clean(r.Policy), r.Mode, clean(r.Message))
	for i, f := range r.Findings {
		if i == maxRows {
			fmt.Fprintf(w, "    … and %d more; -o json lists all\n", len(r.Findings)-i)
			break
		}
		fmt.Fprintf(w, "    %s %s in %s %s, %s\n", clean(f.Severity), clean(f.ID), clean(f.Package.Name), clean(f.Package.Version), clean(fixText(f)))
	}
	for _, c := range r.Changes {
		fmt.Fprintf(w, "    → %s\n", clean(c))
	}
}

func fixText(f scan.Finding) string {
	if len(f.Fix.Versions) == 0 {
		return "no fix yet"
	}
	text := "fixed in " + strings.Join(f.Fix.Versions, ", ")
	if f.Fix.Available != "" {
		text += " since " + f.Fix.Available
	}
	return text
}

// printOutlook says what would change the decision.
func printOutlook(w io.Writer, e policy.Explanation) {
	if e.Decision.Blocks() {
		fmt.Fprintf(w, "\nIt is allowed once none of the rules marked ✗ holds.\n")
	}
	if u := e.Updates; u != nil {
		word := "it would be allowed"
		if !u.Allowed {
			word = "it would still be denied"
		}
		names, more := u.Packages, ""
		if len(names) > maxRows {
			names, more = names[:maxRows], fmt.Sprintf(" and %d more", len(u.Packages)-maxRows)
		}
		fmt.Fprintf(w, "With %s%s %s.\n", clean(strings.Join(names, ", ")), more, word)
	}
	t := e.Turn
	if t == nil {
		return
	}
	word := "allowed"
	switch {
	case t.Blocks:
		word = "denied"
	case !t.Allow:
		word = "allowed with a violation"
	}
	var names []string
	for _, v := range t.Violations {
		names = append(names, v.Policy)
	}
	by := ""
	if len(names) > 0 {
		by = " by " + strings.Join(names, ", ")
	}
	fmt.Fprintf(w, "\nFrom %s it will be %s%s, if nothing else changes.\n", t.At.UTC().Format(time.RFC3339), word, clean(by))
}

// printSilent lists the rules that say nothing.
func printSilent(w io.Writer, e policy.Explanation) {
	if e.Note != "" {
		fmt.Fprintf(w, "\n%s\n", clean(e.Note))
	}
	if len(e.Silent) == 0 {
		return
	}
	rows := [][]string{{"NOTHING TO SAY", "RULE", "WHERE", "WHY"}}
	for _, s := range e.Silent {
		rows = append(rows, []string{clean(cmp.Or(s.Title, "-")), clean(s.Package + "." + s.Kind), clean(fmt.Sprintf("%s:%d", s.File, s.Line)), clean(s.Why)})
	}
	fmt.Fprintln(w)
	table(w, rows)
}
