package api

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"regexp"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/proxy/auth"
)

const (
	maxCheck       = 64 << 10 // bytes of the body
	maxCheckImages = 100
	checksAtOnce   = 4 // images of one request
)

// A CheckRequest is the body of POST /api/v1/check.
type CheckRequest struct {
	Image     string   `json:"image,omitempty"`
	Images    []string `json:"images,omitempty"`
	Platform  string   `json:"platform,omitempty"`  // os/architecture[/variant]; the gateway's own where absent
	Namespace string   `json:"namespace,omitempty"` // Kubernetes namespace that the images are to run in
	Action    string   `json:"action,omitempty"`    // check, pull or admission; check where absent
	Wait      string   `json:"wait,omitempty"`      // for scans, from 0s to 5m; 10s where absent
}

// Checked is what is answered about several images.
type Checked struct {
	Allow   bool           `json:"allow"`   // each of them was found out about, and none is denied
	Answers []CheckedImage `json:"answers"` // in the order of the request; never null in JSON
}

// A CheckedImage has an answer or an error.
type CheckedImage struct {
	Image  string         `json:"image"` // as it was asked for
	Answer *policy.Answer `json:"answer,omitempty"`
	Error  *CheckError    `json:"error,omitempty"`
}

// A CheckError says why there is no answer about an image.
type CheckError struct {
	Status  int    `json:"status"` // as HTTP has it
	Code    string `json:"code"`
	Message string `json:"message"`
}

// namespaceForm is what Kubernetes lets a namespace be called (RFC 1123, label).
var namespaceForm = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// check answers POST /api/v1/check.
func (h *Handler) check(w http.ResponseWriter, r *http.Request, caller auth.Caller) error {
	q, wait, err := readCheck(w, r)
	if err != nil {
		return err
	}
	deadline := time.Now().Add(wait)
	question := proxy.Question{Image: q.Image, Platform: cmp.Or(q.Platform, "linux/"+runtime.GOARCH), Namespace: q.Namespace, Action: cmp.Or(q.Action, "check")}
	if len(q.Images) == 0 {
		a, err := h.Gateway.Check(r.Context(), caller, question, deadline)
		if err != nil {
			return err
		}
		return writeJSON(w, a)
	}
	out := Checked{Allow: true, Answers: make([]CheckedImage, len(q.Images))}
	var group errgroup.Group
	group.SetLimit(checksAtOnce)
	for i, image := range q.Images {
		group.Go(func() error {
			one := question
			one.Image = image
			out.Answers[i] = h.checkOne(r, caller, one, deadline)
			return nil
		})
	}
	_ = group.Wait() // each has its own error
	for _, a := range out.Answers {
		out.Allow = out.Allow && a.Answer != nil && !a.Answer.Decision.Blocks()
	}
	return writeJSON(w, out)
}

// readCheck reads and bounds the body.
func readCheck(w http.ResponseWriter, r *http.Request) (q CheckRequest, wait time.Duration, err error) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return q, 0, &proxy.Error{Status: http.StatusMethodNotAllowed, Code: "UNSUPPORTED", Message: "only POST is served here"}
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return q, 0, &proxy.Error{Status: http.StatusUnsupportedMediaType, Code: "UNSUPPORTED", Message: "want a body of Content-Type application/json"}
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, maxCheck+1))
	if err != nil {
		return q, 0, err
	}
	if len(b) > maxCheck {
		return q, 0, &proxy.Error{Status: http.StatusRequestEntityTooLarge, Code: "UNSUPPORTED", Message: "the body is larger than 64 KiB: ask about fewer images at once"}
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&q); err != nil || dec.More() {
		return q, 0, refused("want one JSON object with image or images and, if need be, platform, namespace, action and wait" + detail(err))
	}
	switch {
	case (q.Image == "") == (len(q.Images) == 0):
		return q, 0, refused("name either an image or images")
	case len(q.Images) > maxCheckImages:
		return q, 0, refused("more than 100 images: ask about fewer at once")
	case q.Action != "" && !slices.Contains([]string{"check", "pull", "admission"}, q.Action):
		return q, 0, refused("action must be check, pull or admission")
	case q.Namespace != "" && !namespaceForm.MatchString(q.Namespace):
		return q, 0, refused("namespace is no name of a Kubernetes namespace")
	}
	wait, err = waitOf(q.Wait)
	return q, wait, err
}

func (h *Handler) checkOne(r *http.Request, caller auth.Caller, q proxy.Question, deadline time.Time) CheckedImage {
	a, err := h.Gateway.Check(r.Context(), caller, q, deadline)
	if err == nil {
		return CheckedImage{Image: q.Image, Answer: &a}
	}
	var e *proxy.Error
	if !errors.As(err, &e) {
		e = &proxy.Error{Status: http.StatusInternalServerError, Code: "UNAVAILABLE", Message: "the gateway failed; its log says why"}
	}
	if e.Status >= http.StatusInternalServerError && r.Context().Err() == nil {
		proxy.LogFailed(h.Log, r, err, "image", q.Image)
	}
	return CheckedImage{Image: q.Image, Error: &CheckError{e.Status, e.Code, e.Message}}
}
