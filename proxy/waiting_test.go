package proxy_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/scan"
)

// A crowdedEngine has no room for anything.
type crowdedEngine struct{ *engine }

type standingSession struct{ scan.Session }

func (standingSession) Waiting() bool { return true }

func (e crowdedEngine) Begin(ctx context.Context, img scan.Image, ids []digest.Digest) (scan.Session, error) {
	s, err := e.engine.Begin(ctx, img, ids)
	return standingSession{s}, err
}

// Who is told to try again is told what the image waits for: its turn, a free scanner, or
// its own scan.
func TestWhatWaitsSaysSo(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		crowded bool
		first   string
		others  []string
	}{
		{"one place to run", false, "it is still being scanned;", []string{"it waits for its turn behind 0 others;", "it waits for its turn behind 1 others;"}},
		{"no room in the scanner", true, "it waits for a free scanner;", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, func(l *lab, _ *policy.Config) {
				l.gateway.Gate.Pulls = 1
				l.gateway.Gate.HoldCap = time.Millisecond // all give up at once
				l.gateway.Gate.CutDelay = time.Millisecond
				if tt.crowded {
					l.gateway.Scanner.Engine = crowdedEngine{l.engine}
				}
			})
			l.engine.hold()
			says := func(tag, want string) {
				t.Helper()
				img := l.push("acme/app", tag, 1000)
				l.eventually(want, func() bool {
					l.ask("GET", manifestPath("acme/app", tag))
					return strings.Contains(l.ask("GET", blobPath("acme/app", img.config)).message(), want)
				})
			}
			says("first", tt.first)
			for i, want := range tt.others {
				says([]string{"second", "third"}[i], want)
			}
		})
	}
}
