package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/sluicegate/sluice/scan"
)

// A comparison has all that images are compared with.
type comparison struct {
	pipeline *pipeline
	commands *commands
	pantry   *pantry
}

// A result is what came out for one image.
type result struct {
	*subject
	missing string // why it was not made

	verdict                            scan.State
	packages, relations, rows, ignored int
	findings, suppressed               int
	left                               remainder
	sbom, defaults, matches, golden    []string // differences
	state                              []string
}

func (r *result) differences() []string {
	return slices.Concat(r.state, r.sbom, r.defaults, r.matches, r.golden)
}

func (r *result) different() bool { return len(r.differences()) > 0 }

// one makes an image, takes it through the pipeline and the commands, and compares.
func (c *comparison) one(ctx context.Context, r *result) error {
	if err := r.build(ctx, c.pantry); err != nil {
		return err
	}
	verdict, stored, err := c.pipeline.of(r.subject).scan(ctx, r.subject)
	if err != nil {
		return err
	}
	r.verdict = verdict.Scan.State
	if want := r.want(); r.verdict != want {
		r.state = append(r.state, fmt.Sprintf("the verdict is %s, not %s: %s %+v", verdict.Scan.State, want, verdict.Scan.Detail, verdict.Scan.Coverage.Problems))
	}
	if err := c.compareSBOM(ctx, r, stored); err != nil {
		return err
	}
	grype, err := c.commands.matches(ctx, r.subject, c.pipeline.of(r.subject).db)
	if err != nil {
		return err
	}
	r.rows, r.ignored = len(grype.Matches), len(grype.IgnoredMatches)
	for _, f := range verdict.Findings {
		if f.SuppressedBy != nil {
			r.suppressed++
		} else {
			r.findings++
		}
	}
	r.matches = diffFindings(expected(grype), verdict.Findings)
	if r.subject.golden == "" {
		return nil
	}
	g, err := readGolden(filepath.Join(c.pantry.data, "golden", r.subject.golden+".json"))
	if err != nil {
		return err
	}
	r.golden = append(g.differences("sluice", r.goldenType, ofFindings(verdict.Findings)), g.differences("grype", r.goldenType, ofRows(grype.Matches))...)
	return nil
}

// compareSBOM compares the stored SBOM with the syft command's, twice.
func (c *comparison) compareSBOM(ctx context.Context, r *result, stored []byte) error {
	want, err := c.commands.sbom(ctx, r.subject, ours)
	if err != nil {
		return err
	}
	r.packages, r.relations = len(want.Artifacts), len(want.ArtifactRelationships)
	if stored == nil { // nothing to catalogue: syft must find nothing
		if r.packages+r.relations > 0 {
			r.sbom = append(r.sbom, fmt.Sprintf("no SBOM, where syft finds %d packages", r.packages))
		}
		return nil
	}
	got, err := readDocument(stored)
	if err != nil {
		return err
	}
	r.sbom = differences(want, got)
	if want, err = c.commands.sbom(ctx, r.subject, nil); err != nil {
		return err
	}
	r.defaults, r.left = defaults(want, got)
	return nil
}

func (r *result) want() scan.State {
	if r.subject.state == "" {
		return scan.Complete
	}
	return r.subject.state
}

// build makes the subject's layout.
func (s *subject) build(ctx context.Context, p *pantry) error {
	l, err := newLayout(s.layout)
	if err != nil {
		return err
	}
	return errors.Join(s.make(ctx, p, l), l.close())
}

// maxTold is how many differences of an image are told.
const maxTold = 20

// report writes the table, and below it what differs and what was left out.
func report(w io.Writer, rows []*result, sample bool) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "image\tverdict\tpackages\trelationships\tmatches\tsuppressed\tsyft¹\tsyft²\tgrype³\tgolden⁴")
	left := remainder{relations: map[string]int{}}
	for _, r := range rows {
		if r.missing != "" {
			continue
		}
		list := "–"
		if r.subject.golden != "" {
			list = word(r.golden)
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d of %d\t%d of %d\t%s\t%s\t%s\t%s\n", r.name, r.verdict, r.packages, r.relations, r.findings, r.rows, r.suppressed, r.ignored,
			word(slices.Concat(r.state, r.sbom)), word(r.defaults), word(r.matches), list)
		left.symbols += r.left.symbols
		left.noVersion += r.left.noVersion
		for kind, n := range r.left.relations {
			left.relations[kind] += n
		}
	}
	t.Flush()
	for _, r := range rows {
		if r.missing != "" {
			fmt.Fprintf(w, "%s: %s\n", r.name, r.missing)
		}
	}
	for _, r := range rows {
		tellDifferences(w, r)
	}
	footnotes(w, left, sample)
}

func word(differences []string) string {
	if len(differences) == 0 {
		return "equal"
	}
	return fmt.Sprintf("%d DIFFER", len(differences))
}

func tellDifferences(w io.Writer, r *result) {
	all := r.differences()
	if len(all) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s (%s), kept in %s:\n", r.name, r.about, r.layout)
	for i, d := range all {
		if i == maxTold {
			fmt.Fprintf(w, "  and %d more\n", len(all)-i)
			break
		}
		fmt.Fprintln(w, "  "+strings.ReplaceAll(d[:min(len(d), 2000)], "\n", "\n  "))
	}
}

func footnotes(w io.Writer, left remainder, sample bool) {
	fmt.Fprintf(w, `
¹ The syft command with %s: every artifact, relationship and ID, the distribution and the source.
² The syft command under its defaults, but for what those settings change: symbols of Go in %d packages, and the IDs that follow from them;
  %d packages without a version; files, and relationships made from executables or of those packages:`, strings.Join(ours, " "), left.symbols, left.noVersion)
	if len(left.relations) == 0 {
		fmt.Fprint(w, " none here")
	}
	for _, kind := range slices.Sorted(maps.Keys(left.relations)) {
		fmt.Fprintf(w, " %d %s", left.relations[kind], kind)
	}
	fmt.Fprint(w, `.
³ The grype command under its defaults, on the image, with the database of the worker; "findings of rows": rows that are one CVE in one
  place make one finding, and ignored rows of kernel headers none.
⁴ Lists computed without grype: the gateway's findings and the command's rows both agree.
`)
	if sample {
		fmt.Fprintln(w, "\nNo data folder: the database is the sample, and the images that need it were not made.")
	}
}
