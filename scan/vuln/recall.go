package vuln

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/anchore/grype/grype/search"
	"github.com/anchore/grype/grype/vulnerability"
	"github.com/anchore/syft/syft/cpe"
	"gorm.io/gorm"
	"gorm.io/gorm/callbacks"
)

// Bounds of what is remembered of one open database. Past either, that kind of answer
// is forgotten as a whole: what is asked all the time is back at once.
const (
	maxAnswers     = 100_000 // of one kind
	maxAnswerBytes = 32 << 20
)

// answers remembers what the database said, which can't change while it is open. An
// answer is shared by all matches: who asks gets a slice of its own, whose elements'
// pointers nobody writes through. The zero value is ready.
type answers[T any] struct {
	mu    sync.Mutex // guards all below
	known map[string][]T
	bytes int
}

// get returns the answer to the question key, asking where it isn't known. An answer
// that came with an error is never kept.
// Nor is one to the question "".
func (a *answers[T]) get(key string, ask func() ([]T, error)) ([]T, error) {
	if key == "" {
		return ask()
	}
	if out, ok := a.recall(key); ok {
		return out, nil
	}
	out, err := ask()
	if err == nil {
		a.keep(key, out)
	}
	return out, err
}

func (a *answers[T]) recall(key string) ([]T, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	out, ok := a.known[key]
	return slices.Clone(out), ok
}

func (a *answers[T]) keep(key string, out []T) {
	size := len(key) + 100 + weigh(reflect.ValueOf(out))
	if size > maxAnswerBytes/4 {
		return
	}
	out = slices.Clone(out)
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.known[key]; ok {
		return // asked by two at once
	}
	if a.known == nil || len(a.known) >= maxAnswers || a.bytes+size > maxAnswerBytes {
		a.known, a.bytes = make(map[string][]T), 0
	}
	a.known[key] = out
	a.bytes += size
}

// weigh estimates how many bytes v holds.
func weigh(v reflect.Value) int {
	size := int(v.Type().Size())
	switch v.Kind() {
	case reflect.String:
		size += v.Len()
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			size += weigh(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			size += weigh(v.Index(i))
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			size += weigh(it.Key()) + weigh(it.Value())
		}
	case reflect.Struct:
		size = 0
		for i := range v.NumField() {
			size += weigh(v.Field(i))
		}
	}
	return size
}

// memory is what is remembered of one open database.
type memory struct {
	affected   answers[v6.AffectedPackageHandle]
	unaffected answers[v6.UnaffectedPackageHandle]
	kev        answers[v6.KnownExploitedVulnerabilityHandle]
	epss       answers[v6.EpssHandle]
	cwe        answers[v6.CWEHandle]
	cpes       answers[struct{}] // one element where there is such a CPE
	tables     tables
}

// packageKey names a question for packages, "" for one that isn't worth remembering.
func packageKey(p *v6.PackageSpecifier, o *v6.GetPackageOptions) string {
	if p == nil || o == nil || p.CPE != nil || len(o.Vulnerabilities) > 0 || o.Limit > 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%q %q %t %t %t %t %t %t", p.Name, p.Ecosystem, o.PreloadOS, o.PreloadPackage,
		o.PreloadPackageCPEs, o.PreloadVulnerability, o.PreloadBlob, o.AllowBroadCPEMatching)
	for _, os := range o.OSs {
		if os == v6.AnyOSSpecified {
			b.WriteString(" any")
			continue
		}
		fmt.Fprintf(&b, " %q", []string{os.Name, os.MajorVersion, os.MinorVersion, os.RemainingVersion, os.LabelVersion, os.Channel,
			strconv.FormatBool(os.DisableAliasing), strconv.FormatBool(os.DisableFallback)})
	}
	return b.String()
}

// hopeless reports whether a search by CPE can find nothing, since no CPE in the
// database has that product, or that product of that vendor. Of the thirty vendors
// that are guessed for each package hardly one exists, and grype asks eight queries
// for each. A search that also asks for anything that can be an error isn't judged.
func (r reader) hopeless(criteria []vulnerability.Criteria) (bool, error) {
	if search.ValidateCriteria(criteria) != nil {
		return false, nil
	}
	rows := 0
	for _, row := range search.CriteriaIterator(criteria) {
		rows++
		want := cpeOf(row)
		if want == nil || want.Product == cpe.Any {
			return false, nil
		}
		some, err := r.hasCPE(want.Product, "")
		if err == nil && some && want.Vendor != cpe.Any {
			some, err = r.hasCPE(want.Product, want.Vendor)
		}
		if err != nil || some {
			return false, err
		}
	}
	return rows > 0, nil
}

