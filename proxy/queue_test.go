package proxy

import "testing"

// The pulls that only HEADs began run on a quarter of the places and never on the last
// one, wait in half of the queue, and come after all others; one that somebody comes to
// wait for is like any other from then on, and leaves its place among the HEADs'.
func TestQueue(t *testing.T) {
	t.Parallel()
	q := &queue{Running: 8, Each: 8, Waiting: 10}
	enter := func(low bool) *ticket {
		t.Helper()
		k, err := q.enter("one", "caller", low)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	runs := func(what string, k *ticket, want bool) {
		t.Helper()
		if k.running != want {
			t.Errorf("%s: runs %v, want %v", what, k.running, want)
		}
	}
	var lows, highs []*ticket
	for range 7 {
		lows = append(lows, enter(true))
	}
	runs("the second HEAD", lows[1], true)
	runs("the third HEAD", lows[2], false)
	if _, err := q.enter("one", "caller", true); err == nil {
		t.Error("HEADs fill more than half of the queue")
	}
	q.hurry(lows[0])
	runs("the third HEAD, when somebody waits for the first", lows[2], true)
	for range 5 {
		highs = append(highs, enter(false))
	}
	runs("the last place", highs[4], true)
	late := enter(false)
	runs("one pull too many", late, false)
	q.leave(lows[1])
	runs("who waited longer but is only a HEAD's", lows[3], false)
	runs("who is waited for", late, true)
	q.leave(highs[0])
	runs("the last place, for a HEAD", lows[3], false)
	q.leave(highs[1])
	runs("the place before the last, for a HEAD", lows[3], true)
	q.hurry(lows[0]) // again, and when it has ended
	q.leave(lows[0])
	q.hurry(lows[0])
	for _, k := range append(highs[2:], late, lows[2], lows[3], lows[4], lows[5], lows[6]) {
		runs("in its turn", k, true)
		q.leave(k)
	}
	if running, waiting := q.length(); running != 0 || waiting != 0 || q.low != 0 {
		t.Errorf("in the end %d run, %d of them for HEADs, and %d wait", running, q.low, waiting)
	}
}

// A slow upstream leaves a place to the others, and who waits for it lets them pass.
func TestQueueOfSeveralUpstreams(t *testing.T) {
	t.Parallel()
	q := &queue{Running: 3, Each: 2, Waiting: 10}
	var slow []*ticket
	for range 4 {
		k, err := q.enter("slow", "caller", false)
		if err != nil {
			t.Fatal(err)
		}
		slow = append(slow, k)
	}
	fast, err := q.enter("fast", "caller", false)
	if err != nil || !fast.running || slow[2].running {
		t.Errorf("another upstream's pull: runs %v, %v; the slow one's third: %v", fast.running, err, slow[2].running)
	}
	q.leave(fast)
	if slow[2].running {
		t.Error("the slow upstream takes the last place")
	}
	for _, k := range slow {
		if !k.running {
			t.Error("a pull didn't get its turn")
		}
		q.leave(k)
	}
	if q.running != 0 || q.of["slow"] != 0 || q.of["fast"] != 0 {
		t.Errorf("in the end %d run, %v", q.running, q.of)
	}
}

// One caller asks for fifty images, then another one for one: that goes next.
func TestQueueIsFair(t *testing.T) {
	t.Parallel()
	q := &queue{Running: 2, Each: 2, Waiting: 20}
	enter := func(caller string) *ticket {
		t.Helper()
		k, err := q.enter("one", caller, false)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	var many []*ticket
	for range 12 {
		many = append(many, enter("many"))
	}
	if _, err := q.enter("one", "many", false); err == nil {
		t.Error("one caller takes more than half of the places to wait")
	}
	few := []*ticket{enter("few"), enter("few")}
	q.leave(many[0])
	if !few[0].running || many[2].running {
		t.Error("who has nothing running waits for one who has")
	}
	q.leave(many[1])
	if !many[2].running || few[1].running {
		t.Error("who has something running passes one who has nothing")
	}
	all := append(many, few...)
	for range all {
		for _, k := range all {
			if k.running {
				q.leave(k)
			}
		}
	}
	if running, waiting := q.length(); running != 0 || waiting != 0 || len(q.by) != 0 {
		t.Errorf("in the end %d run, %d wait, %v are remembered", running, waiting, q.by)
	}
}
