package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A verdictRow is how long an image's decision takes after its last byte, and what the
// syft and grype commands take for the same image from a warm disk.
type verdictRow struct {
	about   string
	image   *image
	seen    bool // it shares layers with what the gateway has seen before
	command *commandRow

	delay  []time.Duration            // from the last byte to the decision
	steps  map[string][]time.Duration // sums of the gateway's steps
	pull   []time.Duration            // until the client had everything
	memory int64                      // of the worker at most, where nothing was seen before
	beside int                        // worker processes of the gateway
}

// A commandRow is what the commands took for an image, and a direct pull.
type commandRow struct {
	layout       string
	syft, grype  []time.Duration
	direct       []time.Duration // pulls straight from the origin, which the commands need before
	syftTop, top int64           // most resident bytes, of syft and of grype
}

// A verdictRun is rows that follow each other through one gateway.
type verdictRun struct {
	origin   *origin
	unshaped bool
	rows     []*verdictRow
}

// measureVerdicts runs all rows and the commands once a round. pulled are first pulls
// that were measured before, so that direct ones needn't be again.
func measureVerdicts(ctx context.Context, y *yard, c *corpus, o options, pulled []*firstPull) (rows []*verdictRow, err error) {
	tools, err := findScanners(o, y)
	if err != nil {
		return nil, err
	}
	runs, commands, err := verdictRuns(y, c)
	for _, r := range runs {
		defer r.origin.Close()
		rows = append(rows, r.rows...)
	}
	if err != nil {
		return nil, err
	}
	for range o.runs {
		for _, r := range runs {
			if err := r.run(ctx, y); err != nil {
				return nil, err
			}
		}
		for _, row := range rows {
			if cmd := row.command; len(cmd.grype) < len(row.delay) {
				if err := cmd.run(ctx, tools, row); err != nil {
					return nil, err
				}
			}
		}
		for _, r := range runs {
			if err := r.pullDirect(ctx, pulled); err != nil {
				return nil, err
			}
		}
	}
	for _, cmd := range commands {
		os.RemoveAll(cmd.layout)
	}
	return rows, nil
}

// pullDirect has one direct pull for each round in the rows of images that nobody saw
// before.
func (r *verdictRun) pullDirect(ctx context.Context, pulled []*firstPull) error {
	for _, row := range r.rows {
		cmd := row.command
		if row.seen || r.unshaped || len(cmd.direct) >= len(row.delay) {
			continue
		}
		i := slices.IndexFunc(pulled, func(f *firstPull) bool {
			return f.image == row.image && f.shape == sideBySide && f.origin.about != unshaped
		})
		if i >= 0 {
			cmd.direct = pulled[i].direct
			continue
		}
		took, err := pull(ctx, r.origin.direct(), row.image, sideBySide)
		if err != nil {
			return err
		}
		cmd.direct = append(cmd.direct, took)
	}
	return nil
}

// verdictRuns makes the rows, and layouts for the commands.
func verdictRuns(y *yard, c *corpus) (runs []*verdictRun, commands []*commandRow, err error) {
	of := map[*image]*commandRow{}
	row := func(about string, img *image, seen bool) *verdictRow {
		if of[img] == nil && err == nil {
			cmd := &commandRow{layout: filepath.Join(y.dir, "layout-"+filepath.Base(img.repo))}
			err = img.write(cmd.layout)
			of[img], commands = cmd, append(commands, cmd)
		}
		return &verdictRow{about: about, image: img, seen: seen, command: of[img], steps: map[string][]time.Duration{}}
	}
	name := short(c.large.about)
	grown, err := c.large.grow("bench/grown")
	if err != nil {
		return nil, nil, err
	}
	renamed, err := newImageBy("another author", "bench/renamed", name+" under another config", c.large.layers)
	if err != nil {
		return nil, nil, err
	}
	follow := func(bandwidth int64, delay time.Duration, rows ...*verdictRow) {
		if err != nil {
			return
		}
		var images []*image
		for _, r := range rows {
			images = append(images, r.image)
		}
		var from *origin
		if from, err = newOrigin("", bandwidth, delay, images...); err == nil {
			runs = append(runs, &verdictRun{from, bandwidth == 0, rows})
		}
	}
	const way = ", 200 Mbit/s"
	follow(bandwidth, delay, row("small"+way, c.small, false))
	full := row(name+way, c.large, false)
	of[renamed], of[grown] = full.command, full.command // which read the same layers, and hardly more
	follow(bandwidth, delay,
		full,
		row(name+" with a new layer on top, after "+name, grown, true),
		row(name+" under another config, after "+name, renamed, true))
	follow(0, 0, row(name+", "+unshaped, c.large, false))
	if c.big != nil {
		follow(bandwidth, delay, row("B"+way, c.big, false))
	}
	return runs, commands, err
}

