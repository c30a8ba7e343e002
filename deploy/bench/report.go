package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

const (
	opening = "<!-- bench -->"
	closing = "<!-- /bench -->"
)

// A report is everything that was measured.
type report struct {
	when      time.Time
	runs      int
	pulls     []*firstPull
	verdicts  []*verdictRow
	reviews   []*review
	crowds    []*crowd
	memory    []*burden
	warm      []*load
	manifests []*manifestLoad
	decisions []*judgement
	fleet     *fleet
}

// markdown is the report as the README has it.
func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Measured on %s with %d cores, %s of memory, %s, %s/%s: medians of %d interleaved runs.\n",
		r.when.UTC().Format("2006-01-02"), runtime.NumCPU(), memory(), strings.Replace(runtime.Version(), "go", "Go ", 1), runtime.GOOS, runtime.GOARCH, r.runs)
	b.WriteString("Client, origin and gateway share these cores; the origin demands a token and redirects to\n" +
		"a blob host. `make bench` measures again and writes this table.\n\n")
	if len(r.pulls) > 0 {
		r.writePulls(&b)
	}
	if len(r.verdicts) > 0 {
		r.writeVerdicts(&b)
	}
	if len(r.reviews) > 0 {
		r.writeReviews(&b)
	}
	if len(r.crowds) > 0 {
		r.writeCrowds(&b)
	}
	if len(r.memory) > 0 {
		r.writeMemory(&b)
	}
	if len(r.warm) > 0 {
		r.writeWarm(&b)
	}
	if len(r.decisions) > 0 {
		b.WriteString("\n")
		r.writeDecisions(&b)
	}
	if r.fleet != nil {
		r.writeFleet(&b)
	}
	return b.String()
}

func (r *report) writePulls(b *strings.Builder) {
	b.WriteString("First pull of an unknown image, with its verdict, by a gateway with nothing but its\n" +
		"database, against the same pull straight from the origin:\n\n")
	b.WriteString("| image | origin | client asks for | ÷ direct | + | gateway | direct |\n|---|---|---|--:|--:|--:|--:|\n")
	for _, p := range r.pulls {
		through, direct := median(p.gateway), median(p.direct)
		fmt.Fprintf(b, "| %s | %s | %s | **%.2f** | %s | %s | %s |\n", short(p.image.about), p.origin.about, p.shape,
			through.Seconds()/direct.Seconds(), seconds(through-direct), seconds(through), seconds(direct))
	}
	b.WriteString("\n")
	seen := map[*image]bool{}
	for _, p := range r.pulls {
		if !seen[p.image] {
			seen[p.image] = true
			fmt.Fprintf(b, "- %s; %d layers, %s that unpack to %s, %d entries, %d packages.\n",
				p.image.about, len(p.image.blobs)-1, size(p.image.packed()), size(p.image.unpacked), p.image.entries, p.packages)
		}
	}
	b.WriteString("\n")
}

func (r *report) writeWarm(b *strings.Builder) {
	fmt.Fprintf(b, "Warm, the verdict known and allowed, against distribution %s as a pull-through cache of\nthe same origin:\n\n", distributionVersion)
	b.WriteString("| | ÷ distribution | gateway | distribution |\n|---|--:|--:|--:|\n")
	for _, l := range r.warm {
		ours, theirs := median(l.gateway), median(l.distribution)
		fmt.Fprintf(b, "| %s | **%.2f** | %s | %s |\n", l.about, ours/theirs, l.text(ours), l.text(theirs))
	}
	b.WriteString("\nManifests with their decision, against distribution's without one: requests a second, the gateway's\n" +
		"and distribution's. By tag distribution asks upstream each time, the gateway once a minute:\n\n")
	b.WriteString("|")
	for _, n := range clientsOfManifests {
		fmt.Fprintf(b, " | %d at once", n)
	}
	b.WriteString(" |\n|---|" + strings.Repeat("--:|", len(clientsOfManifests)) + "\n")
	for _, m := range r.manifests {
		b.WriteString("| " + m.about)
		for _, l := range m.loads {
			ours, theirs := median(l.gateway), median(l.distribution)
			fmt.Fprintf(b, " | **%.2f** (%.0f, %.0f)", ours/theirs, ours, theirs)
		}
		b.WriteString(" |\n")
	}
}

func (r *report) writeCrowds(b *strings.Builder) {
	fmt.Fprintf(b, "%d clients at once that ask for an unknown image, against one; upstream sends each blob once:\n\n", crowdClients)
	fmt.Fprintf(b, "| image | origin | ÷ one client | %d clients | one client | requests upstream |\n|---|---|--:|--:|--:|--:|\n", crowdClients)
	for _, c := range r.crowds {
		one, all := median(c.one), median(c.all)
		fmt.Fprintf(b, "| %s | %s | **%.2f** | %s | %s | %d, for one %d |\n", short(c.image.about), c.origin.about,
			all.Seconds()/one.Seconds(), seconds(all), seconds(one), slices.Max(c.allAsks), slices.Max(c.oneAsks))
	}
	b.WriteString("\n")
}

func (r *report) writeMemory(b *strings.Builder) {
	b.WriteString("Memory of the gateway's process (its worker is another) while an unknown image is pulled:\n\n")
	b.WriteString("| image | clients at once | + | before | at most |\n|---|--:|--:|--:|--:|\n")
	for _, m := range r.memory {
		fmt.Fprintf(b, "| %s | %d | **%s** | %s | %s |\n", m.image.about, m.clients, size(m.peak-m.before), size(m.before), size(m.peak))
	}
	b.WriteString("\n")
}

// short is the name of an image, before what is told of it.
func short(about string) string {
	name, _, _ := strings.Cut(about, ", ")
	return name
}

func seconds(d time.Duration) string {
	if d.Abs() < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

func size(n int64) string {
	if n < 10<<20 {
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d MiB", n>>20)
}

// median of an even number is the mean of the two in the middle.
func median[T ~int64 | ~float64](of []T) T {
	s := slices.Sorted(slices.Values(of))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// memory is what the machine has, as far as it tells.
func memory() string {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return "unknown size"
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var kib int64
		if n, _ := fmt.Sscanf(lines.Text(), "MemTotal: %d kB", &kib); n == 1 {
			return fmt.Sprintf("%d GiB", (kib+1<<19)>>20)
		}
	}
	return "unknown size"
}

// between returns page with what stands between the markers replaced.
func between(page, text string) (string, error) {
	before, rest, ok := strings.Cut(page, opening)
	_, after, closed := strings.Cut(rest, closing)
	if !ok || !closed || strings.Contains(after, opening) {
		return "", errors.New("it should have " + opening + " once, and " + closing + " behind it")
	}
	return before + opening + "\n" + text + closing + after, nil
}

// publish writes the report into a README.
func publish(file, text string) error {
	page, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	next, err := between(string(page), text)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.WriteFile(file, []byte(next), 0o644)
}
