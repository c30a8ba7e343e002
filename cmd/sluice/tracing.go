package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/sluicegate/sluice/proxy"
)

// Tracing sends spans to where the environment says, by OTLP over HTTP: a request, the
// pull that it began, and the steps of that. A nil one does nothing, at no cost.
//
// What a client claims of a trace of its own (W3C traceparent) becomes a link and never
// the parent: strangers would otherwise choose what is sampled, and could put spans into
// traces that aren't theirs.
type tracing struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

// maxAttribute bounds what a stranger can put into an attribute, in bytes.
const maxAttribute = 512

// traced reports whether the environment asks for traces, by the OpenTelemetry
// specification's "Environment Variable Specification".
func traced(getenv func(string) string) (bool, error) {
	endpoint := cmp.Or(getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), getenv("OTEL_EXPORTER_OTLP_ENDPOINT"))
	if endpoint == "" || strings.EqualFold(getenv("OTEL_SDK_DISABLED"), "true") || getenv("OTEL_TRACES_EXPORTER") == "none" {
		return false, nil
	}
	protocol := cmp.Or(getenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"), getenv("OTEL_EXPORTER_OTLP_PROTOCOL"), "http/protobuf")
	if protocol != "http/protobuf" {
		return false, fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL is %.40q; only http/protobuf is spoken here (port 4318 of most collectors)", protocol)
	}
	return true, nil
}

// openTracing returns nil where the environment asks for no traces.
func openTracing(ctx context.Context, log *slog.Logger) (*tracing, error) {
	if ok, err := traced(os.Getenv); !ok || err != nil {
		return nil, err
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("traces: %w; see the variables OTEL_EXPORTER_OTLP_…", err)
	}
	about, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", "sluice"), attribute.String("service.version", strings.Trim(versionText(), "()"))), resource.WithFromEnv())
	if err != nil {
		log.Warn("OTEL_RESOURCE_ATTRIBUTES can't be read in whole", "error", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("traces are lost", "error", err) }))
	return newTracing(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about)), nil
}

func newTracing(options ...sdktrace.TracerProviderOption) *tracing {
	limits := sdktrace.NewSpanLimits()
	if limits.AttributeValueLengthLimit < 0 {
		limits.AttributeValueLengthLimit = maxAttribute
	}
	p := sdktrace.NewTracerProvider(append(options, sdktrace.WithRawSpanLimits(limits))...)
	return &tracing{p, p.Tracer("github.com/sluicegate/sluice")}
}

// close sends what is left.
func (t *tracing) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("traces: %w", err)
	}
	return nil
}

// requests makes a span of each request. Neither its query nor its headers are told.
func (t *tracing) requests(next http.Handler) http.Handler {
	if t == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o := []trace.SpanStartOption{trace.WithNewRoot(), trace.WithSpanKind(trace.SpanKindServer)}
		claimed := propagation.TraceContext{}.Extract(context.Background(), propagation.HeaderCarrier(r.Header))
		if remote := trace.SpanContextFromContext(claimed); remote.IsValid() {
			o = append(o, trace.WithLinks(trace.Link{SpanContext: remote}))
		}
		method := r.Method
		if method != http.MethodGet && method != http.MethodHead {
			method = "_OTHER" // by the semantic conventions of OpenTelemetry
		}
		ctx, span := t.tracer.Start(r.Context(), method+" "+resourceOf(r.URL.Path), o...)
		seen := &answered{ResponseWriter: w}
		defer func() {
			span.SetAttributes(attribute.String("http.request.method", method), attribute.String("url.path", r.URL.Path),
				attribute.Int("http.response.status_code", seen.status), attribute.Int64("http.response.body.size", seen.bytes))
			if seen.status == 0 || seen.status >= 500 {
				span.SetStatus(codes.Error, "")
			}
			span.End()
		}()
		next.ServeHTTP(seen, r.WithContext(ctx))
	})
}

// resourceOf returns what a path asks for, one of few words.
func resourceOf(path string) string {
	for _, kind := range []string{"/manifests/", "/blobs/", "/tags/", "/referrers/", "/api/v1/"} {
		if strings.Contains(path, kind) {
			return strings.Trim(kind, "/")
		}
	}
	return "other"
}

// answered is a response that knows what was sent.
type answered struct {
	http.ResponseWriter
	status int // 0 while nothing was sent
	bytes  int64
}

func (a *answered) WriteHeader(status int) {
	if a.status == 0 && status >= 200 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answered) Write(b []byte) (int, error) {
	a.status = cmp.Or(a.status, http.StatusOK)
	n, err := a.ResponseWriter.Write(b)
	a.bytes += int64(n)
	return n, err
}

// ReadFrom lets the server send files without copying them through this process.
func (a *answered) ReadFrom(r io.Reader) (int64, error) {
	a.status = cmp.Or(a.status, http.StatusOK)
	n, err := io.Copy(a.ResponseWriter, r)
	a.bytes += n
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (a *answered) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// pull is proxy.Gateway's Trace: the pull belongs to the request that began it, and its
// spans are made once it is over, with the times that were measured.
func (t *tracing) pull(ctx context.Context) func(*proxy.Journey) {
	request := trace.SpanContextFromContext(ctx)
	return func(j *proxy.Journey) { t.journey(request, j) }
}

func (t *tracing) journey(request trace.SpanContext, j *proxy.Journey) {
	ctx := trace.ContextWithSpanContext(context.Background(), request)
	ctx, whole := t.tracer.Start(ctx, "pull", trace.WithTimestamp(j.Began), trace.WithAttributes(
		attribute.String("sluice.repository", j.Repo.String()), attribute.String("sluice.digest", j.Digest.String()),
		attribute.String("sluice.state", string(j.Verdict.State)), attribute.String("sluice.cause", string(j.Verdict.Cause)),
		attribute.String("sluice.decision", j.Decision), attribute.Int64("sluice.bytes", j.Bytes),
		attribute.Int("sluice.packages", j.Verdict.Packages), attribute.Int("sluice.findings", j.Findings),
		attribute.Float64("sluice.decision_delay", j.Delay().Seconds())))
	if j.Decision == "" {
		whole.SetStatus(codes.Error, "undecided")
	}
	whole.AddEvent("last byte", trace.WithTimestamp(j.LastByte))
	above := map[string]context.Context{"": ctx}
	for _, part := range []bool{false, true} { // what they are parts of comes first
		for _, s := range j.Steps {
			if (s.Within() != "") != part {
				continue
			}
			parent, ok := above[s.Within()]
			if !ok {
				parent = ctx
			}
			o := []trace.SpanStartOption{trace.WithTimestamp(s.Began)}
			if s.Layer != "" {
				o = append(o, trace.WithAttributes(attribute.String("sluice.layer", s.Layer.String())))
			}
			inside, span := t.tracer.Start(parent, s.Name, o...)
			span.End(trace.WithTimestamp(s.End()))
			above[s.Name] = inside
		}
	}
	whole.End(trace.WithTimestamp(j.Decided))
}