// run has one new gateway pull the images of a run, one after the other.
func (r *verdictRun) run(ctx context.Context, y *yard) (err error) {
	s, err := y.gateway(ctx, r.origin)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop(), os.RemoveAll(filepath.Dir(s.log))) }()
	before, err := s.steps(ctx)
	if err != nil {
		return err
	}
	for _, row := range r.rows {
		took, err := pull(ctx, s.registry, row.image, sideBySide)
		if err != nil {
			return s.fault(err)
		}
		if _, err := y.verdict(ctx, s, row.image); err != nil {
			return s.fault(err)
		}
		after, err := s.stepsAfter(ctx, before)
		if err != nil {
			return s.fault(err)
		}
		row.pull = append(row.pull, took)
		row.delay = append(row.delay, after.delay-before.delay)
		for name, sum := range after.sums {
			for len(row.steps[name]) < len(row.delay)-1 {
				row.steps[name] = append(row.steps[name], 0) // was not done before
			}
			row.steps[name] = append(row.steps[name], sum-before.sums[name])
		}
		if !row.seen {
			most, n := workers(s.cmd.Process.Pid)
			row.memory, row.beside = max(row.memory, most), n
		}
		fmt.Fprintf(os.Stderr, "%-50.50s decided %7.3f s after its last byte, pulled in %7.3f s\n", row.about,
			row.delay[len(row.delay)-1].Seconds(), took.Seconds())
		before = after
	}
	return nil
}

// What a gateway's metrics say of its steps.
type stepSums struct {
	decided int
	delay   time.Duration
	sums    map[string]time.Duration
}

// stepsAfter returns what the metrics say once one more image was decided.
func (s *server) stepsAfter(ctx context.Context, before stepSums) (stepSums, error) {
	for range 500 {
		now, err := s.steps(ctx)
		if err != nil {
			return now, err
		}
		if now.decided == before.decided+1 {
			return s.steps(ctx) // a scrape beside the decision may have one metric without the other
		}
		time.Sleep(10 * time.Millisecond) // the client may have everything before the line of the log is written
	}
	return stepSums{}, errors.New("its metrics tell of no decision")
}

// steps reads a gateway's metrics.
func (s *server) steps(ctx context.Context) (out stepSums, err error) {
	b, err := get(ctx, s.admin+"/metrics")
	if err != nil {
		return out, err
	}
	out.sums = map[string]time.Duration{}
	for line := range strings.Lines(string(b)) {
		name, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			continue // a comment
		}
		span := time.Duration(math.Round(value * 1e9))
		step, isStep := strings.CutPrefix(name, `sluice_scan_step_seconds_sum{step="`)
		switch {
		case isStep:
			out.sums[strings.TrimSuffix(step, `"}`)] = span
		case name == "sluice_decision_delay_seconds_sum":
			out.delay = span
		case name == "sluice_decision_delay_seconds_count":
			out.decided = int(value)
		}
	}
	return out, nil
}

// workers returns the most memory that a child of a process has held and how many there
// are, 0 where the system does not tell.
func workers(pid int) (most int64, n int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range tasks {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for child := range strings.FieldsSeq(string(b)) {
			n++
			most = max(most, statusBytes("/proc/"+child+"/status", "VmHWM"))
		}
	}
	return most, n
}

