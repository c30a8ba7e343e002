package webhook_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/proxy/webhook"
)

const (
	secret   = "a secret of more than sixteen bytes"
	patience = 20 * time.Second
)

// A receiver is a web server that takes events, or doesn't.
type receiver struct {
	*httptest.Server
	t *testing.T

	mu      sync.Mutex // guards what follows
	answer  func(w http.ResponseWriter, c proxy.CloudEvent) int
	taken   []string    // ids
	tried   []string    // ids
	triedAt []time.Time // of them
	secret  string
	open    int // requests
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{t: t, secret: secret}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	r.mu.Lock()
	r.open++
	if r.open > 1 {
		r.t.Error("two events at a time")
	}
	secret, answer := r.secret, r.answer
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.open--
		r.mu.Unlock()
	}()
	err = errors.Join(err, webhook.Verify([]byte(secret), req.Header.Get("Sluice-Signature"), body, time.Now(), time.Minute))
	var c proxy.CloudEvent
	err = errors.Join(err, json.Unmarshal(body, &c))
	if err != nil || req.Method != "POST" || !strings.HasPrefix(req.Header.Get("Content-Type"), "application/cloudevents+json") ||
		req.Header.Get("webhook-id") != c.ID || c.SpecVersion != "1.0" || c.Source == "" || !strings.HasPrefix(c.Type, "dev.sluice.") || c.Data.ID != c.ID {
		r.t.Errorf("%v: %s %v %s", err, req.Method, req.Header, body)
	}
	status := 204
	if answer != nil {
		status = answer(w, c)
	}
	r.mu.Lock()
	r.tried, r.triedAt = append(r.tried, c.ID), append(r.triedAt, time.Now())
	if status/100 == 2 {
		r.taken = append(r.taken, c.ID)
	}
	r.mu.Unlock()
	w.WriteHeader(status)
}

func (r *receiver) answers(f func(http.ResponseWriter, proxy.CloudEvent) int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = f
}

func status(n int) func(http.ResponseWriter, proxy.CloudEvent) int {
	return func(http.ResponseWriter, proxy.CloudEvent) int { return n }
}

func (r *receiver) got() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.taken)
}

func (r *receiver) tries() []time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.triedAt)
}

// A lab has a Store with events, and senders over it.
type lab struct {
	*testing.T
	store  cache.Store
	secret string // file
	pace   webhook.Pace
	n      int

	metrics *prometheus.Registry // of the sender made last
}

func newLab(t *testing.T) *lab {
	l := &lab{T: t, store: &cache.Memory{}, secret: filepath.Join(t.TempDir(), "secret"),
		pace: webhook.Pace{Poll: 5 * time.Millisecond, First: 5 * time.Millisecond, Max: 40 * time.Millisecond, GiveUp: time.Hour, Lease: 300 * time.Millisecond}}
	l.setSecret(secret + "\n")
	return l
}

func (l *lab) setSecret(s string) {
	l.Helper()
	if err := os.WriteFile(l.secret, []byte(s), 0o600); err != nil {
		l.Fatal(err)
	}
}

// raise adds an event to the Store, as a gateway does.
func (l *lab) raise(kind string, age time.Duration) string {
	l.Helper()
	l.n++
	e := proxy.Event{ID: fmt.Sprintf("e%03d", l.n), Time: time.Now().UTC().Add(-age), Type: kind, Details: proxy.Details{Name: "x"}}
	b, err := json.Marshal(e)
	if err == nil {
		err = l.store.PutField(l.Context(), cache.Name("events", e.Time.Format("2006-01-02T15")), e.ID, b, time.Hour)
	}
	if err != nil {
		l.Fatal(err)
	}
	return e.ID
}

// sender is not started.
func (l *lab) sender(hooks ...webhook.Hook) *webhook.Sender {
	log := slog.New(slog.DiscardHandler)
	l.metrics = prometheus.NewRegistry()
	return &webhook.Sender{Hooks: hooks, Events: &proxy.EventLog{Store: l.store, Log: log}, Store: l.store, Metrics: webhook.NewMetrics(l.metrics),
		Client: webhook.NewClient(), Pace: l.pace, Log: log}
}

