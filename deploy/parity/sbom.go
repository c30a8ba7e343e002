package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// A document is syft JSON, as far as it is compared.
type document struct {
	Artifacts             []map[string]any
	ArtifactRelationships []relationship
	Files                 []map[string]any
	Source                map[string]any
	Distro                map[string]any
}

type relationship struct {
	Parent, Child, Type string
	Metadata            any
}

func readDocument(b []byte) (*document, error) {
	d := new(document)
	if err := json.Unmarshal(b, d); err != nil {
		return nil, fmt.Errorf("syft JSON that can't be read: %w", err)
	}
	return d, nil
}

// callers are the fields of an image's source that only say who asked for it, and how.
var callers = []string{"userInput", "tags", "repoDigests"}

// differences returns what the syft command says (want) and the gateway's SBOM says
// otherwise (got), a line each.
func differences(want, got *document) []string {
	out := diffItems("artifact", keyed(want.Artifacts), keyed(got.Artifacts))
	out = append(out, diffItems("file", keyed(want.Files), keyed(got.Files))...)
	out = append(out, diffSets("relationship", want.relations(nil), got.relations(nil))...)
	out = append(out, diffFields("distro", want.Distro, got.Distro)...)
	return append(out, diffFields("source", source(want), source(got))...)
}

// source is what is compared of the source section.
func source(d *document) map[string]any {
	meta, _ := d.Source["metadata"].(map[string]any)
	meta = maps.Clone(meta)
	maps.DeleteFunc(meta, func(k string, _ any) bool { return slices.Contains(callers, k) })
	return map[string]any{"id": d.Source["id"], "type": d.Source["type"], "metadata": meta}
}

// keyed returns items by their ID. An ID that comes twice is told apart, so that none
// is lost.
func keyed(items []map[string]any) map[string]map[string]any {
	out := map[string]map[string]any{}
	for _, it := range items {
		key := fmt.Sprint(it["id"])
		for _, twice := out[key]; twice; _, twice = out[key] {
			key += " again"
		}
		out[key] = it
	}
	return out
}

func diffItems(what string, want, got map[string]map[string]any) (out []string) {
	for _, id := range slices.Sorted(maps.Keys(want)) {
		if have, ok := got[id]; !ok {
			out = append(out, fmt.Sprintf("%s only syft has: %s", what, label(want[id])))
		} else {
			out = append(out, diffFields(what+" "+label(have), want[id], have)...)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[id]; !ok {
			out = append(out, fmt.Sprintf("%s syft doesn't have: %s", what, label(got[id])))
		}
	}
	return out
}

func label(it map[string]any) string {
	if it["name"] == nil {
		return fmt.Sprint(it["id"], " ", it["location"])
	}
	return fmt.Sprintf("%v %v %v (%v)", it["type"], it["name"], it["version"], it["id"])
}

// diffFields compares two objects field by field.
func diffFields(what string, want, got map[string]any) (out []string) {
	fields := maps.Clone(want)
	if fields == nil {
		fields = map[string]any{}
	}
	maps.Copy(fields, got)
	for _, f := range slices.Sorted(maps.Keys(fields)) {
		if !reflect.DeepEqual(want[f], got[f]) {
			out = append(out, fmt.Sprintf("%s: %s is %s, syft says %s", what, f, brief(got[f]), brief(want[f])))
		}
	}
	return out
}

func diffSets(what string, want, got []string) (out []string) {
	count := map[string]int{}
	for _, w := range want {
		count[w]++
	}
	for _, g := range got {
		count[g]--
	}
	for _, k := range slices.Sorted(maps.Keys(count)) {
		switch n := count[k]; {
		case n > 0:
			out = append(out, fmt.Sprintf("%s only syft has: %s", what, k))
		case n < 0:
			out = append(out, fmt.Sprintf("%s syft doesn't have: %s", what, k))
		}
	}
	return out
}

func brief(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	if len(b) > 160 {
		return fmt.Sprintf("%s… (%d bytes)", b[:160], len(b))
	}
	return string(b)
}

// relations returns the relationships, a line each, with IDs translated where names has
// another.
func (d *document) relations(names map[string]string) []string {
	name := func(id string) string {
		if n, ok := names[id]; ok {
			return n
		}
		return id
	}
	out := make([]string, 0, len(d.ArtifactRelationships))
	for _, r := range d.ArtifactRelationships {
		line := strings.Join([]string{name(r.Parent), r.Type, name(r.Child)}, " ")
		if r.Metadata != nil {
			b, _ := json.Marshal(r.Metadata) // it came from JSON
			line += " " + string(b)
		}
		out = append(out, line)
	}
	return out
}

// A remainder counts what our settings leave out of what the syft command says under
// its defaults.
type remainder struct {
	symbols   int            // packages that have symbols of Go besides
	noVersion int            // packages without a version, dropped
	relations map[string]int // relationships left out, by kind
}

// defaults compares with what the syft command says under its defaults: what remains
// are true differences, and what our settings explain is counted.
func defaults(want, got *document) ([]string, remainder) {
	left := remainder{relations: map[string]int{}}
	dropped, noted := map[string]bool{}, map[string]bool{}
	var artifacts []map[string]any
	for _, a := range want.Artifacts {
		id := fmt.Sprint(a["id"])
		if a["version"] == "UNKNOWN" {
			dropped[id] = true
			left.noVersion++
			continue
		}
		noted[id] = a["metadataType"] == elfNote
		artifacts = append(artifacts, a)
	}
	for _, a := range got.Artifacts {
		if m, _ := a["metadata"].(map[string]any); m["symbols"] != nil {
			left.symbols++
		}
	}
	wantByKey, wantNames := anonymous(artifacts)
	gotByKey, gotNames := anonymous(got.Artifacts)
	out := diffItems("artifact", wantByKey, gotByKey)

	lines := got.relations(gotNames)
	have := map[string]bool{}
	for _, line := range lines {
		have[line] = true
	}
	var wanted []string
	for i, line := range want.relations(wantNames) {
		r := want.ArtifactRelationships[i]
		executables := r.Type == "dependency-of" && (noted[r.Parent] || noted[r.Child])
		if !have[line] && (dropped[r.Parent] || dropped[r.Child] || executables) {
			left.relations[r.Type]++
			continue
		}
		wanted = append(wanted, line)
	}
	out = append(out, diffSets("relationship", wanted, lines)...)
	out = append(out, diffFields("distro", want.Distro, got.Distro)...)
	return append(out, diffFields("source", source(want), source(got))...), left
}

// elfNote is the type of a package that a note in an executable names.
const elfNote = "elf-binary-package-note-json-payload"

// anonymous returns artifacts without what symbols change, by all the rest of them, and
// the names under which their IDs stand in relationships.
func anonymous(artifacts []map[string]any) (byKey map[string]map[string]any, names map[string]string) {
	byKey, names = map[string]map[string]any{}, map[string]string{}
	for _, a := range artifacts {
		id := fmt.Sprint(a["id"])
		if a["type"] == "go-module" {
			a = maps.Clone(a)
			delete(a, "id")
			if m, ok := a["metadata"].(map[string]any); ok {
				m = maps.Clone(m)
				delete(m, "symbols")
				a["metadata"] = m
			}
			b, _ := json.Marshal(a)
			names[id] = string(b)
		} else {
			names[id] = id
		}
		key := names[id]
		for _, twice := byKey[key]; twice; _, twice = byKey[key] {
			key += " again"
		}
		byKey[key] = a
	}
	return byKey, names
}
