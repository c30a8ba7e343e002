package proxy_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A subject of the promise: one caller, and an image in one repository.
type pair struct{ caller, repo, image string }

// A window says when the gateway may have allowed an image for a caller. It opens with
// the facts: what the database says, the waivers, the time. It closes when the gateway
// has been seen to deny the image for what was found in it, if the facts said so too all
// the while: in between the gateway may not have come to know, and an image that was
// allowed may stay so for a while.
type window struct {
	open    bool
	closed  int // when it last was open; 0: never
	facts   int // when the facts last allowed it
	refused int // when it was last seen to be denied, 0 where the facts have allowed it since

	grace time.Time // what stays allowed while it is matched again does until then; zero: not so far
}

// rematch is how long an image may stay allowed while it is matched with a new database.
const rematch = 15 * time.Minute

// during reports whether the window was open at any time since a request began.
func (w *window) during(s *stream) bool {
	if !w.grace.IsZero() && !s.began.Before(w.grace) {
		return false
	}
	return w.open || w.closed > s.start
}

// A model is what the promise allows, in the words of the design and apart from the
// gateway's code. Its time counts events.
type model struct {
	cast      *cast
	now       func() time.Time
	clock     int                   // counts events
	published int                   // when there was the last database
	facts     findings              // of today's database
	waivers   [][]propertyWaiver    // the set in force, and those that may be by now
	windows   map[pair]*window      // of every caller, repository and image
	known     map[string]int        // repository@manifest → when the gateway had it for sure
	union     map[string][]interval // caller, repository, blob → what was received
	got       map[pair]bool         // the image's manifest was received
}

// A propertyWaiver is a waiver as its file has it.
type propertyWaiver struct {
	ID      string            `json:"id"`
	Owner   string            `json:"owner"`
	Reason  string            `json:"reason"`
	Expires time.Time         `json:"expires"`
	Scope   map[string]string `json:"scope"`
}

func newModel(c *cast, now func() time.Time) *model {
	m := &model{cast: c, now: now, facts: findings{"bad": exploited, "inner": internal, "waived": exploited},
		waivers: [][]propertyWaiver{nil}, windows: map[pair]*window{}, known: map[string]int{}, union: map[string][]interval{}, got: map[pair]bool{}}
	for _, img := range c.images {
		for _, repo := range img.repos {
			m.windows[pair{admin, repo, img.name}] = &window{}
			m.windows[pair{guest, repo, img.name}] = &window{}
		}
	}
	m.look()
	return m
}

// tick returns the time of the next event.
func (m *model) tick() int {
	m.clock++
	return m.clock
}

// look opens the windows of what the facts allow. It is called before the gateway can
// know of a change, and whenever time has passed.
func (m *model) look() {
	now := m.tick()
	for p, w := range m.windows {
		if m.allowed(p) {
			w.open, w.facts, w.refused, w.grace = true, now, 0, time.Time{}
		}
	}
}

// publish says that there is a new database.
func (m *model) publish() {
	for _, w := range m.windows {
		w.grace = time.Time{}
	}
	m.look()
	m.published = m.clock
}

// denied notes that a caller was told at time start or later that an image is denied for
// what was found in it.
func (m *model) denied(p pair, start int) {
	w := m.windows[p]
	if w == nil || w.facts >= start || m.allowed(p) {
		return
	}
	w.refused = m.tick()
	if w.open {
		w.open, w.closed = false, w.refused
	}
}

// allowed reports whether the facts allow an image for a caller, by any of the sets of
// waivers that may be in force.
func (m *model) allowed(p pair) bool {
	return slices.ContainsFunc(m.waivers, func(ws []propertyWaiver) bool { return m.allowedBy(p, ws) })
}

func (m *model) allowedBy(p pair, waivers []propertyWaiver) bool {
	img := m.cast.image(p.image)
	held := m.facts[img.subject]
	if img.broken {
		held = "scan_failed"
	}
	if held == "" || held == internal && p.caller == admin {
		return true
	}
	return slices.ContainsFunc(waivers, func(w propertyWaiver) bool {
		return m.now().Before(w.Expires) && m.covers(w.Scope, p.repo, img, held)
	})
}