func (l *lab) hook(r *receiver, types ...string) webhook.Hook {
	return webhook.Hook{URL: r.URL + "/hooks/token-in-the-path", SecretFile: l.secret, Types: types, Timeout: 5 * time.Second}
}

// start runs a sender until the function is called, or the test ends.
func (l *lab) start(s *webhook.Sender) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Run(ctx); err != nil {
			l.Error(err)
		}
	}()
	stop = func() { cancel(); <-done }
	l.Cleanup(stop)
	return stop
}

func (l *lab) eventually(what string, ask func() bool) {
	l.Helper()
	for end := time.Now().Add(patience); !ask(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			l.Fatal(what + ": not within " + patience.String())
		}
	}
}

func (l *lab) dead(s *webhook.Sender) []webhook.DeadLetter {
	l.Helper()
	d, err := s.Dead(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	return d
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// Events of the types that a hook wants come in order and once, through a receiver that
// fails for a while and through restarts; what is older than a minute at the first start
// does not.
func TestDeliver(t *testing.T) {
	t.Parallel()
	l, r := newLab(t), newReceiver(t)
	l.raise(proxy.PullDenied, 2*time.Minute)
	want := []string{l.raise(proxy.PullDenied, time.Second)}
	stop := l.start(l.sender(l.hook(r, "verdict.*", "pull.denied")))
	l.raise(proxy.DatabaseStale, 0)
	want = append(want, l.raise(proxy.VerdictNew, 0))
	l.eventually("two are taken", func() bool { return len(r.got()) == 2 })
	stop()
	want = append(want, l.raise(proxy.VerdictChanged, 0)) // while nothing runs
	r.answers(status(503))
	stop = l.start(l.sender(l.hook(r, "verdict.*", "pull.denied")))
	tried := len(r.tries())
	l.eventually("it is tried again", func() bool { return len(r.tries()) > tried+3 })
	want = append(want, l.raise(proxy.PullDenied, 0))
	stop()
	r.answers(nil)
	l.start(l.sender(l.hook(r, "verdict.*", "pull.denied")))
	l.eventually("four are taken", func() bool { return len(r.got()) == 4 })
	late := l.raise(proxy.PullDenied, 30*time.Second) // by another gateway, whose clock is behind
	l.eventually("the late one is taken", func() bool { return len(r.got()) == 5 })
	same(t, "taken", r.got(), append(want, late))
}

// The wait between tries grows, and a Retry-After is waited for.
func TestBackOff(t *testing.T) {
	t.Parallel()
	l, r := newLab(t), newReceiver(t)
	l.pace.First, l.pace.Max = 40*time.Millisecond, time.Minute
	r.answers(status(500))
	s := l.sender(l.hook(r))
	l.start(s)
	l.raise(proxy.DatabaseStale, 0)
	l.eventually("it is tried five times", func() bool { return len(r.tries()) >= 5 })
	at := r.tries()
	for i, least := range []time.Duration{20, 40, 80, 160} { // half of what it is at most
		if gap := at[i+1].Sub(at[i]); gap < least*time.Millisecond {
			t.Errorf("try %d came %s after the one before, want %s at least", i+2, gap, least*time.Millisecond)
		}
	}
	r.answers(func(w http.ResponseWriter, _ proxy.CloudEvent) int {
		r.answers(nil)
		w.Header().Set("Retry-After", "2")
		return 429
	})
	l.eventually("it is taken", func() bool { return len(r.got()) == 1 })
	if at = r.tries(); at[len(at)-1].Sub(at[len(at)-2]) < 2*time.Second {
		t.Errorf("it came after %s, and was told to wait 2 s", at[len(at)-1].Sub(at[len(at)-2]))
	}
}

// What no try gets through is given up, listed, and sent again when somebody says so.
func TestDeadLetters(t *testing.T) {
	t.Parallel()
	l, r := newLab(t), newReceiver(t)
	l.pace.GiveUp = 150 * time.Millisecond
	r.answers(status(302))
	s := l.sender(l.hook(r))
	l.start(s)
	first, second := l.raise(proxy.DatabaseStale, 0), l.raise(proxy.PullDenied, 0)
	l.eventually("both are given up", func() bool { return len(l.dead(s)) == 2 })
	for _, d := range l.dead(s) {
		if !strings.Contains(d.Error, "302 Found; redirects are not followed") || strings.Contains(d.Hook, "token-in-the-path") || time.Since(d.GivenUp) > time.Minute {
			t.Errorf("%+v", d)
		}
	}
	r.answers(nil)
	if n, err := s.Retry(t.Context(), "none"); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := s.Retry(t.Context(), second); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	l.eventually("the one is taken", func() bool { return len(r.got()) == 1 })
	if n, err := s.Retry(t.Context(), webhook.All); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	l.eventually("the other is taken", func() bool { return len(r.got()) == 2 })
	same(t, "taken", r.got(), []string{second, first})
	l.eventually("none is dead", func() bool { return len(l.dead(s)) == 0 })
	var given float64
	families, err := l.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, label := range m.GetLabel() {
				if strings.Contains(label.GetValue(), "token") {
					t.Errorf("%s has the label %s", f.GetName(), label)
				}
				if label.GetValue() == "given_up" {
					given = m.GetCounter().GetValue()
				}
			}
		}
	}
	if given != 2 {
		t.Errorf("%v events were given up", given)
	}
}

