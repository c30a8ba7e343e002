package signature

import (
	"log/slog"
	"sync"
	"time"
)

// recheck is how old what was read of files may be before they are read again.
const recheck = 5 * time.Second

// A Source is a Trust whose files may change. They are read again when it is asked for
// and 5 s have passed; where they can't be, the last good one holds, and the log says so
// once.
type Source struct {
	config Config
	log    *slog.Logger

	mu      sync.Mutex // guards what follows
	trust   *Trust
	checked time.Time
	failure string
}

// Open loads what c names.
func Open(c Config, log *slog.Logger) (*Source, error) {
	t, err := Load(c)
	if err != nil {
		return nil, err
	}
	return &Source{config: c, log: log, trust: t, checked: time.Now()}, nil
}

// Trust returns what is trusted now.
func (s *Source) Trust() *Trust {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.checked) < recheck {
		return s.trust
	}
	s.checked = time.Now()
	t, err := Load(s.config)
	switch {
	case err == nil && t.hash != s.trust.hash:
		s.log.Info("what signatures are verified by has changed", "hash", t.hash)
		s.trust, s.failure = t, ""
	case err == nil:
		s.failure = ""
	case err.Error() != s.failure:
		s.failure = err.Error()
		s.log.Error("what signatures are verified by can't be read; the last good version holds", "error", err)
	}
	return s.trust
}
