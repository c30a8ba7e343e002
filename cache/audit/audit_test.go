package audit

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluicegate/sluice/cache"
)

func TestLog(t *testing.T) {
	l := &Log{Store: &cache.Memory{}}
	ctx := t.Context()
	if err := l.Write(ctx, "waiver.add", "W1", "CVE-1"); err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(By(ctx, "anna@laptop"))
	cancel()
	if err := l.Write(gone, "waiver.remove", "W1", strings.Repeat("x", 1000)); err != nil {
		t.Fatalf("of a change that was made by who has left: %v", err)
	}
	for range 3 {
		if err := l.Once(ctx, "policy 2", "policy.dir", "policy.change", "built in", "revision 2"); err != nil {
			t.Fatal(err)
		}
	}
	rs, err := l.List(ctx, time.Now().Add(-time.Hour))
	if err != nil || len(rs) != 3 {
		t.Fatalf("%v, %+v", err, rs)
	}
	if rs[2].Actor != User(0) && !strings.Contains(rs[2].Actor, "@") || rs[2].Action != "waiver.add" || rs[1].Actor != "anna@laptop" || len(rs[1].Detail) != maxText || rs[0].Action != "policy.change" {
		t.Errorf("%+v", rs)
	}
	if rs, err := l.List(ctx, time.Now().Add(time.Minute)); err != nil || len(rs) != 0 {
		t.Errorf("of what is to come: %v, %v", err, rs)
	}
	var none *Log
	if err := none.Write(ctx, "a", "b", ""); err != nil {
		t.Error(err)
	}
}

type deaf struct{ cache.Memory }

func (*deaf) PutField(context.Context, cache.Key, string, []byte, time.Duration) error {
	return fmt.Errorf("no room")
}

// A change that can't be written down is reported as made.
func TestNotWritten(t *testing.T) {
	err := (&Log{Store: &deaf{}}).Write(t.Context(), "waiver.add", "W1", "")
	if err == nil || !strings.Contains(err.Error(), "waiver.add W1 is done") || !strings.Contains(err.Error(), "no room") {
		t.Error(err)
	}
}
