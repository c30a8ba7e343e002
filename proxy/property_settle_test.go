package proxy_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// calmDown ends all troubles, and returns when the replicas have today's waivers.
func (w *world) calmDown() error {
	w.calm()
	mark := fmt.Sprintf("mark%d", w.marks)
	for _, h := range w.houses {
		if err := w.eventually("a replica reads its waivers", func() (bool, error) {
			return slices.Contains(h.gateway.Policy.Status().Expired, mark), nil
		}); err != nil {
			return err
		}
	}
	w.model.waivers = w.model.waivers[len(w.model.waivers)-1:]
	return nil
}

// A question is whether a replica answers a caller about an image as the facts are.
type question struct {
	pair
	house            int
	img              *member
	manifest, config *stream
}

// settle returns when every replica answers every caller about images as the facts are.
func (w *world) settle(images ...*member) error {
	var open []*question
	for _, img := range images {
		for _, repo := range img.repos {
			w.origin.PutManifest(repo, "", img.mediaType, img.raw) // it may have been deleted
			for i := range 2 * len(w.houses) {
				open = append(open, &question{pair: pair{[]string{admin, guest}[i%2], repo, img.name}, house: i / 2, img: img})
			}
		}
	}
	var known []*stream // a waiver may be for an index, which must be known for that
	for _, p := range w.cast.indexes {
		w.origin.PutManifest(p.repos[0], "", p.mediaType, p.raw)
		known = append(known, w.send(call{caller: admin, method: http.MethodHead, repo: p.repos[0], kind: "manifests", ref: p.digest.String(), of: p}))
	}
	if err := w.finish(known...); err != nil {
		return err
	}
	err := w.eventually("all is decided", func() (bool, error) {
		if err := w.ask(open); err != nil {
			return false, err
		}
		open = slices.DeleteFunc(open, w.answers)
		return len(open) == 0, nil
	})
	if err != nil && len(open) > 0 {
		q := open[0]
		o := q.manifest.outcome()
		return fmt.Errorf("%s, which the facts allow %v: %d %s: %w", q.manifest, w.model.allowed(q.pair), o.status, o.message, err)
	}
	w.trouble = false
	return err
}

// ask sends the requests for questions, and waits for the answers.
func (w *world) ask(open []*question) error {
	var sent []*stream
	for _, q := range open {
		c := call{caller: q.caller, method: http.MethodGet, repo: q.repo, house: q.house, of: q.img, kind: "manifests", ref: q.img.digest.String()}
		q.manifest = w.send(c)
		c.kind, c.ref, c.blob = "blobs", q.img.blobs[0].Digest.String(), true
		q.config = w.send(c)
		sent = append(sent, q.manifest, q.config)
	}
	return w.finish(sent...)
}

// answers reports whether the answers to a question are as they should be.
func (w *world) answers(q *question) bool {
	manifest, config := q.manifest.outcome(), q.config.outcome()
	if !w.model.allowed(q.pair) {
		return manifest.status == http.StatusForbidden
	}
	return manifest.status == http.StatusOK && config.status == http.StatusOK && config.whole // what is pending gives no config
}

// finish waits for the ends of answers, and checks them.
func (w *world) finish(sent ...*stream) error {
	t := time.NewTimer(3 * patience)
	defer t.Stop()
	for _, s := range sent {
		select {
		case <-s.done:
		case <-t.C:
			return fmt.Errorf("%s: no end of it", s)
		}
	}
	return w.check()
}

func (w *world) eventually(what string, ask func() (bool, error)) error {
	for end := time.Now().Add(6 * patience); ; time.Sleep(time.Millisecond) {
		if ok, err := ask(); ok || err != nil {
			return err
		}
		if time.Now().After(end) {
			return errors.New(what + ": not in time")
		}
	}
}

// finale ends all troubles: everybody gets what is allowed, whole, and reads why where
// it is not, and no answer stays open.
func (w *world) finale() error {
	if err := w.calmDown(); err != nil {
		return err
	}
	if err := w.settle(w.cast.images...); err != nil {
		return err
	}
	for p := range w.model.windows {
		img := w.cast.image(p.image)
		if img.broken || !w.model.allowed(p) {
			continue
		}
		err := w.eventually(p.image+" is served whole", func() (bool, error) {
			var sent []*stream
			for i, d := range img.blobs {
				sent = append(sent, w.send(call{caller: p.caller, method: http.MethodGet, repo: p.repo, house: i % len(w.houses), of: img, kind: "blobs", ref: d.Digest.String(), blob: true}))
			}
			if err := w.finish(sent...); err != nil {
				return false, err
			}
			late := false
			for _, s := range sent {
				o := s.outcome()
				switch {
				case o.status == http.StatusOK && o.whole || !w.model.allowed(p):
				case o.status == http.StatusServiceUnavailable: // see answered
					late = true
				default:
					return false, fmt.Errorf("%s: allowed, but %d %s %w", s, o.status, o.message, o.err)
				}
			}
			return !late, nil
		})
		if err != nil {
			return err
		}
	}
	w.rest(3 * patience)
	if err := w.check(); err != nil {
		return err
	}
	if len(w.streams) > 0 {
		return fmt.Errorf("still open when all is decided: %s", strings.Join(texts(w.streams), "; "))
	}
	return nil
}

func texts[T fmt.Stringer](list []T) []string {
	out := make([]string, len(list))
	for i, x := range list {
		out[i] = x.String()
	}
	return out
}
