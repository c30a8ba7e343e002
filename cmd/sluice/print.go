package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/scan"
)

// printJSON writes v for programs.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// table writes rows in columns, the first row being the heading.
func table(w io.Writer, rows [][]string) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(tw, strings.Join(r, "\t"))
	}
	tw.Flush()
}

// A palette colours words on a terminal, and leaves them alone elsewhere.
type palette struct{ on bool }

// paletteFor follows https://no-color.org.
func paletteFor(w io.Writer) palette {
	f, ok := w.(*os.File)
	return palette{ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))}
}

func (p palette) paint(code, s string) string {
	if !p.on {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p palette) bad(s string) string  { return p.paint("1;31", s) }
func (p palette) good(s string) string { return p.paint("1;32", s) }
func (p palette) warn(s string) string { return p.paint("33", s) }
func (p palette) dim(s string) string  { return p.paint("2", s) }

// maxRows is how many findings the table shows; -o json has all.
const maxRows = 30

// printAnswer writes an answer for people: the decision first, then why, then what is
// in the image.
func printAnswer(w io.Writer, a policy.Answer) {
	p := paletteFor(w)
	fmt.Fprintf(w, "%s  %s\n", verdictWord(p, a), a.Image.Reference)
	if a.Image.Platform != "" {
		fmt.Fprintf(w, "%s\n", p.dim(a.Image.Platform+", "+contents(a)))
	}
	for _, v := range a.Decision.Violations {
		fmt.Fprintf(w, "\n  %s %s\n", p.bad("✗ "+clean(v.Policy)+":"), clean(v.Message))
		if v.Remediation != "" {
			fmt.Fprintf(w, "    %s\n", clean(v.Remediation))
		}
	}
	for _, v := range a.Decision.Warnings {
		fmt.Fprintf(w, "\n  %s %s\n", p.warn("! "+clean(v.Policy)+":"), clean(v.Message))
	}
	said := map[string]bool{} // one advisory may be waived in many packages
	for _, x := range a.Decision.Waived {
		word, line := "~ waived:", fmt.Sprintf("%s by %s until %s: %s", clean(cmp.Or(x.Finding, x.Policy)), clean(x.Owner), x.Expires, clean(x.Reason))
		if x.VEX != "" {
			word, line = "~ vex:", fmt.Sprintf("%s is %s, as %s says in %s: %s", clean(x.Finding), clean(x.Status), clean(x.Owner), clean(x.VEX), clean(cmp.Or(x.Reason, "-")))
		}
		if !said[line] {
			said[line] = true
			fmt.Fprintf(w, "\n  %s %s\n", p.dim(word), line)
		}
	}
	printProblems(w, p, a.Scan.Coverage)
	printFindings(w, a.Findings)
}

// maxProblemLines is how many problems are shown; -o json has all.
const maxProblemLines = 10

// printProblems says what of an image nobody could read or match, and where it is.
func printProblems(w io.Writer, p palette, c scan.Coverage) {
	if len(c.Problems) == 0 {
		return
	}
	fmt.Fprintf(w, "\n  %s\n", p.warn("not covered by this verdict:"))
	for i, pr := range c.Problems {
		if i == maxProblemLines {
			fmt.Fprintf(w, "  … and %d more; -o json lists all\n", len(c.Problems)-i)
			return
		}
		where := clean(pr.Path)
		if pr.Layer != "" && where != "" {
			where += " in " + clean(pr.Layer.String()[:min(19, len(pr.Layer))])
		}
		if where != "" {
			where += ": "
		}
		fmt.Fprintf(w, "  %s %s%s\n", p.warn("? "+clean(pr.Kind)+":"), where, clean(pr.Detail))
	}
}

func verdictWord(p palette, a policy.Answer) string {
	switch {
	case a.Decision.Blocks():
		return p.bad("DENIED ")
	case !a.Decision.Allow:
		return p.warn("ALLOWED (" + string(a.Decision.Mode) + ")")
	}
	return p.good("ALLOWED")
}

// contents says in a line what is in an image, as far as somebody has looked.
func contents(a policy.Answer) string {
	switch {
	case a.Decision.Mode == policy.Off, slices.ContainsFunc(a.Decision.Violations, func(v policy.Violation) bool { return v.Policy == policy.KillList }):
		return "not looked into"
	case a.Scan.State == scan.Unsupported:
		return "nothing that a runtime would run"
	}
	return plural(a.Scan.Packages, "package") + ", " + scanWord(a.Scan)
}

func scanWord(s scan.Summary) string {
	word := string(s.State)
	if s.Cause != "" {
		word += " (" + string(s.Cause) + ")"
	}
	if s.Database != nil {
		word += ", database of " + s.Database.Built.UTC().Format(time.DateOnly)
	}
	c := s.Counts
	return word + fmt.Sprintf(": %d critical, %d high, %d medium, %d low, %d unknown", c.Critical, c.High, c.Medium, c.Low+c.Negligible, c.Unknown)
}

func printFindings(w io.Writer, fs []scan.Finding) {
	if len(fs) == 0 {
		return
	}
	rows := [][]string{{"SEVERITY", "VULNERABILITY", "PACKAGE", "VERSION", "FIXED IN", "KNOWN EXPLOITED", "SUPPRESSED BY"}}
	for i, f := range fs {
		if i == maxRows {
			break
		}
		by := ""
		if f.SuppressedBy != nil {
			by = *f.SuppressedBy
		}
		row := []string{f.Severity, f.ID, f.Package.Name, f.Package.Version, cmp.Or(strings.Join(f.Fix.Versions, ", "), f.Fix.State), f.KEV, by}
		for i := range row {
			row[i] = clean(row[i])
		}
		rows = append(rows, row)
	}
	fmt.Fprintln(w)
	table(w, rows)
	if len(fs) > maxRows {
		fmt.Fprintf(w, "… and %d more; -o json lists all\n", len(fs)-maxRows)
	}
}

// clean keeps a stranger's text from moving the cursor or the columns.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == '\u2028' || r == '\u202e' {
			return '?'
		}
		return r
	}, s)
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// bytesText writes a size for people: 12.3 MiB.
func bytesText(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/unit, 0
	for v >= unit && i < 3 {
		v, i = v/unit, i+1
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGT"[i])
}

// A progress line on a terminal, redrawn in place; elsewhere it is silent.
type progress struct {
	w    *os.File
	what string
	last time.Time
}

func newProgress(what string) *progress { return &progress{w: os.Stderr, what: what} }

func (p *progress) terminal() bool { return term.IsTerminal(int(p.w.Fd())) }

// bytes shows how many of total bytes are done; total may be 0 where it isn't known.
func (p *progress) bytes(done, total int64) {
	if !p.terminal() || time.Since(p.last) < 100*time.Millisecond && done != total {
		return
	}
	p.last = time.Now()
	if total > 0 {
		fmt.Fprintf(p.w, "\r\x1b[K%s %3d%%  %s of %s", p.what, 100*done/total, bytesText(done), bytesText(total))
		return
	}
	fmt.Fprintf(p.w, "\r\x1b[K%s %s", p.what, bytesText(done))
}

// say shows a line of text in place.
func (p *progress) say(text string) {
	if p.terminal() {
		fmt.Fprintf(p.w, "\r\x1b[K%s %s", p.what, text)
	}
}

// done clears the line.
func (p *progress) done() {
	if p.terminal() {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
