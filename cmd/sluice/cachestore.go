package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/cache/audit"
	"github.com/sluicegate/sluice/configs"
)

// cachePath is where the control socket takes orders about the store.
const cachePath = "/api/v1/cache"

// A cacheOrder is what `sluice cache` asks of a store, here or in the gateway that has it.
type cacheOrder struct {
	Do     string     `json:"do"` // kinds, keys, entry, purge, export
	Kind   cache.Kind `json:"kind,omitempty"`
	Key    string     `json:"key,omitempty"` // cache.Key.Text
	Limit  int        `json:"limit,omitempty"`
	DryRun bool       `json:"dry_run,omitempty"`
}

// Kinds that are never purged with all others, and those that stay where they are.
var (
	keptKinds = []cache.Kind{"waivers", "waiversat", "connection", "audit", "source", "hook", "dead", "again"}
	ownKinds  = []cache.Kind{"lease", "fence"}
)

// A kindCount is what a store has of a kind.
type kindCount struct {
	Kind    cache.Kind `json:"kind"`
	Entries int        `json:"entries"`
	Bytes   int64      `json:"bytes"` // as the store counts them, about
	Endless int        `json:"endless"`
	First   time.Time  `json:"first_end,omitzero"`
	Last    time.Time  `json:"last_end,omitzero"`
}

// A keyInfo is an entry without what is in it.
type keyInfo struct {
	Key   string    `json:"key"`
	Map   bool      `json:"map,omitempty"`
	Bytes int64     `json:"bytes"`
	Ends  time.Time `json:"ends,omitzero"`
}

// A keyList is some of the keys of a kind.
type keyList struct {
	Keys  []keyInfo `json:"keys"`
	Total int       `json:"total"`
}

// An entryText is an entry that people can read.
type entryText struct {
	keyInfo
	Value  string            `json:"value,omitempty"`
	Fields map[string]string `json:"fields,omitempty"`
}

// A purged is what became of an order to purge.
type purged struct {
	Entries int  `json:"entries"`
	DryRun  bool `json:"dry_run"`
}