// An event that the receiver refuses as itself is given up after a few tries, and those
// behind it come.
func TestRefused(t *testing.T) {
	t.Parallel()
	l, r := newLab(t), newReceiver(t)
	bad := l.raise(proxy.PullDenied, time.Second)
	good := l.raise(proxy.VerdictNew, 0)
	r.answers(func(_ http.ResponseWriter, c proxy.CloudEvent) int {
		if c.ID == bad {
			return 422
		}
		return 200
	})
	s := l.sender(l.hook(r))
	l.start(s)
	l.eventually("the good one is taken", func() bool { return len(r.got()) == 1 })
	same(t, "taken", r.got(), []string{good})
	if d := l.dead(s); len(d) != 1 || d[0].Event.ID != bad {
		t.Errorf("%+v", d)
	}
}

// Gateways that share a Store send each event once; when one ends, another goes on.
func TestReplicas(t *testing.T) {
	t.Parallel()
	l, r := newLab(t), newReceiver(t)
	stops := []func(){l.start(l.sender(l.hook(r))), l.start(l.sender(l.hook(r))), l.start(l.sender(l.hook(r)))}
	var want []string
	for i := range 30 {
		want = append(want, l.raise(proxy.PullDenied, 0))
		if i%10 == 9 {
			l.eventually("all are taken", func() bool { return len(r.got()) == i+1 })
			if i < 20 {
				stops[i/10]()
			}
		}
	}
	time.Sleep(100 * time.Millisecond)
	same(t, "taken", r.got(), want)
}

// A receiver that does not answer holds up nobody but itself.
func TestSlow(t *testing.T) {
	t.Parallel()
	l, slow, quick := newLab(t), newReceiver(t), newReceiver(t)
	hang := make(chan struct{})
	slow.answers(func(http.ResponseWriter, proxy.CloudEvent) int { <-hang; return 200 })
	defer close(hang)
	hook := l.hook(slow)
	hook.Timeout = 300 * time.Millisecond
	stop := l.start(l.sender(hook, l.hook(quick)))
	want := []string{}
	for range 20 {
		want = append(want, l.raise(proxy.PullDenied, 0))
	}
	l.eventually("the quick one has all", func() bool { return len(quick.got()) == 20 })
	same(t, "taken", quick.got(), want)
	stop() // at once, though the slow one hangs
}

