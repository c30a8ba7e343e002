package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy"
)

// Bounds on candidate policies.
const (
	maxWhatIfBody  = 16 << 20 // bytes that are sent
	maxWhatIfBytes = 8 << 20  // of all files
	maxWhatIfFiles = 1000
	maxWhatIfDays  = 30
	sayEvery       = time.Second // progress
)

// A Trier replays policies over the images that a gateway knows.
type Trier interface {
	WhatIf(ctx context.Context, q proxy.WhatIf, tell func(c *proxy.Change, done, all int) error) (proxy.WhatIfSummary, error)
}

// WhatIfs serves what-ifs. It knows no callers, and an answer names who pulls what: mount
// it only where whoever reaches it may know that, such as a socket that the file system
// protects.
//
//	POST /api/v1/policies/what-if[?days=30][&upstream=NAME]
//
// takes candidate policies, as a bundle (a tar.gz, signed or not) or as a JSON object of file names and texts, and
// answers with a line of JSON (application/x-ndjson) for each image that would be decided
// otherwise, for how far it is, and at the end for the summary: a WhatIfLine. An answer
// without a summary is not whole. Policies that don't load are a 422 that names file and
// line.
type WhatIfs struct {
	Gateway Trier
	Compile func(ctx context.Context, name string) (*policy.Engine, error) // as a gateway loads a directory or a bundle
	Log     *slog.Logger
}

// A WhatIfLine has one of its fields.
type WhatIfLine struct {
	Change   *proxy.Change        `json:"change,omitempty"`
	Progress *WhatIfProgress      `json:"progress,omitempty"`
	Summary  *proxy.WhatIfSummary `json:"summary,omitempty"`
	Error    string               `json:"error,omitempty"`
}

// WhatIfProgress is how many images are done.
type WhatIfProgress struct {
	Done int `json:"done"`
	All  int `json:"all"`
}

// Handler returns the route.
func (h *WhatIfs) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v1/policies/what-if", func(w http.ResponseWriter, r *http.Request) {
		s := &lines{w: w, rc: http.NewResponseController(w)}
		err := h.serve(s, r)
		if err == nil || r.Context().Err() != nil {
			return
		}
		var e *proxy.Error
		if !errors.As(err, &e) {
			proxy.LogFailed(h.Log, r, err)
			e = &proxy.Error{Status: http.StatusInternalServerError, Code: "UNAVAILABLE", Message: err.Error()}
		}
		if s.begun {
			_ = s.write(WhatIfLine{Error: e.Message}) // or the client is gone
			return
		}
		e.Write(w)
	})
	return mux
}

func (h *WhatIfs) serve(s *lines, r *http.Request) error {
	q := proxy.WhatIf{Upstream: r.URL.Query().Get("upstream")}
	if days := r.URL.Query().Get("days"); days != "" {
		n, err := strconv.Atoi(days)
		if err != nil || n < 1 || n > maxWhatIfDays {
			return refused("days must be a number from 1 to 30")
		}
		q.Since = time.Now().AddDate(0, 0, -n)
	}
	dir, err := os.MkdirTemp("", "sluice-what-if-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	name, err := unpack(dir, http.MaxBytesReader(nil, r.Body, maxWhatIfBody))
	if err != nil {
		return err
	}
	if q.Engine, err = h.Compile(r.Context(), name); err != nil {
		return &proxy.Error{Status: http.StatusUnprocessableEntity, Code: "UNSUPPORTED", Message: strings.ReplaceAll(err.Error(), dir+string(filepath.Separator), "")}
	}
	said := time.Now()
	sum, err := h.Gateway.WhatIf(r.Context(), q, func(c *proxy.Change, done, all int) error {
		if c != nil {
			return s.write(WhatIfLine{Change: c})
		}
		if time.Since(said) < sayEvery {
			return nil
		}
		said = time.Now()
		return s.write(WhatIfLine{Progress: &WhatIfProgress{done, all}})
	})
	if err != nil {
		return err
	}
	return s.write(WhatIfLine{Summary: &sum})
}

// lines is an answer of JSON lines, sent as they are written.
type lines struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	begun bool
}

func (s *lines) write(line WhatIfLine) error {
	if !s.begun {
		s.begun = true
		s.w.Header().Set("Content-Type", "application/x-ndjson")
		s.w.Header().Set("Cache-Control", "no-store")
	}
	b, err := json.Marshal(line)
	if err != nil {
		return err
	}
	_ = s.rc.SetWriteDeadline(time.Now().Add(patience)) // what has none can't be helped
	if _, err := s.w.Write(append(b, '\n')); err != nil {
		return err
	}
	return s.rc.Flush()
}

// unpack writes a body into dir and returns the bundle, or dir where it holds files.
func unpack(dir string, body io.Reader) (name string, err error) {
	b, err := io.ReadAll(body)
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return "", &proxy.Error{Status: http.StatusRequestEntityTooLarge, Code: "UNSUPPORTED", Message: "the policies are larger than 16 MiB"}
	}
	if err != nil {
		return "", err
	}
	if bytes.HasPrefix(b, []byte{0x1f, 0x8b}) { // gzip
		name = filepath.Join(dir, "bundle.tar.gz")
		return name, os.WriteFile(name, b, 0o600)
	}
	files := map[string]string{}
	if err := json.Unmarshal(b, &files); err != nil {
		return "", refused("want a tar.gz of policies, or a JSON object of file names and texts: " + err.Error())
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	f := &folder{root: root}
	for name, text := range files {
		if err := f.put(name, text); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// A folder takes a bounded number of files and bytes.
type folder struct {
	root  *os.Root
	files int
	bytes int
}

// put writes a file, and the folders that it is in.
func (f *folder) put(name, text string) error {
	if !fs.ValidPath(name) || name == "." || strings.ContainsAny(name, "\\\x00") {
		return refused(fmt.Sprintf("%.100q is no name of a file in a folder", name))
	}
	f.files, f.bytes = f.files+1, f.bytes+len(text)
	if f.files > maxWhatIfFiles || f.bytes > maxWhatIfBytes {
		return &proxy.Error{Status: http.StatusRequestEntityTooLarge, Code: "UNSUPPORTED", Message: fmt.Sprintf("more than %d files or %d MiB of policies", maxWhatIfFiles, maxWhatIfBytes>>20)}
	}
	if err := f.root.MkdirAll(filepath.FromSlash(path.Dir(name)), 0o700); err != nil {
		return refused(fmt.Sprintf("%.100q: %v", name, errors.Unwrap(err)))
	}
	if err := f.root.WriteFile(filepath.FromSlash(name), []byte(text), 0o600); err != nil {
		return refused(fmt.Sprintf("%.100q: %v", name, errors.Unwrap(err)))
	}
	return nil
}
