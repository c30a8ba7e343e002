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
// A process serves several sessions at a time. It is replaced when it dies, and what
// ran in it fails: those scans have no verdict and are tried again by the next pull.
// A call whose context ends is cancelled in the child, which has Grace to confirm;
// then the process is killed. Nothing of a child outlives it: it has a process group
// and a directory of its own, both are removed with it, and it dies with its parent.
//
// # Why
//
// syft and grype parse what strangers send, some of it with quadratic code and
// without limits, and can't be stopped from within. A process can: it has a memory
// limit, it can be killed, and a crash is its own.
//
// Two processes by default. One catalogue keeps two cores busy by itself, so more of
// them add no speed, and each costs the memory of a licence scanner and a database.
// With two, the death of one leaves a warm one, and half of what is under way.
//
// A process is not given to one session alone: a session lasts as long as its image
// takes to arrive, which costs the worker nearly nothing.
//
// The child is not trusted. What it says is bounded; a result is named by a file in
// its directory, opened so that no link leads out of there; anything it says that is
// not understood ends it. It gets no environment but what is named here, hence no
// credentials of the gateway.
package worker
