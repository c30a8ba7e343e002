package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/singleflight"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/cache/spool"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/policy/decisionlog"
	"github.com/sluicegate/sluice/policy/signature"
	"github.com/sluicegate/sluice/proxy/auth"
	"github.com/sluicegate/sluice/proxy/limit"
	"github.com/sluicegate/sluice/proxy/upstream"
	"github.com/sluicegate/sluice/scan"
)

// An Upstream is a registry that the gateway fronts.
type Upstream struct {
	Name     string // as it stands in image references: cgr.dev
	Registry *upstream.Registry

	// Policy decides about this upstream's images, nil for the gateway's own. It must
	// have the gateway's kill list and mode.
	Policy *policy.Engine
	// TagTTL is how long a tag of this upstream is answered without asking it, 0 for
	// not at all; nil for the gate's.
	TagTTL *time.Duration
	// Allow and Deny are globs (policy.MatchGlob) over the names of its repositories,
	// such as acme/web. One that Deny matches is refused, and one that no Allow matches
	// where there are any, for every kind of request and before upstream is asked.
	Allow, Deny []string
}

// Gate holds the gate's constants. DefaultGate has them with their reasons; the zero
// value of a Gate stands for it, that of a single constant for no time and no number.
type Gate struct {
	Strict          bool          // send no byte of a layer before the decision
	ManifestWait    time.Duration // for a verdict, from the pull's start
	HeaderWait      time.Duration // for a decision, before headers are sent
	Drip            time.Duration // between bytes of a held response
	HoldCap         time.Duration // without progress, before those who wait are told so
	CutDelay        time.Duration // between a client's first held response that is cut and the others
	TagTTL          time.Duration // before a tag is asked for again
	StaleTags       time.Duration // that a tag serves while upstream can't be read
	NegativeTTL     time.Duration // of "no such tag"
	RelationTTL     time.Duration // of manifests and what they list, from last use
	RetryAfter      time.Duration // before a pull that failed for no reason in the image is tried again
	UpstreamTimeout time.Duration // for a tag and its manifest together
	SendPatience    time.Duration // for a client to take a piece of a body; 0 for ever
	Pulls           int           // images fetched and scanned at once
	Queue           int           // images that may wait for that
	Layers          int           // layers of an image fetched at once
	Listers         int           // manifests of a kind that are asked for one blob
}

// DefaultGate returns the constants that the gate runs with unless told otherwise.
func DefaultGate() Gate {
	return Gate{
		ManifestWait:    2 * time.Second,  // most small images are done by then, and a 403 on the manifest is what every client shows
		HeaderWait:      20 * time.Second, // containerd gives up on headers after 30 s
		Drip:            5 * time.Second,  // CRI-O 1.29 gives up after 10 s without a byte
		HoldCap:         4 * time.Minute,  // containerd's CRI gives up after 5 min without progress
		CutDelay:        time.Second,      // a client opens its next blob in that time and reads the 403 there
		TagTTL:          time.Minute,
		StaleTags:       24 * time.Hour,
		NegativeTTL:     30 * time.Second,
		RelationTTL:     30 * 24 * time.Hour,
		RetryAfter:      10 * time.Second,
		UpstreamTimeout: 18 * time.Second, // with the manifest wait, headers come within 20 s
		SendPatience:    2 * time.Minute,  // who takes nothing pins blobs in the spool, which others need
		Pulls:           4,
		Queue:           1000,
		Layers:          4,
		Listers:         256, // a base layer of that many images has one allowed among the most recent, or none
	}
}

// A Gateway is the pull half of the distribution API in front of registries. The
// exported fields are its configuration and must not change once Start was called; what may
// is changed by Change.
type Gateway struct {
	Upstreams []Upstream // the first is the default
	Store     cache.Store
	Blobs     *spool.Spool
	Objects   ObjectStore // where replicas share blobs; nil: nowhere
	Scanner   *scan.Scanner
	Policy    *policy.Engine
	Trust     *signature.Source // what signatures of images are verified by; nil: nobody is trusted
	Decisions *decisionlog.Log  // where decisions are written down; nil: nowhere
	Auth      *auth.Authenticator
	Access    []AccessRule // who may see what; none: every caller every repository
	Limits    *limit.Guard // nil: none
	Gate      Gate
	Metrics   *Metrics
	Log       *slog.Logger
	AccessLog bool // write a line for each request
	// Trace, if not nil, is called when a request begins a pull, with that request's
	// context, and what it returns when the pull was decided. Both must not block.
	Trace func(context.Context) func(*Journey)
	Now   func() time.Time // nil: time.Now
	// Replica names this gateway among those that share its Store, for whoever looks at
	// what they agree on there. Empty: it shares it with nobody.
	Replica string

	ctx      context.Context // of pulls; ends when the gateway is closed for good
	cancel   context.CancelFunc
	settings atomic.Pointer[Settings] // nil before Start
	queue    queue
	flights  singleflight.Group
	noted    recent
	heads    heads
	mute     recent        // upstreams that did not answer in time
	sized    sync.Map      // keys of blobs on their way of which upstream said how long they are, and it is what a manifest says
	lists    chan struct{} // one place for each list that is read from upstream at once
	putting  chan struct{} // one place for each upload
	signing  chan struct{} // one place for each digest whose signatures are looked for at once
	buffers  buffers
	parsed   cache.Memo[digest.Digest, *manifest]    // read lately: a manifest may be megabytes of JSON, and a blob listed by hundreds
	claimed  cache.Memo[digest.Digest, policy.Image] // what manifest and config claim, and nothing else
	running  sync.WaitGroup                          // pulls and uploads
	trying   sync.Mutex                              // held by the what-if that runs
	news     chan *Event                             // what happened, to be raised
	teller   sync.WaitGroup                          // follow
	follows  string                                  // checksum of the database that Reevaluate, which alone uses it, saw last

	mu     sync.Mutex // guards what follows; a pull is in pulls from begin until its verdict can be found elsewhere
	pulls  map[pullKey]*pull
	closed bool
	upping int // blobs that are uploaded or wait for it
	asking int // bases that upstream is asked for now
	review Reevaluation
	told   struct { // events of the hour
		hour time.Time
		n    map[string]int // by type
	}
}