// covers reports whether a waiver sets aside what is held against an image.
func (m *model) covers(scope map[string]string, repo string, img *member, held string) bool {
	if d := scope["digest"]; d != "" && d != img.digest.String() && !m.cast.listed(repo, digest.Digest(d), img) {
		return false
	}
	if r := scope["repository"]; r != "" && r != repo {
		return false
	}
	if scope["advisory"] != "" {
		return scope["advisory"] == held
	}
	return scope["policy"] == "" || scope["policy"] == held
}

// released reports whether the caller of s may receive all of the blob that it asks for.
func (m *model) released(s *stream) bool {
	d := s.digest()
	if !m.cast.has[s.repo][d] {
		return false
	}
	configs, images := m.cast.listers(s.repo, d)
	if open, met := m.anyOpen(configs, s); open || met {
		return open
	}
	if open, met := m.anyOpen(images, s); open || met {
		return open
	}
	return slices.ContainsFunc(m.cast.decoys, func(p *member) bool { return p.in(s.repo) && p.lists(d) })
}

// anyOpen reports whether one of the images may have been allowed to the caller of s
// since it began, and whether the gateway had met any of them by then.
func (m *model) anyOpen(images []*member, s *stream) (open, met bool) {
	for _, img := range images {
		open = open || m.windows[pair{s.caller, s.repo, img.name}].during(s)
		at, ok := m.known[s.repo+"@"+img.digest.String()]
		met = met || ok && at <= s.start
	}
	return open, met
}

// floor is where a blob ends for who may not have it.
func (m *model) floor(repo string, d digest.Digest) int64 {
	if !m.cast.has[repo][d] {
		return 0
	}
	size := int64(len(m.cast.content[d]))
	if configs, _ := m.cast.listers(repo, d); len(configs) > 0 {
		return min(64, size/2)
	}
	return floorOf(size, false)
}

// judge returns what is wrong with what a request has brought so far.
func (m *model) judge(s *stream) error {
	o := s.outcome()
	switch {
	case o.wrong != "":
		return fmt.Errorf("%s: %s", s, o.wrong)
	case s.blob:
		return m.judgeBlob(s, o)
	case o.of != nil && !o.of.artifact:
		return m.judgeManifest(s, o)
	}
	return nil
}

func (m *model) judgeBlob(s *stream, o outcome) error {
	d := s.digest()
	if m.released(s) {
		return nil
	}
	if floor := m.floor(s.repo, d); o.end > floor {
		return fmt.Errorf("%s: received up to %d of %d bytes, the floor is %d", s, o.end, len(m.cast.content[d]), floor)
	}
	if o.status == http.StatusNotModified && m.cast.has[s.repo][d] { // else it may mean that upstream has not answered yet
		return fmt.Errorf("%s: 304 for a blob that is not released", s)
	}
	return nil
}

func (m *model) judgeManifest(s *stream, o outcome) error {
	images := []*member{o.of}
	if o.of.children != nil {
		images = o.of.children
	}
	if o.status == http.StatusNotModified {
		if open, _ := m.anyOpen(images, s); !open {
			return fmt.Errorf("%s: 304 for what is not allowed", s)
		}
	}
	if o.status != http.StatusOK || o.of.children != nil {
		return nil
	}
	if w := m.windows[pair{s.caller, s.repo, o.of.name}]; w.refused > 0 && s.start >= w.refused {
		return fmt.Errorf("%s: served although it was denied before", s)
	}
	return nil
}

// learn takes into account what a request has brought when it is over.
func (m *model) learn(s *stream) error {
	o := s.outcome()
	if s.blob {
		key := s.caller + " " + s.repo + "@" + s.ref
		m.union[key] = append(m.union[key], o.got...)
		return m.wholeOf(s.caller, s.repo)
	}
	if o.of == nil {
		return nil
	}
	if key := s.repo + "@" + o.of.digest.String(); m.known[key] == 0 && (o.status == http.StatusOK || strings.HasPrefix(o.message, "DENIED: ")) {
		m.known[key] = m.tick()
	}
	p := pair{s.caller, s.repo, o.of.name}
	if strings.Contains(o.message, "CVE-") {
		m.denied(p, s.start)
	}
	if w := m.windows[p]; w != nil && o.status == http.StatusOK && s.start > max(w.facts, m.published) && w.grace.IsZero() && !m.allowed(p) {
		w.grace = m.now().Add(rematch) // the gateway has missed the verdict by now
	}
	m.got[p] = m.got[p] || o.end == int64(len(o.of.raw))
	return m.wholeOf(s.caller, s.repo)
}

