// Package worker runs catalogue and match in child processes of the same binary.
//
//	gateway                          sluice worker
//	┌───────────────┐  frames of     ┌────────────────────────────┐
//	│ Pool ─ process ├──JSON, stdin──►│ Serve ─ Cataloguer (syft)  │
//	│      └ process │◄─────stdout───┤       └ Matcher    (grype)  │
//	└───────┬───────┘                └──────────────┬─────────────┘
//	        └── SBOMs, findings: files in the process's own directory
//
// The Pool is the parent's side and a scan.Engine. Serve is the child's side; what it
// serves is given to it, so that this package knows neither syft nor grype.
//
// A process serves several sessions at a time. It is replaced when it dies; what ran in
// it is tried once more, by itself in a process of its own, so that an image that kills
// its process each time takes no other image with it, and from then on begins there. A
// call whose context ends is
// cancelled in the child, which has Grace to confirm; then the process is killed.
// Nothing of a child outlives it: it has a process group and a directory of its own,
// both are removed with it, and it dies with its parent.
//
// # Walls
//
// Before it reads a byte of a stranger, a child shuts itself in, for good, all of its
// threads:
//
//	files           Landlock: reads what lies under Pool.Read (layers, databases) and its
//	                own directory, writes there alone, executes nothing
//	system calls    seccomp: those of a program that reads files and computes; no
//	                sockets, no other programs or processes, no signals to others
//	memory          Pool.MemoryLimit as GOMEMLIMIT, twice that as RLIMIT_DATA
//	disk            Pool.TempLimit, measured twice a second
//	open files      8192; no core files
//	environment     TMPDIR, HOME, GOMEMLIMIT, GOGC; no file open but three pipes
//
// The first two need no rights, and work in containers without privileges. A kernel
// without one of them is said so, once, in the log, in readiness and in a metric, and
// the gateway goes on: a process of its own is a wall too. What the parent sets is all
// that other systems than Linux have.
//
// A catalogue takes about 0.2 GB and 6 KB for each entry of the image's layers: 0.4 GB
// for a Debian of 700 MB, 1.8 GB for 300,000 files. So one image has a process's memory
// whatever its neighbours do: those that together need more than there is end it, and
// are then tried by themselves.
//
// # Why
//
// syft and grype parse what strangers send, some of it with quadratic code and
// without limits, and can't be stopped from within. A process can: it has a memory
// limit, it can be killed, and a crash is its own.
//
// At least two processes by default. One catalogue keeps two cores busy by itself, so
// more of them add no speed, and each costs the memory of a licence scanner and a
// database. With two, the death of one leaves a warm one, and half of what is under way.
//
// A process is not given to one session alone: a session lasts as long as its image
// takes to arrive, which costs the worker nearly nothing.
//
// One wall is missing: an image that takes over the code of its process could answer for
// the images that come there after it, until the process ends. syft and grype are memory
// safe, so that takes more than a parser's bug. A process for each image would end it,
// would cost two seconds of a processor each, and forget what images share.
//
// The child is not trusted with anything else. What it says is bounded; a result is named by a file in
// its directory, opened so that no link leads out of there; anything it says that is
// not understood ends it. It gets no environment but what is named here, hence no
// credentials of the gateway.
//
// Calls are listed that are allowed, and not those that are forbidden: any program may
// make the calls of another architecture too, and of those no list is complete. Modes,
// owners and times of files are among what is forbidden, since Landlock lets them be
// changed everywhere.
//
// Warming takes two seconds of a processor. It is done on a thread of low priority,
// since a process may be replaced while images are on their way.
package worker
