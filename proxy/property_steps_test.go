package proxy_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/proxy/proxytest"
)

// A step is what happens next in a world. Its operands mean what its operation makes of
// them, and any of them means something.
type step struct {
	name       string
	a, b, c, d byte
	do         func(*world, step) error
}

// maxSteps bounds a program.
const maxSteps = 32

// operations are all that can happen, as often as they should.
func operations() []step {
	var ops []step
	add := func(times int, name string, do func(*world, step) error) {
		for range times {
			ops = append(ops, step{name: name, do: do})
		}
	}
	add(4, "manifest", (*world).stepManifest)
	add(1, "index", (*world).stepIndex)
	add(2, "decoy", (*world).stepDecoy)
	add(4, "blob", (*world).stepBlob)
	add(5, "blobs", (*world).stepBlobs)
	add(1, "list", (*world).stepList)
	add(1, "watch", (*world).stepWatch)
	add(1, "hang up", (*world).stepHangUp)
	add(2, "pause", (*world).stepPause)
	add(2, "resume", (*world).stepResume)
	add(1, "break", (*world).stepBreak)
	add(2, "database", (*world).stepDatabase)
	add(3, "waiver", (*world).stepWaiver)
	add(2, "time", (*world).stepTime)
	add(1, "restart", (*world).stepRestart)
	add(1, "push", (*world).stepPush)
	add(1, "fault", (*world).stepFault)
	add(3, "settle", (*world).stepSettle)
	return ops
}

// decode reads a program from any bytes.
func decode(data []byte) []step {
	var steps []step
	ops := operations()
	for part := range slices.Chunk(data, 5) {
		if len(part) < 5 || len(steps) == maxSteps {
			break
		}
		s := ops[int(part[0])%len(ops)]
		s.a, s.b, s.c, s.d = part[1], part[2], part[3], part[4]
		steps = append(steps, s)
	}
	return steps
}

func (s step) String() string { return fmt.Sprintf("%s %d %d %d %d", s.name, s.a, s.b, s.c, s.d) }

// image returns the image that a step is about: half of the time the last one's.
func (w *world) image(s step) *member {
	if s.a < 128 {
		w.focus = int(s.a) % len(w.cast.images)
	}
	return w.cast.images[w.focus]
}

// call is a request for something of p: who sends it, how, and to whom is in b.
func (w *world) call(p *member, b byte) call {
	c := call{caller: admin, method: http.MethodGet, repo: p.repos[int(b>>1)%len(p.repos)], of: p, house: int(b>>2&1|b>>5&1<<1) % len(w.houses)}
	if b&1 == 1 {
		c.caller = guest
	}
	if b>>3%4 == 0 {
		c.method = http.MethodHead
	}
	return c
}

// watchFor is how long a step watches bodies come that it has asked for; what is held
// goes on.
const watchFor = 6 * time.Millisecond

// watch lets the next step come in the middle of what this one has asked for, or when
// there are answers.
func (w *world) watch(s step) {
	if s.d%4 == 3 {
		return
	}
	t := time.NewTimer(patience)
	defer t.Stop()
	for _, s := range w.streams {
		select {
		case <-s.answered:
		case <-t.C:
			return
		}
	}
	w.rest(watchFor)
}

func (w *world) askManifest(p *member, s step) error {
	c := w.call(p, s.b)
	c.kind, c.ref = "manifests", p.digest.String()
	if s.c%3 == 0 {
		c.ref, c.of = p.name, nil
	}
	c.header = [][]string{nil, nil, nil, {"If-None-Match", `"` + p.digest.String() + `"`}, {"If-None-Match", "*"}, {"Range", "bytes=0-"}, {"If-Match", `"x"`}}[s.d%7]
	w.send(c)
	w.watch(s)
	return nil
}

func (w *world) stepManifest(s step) error { return w.askManifest(w.image(s), s) }

func (w *world) stepIndex(s step) error {
	return w.askManifest(w.cast.indexes[int(s.a)%len(w.cast.indexes)], s)
}

func (w *world) stepDecoy(s step) error {
	return w.askManifest(w.cast.decoys[int(s.a)%len(w.cast.decoys)], s)
}

func (w *world) askBlob(p *member, d ocispec.Descriptor, s step) {
	c := w.call(p, s.b)
	if s.b&64 != 0 { // through the other repository
		c.repo = map[string]string{appRepo: otherRepo, otherRepo: appRepo}[c.repo]
	}
	c.kind, c.ref, c.blob = "blobs", d.Digest.String(), true
	size := int64(len(w.cast.content[d.Digest]))
	k := size * int64(s.d) / 256
	c.header = slices.Concat(rangeOf(s.c%16, k, size), [][]string{nil, nil, nil, nil, nil, {"If-Range", `"` + c.ref + `"`}, {"If-Range", `"x"`}, {"If-None-Match", `"` + c.ref + `"`}}[s.c>>4%8])
	if s.b&128 != 0 && s.d%2 == 1 {
		c.most = 1 + k
	}
	w.send(c)
}

// rangeOf is a Range header of one of the kinds that there are, about position k.
func rangeOf(kind byte, k, size int64) []string {
	ranges := []string{
		"", "", "", "", "", "bytes=0-", fmt.Sprintf("bytes=%d-", k), fmt.Sprintf("bytes=%d-", size-1), fmt.Sprintf("bytes=%d-%d", k, size-1),
		fmt.Sprintf("bytes=-%d", size-k), "bytes=-1", fmt.Sprintf("bytes=%d-%d", max(0, size-10), size+1000), fmt.Sprintf("bytes=0-%d,%d-%d", k/2, k, size-1),
		fmt.Sprintf("bytes=%d-%d", k, k), fmt.Sprintf("bytes=%d-", max(0, size-64<<10)), "bytes=0-9223372036854775807",
	}
	if ranges[kind] == "" {
		return nil
	}
	return []string{"Range", ranges[kind]}
}