// cpeOf returns the CPE that a set of criteria searches by, nil where there is none or
// where the set names a distribution, which the database may not have.
func cpeOf(row []vulnerability.Criteria) *cpe.Attributes {
	var out *cpe.Attributes
	for _, c := range row {
		switch c := c.(type) {
		case *search.CPECriteria:
			out = &c.CPE.Attributes
		case *search.DistroCriteria:
			return nil
		}
	}
	return out
}

// hasCPE reports whether there is a CPE of a product, of any vendor where that is
// empty. It compares as grype's own queries do.
func (r reader) hasCPE(product, vendor string) (bool, error) {
	key := strconv.Itoa(len(product)) + " " + product + " " + vendor
	found, err := r.memory.cpes.get(key, func() ([]struct{}, error) {
		db, err := r.GetDB().DB()
		if err != nil {
			return nil, err
		}
		query, args := "SELECT 1 FROM cpes WHERE product = ? collate nocase", []any{product}
		if vendor != "" {
			query, args = query+" AND vendor = ? collate nocase", append(args, vendor)
		}
		var one int
		err = db.QueryRowContext(context.Background(), query+" LIMIT 1", args...).Scan(&one)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return nil, nil
		case err != nil:
			return nil, err
		}
		return []struct{}{{}}, nil
	})
	return len(found) > 0, err
}

// tables remembers the rows that grype fetches by ID to fill what it found, and those
// of the small tables that it reads whole for each search.
type tables struct {
	providers       answers[v6.Provider]
	systems         answers[v6.OperatingSystem]
	overrides       answers[v6.OperatingSystemSpecifierOverride]
	packages        answers[v6.Package]
	vulnerabilities answers[v6.VulnerabilityHandle]
	blobs           answers[v6.Blob]
}

// attach puts t before the queries of db. What is remembered are rows as they are
// stored: what belongs to them is loaded after this, into the asker's own copy.
func (t *tables) attach(db *gorm.DB) error {
	return db.Callback().Query().Replace("gorm:query", t.query)
}

func (t *tables) query(tx *gorm.DB) {
	switch dest := tx.Statement.Dest.(type) {
	case *[]v6.Provider:
		answer(tx, &t.providers, dest)
	case *[]v6.OperatingSystem:
		answer(tx, &t.systems, dest)
	case *[]v6.OperatingSystemSpecifierOverride:
		answer(tx, &t.overrides, dest)
	case *[]v6.Package:
		answer(tx, &t.packages, dest)
	case *[]v6.VulnerabilityHandle:
		answer(tx, &t.vulnerabilities, dest)
	case *[]v6.Blob:
		answer(tx, &t.blobs, dest)
	default:
		callbacks.Query(tx)
	}
}

// answer does what gorm's own query does, or as if it had.
func answer[T any](tx *gorm.DB, known *answers[T], dest *[]T) {
	if tx.Error != nil || tx.DryRun {
		callbacks.Query(tx)
		return
	}
	callbacks.BuildQuerySQL(tx)
	if tx.Error != nil {
		return
	}
	key, ok := statementKey(tx.Statement)
	if ok {
		if rows, hit := known.recall(key); hit {
			*dest, tx.RowsAffected = rows, int64(len(rows))
			return
		}
	}
	callbacks.Query(tx) // the statement is built: that is not repeated
	if ok && tx.Error == nil {
		known.keep(key, *dest)
	}
}

// statementKey names a query by its text and arguments; of types that grype doesn't
// use today, none is remembered.
func statementKey(s *gorm.Statement) (string, bool) {
	b := []byte(s.SQL.String())
	for _, v := range s.Vars {
		switch v := v.(type) {
		case string:
			b = strconv.AppendQuote(append(b, ' '), v)
		case v6.ID:
			b = strconv.AppendInt(append(b, ' '), int64(v), 10)
		case int:
			b = strconv.AppendInt(append(b, ' '), int64(v), 10)
		case int64:
			b = strconv.AppendInt(append(b, ' '), v, 10)
		default:
			return "", false
		}
	}
	return string(b), true
}
