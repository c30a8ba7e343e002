package worker

import (
	"errors"
	"fmt"
	"os"
	"path"
	"time"
)

const (
	// measureEvery is how often a child's directory is measured, also while it has nothing
	// to do: it may have been taken over. A disk that writes 2 GB a second is past a quota
	// by so much at most.
	measureEvery = 500 * time.Millisecond
	// maxFiles is how many files and directories a child may keep. A catalogue keeps a
	// few for each layer, and unpacks one archive at a time.
	maxFiles = 20_000
	// maxDepth is how deep directories may lie: each costs the gateway an open file while
	// it measures and removes them.
	maxDepth = 100
)

// quotaError says that a child took more disk than it may.
func quotaError(quota int64) error {
	return fmt.Errorf("the worker process was killed: it needed more than %s of temporary space", size(quota))
}

var errDeep = errors.New("the worker process was killed: it made directories more than 100 deep")

var errManyFiles = errors.New("the worker process was killed: it made more than 20,000 temporary files")

// keepQuota kills the process when its directory holds more than it may, until over is
// closed.
func (pr *process) keepQuota(over <-chan struct{}) {
	t := time.NewTicker(measureEvery)
	defer t.Stop()
	for {
		select {
		case <-over:
			return
		case <-t.C:
		}
		if err := pr.measure(); err != nil {
			pr.kill(err)
			return
		}
	}
}

// measure returns an error when the process's files are past its quota.
func (pr *process) measure() error {
	m := measurement{root: pr.root, bytes: unlinked(pr.pid)}
	m.add(".", 0)
	switch {
	case m.deep:
		return errDeep
	case m.bytes > pr.quota:
		return quotaError(pr.quota)
	case m.files > maxFiles:
		return errManyFiles
	}
	return nil
}

// A measurement adds up what lies under a directory, and stops at maxFiles. It follows no
// link out of it, and what vanishes meanwhile is not there.
type measurement struct {
	root  *os.Root
	bytes int64
	files int
	deep  bool
}

func (m *measurement) add(dir string, depth int) {
	if depth > maxDepth {
		m.deep = true
		return
	}
	f, err := m.root.Open(dir)
	if err != nil {
		return
	}
	defer f.Close()
	for m.files <= maxFiles && !m.deep {
		entries, err := f.ReadDir(1024) // not all: the process may be adding to them
		for _, e := range entries {
			m.files++
			if fi, err := e.Info(); err == nil {
				m.bytes += taken(fi)
			}
			if e.IsDir() && m.files <= maxFiles && !m.deep {
				m.add(path.Join(dir, e.Name()), depth+1)
			}
		}
		if err != nil {
			return
		}
	}
}

// size writes bytes for people, in binary units as the configuration has them.
func size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	return fmt.Sprintf("%.3g %s", f, units[i])
}
