//go:build !race

package vuln

const underRace = false
