package vuln

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/anchore/grype/grype"
	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/anchore/grype/grype/match"
	"github.com/anchore/grype/grype/matcher"
	"github.com/anchore/grype/grype/search"
	"github.com/anchore/grype/grype/vulnerability"
	"github.com/anchore/syft/syft/cpe"
	"github.com/google/go-cmp/cmp"

	"github.com/sluicegate/sluice/scan"
)

// told is all that grype says of an image.
type told struct {
	Matches []match.Match
	Ignored []match.IgnoredMatch
}

// grypeSays runs grype with a provider.
func grypeSays(t *testing.T, file string, p vulnerability.Provider) told {
	t.Helper()
	packages, about, _, err := read(file)
	check(t, err)
	finder := grype.VulnerabilityMatcher{
		VulnerabilityProvider: p, Matchers: matcher.NewDefaultMatchers(matcherConfig()),
		IgnoreRules: kernelHeaders(), IncludeMatcherSuppressions: true,
	}
	matches, ignored, err := finder.FindMatchesContext(t.Context(), packages, about)
	check(t, err)
	key := func(m match.Match) string {
		return fmt.Sprint(m.Vulnerability.ID, m.Vulnerability.Namespace, m.Package.ID, m.Details)
	}
	slices.SortStableFunc(ignored, func(a, b match.IgnoredMatch) int { return strings.Compare(key(a.Match), key(b.Match)) })
	return told{matches.Sorted(), ignored}
}

// difference compares every field, also those that aren't exported and what is
// pointed at. To reflect no function equals itself, and some constraints hold one.
func difference[T any](a, b T) string {
	if reflect.DeepEqual(a, b) {
		return ""
	}
	isFunc := func(p cmp.Path) bool { return p.Last().Type() != nil && p.Last().Type().Kind() == reflect.Func }
	return cmp.Diff(a, b, cmp.Exporter(func(reflect.Type) bool { return true }),
		cmp.FilterPath(isFunc, cmp.Comparer(func(a, b any) bool { return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer() })))
}

// remembered is what m holds of db, as text.
func remembered(t *testing.T, v *volume) map[string]string {
	t.Helper()
	out := make(map[string]string)
	m := &v.memory
	add(t, out, "affected", &m.affected)
	add(t, out, "unaffected", &m.unaffected)
	add(t, out, "kev", &m.kev)
	add(t, out, "epss", &m.epss)
	add(t, out, "cwe", &m.cwe)
	add(t, out, "cpes", &m.cpes)
	add(t, out, "providers", &m.tables.providers)
	add(t, out, "systems", &m.tables.systems)
	add(t, out, "overrides", &m.tables.overrides)
	add(t, out, "packages", &m.tables.packages)
	add(t, out, "vulnerabilities", &m.tables.vulnerabilities)
	add(t, out, "blobs", &m.tables.blobs)
	return out
}

func add[T any](t *testing.T, to map[string]string, kind string, a *answers[T]) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	for k, v := range a.known {
		b, err := json.Marshal(v)
		check(t, err)
		to[kind+" "+k] = string(b)
	}
}

// A match says the same, field by field, whether its answers are remembered, fresh, or
// grype's own from a store that nothing stands before; and nobody writes to what is
// remembered, which later matches are handed.
func TestRecall(t *testing.T) {
	images, least := goldens, 1000
	if underRace { // the rest adds time and no interleaving; `make parity` runs them all
		images, least = goldens[2:3], 100
	}
	if testing.Short() {
		t.Skip("matches ten images four times")
	}
	db := realDatabase(t)
	bare, err := v6.NewReader(v6.Config{DBDirPath: db.Dir})
	check(t, err)
	defer bare.Close()
	plain := v6.NewVulnerabilityProvider(bare)
	var m Matcher
	defer m.Close()
	v, err := m.shelf.borrow(db)
	check(t, err)
	defer m.shelf.release(v)

	files, want, findings := map[string]string{}, map[string]told{}, map[string]*scan.Matches{}
	for _, g := range images {
		file := catalogue(t, realImage(t, g.image))
		files[g.image], want[g.image] = file, grypeSays(t, file, plain)
		var fresh Matcher
		findings[g.image], err = fresh.Match(t.Context(), file, db)
		check(t, err)
		check(t, fresh.Close())
	}
	again := func(what, image string) {
		s, err := m.session(v)
		check(t, err)
		if d := difference(want[image], grypeSays(t, files[image], s.provider)); d != "" {
			t.Errorf("%s %s: grype alone says otherwise: %.3000s", what, image, d)
		}
		check(t, s.err())
		out, err := m.Match(t.Context(), files[image], db)
		check(t, err)
		if d := cmp.Diff(findings[image], out); d != "" {
			t.Errorf("%s %s: %.3000s", what, image, d)
		}
	}
	for image := range files {
		again("first", image)
	}
	before := remembered(t, v)
	if len(before) < least {
		t.Fatalf("only %d answers are remembered", len(before))
	}
	var wg sync.WaitGroup
	for image := range files {
		wg.Go(func() { again("again", image) })
	}
	wg.Wait()
	after := remembered(t, v)
	for k, was := range before {
		if now, ok := after[k]; ok && now != was {
			t.Errorf("somebody wrote to what is remembered of %s:\n%.500s\n%.500s", k, was, now)
		}
	}
}

