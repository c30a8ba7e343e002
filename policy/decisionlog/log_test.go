package decisionlog

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/scan"
)

// plain masks nothing.
type plain struct{}

func (plain) Mask(context.Context, any) ([]policy.Mask, error) { return nil, nil }

func image(caller, digest string) *policy.Input {
	return &policy.Input{
		Request: policy.Request{Caller: caller, Groups: []string{"dev"}, Namespace: "payments", Action: "pull"},
		Image:   policy.Image{Reference: "cgr.dev/acme/web:1", Registry: "cgr.dev", Repository: "acme/web", Digest: digest, Platform: "linux/amd64", Tags: []string{"1"}, Labels: map[string]string{"note": "a stranger's"}},
		Scan:    scan.Summary{State: scan.Complete, Database: &scan.Database{Checksum: "xxh64:1"}, Counts: scan.Counts{High: 1}},
	}
}

func denial(id string) *policy.Decision {
	return &policy.Decision{ID: id, Mode: policy.Enforce, Revision: "r1", Warnings: []policy.Violation{}, Waived: []policy.Waived{{Waiver: "W-1", Finding: "CVE-2"}},
		Violations: []policy.Violation{{Policy: "kev", Message: "exploited", Findings: []string{"CVE-1"}, Mode: policy.Enforce}}}
}

func allow(id string) *policy.Decision {
	return &policy.Decision{ID: id, Allow: true, Mode: policy.Enforce, Revision: "r1"}
}

func start(t *testing.T, l *Log) *Log {
	t.Helper()
	if err := l.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, l) })
	return l
}

func closed(t *testing.T, l *Log) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := l.Close(ctx); err != nil {
		t.Error(err)
	}
}

// lines reads a file of records.
func lines(t *testing.T, name string) (all []map[string]any) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var doc map[string]any
		if err := json.Unmarshal(s.Bytes(), &doc); err != nil {
			t.Fatalf("%v: %s", err, s.Bytes())
		}
		all = append(all, doc)
	}
	return all
}

func at(doc any, path string) any {
	for _, key := range strings.Split(path, ".") {
		m, _ := doc.(map[string]any)
		doc = m[key]
	}
	return doc
}

// TestFile: each denial has a line, and the same allow of the same caller has one.
func TestFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "decisions.json")
	l := start(t, &Log{File: name, Allows: 1, AllowEvery: time.Hour, Labels: map[string]string{"app": "sluice"}})
	for range 3 { // the requests of one pull
		l.Note(plain{}, image("anna", "sha256:1"), denial("D1"), time.Millisecond)
		l.Note(plain{}, image("anna", "sha256:2"), allow("A1"), 0)
	}
	l.Note(plain{}, image("anna", "sha256:1"), denial("D2"), 0) // decided once more
	l.Note(plain{}, image("anna", "sha256:2"), allow("A2"), 0)
	l.Note(plain{}, image("bert", "sha256:2"), allow("A3"), 0)
	closed(t, l)
	got := lines(t, name)
	var ids []string
	for _, r := range got {
		ids = append(ids, r["decision_id"].(string))
	}
	if fmt.Sprint(ids) != "[D1 A1 D2 A3]" {
		t.Errorf("records of %v", ids)
	}
	for path, want := range map[string]any{
		"input.request.caller": "anna", "input.request.namespace": "payments", "input.image.digest": "sha256:1",
		"input.scan.database.checksum": "xxh64:1", "result.allow": false, "result.blocked": true, "result.mode": "enforce",
		"bundles.policies.revision": "r1", "metrics.timer_sluice_decide_ns": 1e6, "labels.app": "sluice", "path": "sluice/policies",
	} {
		if v := at(got[0], path); v != want {
			t.Errorf("%s is %v, want %v", path, v, want)
		}
	}
	if b, _ := json.Marshal(got); !strings.Contains(string(b), "W-1") || !strings.Contains(string(b), "CVE-1") || strings.Contains(string(b), "stranger") {
		t.Errorf("%s", b)
	}
	if s := l.Stats(); s != (Stats{Written: 4, Repeated: 5}) {
		t.Errorf("%+v", s)
	}
	l.Note(plain{}, image("anna", "sha256:9"), denial("late"), 0) // after its end nothing is written, and nothing breaks
	if s := l.Stats(); s.Dropped != 1 {
		t.Errorf("%+v", s)
	}
}