// statusBytes reads a line in kB of a file such as /proc/self/status, 0 where it isn't.
func statusBytes(file, name string) int64 {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, name+": %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	return 0
}

// step returns the median of what steps took together.
func (v *verdictRow) step(names ...string) time.Duration {
	sums := make([]time.Duration, len(v.delay))
	for _, name := range names {
		for i, d := range v.steps[name] {
			sums[i] += d
		}
	}
	return median(sums)
}

// rest returns what of the delay is in none of the steps.
func (v *verdictRow) rest(names ...string) time.Duration {
	return max(0, median(v.delay)-v.step(names...))
}

func (r *report) writeVerdicts(b *strings.Builder) {
	b.WriteString("From the last byte of an image to its decision, against the commands `grype IMAGE` and `syft IMAGE`\n" +
		"of the same versions, with the same database and the image on a warm disk:\n\n")
	b.WriteString("| image | to the decision | ÷ grype | ÷ syft | `grype` | `syft` | memory of the worker | of `grype` |\n|---|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, v := range r.verdicts {
		delay, grype, syft := median(v.delay), median(v.command.grype), median(v.command.syft)
		memory := "–"
		if v.memory > 0 {
			memory = size(v.memory)
		}
		fmt.Fprintf(b, "| %s | **%s** | **%s** | %s | %s | %s | %s | %s |\n", v.about, seconds(delay), ratio(delay, grype),
			ratio(delay, syft), seconds(grype), seconds(syft), memory, size(v.command.top))
	}
	if n := r.verdicts[0].beside; n > 0 {
		fmt.Fprintf(b, "\nOn this machine the gateway runs %d worker processes, each of which catalogues one image at a time.\n", n)
	}
	b.WriteString("\nWhere that time goes, in milliseconds: what the stream guard had still to read, the steps of the\ncatalogue, those of the match, the decision:\n\n")
	b.WriteString("| image | backlog | index | packages | relationships | encode | hand over | open, decode | search | findings, store | decide | other |\n|---|" + strings.Repeat("--:|", 11) + "\n")
	for _, v := range r.verdicts {
		inside := v.step("place", "index", "turn", "packages", "relationships", "encode")
		matched := v.step("open", "decode", "search")
		columns := []time.Duration{v.step("backlog"), v.step("place", "index", "turn"), v.step("packages"), v.step("relationships"), v.step("encode"),
			max(0, v.step("catalogue")-inside), v.step("open", "decode"), v.step("search"), max(0, v.step("match")-matched), v.step("decide"),
			v.rest("backlog", "catalogue", "match", "decide")}
		b.WriteString("| " + v.about)
		for _, d := range columns {
			fmt.Fprintf(b, " | %d", d.Round(time.Millisecond).Milliseconds())
		}
		b.WriteString(" |\n")
	}
	b.WriteString("\nA first pull with its verdict, against a direct pull and `grype` after it:\n\n")
	b.WriteString("| image | × faster | gateway | direct pull, then `grype` |\n|---|--:|--:|--:|\n")
	for _, v := range r.verdicts {
		if len(v.command.direct) == 0 || v.seen || strings.HasSuffix(v.about, unshaped) {
			continue
		}
		theirs := median(v.command.direct) + median(v.command.grype)
		fmt.Fprintf(b, "| %s | **%.1f** | %s | %s |\n", v.about, theirs.Seconds()/median(v.pull).Seconds(), seconds(median(v.pull)), seconds(theirs))
	}
	b.WriteString("\n")
}

// ratio of a to b.
func ratio(a, b time.Duration) string {
	if r := a.Seconds() / b.Seconds(); r >= .001 {
		return fmt.Sprintf("%.3f", r)
	}
	return "< 0.001"
}

// spread is the fastest and the slowest run, for the log.
func spread(of []time.Duration) string {
	s := slices.Sorted(slices.Values(of))
	return fmt.Sprintf("%.3f–%.3f s", s[0].Seconds(), s[len(s)-1].Seconds())
}
