package vuln

import (
	"context"
	"database/sql"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sluicegate/sluice/scan"
)

// variant makes a copy of a database, built later, in which what is known of
// the packages given is lost.
func variant(t *testing.T, base scan.Database, after time.Duration, without string) string {
	t.Helper()
	dir := t.TempDir()
	check(t, os.CopyFS(dir, os.DirFS(base.Dir)))
	check(t, os.Remove(filepath.Join(dir, "import.json")))
	db, err := sql.Open("sqlite", filepath.Join(dir, "vulnerability.db"))
	check(t, err)
	_, err = db.Exec("UPDATE db_metadata SET build_timestamp = ?", base.Built.Add(after))
	check(t, err)
	if without != "" {
		_, err = db.Exec("DELETE FROM affected_package_handles WHERE package_id IN (SELECT id FROM packages WHERE name = ?)", without)
		check(t, err)
	}
	check(t, db.Close())
	return dir
}

// descriptors returns what this process has open under a directory.
func descriptors(t *testing.T, under string) (open []string) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("there is no /proc/self/fd")
	}
	for _, e := range entries {
		if name, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(name, under) {
			open = append(open, name)
		}
	}
	return open
}

// While images are matched without pause, one build after the other is activated. Every
// match gives just what the build that it names gives when nothing else goes on; when all
// is over no file is open and no directory left that shouldn't be.
func TestSwapWhileMatching(t *testing.T) {
	from, swaps := realDatabase, 24
	if underRace {
		from, swaps = sample, 8
	}
	base := from(t)
	boms := []string{catalogue(t, realImage(t, "wolfi-2023-10-python.tar")), catalogue(t, realImage(t, "java-app.tar"))}
	var dirs []string
	for i := range swaps { // every second one lacks log4j-core
		dirs = append(dirs, variant(t, base, time.Duration(i+1)*time.Minute, []string{"", "org.apache.logging.log4j:log4j-core"}[i%2]))
	}
	d := &Databases{Root: t.TempDir(), MaxAge: 1e6 * time.Hour}
	var mu sync.Mutex
	now := time.Now()
	d.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	_, err := d.Import(t.Context(), dirs[0])
	check(t, err)

	m := Matcher{shelf: shelf{look: 20 * time.Millisecond}}
	type result struct {
		db   scan.Database
		bom  int
		text string
	}
	var results []result
	var total atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for i := range 4 {
		readers.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				db, err := d.Current(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				out, err := m.Match(t.Context(), boms[n%2], db)
				if err != nil {
					t.Errorf("a match was lost: %v", err)
					return
				}
				b, err := json.Marshal(out)
				if err != nil {
					t.Error(err)
				}
				total.Add(1)
				mu.Lock()
				results = append(results, result{db, n % 2, string(b)})
				mu.Unlock()
			}
		})
	}
	for _, dir := range dirs[1:] {
		from := total.Load()
		_, err := d.Import(t.Context(), dir)
		check(t, err)
		for deadline := time.Now().Add(time.Minute); total.Load() < from+2 && time.Now().Before(deadline) && !t.Failed(); {
			time.Sleep(time.Millisecond)
		}
		mu.Lock()
		now = now.Add(grace + time.Second) // what is old enough may go, unless it is open
		mu.Unlock()
	}
	stop()
	readers.Wait()

	var want [2][2]string // by what the build lacks, and SBOM
	for i := range 2 {
		alone := &Databases{Root: t.TempDir(), MaxAge: 1e6 * time.Hour}
		db, err := alone.Import(t.Context(), dirs[i])
		check(t, err)
		var m Matcher
		for n, bom := range boms {
			out, err := m.Match(t.Context(), bom, db)
			check(t, err)
			b, err := json.Marshal(out)
			check(t, err)
			want[i][n] = string(b)
		}
		check(t, m.Close())
	}
	if found := "CVE-2021-44228"; !strings.Contains(want[0][1], found) || strings.Contains(want[1][1], found) {
		t.Fatal("the builds don't differ")
	}
	builds := map[string]bool{}
	for _, r := range results {
		builds[r.db.Checksum] = true
		i := int(r.db.Built.Sub(base.Built)/time.Minute) - 1
		if r.text != want[i%2][r.bom] {
			t.Fatalf("SBOM %d matched with build %d, while others came: %d bytes; alone %d", r.bom, i, len(r.text), len(want[i%2][r.bom]))
		}
	}
	t.Logf("%d matches, with %d of %d builds", len(results), len(builds), swaps)
	if len(builds) < swaps/2 {
		t.Errorf("the test saw only %d builds", len(builds))
	}

	d.tidy(t.Context())
	left, err := filepath.Glob(filepath.Join(d.Root, "*"))
	check(t, err)
	kept, _ := filepath.Glob(filepath.Join(d.Root, buildPrefix+"*"))
	for deadline := time.Now().Add(10 * time.Second); len(kept) > 2 && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		d.tidy(t.Context())
		kept, _ = filepath.Glob(filepath.Join(d.Root, buildPrefix+"*"))
	}
	if len(kept) != 2 {
		t.Errorf("%d builds are left: %v", len(kept), left)
	}
	for _, name := range descriptors(t, d.Root) {
		if strings.Contains(name, "deleted") || !strings.HasPrefix(name, kept[0]) && !strings.HasPrefix(name, kept[1]) {
			t.Errorf("still open: %s", name)
		}
	}
	check(t, m.Close())
	if open := descriptors(t, d.Root); len(open) > 0 {
		t.Errorf("still open after the end: %v", open)
	}
}

// A build that nobody matches with any more is closed without a newer one being opened,
// so that an idle process doesn't keep its bytes on the disk; the active one stays open.
func TestIdleBuildIsClosed(t *testing.T) {
	m := newMirror(t)
	d := &Databases{Root: t.TempDir(), URL: m.URL}
	m.publish(t, 3*time.Hour)
	old, _, err := d.Update(t.Context(), nil)
	check(t, err)
	s := shelf{look: 5 * time.Millisecond}
	defer s.close()
	v, err := s.borrow(old)
	check(t, err)
	s.release(v)
	open := func() bool { s.mu.Lock(); defer s.mu.Unlock(); return v.store != nil }
	time.Sleep(50 * time.Millisecond)
	if !open() {
		t.Fatal("the active build was closed")
	}
	v2, err := s.borrow(old)
	check(t, err)
	m.publish(t, time.Hour)
	_, _, err = d.Update(t.Context(), nil)
	check(t, err)
	time.Sleep(50 * time.Millisecond)
	if !open() {
		t.Fatal("a build in use was closed")
	}
	s.release(v2)
	for deadline := time.Now().Add(10 * time.Second); open(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("an old build stays open")
		}
	}
	// And a third one, while somebody removes it.
	lock, err := lockFile(holdFile(old.Dir), os.O_RDONLY, syscall.LOCK_EX)
	check(t, err)
	defer lock.Close()
	if _, err := s.borrow(old); err == nil || !strings.Contains(err.Error(), "being removed") {
		t.Errorf("error %v", err)
	}
	check(t, os.RemoveAll(filepath.Dir(old.Dir)))
	if _, err := s.borrow(old); err == nil || !strings.Contains(err.Error(), "import.json") {
		t.Errorf("a build that is gone: %v", err)
	}
}
