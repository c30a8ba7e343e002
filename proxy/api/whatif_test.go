package api_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/proxy/api"
)

// trier tells of changes, and ends as it is told to.
type trier struct {
	asked   proxy.WhatIf
	changes int
	err     error
}

func (o *trier) WhatIf(_ context.Context, q proxy.WhatIf, tell func(*proxy.Change, int, int) error) (proxy.WhatIfSummary, error) {
	o.asked = q
	for i := range o.changes {
		if err := tell(&proxy.Change{Change: proxy.NewlyBlocked, Callers: []proxy.Puller{{Caller: "ada"}}}, i+1, o.changes); err != nil {
			return proxy.WhatIfSummary{}, err
		}
	}
	return proxy.WhatIfSummary{Images: o.changes, Blocked: o.changes}, o.err
}

func postWhatIf(t *testing.T, o *trier, query string, body []byte) (int, string) {
	t.Helper()
	h := &api.WhatIfs{Gateway: o, Log: slog.New(slog.DiscardHandler), Compile: func(ctx context.Context, dir string) (*policy.Engine, error) {
		if fi, err := os.Stat(dir); err == nil && !fi.IsDir() {
			return policy.Open(ctx, policy.Config{Bundle: dir})
		}
		return policy.Open(ctx, policy.Config{Dir: dir})
	}}
	w := httptest.NewRecorder()
	h.Handler().ServeHTTP(w, httptest.NewRequest("POST", "/api/v1/policies/what-if"+query, bytes.NewReader(body)))
	return w.Code, w.Body.String()
}

const goodPolicy = "package sluice.policies.good\n\nviolations contains {\"policy\": \"good\", \"message\": \"no\"} if input.image.layers > 9\n"

func filesJSON(t *testing.T, files map[string]string) []byte {
	t.Helper()
	b, err := json.Marshal(files)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// tarball packs entries of which the names may be anything.
func tarball(t *testing.T, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, h := range entries {
		text := goodPolicy
		if h.Typeflag != tar.TypeReg {
			text = ""
		}
		h.Size, h.Mode = int64(len(text)), 0o600
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Changes come a line each, then the summary; what can't be loaded is named by file and
// line; what a stranger sends stays in its folder.
func TestWhatIf(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside.rego")
	many := map[string]string{}
	for i := range 1001 {
		many[fmt.Sprintf("p%d.rego", i)] = ""
	}
	reg := func(names ...string) (hs []tar.Header) {
		for _, n := range names {
			hs = append(hs, tar.Header{Name: n, Typeflag: tar.TypeReg})
		}
		return hs
	}
	for _, tt := range []struct {
		description, query string
		body               []byte
		code               int
		want               string
	}{
		{"JSON", "?days=7&upstream=cgr.dev", filesJSON(t, map[string]string{"sub/good.rego": goodPolicy}), 200, `{"summary":{`},
		{"a tar.gz", "", tarball(t, append(reg("./good.rego"), tar.Header{Name: "sub/", Typeflag: tar.TypeDir})...), 200, `{"change":{"change":"blocked"`},
		{"a syntax error", "", filesJSON(t, map[string]string{"sub/bad.rego": "package sluice.policies.bad\n\nviolations contains\n"}), 422, `"message":"policies: sub/bad.rego:4:`},
		{"a misspelt field", "", filesJSON(t, map[string]string{"bad.rego": strings.Replace(goodPolicy, "layers", "lairs", 1)}), 422, "bad.rego:3: rego_type_error: undefined ref: input.image.lairs"},
		{"no policies", "", filesJSON(t, map[string]string{}), 422, "no policies"},
		{"nothing", "", nil, 400, "want a tar.gz"},
		{"half a tar.gz", "", tarball(t, reg("good.rego")...)[:40], 422, "unexpected EOF"},
		{"a way out in JSON", "", filesJSON(t, map[string]string{"../outside.rego": goodPolicy}), 400, "no name of a file in a folder"},
		{"an absolute name in JSON", "", filesJSON(t, map[string]string{outside: goodPolicy}), 400, "no name of a file in a folder"},
		{"a file in a file", "", filesJSON(t, map[string]string{"a": goodPolicy, "a/b": goodPolicy}), 400, "a"},
		{"a bundle of a link", "", tarball(t, tar.Header{Name: "good.rego", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}), 422, ""},
		{"too many files", "", filesJSON(t, many), 413, "more than 1000 files"},
		{"too much in files", "", filesJSON(t, map[string]string{"a.rego": strings.Repeat("#", 9<<20)}), 413, "8 MiB"},
		{"too much", "", bytes.Repeat([]byte(" "), 16<<20+1), 413, "16 MiB"},
		{"days that are none", "?days=31", filesJSON(t, map[string]string{"good.rego": goodPolicy}), 400, "days must be"},
	} {
		t.Run(tt.description, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir())
			o := &trier{changes: 2}
			code, body := postWhatIf(t, o, tt.query, tt.body)
			if code != tt.code || !strings.Contains(body, tt.want) {
				t.Errorf("%d %.500s", code, body)
			}
			if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
				t.Errorf("left over: %v, %v", left, err)
			}
			if strings.Contains(body, os.TempDir()) {
				t.Errorf("a folder of the gateway's is told: %s", body)
			}
			if strings.Contains(tt.query, "upstream") && (o.asked.Upstream != "cgr.dev" || time.Since(o.asked.Since).Round(time.Hour) != 7*24*time.Hour) {
				t.Errorf("asked %+v", o.asked)
			}
		})
	}
	if _, err := os.Stat(outside); err == nil {
		t.Error("a file was written outside")
	}
}

// An answer that breaks off says so: before the first line by its status, later in a line.
func TestWhatIfFails(t *testing.T) {
	body := filesJSON(t, map[string]string{"good.rego": goodPolicy})
	busy := &proxy.Error{Status: 429, Code: "TOOMANYREQUESTS", Message: "another is running"}
	if code, text := postWhatIf(t, &trier{err: busy}, "", body); code != 429 || !strings.Contains(text, "another is running") {
		t.Errorf("%d %s", code, text)
	}
	code, text := postWhatIf(t, &trier{err: errors.New("the store is gone"), changes: 1}, "", body)
	if code != 200 || !strings.Contains(text, "{\"error\":\"the store is gone\"}\n") || strings.Contains(text, "summary") {
		t.Errorf("%d %s", code, text)
	}
}
