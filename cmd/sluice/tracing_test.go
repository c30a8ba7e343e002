package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// A receiver takes spans as a collector does, by OTLP over HTTP.
type receiver struct {
	*httptest.Server
	mu    sync.Mutex // guards all below
	raw   bytes.Buffer
	spans []*otlp.Span
	names map[string]bool // of services
	bad   error
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{names: map[string]bool{}}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		var m collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &m)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if q.URL.Path != "/v1/traces" || err != nil {
			r.bad = fmt.Errorf("POST %s: %v", q.URL.Path, err)
		}
		r.raw.Write(body)
		for _, from := range m.ResourceSpans {
			for _, a := range from.Resource.Attributes {
				if a.Key == "service.name" {
					r.names[a.Value.GetStringValue()] = true
				}
			}
			for _, s := range from.ScopeSpans {
				r.spans = append(r.spans, s.Spans...)
			}
		}
	}))
	t.Cleanup(r.Close)
	return r
}

// named returns the spans of a name.
func (r *receiver) named(name string) (out []*otlp.Span) {
	for _, s := range r.spans {
		if s.Name == name {
			out = append(out, s)
		}
	}
	return out
}

func lasted(s *otlp.Span) time.Duration {
	return time.Duration(s.EndTimeUnixNano - s.StartTimeUnixNano)
}