// Start makes g ready to serve. Close must be called in the end.
func (g *Gateway) Start() error {
	if len(g.Upstreams) == 0 {
		return errNoUpstream
	}
	g.settings.Store(&Settings{g.Upstreams, g.Auth, g.Access, g.Limits})
	if g.Gate == (Gate{}) {
		g.Gate = DefaultGate()
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.queue = queue{Running: g.Gate.Pulls, Each: g.Gate.Pulls, Waiting: g.Gate.Queue}
	if len(g.Upstreams) > 1 {
		g.queue.Each = max(1, g.Gate.Pulls-1)
	}
	g.pulls = map[pullKey]*pull{}
	g.lists = make(chan struct{}, maxLists)
	g.putting = make(chan struct{}, uploadsAtOnce)
	g.signing = make(chan struct{}, signaturesAtOnce)
	g.news = make(chan *Event, newsWaiting)
	g.teller.Go(g.follow)
	g.Metrics.watch(g)
	return nil
}

// Drain has g begin no more pulls: images that are known are served, pulls under way go
// on, and for others clients are told to try again. That may be elsewhere.
func (g *Gateway) Drain() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}

// Close begins no more pulls and waits for those under way, at most until ctx ends;
// then they are stopped.
func (g *Gateway) Close(ctx context.Context) error {
	g.Drain()
	done := make(chan struct{})
	go func() {
		g.running.Wait()
		close(done)
	}()
	defer func() {
		g.cancel()
		<-done
		g.teller.Wait()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		running, waiting := g.queue.length()
		return fmt.Errorf("stopped %d pulls under way and %d that waited: %w", running, waiting, ctx.Err())
	}
}

// ServeHTTP answers /v2/….
func (g *Gateway) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w := &meter{ResponseWriter: rw, resource: rOther, patience: g.Gate.SendPatience}
	defer w.record(g.Metrics)
	a := &account{began: time.Now()}
	r = withAccount(r, a)
	defer g.logRequest(w, r, a)
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	err := g.serve(w, r)
	if err == nil {
		return
	}
	var e *Error
	if errors.As(err, &e) {
		g.refused(e)
	}
	if r.Context().Err() != nil { // whoever may still listen must not take silence for a 200
		panic(http.ErrAbortHandler)
	}
	switch {
	case e != nil:
	case errors.Is(err, context.DeadlineExceeded):
		e = &Error{Status: http.StatusServiceUnavailable, Code: codeUnavailable, RetryAfter: 5 * time.Second, Message: "the gateway could not answer in time; try again", cause: err}
	default:
		e = &Error{Status: http.StatusInternalServerError, Code: codeUnavailable, Message: "the gateway failed; its log says why", cause: err}
	}
	switch {
	case e.Status >= 500:
		LogFailed(g.Log, r, e)
	default:
		g.Log.Debug("request refused", "method", r.Method, "path", r.URL.Path, "status", e.Status, "error", e)
	}
	e.Write(w)
}

func (g *Gateway) serve(w *meter, r *http.Request) error {
	rt, bad := g.parseRoute(r.URL) // which a stranger is not told
	a := accountOf(r.Context())
	a.route = rt
	caller, leave, err := g.admitTo(r, &rt)
	a.caller = caller
	if err != nil {
		return err
	}
	defer leave()
	w.pace = pace{r.Context(), g.pacer(caller)}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return &Error{Status: http.StatusMethodNotAllowed, Code: codeUnsupported, Message: "this gateway only serves pulls; push to the registry itself"}
	}
	if bad != nil {
		return bad
	}
	w.resource = rt.resource
	if rt.namespace != "" { // distribution specification, "Registry Proxying"
		w.Header().Set("OCI-Namespace", rt.namespace)
	}
	if rt.resource != rPing {
		if err := g.admit(caller, rt.repo); err != nil {
			return err
		}
	}
	dropRange(r)
	switch rt.resource {
	case rManifest:
		return g.serveManifest(w, r, caller, rt)
	case rBlob:
		return g.serveBlob(w, r, caller, rt)
	case rTags, rReferrers, rHistory:
		return g.serveList(w, r, rt)
	}
	return writeJSON(w, "application/json", struct{}{})
}

// policy returns the engine that decides about the images of a repository.
func (g *Gateway) policy(repo Repo) *policy.Engine {
	if u := g.upstream(repo.Upstream); u != nil && u.Policy != nil {
		return u.Policy
	}
	return g.Policy
}

// tagTTL returns how long a tag of a repository is answered without asking upstream.
func (g *Gateway) tagTTL(repo Repo) time.Duration {
	if u := g.upstream(repo.Upstream); u != nil && u.TagTTL != nil {
		return *u.TagTTL
	}
	return g.Gate.TagTTL
}

func (g *Gateway) now() time.Time {
	if g.Now != nil {
		return g.Now()
	}
	return time.Now()
}

func isMiss(err error) bool { return errors.Is(err, cache.ErrNotExist) }
