//go:build e2e

package e2e

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

var update = flag.Bool("update", false, "write what users see of a denial to README.md")

// A moment is when a client meets a denial.
type moment int

const (
	sometime moment = iota - 1 // it hangs on chance which of these
	known                      // the verdict is known: the manifest is refused
	early                      // in a first pull, before the config's headers had to go out
	late                       // in a first pull, when config and layers were on their way
)

// Words for what is seen.
const (
	reason = "the reason"
	status = "invalid status code from registry 403"
	reset  = "connection reset by peer"
)

// A view is what the user of a client sees of a denial, at each moment: the reason, or
// words of the client's own. More than one where it hangs on which of the client's
// connections is cut first.
type view struct {
	client string // with its version, as the README names it
	sees   [3][]string
}

// views are the rows of the README's table. The stories hold what was seen to it.
var views = []view{
	{"docker 20.10", [3][]string{{reason}, {reason}, {reason}}},
	{"containerd 1.6 (`ctr`)", [3][]string{{"403 Forbidden"}, {reason}, {reason, reset}}},
	{"containerd 2.4 (`ctr`)", [3][]string{{reason}, {reason}, {reset}}},
	{"containerd 2.4 (CRI)", [3][]string{{reason}, {reason}, {reset}}},
	{"podman 4.3", [3][]string{{reason}, {status}, {reason}}},
	{"buildah 1.28", [3][]string{{reason}, {status}, {reason}}},
	{"skopeo 1.9", [3][]string{{reason}, {status}, {reset}}},
	{"crane 0.22", [3][]string{{reason}, {reason, reset}, {reason, reset}}},
	{"oras 1.3", [3][]string{{reason}, {reason}, {reason, reset}}},
	{"regctl 0.11", [3][]string{{reason}, {reason, reset}, {reason, reset}}},
}

// phrases are words by which clients tell of a denial without its reason.
var phrases = []string{status, "403 Forbidden", reset, "unexpected EOF"}

// saw puts what a user saw of a denial in a few words.
func saw(out string, i *image) string {
	if strings.Contains(out, "blocked by policy") && strings.Contains(out, i.kev) {
		return reason
	}
	for _, p := range phrases {
		if strings.Contains(out, p) {
			return p
		}
	}
	return last(out, 1)
}

// row returns what is promised of a client, and checks that it is of the version that
// the promise is for, by what it prints.
func row(t *testing.T, client string, version ...string) view {
	t.Helper()
	i := slices.IndexFunc(views, func(v view) bool { return v.client == client })
	if i < 0 {
		t.Fatalf("%s is not in the README's table", client)
	}
	number := regexp.MustCompile(`[0-9]+\.[0-9]+`).FindString(client)
	if r := run(t, nil, "", version...); !regexp.MustCompile(`(^|[^0-9.])` + regexp.QuoteMeta(number) + `\.`).MatchString(r.out) {
		t.Errorf("%s is %s: the README's table is about %s", version[0], strings.TrimSpace(r.out), client)
	}
	return views[i]
}

// check holds what a user saw to what the README says.
func (v view) check(t *testing.T, when moment, seen, out string) {
	t.Helper()
	if when != sometime && !slices.Contains(v.sees[when], seen) {
		t.Errorf("the user of %s sees %q, and not %s:\n%s", v.client, seen, v.cell(when), last(out, 12))
	}
}

func (v view) cell(when moment) string {
	var words []string
	for _, w := range v.sees[when] {
		if w != reason {
			w = "`" + w + "`"
		}
		words = append(words, w)
	}
	return strings.Join(words, " or ")
}

// TestTable holds the README's table to the views that the stories prove.
func TestTable(t *testing.T) {
	var b strings.Builder
	b.WriteString("| client | the verdict is known | first pull, decided within 20 s | first pull, decided later |\n|---|---|---|---|\n")
	for _, v := range views {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", v.client, v.cell(known), v.cell(early), v.cell(late))
	}
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, "README.md")
	text := read(t, file)
	_, after, ok := strings.Cut(text, "<!-- clients -->\n")
	table, _, closed := strings.Cut(after, "\n\n")
	if !ok || !closed {
		t.Fatal("README.md has no table of clients")
	}
	if table+"\n" == b.String() {
		return
	}
	if !*update {
		t.Fatalf("README.md has another table than the stories; go test -tags e2e ./deploy/e2e -run Table -update writes it:\n%s", b.String())
	}
	if err := os.WriteFile(file, []byte(strings.Replace(text, table+"\n", b.String(), 1)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// A screen is what a user saw of a denial.
type screen struct{ client, when, seen, text string }

// screens are those of all stories.
type screens struct {
	mu  sync.Mutex // guards all
	all []screen
}

func (s *screens) add(one screen) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.ContainsFunc(s.all, func(x screen) bool { return x.client == one.client && x.when == one.when && x.seen == one.seen }) {
		s.all = append(s.all, one)
	}
}

// show prints what users saw, to the letter.
func (s *screens) show(t *testing.T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.SortStableFunc(s.all, func(a, b screen) int { return strings.Compare(a.client, b.client) })
	var b strings.Builder
	for _, x := range s.all {
		fmt.Fprintf(&b, "%-22s  %-24s  %-26s  %.300s\n", x.client, x.when, x.seen, x.text)
	}
	t.Logf("what users see of a denial:\n%s", b.String())
}
