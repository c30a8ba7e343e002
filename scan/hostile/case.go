package hostile

import (
	"fmt"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Case is one image that means harm, or that looks like it and is sound.
type Case struct {
	Name   string
	Layers func() []Layer       // above the base
	Config func(*ocispec.Image) // what its config lies about; nil: nothing

	Want   []string // the states of a verdict that are right: see scan.State
	Says   string   // a part of the verdict's detail, or of a problem's kind or detail
	Why    string   // why it may be complete
	Parsed bool     // it is a cataloguer's parser that it is meant for: that may take its deadline
	Finds  string   // what a complete verdict must find; "": nothing at all
}

// The states that a Case may want.
const (
	complete = "complete"
	partial  = "partial"
	failed   = "failed"
	limit    = "limit"
)

// Cases returns all of them.
func Cases() []Case {
	return slices.Concat(compressed(), tars(), trees(), sound(), configs(), archives(), executables(), databases(), texts())
}

// Innocent is a Case with nothing wrong about it, another for each name and number.
func Innocent(name string, n int) Case {
	return tarred("innocent", complete, "", func(t *Tar) { t.File("etc/motd", fmt.Sprint(name, n)) }).why("there is nothing wrong with it")
}

// one is a case of one layer above the base.
func one(name, want, says string, layer func() Layer) Case {
	return Case{Name: name, Want: []string{want}, Says: says, Layers: func() []Layer { return []Layer{layer()} }}
}

// tarred is a case of one tar above the base.
func tarred(name, want, says string, fill func(*Tar)) Case {
	return one(name, want, says, func() Layer {
		var t Tar
		fill(&t)
		return zipped(t.End())
	})
}
