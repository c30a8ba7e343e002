package policy

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// pollEvery finds what the file system doesn't tell of: network mounts, new
	// directories, a watch that could not be set.
	pollEvery = 10 * time.Second
	// settleFor is how long content must stay the same before it is used. A file
	// that is being written can be valid and half there, and half a policy or half a
	// kill list lets through what the whole would not.
	settleFor = 200 * time.Millisecond
	// settleTries bounds the wait for a file that is always being written; the poll
	// comes back to it.
	settleTries = 20
)

// Run follows changes of the directory and the files until ctx ends, and then
// returns nil. A good change decides from then on; a bad one leaves what was loaded
// before in place, is logged once and shown in Status; waivers of a file that is bad hold for
// 5 minutes more.
func (e *Engine) Run(ctx context.Context) error {
	var events chan fsnotify.Event
	var errs chan error
	w, err := fsnotify.NewWatcher()
	if err != nil {
		e.c.Log.WarnContext(ctx, "policy files are polled only", "every", pollEvery, "error", err)
	} else {
		defer w.Close()
		events, errs = w.Events, w.Errors
		e.watch(w)
	}
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	e.c.Log.InfoContext(ctx, "policies decide", "revision", e.Revision(), "names", e.names())
	e.follow(ctx) // what changed since Open
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev := <-events:
			if !e.concerns(ev.Name) {
				continue
			}
		case <-errs: // lost events; look
		case <-poll.C:
		}
		e.follow(ctx)
		e.lapse(ctx)
		if w != nil {
			e.watch(w)
		}
	}
}

// watch adds the directories whose entries may change. A file is watched through
// the directory it is in, since editors and Kubernetes replace files, or the symlink
// on the way to them. One that can't be added is left to the poll.
func (e *Engine) watch(w *fsnotify.Watcher) {
	for _, name := range e.named(e.c.Dir) {
		if name != "" {
			_ = w.Add(filepath.Dir(filepath.Clean(name)))
		}
	}
	if e.c.Dir == "" || e.c.Bundle != "" {
		return
	}
	_ = w.Add(e.c.Dir) // WalkDir below doesn't follow a link
	_ = filepath.WalkDir(e.c.Dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err == nil && d.Type() == fs.ModeSymlink: // what is below the folder that it leads to is polled
			if info, err := os.Stat(path); err == nil && info.IsDir() {
				_ = w.Add(path)
			}
			return nil
		case err != nil || !d.IsDir():
			return nil
		case path != e.c.Dir && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		}
		return w.Add(path)
	})
}

// named are the files of the configuration, and more.
func (e *Engine) named(more ...string) []string {
	names := append(more, e.c.Bundle, e.c.WaiverFile, e.c.KillFile)
	for _, k := range e.c.BundleKeys {
		names = append(names, k.File)
	}
	return names
}

// concerns reports whether a change of name can be a change of ours. The directory
// of a file may hold busy files of others, such as the gateway's own store.
func (e *Engine) concerns(name string) bool {
	name = filepath.Clean(name)
	if strings.HasPrefix(filepath.Base(name), "..") { // a ConfigMap's ..data
		return true
	}
	for _, n := range e.named() {
		if n != "" && name == filepath.Clean(n) {
			return true
		}
	}
	dir := filepath.Clean(e.c.Dir)
	return e.c.Dir != "" && (name == dir || strings.HasPrefix(name, dir+string(filepath.Separator)) || dir == ".")
}

// follow loads what changed, once it has settled.
func (e *Engine) follow(ctx context.Context) {
	f := e.read()
	for try := 0; ; try++ {
		if e.seen(f.sums) || try == settleTries {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(settleFor):
		}
		again := e.read()
		if again.sums == f.sums {
			break
		}
		f = again
	}
	err := e.load(ctx, f)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		e.c.Log.ErrorContext(ctx, "policy files have errors; what was good before stays", "revision", e.Revision(), "error", err)
	default:
		e.c.Log.InfoContext(ctx, "policy changed", "revision", e.Revision(), "names", e.names())
	}
}

func (e *Engine) seen(s sums) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.tried == s
}

// names are the policies that decide now: all of them are asked for each decision.
func (e *Engine) names() string {
	var names []string
	for _, l := range e.Policies() {
		names = append(names, l.Package)
	}
	return strings.Join(names, " ")
}