// A secret is read again; while there are two, a receiver may have either; and one that is
// too short is none.
func TestSecrets(t *testing.T) {
	t.Parallel()
	l, r := newLab(t), newReceiver(t)
	s := l.sender(l.hook(r))
	l.start(s)
	const other = "another secret of sixteen bytes"
	for i, file := range []string{secret, secret + "\r\n" + other + "\n", other} {
		l.setSecret(file)
		if i == 1 {
			r.mu.Lock()
			r.secret = other
			r.mu.Unlock()
		}
		l.raise(proxy.PullDenied, 0)
		l.eventually("it is taken", func() bool { return len(r.got()) == i+1 })
	}
	for file, want := range map[string]string{"": "is empty", "short": "less than 16 bytes", strings.Repeat(secret+"\n", 5): "more than 4 lines", strings.Repeat("x", 5000): "larger than"} {
		l.setSecret(file)
		if err := s.Hooks[0].Check(); err == nil || !strings.Contains(err.Error(), want) || file != "" && strings.Contains(err.Error(), file) {
			t.Errorf("%.20q: %v, want %q", file, err, want)
		}
	}
	l.raise(proxy.PullDenied, 0)
	time.Sleep(50 * time.Millisecond)
	l.setSecret(other)
	l.eventually("it is taken after all", func() bool { return len(r.got()) == 4 })
	s.Hooks[0].Types = []string{"verdict.*", "pulls"}
	if err := s.Hooks[0].Check(); err == nil || !strings.Contains(err.Error(), `"pulls" matches no event; there are verdict.new`) {
		t.Errorf("%v", err)
	}
}

// offline is a Store that can't be used for a while.
type offline struct {
	cache.Store
	mu  sync.Mutex // guards off
	off bool
}

func (s *offline) set(off bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.off = off
}

func (s *offline) Fields(ctx context.Context, k cache.Key) (map[string][]byte, error) {
	s.mu.Lock()
	off := s.off
	s.mu.Unlock()
	if off {
		return nil, cache.ErrDown
	}
	return s.Store.Fields(ctx, k)
}

// A Store that is gone for a while loses nothing.
func TestStoreGone(t *testing.T) {
	t.Parallel()
	l, r := newLab(t), newReceiver(t)
	store := &offline{Store: l.store}
	l.store = store
	l.start(l.sender(l.hook(r)))
	want := []string{l.raise(proxy.PullDenied, 0)}
	l.eventually("one is taken", func() bool { return len(r.got()) == 1 })
	store.set(true)
	want = append(want, l.raise(proxy.PullDenied, 0))
	time.Sleep(100 * time.Millisecond)
	store.set(false)
	l.eventually("the other is taken", func() bool { return len(r.got()) == 2 })
	same(t, "taken", r.got(), want)
}

func TestVerify(t *testing.T) {
	now := time.Unix(1767225600, 0)
	const good = "t=1767225600,v1=00,v1=9049de54993487011561721aa748ef8d30d8dee216e3bde3749bd58b5f78c98b" // by openssl dgst -hmac
	if err := webhook.Verify([]byte(secret), good, []byte("{}"), now.Add(time.Minute), 5*time.Minute); err != nil {
		t.Error(err)
	}
	for _, c := range []struct{ header, want string }{
		{"", "no time"},
		{"v1=00", "no time"},
		{"t=x,v1=00", "no time"},
		{"t=1767225000,v1=00", "10m0s ago"},
		{"t=1767226200,v1=00", "-10m0s ago"},
		{"t=1767225600", "no signature fits"},
		{"t=1767225600,v1=00,v1=,v1=zz", "no signature fits"},
	} {
		if err := webhook.Verify([]byte(secret), c.header, []byte("{}"), now, 5*time.Minute); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.header, err, c.want)
		}
	}
}

// The function for receivers in the package's documentation does what Verify does.
func TestPython(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3")
	}
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, code, _ := strings.Cut(string(doc), "//\timport hashlib")
	code, _, _ = strings.Cut(code, "// # Secrets")
	code = "import hashlib" + strings.NewReplacer("//\t", "", "\n//\n", "\n\n").Replace(code)
	code += fmt.Sprintf(`
secret, body = b%q, b"{}"
now = str(int(time.time()))
good = hmac.new(secret, now.encode() + b".{}", hashlib.sha256).hexdigest()
assert verify(secret, "t=" + now + ",v1=00,v1=" + good, body)
for bad in "", "t=", "t=x,v1=" + good, "t=1767225600,v1=" + good, "t=" + now + ",v1=00", "t=" + now + ",v1=\u00e9", "v1=" + good:
    assert not verify(secret, bad, body), bad
assert not verify(secret, "t=" + now + ",v1=" + good, b"{ }")
`, secret)
	if out, err := exec.CommandContext(t.Context(), python, "-c", code).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s\n%s", err, out, code)
	}
}
