package worker

import (
	"fmt"
	"strings"
)

// A setup is the first message to a child: what it may read once its walls are up.
type setup struct {
	Read []string `json:"read"` // directories; null: there is no wall around files
}

// Walls says what the kernel keeps a child from. A wall that is not up is one that this
// kernel, or the container that the gateway runs in, doesn't have.
type Walls struct {
	// Files is the version of Landlock's interface that keeps the child to its own
	// directory, and to reading what lies under Pool.Read. 0: it may read and write what
	// the gateway may.
	Files int `json:"files"`
	// Calls reports whether seccomp lets the child make no other system calls than
	// those of a program that computes: no sockets, no other programs, no signals to
	// others.
	Calls bool `json:"calls"`
	// Missing says of each wall that is not up why, for people.
	Missing []string `json:"missing,omitempty"`
}

// String says on one line which walls are up, and why others are not.
func (w Walls) String() string {
	var parts []string
	if w.Files > 0 {
		parts = append(parts, fmt.Sprintf("files: Landlock %d", w.Files))
	}
	if w.Calls {
		parts = append(parts, "system calls: seccomp")
	}
	for _, m := range w.Missing {
		parts = append(parts, "without a wall: "+m)
	}
	return strings.Join(parts, "; ")
}

// whole reports whether both are up.
func (w Walls) whole() bool { return w.Files > 0 && w.Calls }

// Walls returns what is around the child that was last warm, nil before there was one.
func (p *Pool) Walls() *Walls {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.walls
}

// Deaths returns how many children have ended that were not told to.
func (p *Pool) Deaths() int64 { return p.deaths.Load() }