func (w *world) stepBlob(s step) error {
	p := w.image(s)
	w.askBlob(p, p.blobs[int(s.d)%len(p.blobs)], s)
	w.watch(s)
	return nil
}

// stepBlobs asks for all blobs of an image at a time, as clients do.
func (w *world) stepBlobs(s step) error {
	p := w.image(s)
	for _, d := range p.blobs {
		w.askBlob(p, d, s)
	}
	w.watch(s)
	return nil
}

func (w *world) stepList(s step) error {
	c := w.call(w.image(s), s.b)
	c.kind, c.ref, c.of = "referrers", c.of.digest.String(), nil
	if s.c%2 == 0 {
		c.kind, c.ref = "tags", "list"
	}
	w.send(c)
	w.watch(s)
	return nil
}

// stepWatch lets what is under way go on.
func (w *world) stepWatch(step) error {
	w.rest(10 * watchFor)
	return nil
}

// stepHangUp ends one request, or all.
func (w *world) stepHangUp(s step) error {
	for i, x := range w.streams {
		if s.a%2 == 0 || i == int(s.b)%len(w.streams) {
			x.hungUp = true
			x.cancel()
			<-x.done
		}
	}
	return nil
}

func (w *world) stepPause(step) error {
	w.oracle.pause()
	return nil
}

func (w *world) stepResume(step) error {
	w.oracle.resume()
	w.rest(watchFor)
	return nil
}

// stepBreak has scans fail.
func (w *world) stepBreak(step) error {
	w.oracle.fail(errors.New("the scanner is out of order"))
	return nil
}

// stepDatabase puts another database in place, which may say other things of an image.
func (w *world) stepDatabase(s step) error {
	subject := w.image(s).subject
	if s.b%4 != 0 {
		w.model.facts[subject] = []string{"", exploited, internal}[s.c%3]
	}
	w.model.publish()
	w.oracle.publish(w.model.facts)
	return nil
}

// stepWaiver puts a waiver into the file, or takes it out.
func (w *world) stepWaiver(s step) error {
	img := w.image(s)
	index := w.cast.indexes[int(s.d)%len(w.cast.indexes)]
	kinds := []propertyWaiver{
		{ID: "image " + img.name, Scope: map[string]string{"digest": img.digest.String()}},
		{ID: "finding", Scope: map[string]string{"advisory": exploited, "repository": otherRepo}},
		{ID: "finding of " + img.name, Scope: map[string]string{"advisory": internal, "digest": img.digest.String()}},
		{ID: "index " + index.name, Scope: map[string]string{"digest": index.digest.String()}},
		{ID: "scan", Scope: map[string]string{"policy": "scan_failed", "digest": w.cast.image("thief").digest.String()}},
	}
	x := kinds[int(s.b)%len(kinds)]
	x.Owner, x.Reason = "test", "it is one"
	x.Expires = w.clock.now().Add([]time.Duration{30 * time.Second, 10 * time.Minute, 1000 * time.Hour, -time.Minute}[s.c%4]).UTC().Truncate(time.Second)
	set := slices.Clone(w.model.waivers[len(w.model.waivers)-1])
	if i := slices.IndexFunc(set, func(y propertyWaiver) bool { return y.ID == x.ID }); i >= 0 {
		set = slices.Delete(set, i, i+1)
	} else {
		set = append(set, x)
	}
	w.model.waivers = append(w.model.waivers, set)
	w.model.look()
	w.writeWaivers()
	return nil
}

func (w *world) stepTime(s step) error {
	w.clock.add([]time.Duration{time.Second, 40 * time.Second, 11 * time.Minute, 16 * time.Minute, 3 * time.Hour}[s.a%5])
	w.rest(watchFor)
	return nil
}

// stepRestart ends a replica amid its work, and starts it again.
func (w *world) stepRestart(s step) error {
	i := int(s.a) % len(w.houses)
	w.excuse(func(x *stream) bool { return x.house == i })
	w.shut(i)
	w.build(i)
	return nil
}

// stepPush moves tags, and deletes manifests upstream and pushes them again.
func (w *world) stepPush(s step) error {
	p := w.image(s)
	repo := p.repos[int(s.b)%len(p.repos)]
	switch s.c % 3 {
	case 0:
		w.origin.PutManifest(repo, []string{"good", "bad", "mixed"}[s.d%3], p.mediaType, p.raw)
	case 1:
		w.origin.Delete(repo, p.digest.String())
	case 2:
		w.origin.PutManifest(repo, p.name, p.mediaType, p.raw)
	}
	return nil
}

// stepFault has upstream fail for a while.
func (w *world) stepFault(s step) error {
	at := int64(s.b) << 9
	fault := []proxytest.Fault{proxytest.Truncate(at), proxytest.Reset(at), proxytest.Corrupt(at), w.origin.Stall(at, w.stall), proxytest.Status(http.StatusServiceUnavailable, "UNAVAILABLE")}[s.a%5]
	w.trouble = true
	w.excuse(func(*stream) bool { return true })
	w.faults = append(w.faults, w.origin.Inject(1+int(s.c)%3, proxytest.Request{Kind: proxytest.KindStorage}.Matches, fault))
	return nil
}

// stepSettle ends all troubles and waits until an image is decided for everybody.
func (w *world) stepSettle(s step) error {
	img := w.image(s)
	if err := w.calmDown(); err != nil {
		return err
	}
	return w.settle(img)
}