// TestSample: of allows a share is written, of denials all.
func TestSample(t *testing.T) {
	name := filepath.Join(t.TempDir(), "d")
	l := start(t, &Log{File: name, Allows: 0.25, AllowEvery: time.Hour})
	for i := range 1000 {
		d := fmt.Sprintf("sha256:%d", i)
		l.Note(plain{}, image("anna", d), allow("A"+d), 0)
		l.Note(plain{}, image("anna", d), denial("D"+d), 0)
	}
	closed(t, l)
	allowed := 0
	for _, r := range lines(t, name) {
		if at(r, "result.allow") == true {
			allowed++
		}
	}
	if s := l.Stats(); allowed < 150 || allowed > 350 || s.Written != int64(1000+allowed) || s.Unsampled != int64(1000-allowed) || s.Dropped != 0 {
		t.Errorf("%d of 1000 allows, %+v", allowed, s)
	}
}

// TestRotation: a file that is moved away is begun anew.
func TestRotation(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "d")
	o, err := openFile(name)
	if err != nil {
		t.Fatal(err)
	}
	put := func(s string) {
		t.Helper()
		if err := o.write([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	put("one\n")
	if err := os.Rename(name, name+".1"); err != nil {
		t.Fatal(err)
	}
	o.looked = time.Now().Add(-time.Hour)
	put("two\n")
	if err := o.close(); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{name: "two\n", name + ".1": "one\n"} {
		if b, err := os.ReadFile(file); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", file, b, err)
		}
	}
	if fi, err := os.Stat(name); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	if err := (&Log{File: filepath.Join(dir, "no", "d")}).Start(); err == nil || !strings.Contains(err.Error(), "decision log") {
		t.Errorf("a file that can't be: %v", err)
	}
}

// TestMasks: what the policies hide is not written; where they fail, nothing is that they
// may hide.
func TestMasks(t *testing.T) {
	for name, tt := range map[string]struct {
		rego      string
		hidden    []string
		want      map[string]any
		loadError string
	}{
		"removed": {rego: `mask contains "/input/request/caller" if input.input.request.namespace == "payments"
mask contains "/input/image/tags/0"
mask contains "/input/nothing/there"`, hidden: []string{"anna", `"1"`}, want: map[string]any{"erased": "[/input/image/tags/0 /input/request/caller]", "input.image.tags": "[<nil>]"}},
		"replaced": {rego: `mask contains {"op": "upsert", "path": "/input/request/caller", "value": "x"}`, hidden: []string{"anna"},
			want: map[string]any{"input.request.caller": "x", "masked": "[/input/request/caller]"}},
		"not below the input": {rego: `mask contains "/decision_id"`, hidden: []string{"anna", "CVE-1"}, want: map[string]any{"decision_id": "D1", "result.allow": false}},
		"a failure of some":   {rego: `mask contains "/input/request/caller" if to_number(input.input.request.caller) == 1` + "\n", loadError: "sample"},
		"a failure of this":   {rego: `mask contains "/input/image/tags" if { input.decision_id == "D1"; to_number(input.input.request.caller) == 1 }`, hidden: []string{"anna", "CVE-1", "acme/web"}, want: map[string]any{"decision_id": "D1", "result.mode": "enforce"}},
		"no mask":             {rego: `mask contains 5`, loadError: "sluice.log.mask"},
		"syntax":              {rego: `mask contains {`, loadError: "log.rego:3"},
		"a policy":            {rego: `violations contains {"policy": "x", "message": "m"}`, loadError: "below sluice.policies"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range map[string]string{
				"p.rego":   "package sluice.policies.p\nviolations contains {\"policy\": \"p\", \"message\": \"m\"} if input.scan.packages < 0\n",
				"log.rego": "package sluice.log\n" + tt.rego + "\n",
			} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			e, err := policy.Open(t.Context(), policy.Config{Dir: dir})
			if tt.loadError != "" {
				if err == nil || !strings.Contains(err.Error(), tt.loadError) {
					t.Errorf("%v, want %q", err, tt.loadError)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			out := filepath.Join(dir, "out")
			l := start(t, &Log{File: out})
			l.Note(e, image("anna", "sha256:1"), denial("D1"), 0)
			closed(t, l)
			b, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			for _, h := range tt.hidden {
				if strings.Contains(string(b), h) {
					t.Errorf("%s is in %s", h, b)
				}
			}
			for path, want := range tt.want {
				if v := at(lines(t, out)[0], path); fmt.Sprint(v) != fmt.Sprint(want) {
					t.Errorf("%s is %v, want %v", path, v, want)
				}
			}
		})
	}
}

// A sink is a collector that may fail.
type sink struct {
	*httptest.Server
	fail  atomic.Int64 // status to answer with
	tries atomic.Int64

	mu  sync.Mutex // guards ids
	ids []string
}

func newSink(t *testing.T) *sink {
	s := &sink{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.tries.Add(1)
		if code := s.fail.Load(); code != 0 {
			w.WriteHeader(int(code))
			return
		}
		z, err := gzip.NewReader(r.Body)
		if err != nil || r.Header.Get("Content-Encoding") != "gzip" || r.Header.Get("Authorization") != "Bearer t0ken" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		b, _ := io.ReadAll(z)
		var all []struct {
			ID string `json:"decision_id"`
		}
		if err := json.Unmarshal(b, &all); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, r := range all {
			s.ids = append(s.ids, r.ID)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *sink) got() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ids)
}

func (s *sink) collector(t *testing.T) *Collector {
	t.Helper()
	name := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(name, []byte("t0ken\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return &Collector{URL: s.URL + "/logs?key=hunter2", TokenFile: name, Client: s.Client()}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

type buffer struct {
	mu sync.Mutex // guards b
	b  strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestCollector: records arrive once, in order, also those that were made while the
// collector failed; what it refuses is not sent for ever.
func TestCollector(t *testing.T) {
	s, said := newSink(t), &buffer{}
	l := start(t, &Log{Collector: s.collector(t), Log: slog.New(slog.NewTextHandler(said, nil))})
	s.fail.Store(500)
	for i := range 2000 {
		l.Note(plain{}, image("anna", "sha256:1"), denial(fmt.Sprintf("D%04d", i)), 0)
		if i%100 == 0 {
			time.Sleep(time.Millisecond) // the queue is bounded
		}
	}
	eventually(t, "a first try fails", func() bool { return l.Stats().Failed > 0 })
	s.fail.Store(0)
	closed(t, l)
	if s.got() != 2000 || l.Stats().Dropped != 0 {
		t.Fatalf("%d records, %+v", s.got(), l.Stats())
	}
	for i, id := range s.ids {
		if id != fmt.Sprintf("D%04d", i) {
			t.Fatalf("record %d is %s", i, id)
		}
	}
	if text := said.String(); !strings.Contains(text, "500") || !strings.Contains(text, "again") || strings.Contains(text, "hunter2") || strings.Contains(text, "t0ken") {
		t.Error(text)
	}

	s.fail.Store(400)
	before := s.tries.Load()
	refused := start(t, &Log{Collector: s.collector(t)})
	refused.Note(plain{}, image("anna", "sha256:1"), denial("D"), 0)
	closed(t, refused)
	if n := s.tries.Load() - before; n != 1 || refused.Stats().Dropped != 1 {
		t.Errorf("%d tries, %+v", n, refused.Stats())
	}
}

// TestCollectorGone: a collector that is never there holds nobody up, not even the end.
func TestCollectorGone(t *testing.T) {
	s := newSink(t)
	c := s.collector(t)
	s.Close()
	l := &Log{Collector: c}
	if err := l.Start(); err != nil {
		t.Fatal(err)
	}
	l.Note(plain{}, image("anna", "sha256:1"), denial("D"), 0)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := l.Close(ctx); err == nil || !strings.Contains(err.Error(), "1 decisions could not be sent") || strings.Contains(err.Error(), "hunter2") {
		t.Error(err)
	}
	l.Log = slog.New(slog.DiscardHandler)
	full := &Collector{log: l, wake: make(chan struct{}, 1)}
	for range 2 * bufferBytes / (1 << 20) {
		full.add(make([]byte, 1<<20))
	}
	if full.bytes > bufferBytes || l.Stats().Dropped < 16 {
		t.Errorf("%d bytes wait, %+v", full.bytes, l.Stats())
	}
}

// TestNewsIsWritten: what is lost is written the next time; a denial makes the next allow
// news; the requests of a client for a killed image share a record.
func TestNewsIsWritten(t *testing.T) {
	name := filepath.Join(t.TempDir(), "d")
	l := &Log{File: name, Allows: 1, AllowEvery: time.Hour}
	gate := make(chan struct{})
	start(t, l)
	l.Note(waits(gate), image("anna", "sha256:0"), denial("first"), 0)
	for i := range 2 * queueLength {
		l.Note(plain{}, image("anna", "sha256:1"), denial(fmt.Sprint("filler", i)), 0)
	}
	l.Note(plain{}, image("anna", "sha256:1"), denial("lost"), 0)
	close(gate)
	eventually(t, "the queue is written", func() bool { return l.Stats().Written > queueLength })
	l.Note(plain{}, image("anna", "sha256:1"), denial("lost"), 0)
	l.Note(plain{}, image("bert", "sha256:2"), allow("A1"), 0)
	l.Note(plain{}, image("bert", "sha256:2"), denial("D1"), 0)
	l.Note(plain{}, image("bert", "sha256:2"), allow("A2"), 0)
	for i := range 3 {
		d := denial(fmt.Sprint("K", i))
		d.Violations[0].Policy = policy.KillList
		l.Note(plain{}, image("carl", "sha256:3"), d, 0)
	}
	closed(t, l)
	var ids []string
	for _, r := range lines(t, name) {
		if id := r["decision_id"].(string); !strings.HasPrefix(id, "filler") {
			ids = append(ids, id)
		}
	}
	if fmt.Sprint(ids) != "[first lost A1 D1 A2 K0]" {
		t.Errorf("records of %v", ids)
	}
}

// TestFullDisk: a line that was cut off does not spoil the next.
func TestFullDisk(t *testing.T) {
	name := filepath.Join(t.TempDir(), "d")
	o, err := openFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.f.WriteString(`{"decision_id":"ha`); err != nil {
		t.Fatal(err)
	}
	o.half = true
	for range 2 {
		if err := o.write([]byte("{}\n")); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(name); err != nil || string(b) != "{\"decision_id\":\"ha\n{}\n{}\n" {
		t.Errorf("%q, %v", b, err)
	}
	if err := o.close(); err != nil {
		t.Error(err)
	}
}

// waits masks nothing once its channel is closed.
type waits chan struct{}

func (w waits) Mask(context.Context, any) ([]policy.Mask, error) { <-w; return nil, nil }

// stuck masks nothing until ctx ends.
type stuck struct{}

func (stuck) Mask(ctx context.Context, _ any) ([]policy.Mask, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestNobodyWaits: neither masks that take for ever nor a pipe that nobody reads hold up a
// decision; what is lost is counted.
func TestNobodyWaits(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Skip(err)
	}
	r, err := os.OpenFile(pipe, os.O_RDWR, 0) // so that it can be opened to write
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for name, tt := range map[string]struct {
		file string
		m    Masker
	}{"masks": {"", stuck{}}, "a pipe": {pipe, plain{}}} {
		t.Run(name, func(t *testing.T) {
			l := &Log{File: tt.file}
			if err := l.Start(); err != nil {
				t.Fatal(err)
			}
			for i := range 3 * queueLength {
				l.Note(tt.m, image("anna", "sha256:1"), denial(fmt.Sprint(i)), 0)
			}
			if s := l.Stats(); s.Dropped == 0 {
				t.Errorf("%+v", s)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if err := l.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		})
	}
	var none *Log
	none.Note(plain{}, nil, nil, 0)
	if none.Close(t.Context()) != nil || none.Stats() != (Stats{}) {
		t.Error("a gateway without a log")
	}
}