// servedWithTraces runs a gateway that sends its spans to r, has do use it, and stops it.
func servedWithTraces(t *testing.T, s *scene, do func(addr string)) {
	t.Helper()
	c := s.config(t, 1)
	addr := c.Listen
	s.bring(t, openDatabases(c, nil), time.Now(), "")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	served := make(chan error, 1)
	go func() { served <- serve(ctx, c, source{}) }()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if resp, err := http.Get("http://" + addr + "/v2/"); err == nil {
			resp.Body.Close()
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	do(addr)
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// A pull of an unknown image is one trace: the request that began it, the pull, its
// steps and their parts, those of the worker process too, and they add up.
func TestTraceOfPull(t *testing.T) {
	r, s := newReceiver(t), newScene(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", r.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=collector-key")
	servedWithTraces(t, s, func(addr string) {
		_, _ = pullImage(t.Context(), addr+"/acme/orders:1", nil) // denied: it has findings
		workers := workersOf(t)
		if len(workers) == 0 {
			t.Error("no worker process runs")
		}
		for _, pid := range workers {
			if env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); err != nil || bytes.Contains(env, []byte("OTEL_")) {
				t.Errorf("the worker's environment holds %q, %v", env, err)
			}
		}
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bad != nil || !r.names["sluice"] {
		t.Fatalf("%v, services %v", r.bad, r.names)
	}
	pulls := r.named("pull")
	if len(pulls) != 1 {
		t.Fatalf("%d pulls in %d spans", len(pulls), len(r.spans))
	}
	pull := pulls[0]
	by := map[string]*otlp.Span{} // span ID → span
	for _, s := range r.spans {
		by[string(s.SpanId)] = s
	}
	if request := by[string(pull.ParentSpanId)]; request == nil || !strings.HasSuffix(request.Name, " manifests") || len(request.ParentSpanId) != 0 {
		t.Errorf("the pull is part of %v", request)
	}
	within := map[string]string{"queue": "pull", "config": "pull", "lookup": "pull", "fetch": "pull", "guard": "pull", "backlog": "pull",
		"catalogue": "pull", "store": "pull", "match": "pull", "decide": "pull", "place": "catalogue", "index": "catalogue", "packages": "catalogue",
		"relationships": "catalogue", "encode": "catalogue", "decode": "match", "search": "match", "findings": "match", "first_seen": "match"}
	for name, parent := range within {
		found := r.named(name)
		if len(found) == 0 {
			t.Errorf("no span %q", name)
		}
		for _, s := range found {
			up := by[string(s.ParentSpanId)]
			if up == nil || up.Name != parent || !bytes.Equal(s.TraceId, pull.TraceId) {
				t.Errorf("%s is part of %v, not of %s", name, up, parent)
			} else if s.StartTimeUnixNano < up.StartTimeUnixNano || s.EndTimeUnixNano > up.EndTimeUnixNano {
				t.Errorf("%s lies outside of %s", name, parent)
			}
		}
	}
	holdSum(t, r, pull)
	holdSecrets(t, r, s.password, "collector-key")
}

// holdSum holds the steps after the last byte against the time that they are parts of.
func holdSum(t *testing.T, r *receiver, pull *otlp.Span) {
	t.Helper()
	var delay, sum time.Duration
	for _, a := range pull.Attributes {
		if a.Key == "sluice.decision_delay" {
			delay = time.Duration(a.Value.GetDoubleValue() * 1e9)
		}
	}
	for _, name := range []string{"backlog", "catalogue", "match", "decide"} {
		for _, s := range r.named(name) {
			sum += lasted(s)
		}
	}
	const rounding = time.Millisecond
	if delay <= 0 || sum > delay+rounding || sum < delay/2 {
		t.Errorf("the steps after the last byte take %s, the decision came %s after it", sum, delay)
	}
}

func holdSecrets(t *testing.T, r *receiver, secrets ...string) {
	t.Helper()
	for _, secret := range secrets {
		if secret == "" || bytes.Contains(r.raw.Bytes(), []byte(secret)) {
			t.Errorf("%q is told to the collector", secret)
		}
	}
}

// What a stranger says of a trace of its own is only linked to: it can't choose what is
// sampled, or put spans into another's trace. Its headers and queries are not told, and
// its paths are cut.
func TestTraceOfStrangers(t *testing.T) {
	r, s := newReceiver(t), newScene(t)
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", r.URL+"/v1/traces")
	const theirs = "0af7651916cd43dd8448eb211c80319c"
	servedWithTraces(t, s, func(addr string) {
		for _, sampled := range []string{"00", "01"} {
			req, err := http.NewRequest("BREW", "http://"+addr+"/v2/"+strings.Repeat("long/", 1000)+"manifests/1?token=query-secret", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Traceparent", "00-"+theirs+"-b7ad6b7169203331-"+sampled)
			req.Header.Set("Authorization", "Bearer header-secret")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		}
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	spans := r.named("_OTHER manifests")
	if len(spans) != 2 {
		t.Fatalf("%d spans of two requests", len(spans))
	}
	for _, s := range spans {
		if fmt.Sprintf("%x", s.TraceId) == theirs || len(s.ParentSpanId) != 0 || len(s.Links) != 1 || fmt.Sprintf("%x", s.Links[0].TraceId) != theirs {
			t.Errorf("trace %x, parent %x, links %v", s.TraceId, s.ParentSpanId, s.Links)
		}
		for _, a := range s.Attributes {
			if len(a.Value.GetStringValue()) > maxAttribute {
				t.Errorf("%s has %d bytes", a.Key, len(a.Value.GetStringValue()))
			}
		}
	}
	holdSecrets(t, r, "query-secret", "header-secret")
}

// Where nobody asks for traces there are none, and what isn't spoken is said at the start.
func TestTraced(t *testing.T) {
	for _, tt := range []struct {
		env  []string
		want bool
		bad  bool
	}{
		{nil, false, false},
		{[]string{"OTEL_SERVICE_NAME=x"}, false, false},
		{[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318"}, true, false},
		{[]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://c:4318/v1/traces", "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"}, true, false},
		{[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318", "OTEL_SDK_DISABLED=true"}, false, false},
		{[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318", "OTEL_TRACES_EXPORTER=none"}, false, false},
		{[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"}, false, true},
	} {
		got, err := traced(func(name string) string {
			i := slices.IndexFunc(tt.env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
			if i < 0 {
				return ""
			}
			return strings.TrimPrefix(tt.env[i], name+"=")
		})
		if got != tt.want || (err != nil) != tt.bad {
			t.Errorf("%v: %v, %v", tt.env, got, err)
		}
	}
}
