//go:build !linux

package worker

// raise has no walls to put up.
func raise([]string, string) Walls {
	return Walls{Missing: []string{"files, system calls (only Linux has such walls)"}}
}

// yield leaves the thread's priority as it is.
func yield() {}