// withCPE adds to a sample database an advisory that is known by CPE alone.
func withCPE(t *testing.T, db scan.Database) scan.Database {
	t.Helper()
	low, err := v6.NewLowLevelDB(filepath.Join(db.Dir, v6.VulnerabilityDBFileName), false, true, false)
	check(t, err)
	var nvd int64
	check(t, low.Model(&v6.Provider{}).Where("id = ?", "nvd").Count(&nvd).Error)
	if nvd == 0 {
		check(t, low.Create(&v6.Provider{ID: "nvd"}).Error)
	}
	for _, s := range []string{
		`INSERT INTO blobs (id, value) VALUES (900001, '{"id":"CVE-2020-0001"}'), (900002, '{"ranges":[{"version":{"type":"","constraint":"< 9"}}]}')`,
		`INSERT INTO vulnerability_handles (id, name, status, provider_id, blob_id) VALUES (900001, 'CVE-2020-0001', 'active', 'nvd', 900001)`,
		`INSERT INTO cpes (id, part, vendor, product, edition, language, software_edition, target_hardware, target_software, other) VALUES (900001, 'a', 'Widget', 'WIDGET', '', '', '', '', '', '')`,
		`INSERT INTO affected_cpe_handles (id, vulnerability_id, cpe_id, blob_id) VALUES (900001, 900001, 900001, 900002)`,
	} {
		check(t, low.Exec(s).Error)
	}
	d, err := low.DB()
	check(t, err)
	check(t, d.Close())
	return db
}

