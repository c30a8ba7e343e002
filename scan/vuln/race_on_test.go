//go:build race

package vuln

// With the race detector everything takes ten times as long.
const underRace = true
