package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/proxy/auth"
)

const (
	// eventsEvery is how soon an event is sent that some replica has raised.
	eventsEvery = 2 * time.Second
	// keepAlive is how often a stream without events sends a comment, so that nothing on
	// the way takes it for dead.
	keepAlive = 15 * time.Second
	// patience is how long a client may leave an event unread.
	patience = 30 * time.Second
	// maxStreams bounds the streams of one gateway.
	maxStreams = 64
)

// An EventLog has what happened to images, and to what they are decided by.
type EventLog interface {
	// Events returns the events after a time, oldest first.
	Events(ctx context.Context, since time.Time) ([]proxy.Event, error)
	// Source returns what they name as their source as CloudEvents.
	Source(ctx context.Context) (string, error)
}

var (
	_ EventLog = (*proxy.Gateway)(nil)
	_ EventLog = (*proxy.EventLog)(nil)
)

// events answers GET /api/v1/events: server-sent events where the client accepts these
// (WHATWG HTML, "Server-sent events"), with replay from Last-Event-ID, and else a list.
// Events of repositories that the caller may not see are left out.
func (h *Handler) events(w http.ResponseWriter, r *http.Request, caller auth.Caller) error {
	may := func(e proxy.Event) bool {
		repository := repositoryOf(e.Image.Reference)
		if repository == "" && e.Type != proxy.WaiverExpiring { // which may tell of any repository
			return true
		}
		return h.May == nil || h.May(caller, repository)
	}
	since := time.Time{}
	if s := r.URL.Query().Get("since"); s != "" {
		var err error
		if since, err = time.Parse(time.RFC3339, s); err != nil {
			return &proxy.Error{Status: http.StatusBadRequest, Code: "UNSUPPORTED", Message: "since must be a time such as since=2026-01-31T00:00:00Z"}
		}
	}
	source, err := h.source(r)
	if err != nil {
		return err
	}
	if !strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
		return h.listEvents(r.Context(), w, since, source, may)
	}
	if h.streams.Add(1) > maxStreams {
		h.streams.Add(-1)
		return &proxy.Error{Status: http.StatusTooManyRequests, Code: "TOOMANYREQUESTS", RetryAfter: time.Minute, Message: fmt.Sprintf("%d clients follow the events already; close one, or ask for a list", maxStreams)}
	}
	defer h.streams.Add(-1)
	rc := http.NewResponseController(w)
	s := &stream{w: w, rc: rc, log: h.Events, may: may, stopping: h.Stopping, since: since, source: source, sent: map[string]bool{}}
	if err := s.skip(r.Context(), r.Header.Get("Last-Event-ID")); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	return s.run(r.Context())
}

// repositoryOf returns what comes before tag and digest in a reference.
func repositoryOf(reference string) string {
	name, _, _ := strings.Cut(reference, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name = name[:i]
	}
	return name
}

// listEvents sends a list, of CloudEvents where there is a source.
func (h *Handler) listEvents(ctx context.Context, w http.ResponseWriter, since time.Time, source string, may func(proxy.Event) bool) error {
	es, err := h.Events.Events(ctx, since)
	if err != nil {
		return err
	}
	es = slices.DeleteFunc(es, func(e proxy.Event) bool { return !may(e) })
	if source == "" {
		return writeJSON(w, es)
	}
	batch := make([]proxy.CloudEvent, len(es))
	for i := range es {
		batch[i] = es[i].Cloud(source)
	}
	b, err := json.Marshal(batch)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/cloudevents-batch+json")
	_, _ = w.Write(b) // who does not take it is gone
	return nil
}

// source returns the source of CloudEvents where the client asks for these, else "".
func (h *Handler) source(r *http.Request) (string, error) {
	switch r.URL.Query().Get("format") {
	case "":
		return "", nil
	case "cloudevents":
		return h.Events.Source(r.Context())
	}
	return "", &proxy.Error{Status: http.StatusBadRequest, Code: "UNSUPPORTED", Message: "the only other format of events is format=cloudevents"}
}

// A stream is one client that follows the events.
type stream struct {
	w        io.Writer
	rc       *http.ResponseController
	log      EventLog
	may      func(proxy.Event) bool // whether the client may see it
	stopping func() bool
	source   string          // of CloudEvents; "" sends events as they are
	since    time.Time       // a little before the last event that was sent, or what the client said
	sent     map[string]bool // ids
}

// skip goes on behind the event that the client had last. One that is not kept any more
// skips nothing.
func (s *stream) skip(ctx context.Context, last string) error {
	if last == "" {
		return nil
	}
	seen := map[string]bool{}
	for from := s.since; ; {
		es, err := s.log.Events(ctx, from)
		if err != nil {
			return err
		}
		for _, e := range es {
			if seen[e.ID] = true; e.ID == last {
				s.since, s.sent = e.Time.Add(-overlap), seen
				return nil
			}
		}
		if len(es) == 0 || !es[len(es)-1].Time.After(from) {
			return nil
		}
		from = es[len(es)-1].Time
	}
}

// overlap is how far behind the last event that was sent another replica's may still
// appear: their clocks differ, and so does when they write.
const overlap = time.Minute

// run sends events until the client is gone or the gateway stops.
func (s *stream) run(ctx context.Context) error {
	poll := time.NewTicker(eventsEvery)
	defer poll.Stop()
	quiet := time.Now()
	for s.stopping == nil || !s.stopping() {
		asked := time.Now()
		_ = s.rc.SetWriteDeadline(asked.Add(patience)) // what has none can't be helped
		es, err := s.log.Events(ctx, s.since)
		read := err == nil
		if err != nil && ctx.Err() == nil {
			_, err = fmt.Fprintf(s.w, ": the events can't be read now\n\n") // and are sent when they can
		}
		news := false
		for _, e := range es {
			if err == nil && !s.sent[e.ID] && s.may(e) {
				err = s.send(e)
				quiet, news = time.Now(), true
			}
		}
		if err == nil && time.Since(quiet) >= keepAlive {
			_, err = io.WriteString(s.w, ": still here\n\n")
			quiet = time.Now()
		}
		if err == nil {
			err = s.rc.Flush()
		}
		if err != nil {
			return nil //nolint:nilerr // the client is gone
		}
		until := asked
		if len(es) > 0 {
			until = es[len(es)-1].Time // there may be more than one answer holds
		}
		if since := until.Add(-overlap); !read {
			// what was not read is still to come
		} else if since.After(s.since) { // so that the next look is short
			s.since = since
		} else if len(es) > 0 && !news && until.Before(asked.Add(-overlap)) {
			s.since = until
		}
		select {
		case <-ctx.Done():
			return nil
		case <-poll.C:
		}
	}
	return nil
}

func (s *stream) send(e proxy.Event) error {
	var shown any = e
	if s.source != "" {
		shown = e.Cloud(s.source)
	}
	data, err := json.Marshal(shown)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "id: %s\nevent: %s\ndata: %s\n\n", e.ID, e.Type, data)
	if _, err := s.w.Write(b.Bytes()); err != nil {
		return err
	}
	s.sent[e.ID] = true
	return nil
}