// met reports whether the gateway had a manifest that lists the blob which s asks for.
func (m *model) met(s *stream) bool {
	return slices.ContainsFunc(slices.Concat(m.cast.images, m.cast.decoys), func(p *member) bool {
		at, ok := m.known[s.repo+"@"+p.digest.String()]
		return ok && at <= s.start && p.lists(s.digest())
	})
}

// wholeOf returns an error if a caller has the manifest and every byte of an image of a
// repository that was never allowed.
func (m *model) wholeOf(caller, repo string) error {
	for _, img := range m.cast.images {
		p := pair{caller, repo, img.name}
		if m.windows[p] != nil && !m.ever(p) && m.got[p] && m.whole(caller, repo, img) && !m.same(p, img) {
			return fmt.Errorf("%s has all of %s in %s, which was never allowed", caller, img.name, repo)
		}
	}
	return nil
}

// ever reports whether an image may have been allowed at any time.
func (m *model) ever(p pair) bool { return m.windows[p].open || m.windows[p].closed > 0 }

// same reports whether the config of an image is that of one which may have been allowed:
// then what it unpacks to is the same, and it may come to be whole by that one.
func (m *model) same(p pair, img *member) bool {
	configs, _ := m.cast.listers(p.repo, img.blobs[0].Digest)
	return slices.ContainsFunc(configs, func(x *member) bool { return m.ever(pair{p.caller, p.repo, x.name}) })
}

// whole reports whether a caller has received every byte of every blob of an image.
func (m *model) whole(caller, repo string, img *member) bool {
	for _, d := range img.blobs {
		led := &ledger{got: map[digest.Digest][]interval{d.Digest: m.union[caller+" "+repo+"@"+d.Digest.String()]}}
		if led.covered(d.Digest) < int64(len(m.cast.content[d.Digest])) {
			return false
		}
	}
	return true
}

// write returns the waiver file that m.waivers ends with.
func (m *model) write(mark string) ([]byte, error) {
	set := slices.Clone(m.waivers[len(m.waivers)-1])
	set = append(set, propertyWaiver{ID: mark, Owner: "test", Reason: "its ID tells that this file is in force", Expires: time.Unix(0, 0).UTC(), Scope: map[string]string{"namespace": "none"}})
	return json.Marshal(map[string]any{"waivers": set})
}

// manifest returns the member that a digest is of, or nil.
func (c *cast) manifest(d digest.Digest) *member {
	for _, p := range slices.Concat(c.images, c.indexes, c.decoys) {
		if p.digest == d {
			return p
		}
	}
	return nil
}

func (c *cast) image(name string) *member {
	return c.images[slices.IndexFunc(c.images, func(p *member) bool { return p.name == name })]
}

// listers returns the images of a repository whose config a blob is, and the others that
// list it.
func (c *cast) listers(repo string, d digest.Digest) (configs, layers []*member) {
	for _, img := range c.images {
		switch {
		case !img.in(repo) || !img.lists(d):
		case img.blobs[0].Digest == d:
			configs = append(configs, img)
		default:
			layers = append(layers, img)
		}
	}
	return configs, layers
}

// lied reports whether a manifest of a repository lists a blob as larger than it is. The
// gateway may believe it as long as it knows of no other.
func (c *cast) lied(repo string, d digest.Digest) bool {
	return slices.ContainsFunc(slices.Concat(c.images, c.decoys), func(p *member) bool {
		return p.in(repo) && slices.ContainsFunc(p.blobs, func(b ocispec.Descriptor) bool { return b.Digest == d && b.Size != int64(len(c.content[d])) })
	})
}

// listed reports whether an index of a repository lists an image.
func (c *cast) listed(repo string, index digest.Digest, img *member) bool {
	return slices.ContainsFunc(c.indexes, func(p *member) bool {
		return p.digest == index && p.in(repo) && slices.Contains(p.children, img)
	})
}

func (p *member) lists(d digest.Digest) bool {
	for _, b := range p.blobs {
		if b.Digest == d {
			return true
		}
	}
	return false
}
