package proxytest

import (
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
)

// maxJournal bounds the requests that are remembered one by one.
const maxJournal = 1 << 16

// A Request is what the origin saw of one, and what it answered.
type Request struct {
	Method     string
	Kind       string // KindManifest, KindBlob, …
	Repository string
	Reference  string // tag or digest

	Host           string
	Range          string // Range header
	Accept         string // Accept headers, joined by commas
	AcceptEncoding string
	UserAgent      string
	Authorization  string // Authorization header
	Authorized     bool   // there was one
	Proto          string

	Status int   // 0 while it is not yet answered
	Sent   int64 // bytes of the body
}

func newRequest(r *http.Request) Request {
	return Request{
		Method:         r.Method,
		Kind:           KindOther,
		Host:           r.Host,
		Range:          r.Header.Get("Range"),
		Accept:         strings.Join(r.Header.Values("Accept"), ", "),
		AcceptEncoding: r.Header.Get("Accept-Encoding"),
		UserAgent:      r.UserAgent(),
		Authorization:  r.Header.Get("Authorization"),
		Authorized:     r.Header.Get("Authorization") != "",
		Proto:          r.Proto,
	}
}

// Matches reports whether q has the method, kind, repository, reference and status
// of p, where those are set. As a method value it says which requests a fault
// is for: Request{Kind: KindBlob}.Matches.
func (p Request) Matches(q Request) bool {
	return (p.Method == "" || p.Method == q.Method) &&
		(p.Kind == "" || p.Kind == q.Kind) &&
		(p.Repository == "" || p.Repository == q.Repository) &&
		(p.Reference == "" || p.Reference == q.Reference) &&
		(p.Status == 0 || p.Status == q.Status)
}

// journal remembers requests. It is told of each thing before the client can see it,
// so that whoever has an answer finds it here.
type journal struct {
	mu     sync.Mutex // guards everything below, and the requests in list
	list   []*Request // the last maxJournal, as they came
	counts map[Request]int
	bodies map[string]served
	leaks  []*Request
}

// served is what went out of one blob.
type served struct {
	times int
	bytes int64
}

func newJournal() *journal {
	j := &journal{}
	j.reset()
	return j
}

func (j *journal) reset() {
	j.list, j.leaks = nil, nil
	j.counts = map[Request]int{}
	j.bodies = map[string]served{}
}

func (j *journal) begin(q Request) *Request {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.list) >= maxJournal {
		j.list = slices.Delete(j.list, 0, maxJournal/2)
	}
	j.list = append(j.list, &q)
	if q.Kind == KindStorage && q.Authorized {
		j.leaks = append(j.leaks, &q)
	}
	return &q
}

// answer notes the status of an answer, 0 for none.
func (j *journal) answer(q *Request, status int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	q.Status = status
	j.counts[Request{Method: q.Method, Kind: q.Kind, Repository: q.Repository, Reference: q.Reference, Status: status}]++
	if q.hasContent() {
		b := j.bodies[q.Reference]
		b.times++
		j.bodies[q.Reference] = b
	}
}

// send notes n bytes more of a body, or fewer.
func (j *journal) send(q *Request, n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	q.Sent += int64(n)
	if q.hasContent() {
		b := j.bodies[q.Reference]
		b.bytes += int64(n)
		j.bodies[q.Reference] = b
	}
}

// hasContent reports whether the answer's body is a blob's bytes.
func (q *Request) hasContent() bool {
	return q.Method == http.MethodGet && (q.Kind == KindStorage || q.Kind == KindBlob) &&
		(q.Status == http.StatusOK || q.Status == http.StatusPartialContent)
}

func copies(list []*Request) []Request {
	out := make([]Request, len(list))
	for i, q := range list {
		out[i] = *q
	}
	return out
}

// Requests returns what was asked so far, in the order in which it came: the last
// 65,536 at most, and half of that at least where there were more. Status and Sent of
// a request that is still being answered are what they are now.
func (s *Server) Requests() []Request {
	s.journal.mu.Lock()
	defer s.journal.mu.Unlock()
	return copies(s.journal.list)
}

// Count returns how many requests match the pattern whose answers have begun, or were
// cut off before they did (with a status of 0, which no pattern can ask for).
func (s *Server) Count(pattern Request) int {
	s.journal.mu.Lock()
	defer s.journal.mu.Unlock()
	n := 0
	for q, c := range s.journal.counts {
		if pattern.Matches(q) {
			n += c
		}
	}
	return n
}

// Served returns how many GETs of a blob were answered with content, by the registry
// or the blob host, and how many bytes they sent together.
func (s *Server) Served(d digest.Digest) (times int, bytes int64) {
	s.journal.mu.Lock()
	defer s.journal.mu.Unlock()
	b := s.journal.bodies[d.String()]
	return b.times, b.bytes
}

// Leaks returns the requests that brought credentials to the blob host. There should
// be none.
func (s *Server) Leaks() []Request {
	s.journal.mu.Lock()
	defer s.journal.mu.Unlock()
	return copies(s.journal.leaks)
}

// ResetCounts forgets the requests so far.
func (s *Server) ResetCounts() {
	s.journal.mu.Lock()
	defer s.journal.mu.Unlock()
	s.journal.reset()
}