// A search by CPE is cut short only where no query could have found anything.
func TestHopeless(t *testing.T) {
	db := withCPE(t, sample(t))
	bare, err := v6.NewReader(v6.Config{DBDirPath: db.Dir})
	check(t, err)
	defer bare.Close()
	plain := v6.NewVulnerabilityProvider(bare)
	var m Matcher
	defer m.Close()
	v, err := m.shelf.borrow(db)
	check(t, err)
	defer m.shelf.release(v)
	s, err := m.session(v)
	check(t, err)

	of := func(vendor, product string) vulnerability.Criteria {
		return search.ByCPE(cpe.CPE{Attributes: cpe.Attributes{Part: "a", Vendor: vendor, Product: product}})
	}
	for name, c := range map[string]struct {
		criteria []vulnerability.Criteria
		hopeless bool
		found    int
	}{
		"there":               {[]vulnerability.Criteria{of("widget", "widget")}, false, 1},
		"in capitals":         {[]vulnerability.Criteria{of("WIDGET", "Widget")}, false, 1},
		"any vendor":          {[]vulnerability.Criteria{of("", "widget")}, false, 1},
		"another vendor":      {[]vulnerability.Criteria{of("acme", "widget")}, true, 0},
		"another product":     {[]vulnerability.Criteria{of("widget", "gadget")}, true, 0},
		"a pattern":           {[]vulnerability.Criteria{of("widget", "widg%")}, true, 0},
		"a quote":             {[]vulnerability.Criteria{of("widget", "widget' OR '1'='1")}, true, 0},
		"one or the other":    {[]vulnerability.Criteria{search.Or(of("acme", "x"), of("widget", "widget"))}, false, 1},
		"neither":             {[]vulnerability.Criteria{search.Or(of("acme", "x"), of("acme", "y"))}, true, 0},
		"unaffected":          {[]vulnerability.Criteria{of("acme", "widget"), search.ForUnaffected()}, true, 0},
		"no CPE":              {[]vulnerability.Criteria{search.ByPackageName("widget")}, false, 0},
		"a CPE or none":       {[]vulnerability.Criteria{search.Or(of("acme", "x"), search.ByPackageName("minimist"))}, false, -1},
		"nothing asked":       {nil, false, 0},
		"no product, error":   {[]vulnerability.Criteria{of("widget", "")}, false, 0},
		"contradiction,error": {[]vulnerability.Criteria{of("acme", "x"), of("acme", "y")}, false, 0},
	} {
		for range 2 { // the second time, from memory
			got, err := s.reader.hopeless(c.criteria)
			if err != nil || got != c.hopeless {
				t.Errorf("%s: hopeless %v, %v; want %v", name, got, err, c.hopeless)
			}
			want, wantErr := plain.FindVulnerabilities(c.criteria...)
			have, haveErr := s.provider.FindVulnerabilities(c.criteria...)
			if fmt.Sprint(wantErr) != fmt.Sprint(haveErr) || difference(want, have) != "" {
				t.Errorf("%s: %+v, %v; grype alone finds %+v, %v", name, have, haveErr, want, wantErr)
			}
			if c.found >= 0 && len(want) != c.found {
				t.Errorf("%s: found %d, want %d", name, len(want), c.found)
			}
		}
	}
}

// An answer with an error is asked for again, and what is remembered stays bounded.
func TestAnswers(t *testing.T) {
	var a answers[string]
	asked := 0
	query := func(err error) func() ([]string, error) {
		return func() ([]string, error) { asked++; return []string{"x", "y"}, err }
	}
	if _, err := a.get("k", query(errDisk)); !errors.Is(err, errDisk) {
		t.Errorf("%v, want %v", err, errDisk)
	}
	for range 3 {
		out, err := a.get("k", query(nil))
		check(t, err)
		if d := cmp.Diff([]string{"x", "y"}, out); d != "" {
			t.Error(d)
		}
		out[0] = "the asker's own"
	}
	if asked != 2 {
		t.Errorf("asked %d times, want 2: once with an error, once without", asked)
	}
	for range 2 {
		_, err := a.get("", query(nil))
		check(t, err)
	}
	if asked != 4 {
		t.Errorf("asked %d times, want 4: the question without a key is always asked", asked)
	}
	big := strings.Repeat("b", maxAnswerBytes/8)
	for i := range 20 {
		_, err := a.get(fmt.Sprint(i), func() ([]string, error) { return []string{big}, nil })
		check(t, err)
		if a.bytes > maxAnswerBytes {
			t.Fatalf("%d bytes are remembered; at most %d may be", a.bytes, maxAnswerBytes)
		}
	}
	if len(a.known) == 0 {
		t.Error("nothing is remembered")
	}
	held := len(a.known)
	_, err := a.get("huge", func() ([]string, error) { return []string{big, big, big}, nil })
	check(t, err)
	if _, ok := a.known["huge"]; ok || len(a.known) != held {
		t.Error("an answer that pushes out the rest is remembered")
	}
}

func BenchmarkMatch(b *testing.B) {
	db := realDatabase(b)
	other, file := catalogue(b, realImage(b, "wolfi-2025-04-min.tar")), catalogue(b, realImage(b, "wolfi-2024-06-db.tar"))
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			var m Matcher
			_, err := m.Match(b.Context(), other, db)
			check(b, err)
			b.StartTimer()
			_, err = m.Match(b.Context(), file, db)
			check(b, err)
			b.StopTimer()
			check(b, m.Close())
			b.StartTimer()
		}
	})
	b.Run("next", func(b *testing.B) {
		var m Matcher
		defer m.Close()
		_, err := m.Match(b.Context(), file, db)
		check(b, err)
		for b.Loop() {
			_, err := m.Match(b.Context(), file, db)
			check(b, err)
		}
	})
}