// carryOut does what o says with s, and writes the answer to w: JSON, or an archive.
func (o cacheOrder) carryOut(ctx context.Context, s cache.Walker, w io.Writer) error {
	var (
		answer any
		err    error
	)
	switch o.Do {
	case "export":
		_, err := cache.Export(ctx, s, w, ownKinds...)
		return err
	case "kinds":
		answer, err = countKinds(ctx, s)
	case "keys":
		answer, err = o.keys(ctx, s)
	case "entry":
		answer, err = o.entry(ctx, s)
	case "purge":
		answer, err = o.purge(ctx, s)
	default:
		return fmt.Errorf("no order %.20q", o.Do)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(w).Encode(answer)
}

func countKinds(ctx context.Context, s cache.Walker) ([]kindCount, error) {
	kinds := make(map[cache.Kind]*kindCount)
	err := s.Walk(ctx, "", func(e cache.Entry) error {
		k := kinds[e.Key.Kind()]
		if k == nil {
			k = &kindCount{Kind: e.Key.Kind()}
			kinds[k.Kind] = k
		}
		k.Entries++
		k.Bytes += e.Size
		if e.Ends.IsZero() {
			k.Endless++
			return nil
		}
		if k.First.IsZero() || e.Ends.Before(k.First) {
			k.First = e.Ends
		}
		if e.Ends.After(k.Last) {
			k.Last = e.Ends
		}
		return nil
	})
	all := []kindCount{}
	for _, k := range kinds {
		all = append(all, *k)
	}
	slices.SortFunc(all, func(a, b kindCount) int { return cmp.Compare(a.Kind, b.Kind) })
	return all, err
}

func infoOf(e cache.Entry) keyInfo { return keyInfo{e.Key.Text(), e.Map, e.Size, e.Ends} }

func (o cacheOrder) keys(ctx context.Context, s cache.Walker) (keyList, error) {
	list := keyList{Keys: []keyInfo{}}
	err := s.Walk(ctx, o.Kind, func(e cache.Entry) error {
		if list.Total++; len(list.Keys) < o.Limit {
			list.Keys = append(list.Keys, infoOf(e))
		}
		return nil
	})
	slices.SortFunc(list.Keys, func(a, b keyInfo) int { return cmp.Compare(a.Key, b.Key) })
	return list, err
}

func (o cacheOrder) entry(ctx context.Context, s cache.Walker) (entryText, error) {
	k, err := cache.ParseKey(o.Key)
	if err != nil {
		return entryText{}, err
	}
	text := entryText{keyInfo: keyInfo{Key: o.Key}, Fields: map[string]string{}}
	err = s.Walk(ctx, k.Kind(), func(e cache.Entry) error {
		if e.Key == k {
			text.keyInfo = infoOf(e)
		}
		return nil
	})
	if err != nil {
		return text, err
	}
	show := func(b []byte) string {
		if k.Kind() == "connection" {
			return fmt.Sprintf("(sealed, %d bytes)", len(b))
		}
		return string(b)
	}
	if !text.Map {
		b, err := s.Get(ctx, k)
		text.Value = show(b)
		return text, err
	}
	fields, err := s.Fields(ctx, k)
	for name, b := range fields {
		text.Fields[name] = show(b)
	}
	return text, err
}

// purge deletes what o names. The order of a Walk is not disturbed by it: what is deleted
// is collected before.
func (o cacheOrder) purge(ctx context.Context, s cache.Walker) (purged, error) {
	p := purged{DryRun: o.DryRun}
	if slices.Contains(keptKinds, o.Kind) || slices.Contains(ownKinds, o.Kind) {
		return p, fmt.Errorf("%s are not purged: see sluice waiver remove and sluice connection remove; leases, the audit log and what webhooks are to get end by themselves", o.Kind)
	}
	var keys []cache.Key
	if o.Key != "" {
		k, err := cache.ParseKey(o.Key)
		if err != nil {
			return p, err
		}
		o.Kind = k.Kind()
	}
	err := s.Walk(ctx, o.Kind, func(e cache.Entry) error {
		kept := slices.Contains(keptKinds, e.Key.Kind()) || slices.Contains(ownKinds, e.Key.Kind())
		if !kept && (o.Key == "" || e.Key.Text() == o.Key) {
			keys = append(keys, e.Key)
		}
		return nil
	})
	if err != nil {
		return p, err
	}
	for _, k := range keys {
		if !o.DryRun {
			if err := s.Delete(ctx, k); err != nil {
				return p, fmt.Errorf("%d entries were purged, then: %w", p.Entries, err)
			}
		}
		p.Entries++
	}
	if !o.DryRun && p.Entries > 0 {
		what := cmp.Or(o.Key, string(o.Kind), "all")
		if err := (&audit.Log{Store: s}).Write(ctx, "cache.purge", what, fmt.Sprintf("entries: %d", p.Entries)); err != nil {
			return p, err
		}
	}
	return p, nil
}

// give carries out an order where the store is: here, or in the gateway that has it open.
func (o cacheOrder) give(ctx context.Context, c configs.Config, w io.Writer) error {
	if g := running(c); g != nil {
		return g.cache(ctx, o, w)
	}
	s, err := openStore(ctx, c, newLog(c.Log, &slog.LevelVar{}))
	if err != nil {
		return err
	}
	return errors.Join(o.carryOut(ctx, s.(cache.Walker), w), s.Close())
}

// serveCache carries out orders that come by the control socket.
func (h *house) serveCache(w http.ResponseWriter, r *http.Request) {
	var o cacheOrder
	s, ok := h.store.(cache.Walker)
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&o); err != nil || !ok {
		http.Error(w, "no order about an embedded store", http.StatusBadRequest)
		return
	}
	if o.Do == "purge" && !o.DryRun {
		h.log.InfoContext(r.Context(), "purging the store", "kind", o.Kind, "key", o.Key)
	}
	t := &tardyStatus{w: w}
	if err := o.carryOut(r.Context(), s, t); err != nil {
		if t.begun { // cut, so that it can't be taken for whole
			panic(http.ErrAbortHandler)
		}
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
	}
}

// A tardyStatus knows whether something was written.
type tardyStatus struct {
	w     io.Writer
	begun bool
}

func (t *tardyStatus) Write(b []byte) (int, error) {
	t.begun = true
	return t.w.Write(b)
}
