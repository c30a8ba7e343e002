// Package audit keeps who changed a pull token, a waiver or a policy, and when.
//
//	Log.Write ──▶ one map a day in the Store, for 400 days ──▶ Log.List
//
// # Why
//
// It lies in the Store with what it tells of, so that replicas share it and who moves the
// one moves the other. Nothing but its age takes a record away: no command does.
//
// A change that can't be written down is still a change, and is reported as one that was
// not: to undo it could fail as well.
package audit

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicegate/sluice/cache"
)

const (
	kindAudit cache.Kind = "audit" // day → id → Record

	keptFor = 400 * 24 * time.Hour
	// MaxListed is how many records one answer has at most, the newest.
	MaxListed = 10_000
	maxText   = 500 // bytes of each field
)

// A Record is one change. Its JSON is stable: fields may be added, never renamed.
type Record struct {
	Time    time.Time `json:"time"`
	Actor   string    `json:"actor"`  // who: a user of a machine, or the file or server that changed
	Action  string    `json:"action"` // such as waiver.add
	Subject string    `json:"subject"`
	Detail  string    `json:"detail,omitempty"` // never a secret
}

// A Log keeps records. A nil one keeps nothing.
type Log struct{ Store cache.Store }

type actorKey struct{}

// By returns a context whose changes are that actor's.
func By(ctx context.Context, actor string) context.Context {
	return context.WithValue(ctx, actorKey{}, actor)
}

// actor returns who ctx is for: where nobody said, the user of this process.
func actor(ctx context.Context) string {
	if a, ok := ctx.Value(actorKey{}).(string); ok {
		return a
	}
	return User(os.Getuid())
}

// User names a user of this machine.
func User(uid int) string {
	name := "uid " + strconv.Itoa(uid)
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		return name
	}
	return name + "@" + host
}

// Write keeps a change that was made with ctx. Its error says that the change was made.
func (l *Log) Write(ctx context.Context, action, subject, detail string) error {
	return l.write(ctx, rand.Text(), Record{Actor: actor(ctx), Action: action, Subject: subject, Detail: detail})
}

// Once keeps a change that several replicas see, under a name that all of them give it: of
// one name there is one record a day, the first.
func (l *Log) Once(ctx context.Context, name, actor, action, subject, detail string) error {
	if l == nil {
		return nil
	}
	fields, err := l.Store.Fields(ctx, dayKey(time.Now()))
	if _, there := fields[name]; err == nil && there {
		return nil
	}
	return l.write(ctx, name, Record{Actor: actor, Action: action, Subject: subject, Detail: detail})
}

func (l *Log) write(ctx context.Context, id string, r Record) error {
	if l == nil {
		return nil
	}
	r.Time = time.Now().UTC()
	for _, s := range []*string{&r.Actor, &r.Action, &r.Subject, &r.Detail} {
		*s = strings.ToValidUTF8((*s)[:min(len(*s), maxText)], "?")
	}
	b, err := json.Marshal(r)
	if err == nil {
		err = l.Store.PutField(context.WithoutCancel(ctx), dayKey(r.Time), id, b, keptFor)
	}
	if err != nil {
		return fmt.Errorf("%s %s is done, and could not be written into the audit log: %w", r.Action, r.Subject, err)
	}
	return nil
}

// List returns the changes since a time, newest first.
func (l *Log) List(ctx context.Context, since time.Time) ([]Record, error) {
	now := time.Now().UTC()
	since = since.UTC()
	if oldest := now.Add(-keptFor); since.Before(oldest) {
		since = oldest
	}
	out := []Record{}
	var damaged error
	for day := now.Truncate(24 * time.Hour); !day.Before(since.Truncate(24*time.Hour)) && len(out) < MaxListed; day = day.AddDate(0, 0, -1) {
		fields, err := l.Store.Fields(ctx, dayKey(day))
		if err != nil {
			return nil, err
		}
		for _, b := range fields {
			var r Record
			if err := json.Unmarshal(b, &r); err != nil {
				damaged = fmt.Errorf("a record of %s is damaged: %w", day.Format(time.DateOnly), err)
				continue
			}
			if !r.Time.Before(since) {
				out = append(out, r)
			}
		}
	}
	slices.SortFunc(out, func(a, b Record) int { return cmp.Or(b.Time.Compare(a.Time), strings.Compare(a.Subject, b.Subject)) })
	return out[:min(len(out), MaxListed)], damaged
}

func dayKey(t time.Time) cache.Key {
	return cache.Name(kindAudit, t.UTC().Format(time.DateOnly))
}
