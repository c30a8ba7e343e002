package sbom

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicegate/sluice/scan"
	"github.com/sluicegate/sluice/scan/worker"
)

const childVar = "SLUICE_TEST_CHILD"

// TestMain makes the tests' binary a worker process where it is started as one.
func TestMain(m *testing.M) {
	if os.Getenv(childVar) == "" {
		os.Exit(m.Run())
	}
	if err := worker.Serve(context.Background(), os.Stdin, os.Stdout, &Cataloguer{}, noMatcher{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type noMatcher struct{}

func (noMatcher) Match(context.Context, string, scan.Database) (*scan.Matches, error) {
	return nil, errors.New("no matcher in this test")
}

func newPool(t testing.TB, set ...func(*worker.Pool)) *worker.Pool {
	p := &worker.Pool{Command: []string{os.Args[0]}, Env: []string{childVar + "=1"}, Size: 1, TempDir: t.TempDir(), Read: []string{os.TempDir()},
		Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	for _, f := range set {
		f(p)
	}
	t.Cleanup(func() { p.Close() })
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// through catalogues s in a worker process.
func through(t testing.TB, p *worker.Pool, s sample) *scan.SBOM {
	t.Helper()
	sess, err := p.Begin(t.Context(), s.img, s.diffIDs)
	if err != nil {
		t.Fatal(err)
	}
	defer sess.Close()
	for i, path := range s.tars {
		if err := sess.Layer(i, path); err != nil {
			t.Fatal(err)
		}
	}
	out, err := sess.Catalogue(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestInWorker: the worker process, with its limits, gives the same.
func TestInWorker(t *testing.T) {
	p := newPool(t)
	for _, s := range built(t) {
		t.Run(s.name, func(t *testing.T) {
			want, got := catalogue(t, s, nil), through(t, p, s)
			if diff := cmp.Diff(read(t, want.JSON), read(t, got.JSON)); diff != "" {
				t.Errorf("-here +worker:\n%s", diff)
			}
			want.JSON, got.JSON, want.Steps, got.Steps = nil, nil, nil, nil
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-here +worker:\n%s", diff)
			}
		})
	}
}

// BenchmarkAfterLastByte measures what is left when the last layer has landed, with a
// warm worker: index of that layer, catalogue, the SBOM's way back.
func BenchmarkAfterLastByte(b *testing.B) {
	p := newPool(b)
	for _, s := range append(built(b), shipped(b)...) {
		through(b, p, s)
		b.Run(s.name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				sess, err := p.Begin(b.Context(), s.img, s.diffIDs)
				if err != nil {
					b.Fatal(err)
				}
				last := len(s.tars) - 1
				for i := range last {
					if err := sess.Layer(i, s.tars[i]); err != nil {
						b.Fatal(err)
					}
				}
				b.StartTimer()
				if last >= 0 {
					if err := sess.Layer(last, s.tars[last]); err != nil {
						b.Fatal(err)
					}
				}
				if _, err := sess.Catalogue(b.Context()); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				sess.Close()
				b.StartTimer()
			}
		})
	}
}
