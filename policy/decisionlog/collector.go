package decisionlog

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	batchBytes  = 512 << 10 // of records in one request, uncompressed
	bufferBytes = 16 << 20  // of records that wait to be sent
	sendEvery   = 5 * time.Second
	sendTimeout = 30 * time.Second
	maxBackoff  = time.Minute
)

// A Collector takes arrays of records by POST, gzip-compressed, as OPA sends them.
type Collector struct {
	URL       string
	TokenFile string       // a bearer token, read at each request; "" for none
	Client    *http.Client // that follows no redirect to another host; required

	log    *Log
	wake   chan struct{}
	ending chan struct{} // closed when no more records come
	quit   context.CancelFunc
	over   chan struct{} // closed when the sender has ended

	mu     sync.Mutex // guards all below
	lines  [][]byte
	bytes  int
	behind error // why the last try failed
	full   bool  // there was no room for the last record
}

func (c *Collector) start(l *Log) {
	c.log, c.wake, c.ending, c.over = l, make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	var ctx context.Context
	ctx, c.quit = context.WithCancel(context.Background())
	go c.run(ctx)
}

// add keeps a record until it is sent. Where there is no room it is lost.
func (c *Collector) add(line []byte) {
	c.mu.Lock()
	full := c.bytes+len(line) > bufferBytes
	if !full {
		c.lines, c.bytes = append(c.lines, bytes.TrimSuffix(line, []byte("\n"))), c.bytes+len(line)
	}
	soon, news := c.bytes >= batchBytes, full && !c.full
	c.full = full
	c.mu.Unlock()
	if full {
		c.log.stats[statDropped].Add(1)
	}
	if news {
		c.log.Log.Warn("there is no room for more decisions that wait for their collector; the count of those lost is a metric")
	}
	if !soon {
		return
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// run sends batches: when one is full, and else every few seconds; after a failure later
// and later.
func (c *Collector) run(ctx context.Context) {
	defer close(c.over)
	wait, wake, ending := sendEvery, c.wake, c.ending
	for {
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-t.C:
		case <-wake:
		case <-ending:
			ending = nil
		}
		t.Stop()
		err := c.flush(ctx)
		switch {
		case ctx.Err() != nil || err == nil && ending == nil:
			return
		case err == nil:
			wait, wake = sendEvery, c.wake
		case ending == nil:
			wait = 100 * time.Millisecond
		default:
			wait, wake = min(2*wait, maxBackoff), nil
		}
	}
}

// flush sends all there is.
func (c *Collector) flush(ctx context.Context) error {
	for {
		batch, n := c.batch()
		if len(batch) == 0 {
			return nil
		}
		err := c.send(ctx, batch)
		c.tell(err)
		var refused *refusal
		if errors.As(err, &refused) { // it would be refused again
			c.log.stats[statDropped].Add(int64(len(batch)))
		} else if err != nil {
			return err
		}
		c.mu.Lock()
		c.lines, c.bytes = c.lines[len(batch):], c.bytes-n
		c.mu.Unlock()
	}
}

// batch returns records that fit in a request, at least one, and their bytes.
func (c *Collector) batch() (lines [][]byte, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.lines {
		if n > 0 && n+len(l) > batchBytes {
			break
		}
		lines, n = append(lines, l), n+len(l)+1
	}
	return lines, n
}

// tell logs when sending begins to fail and when it works again.
func (c *Collector) tell(err error) {
	c.mu.Lock()
	before := c.behind
	c.behind = err
	c.mu.Unlock()
	switch {
	case err != nil:
		c.log.stats[statFailed].Add(1)
		if before == nil {
			c.log.Log.Error("decisions can't be sent to their collector; up to 16 MiB of them wait", "error", err)
		}
	case before != nil:
		c.log.Log.Info("decisions can be sent to their collector again")
	}
}

// A refusal is an answer that the same request would get again.
type refusal struct{ status string }

func (r *refusal) Error() string { return "the collector refuses them: " + r.status }

func (c *Collector) send(ctx context.Context, lines [][]byte) error {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	for i, l := range lines {
		_, _ = io.WriteString(z, map[bool]string{true: "[", false: ","}[i == 0]) // into memory
		_, _ = z.Write(l)
	}
	_, _ = io.WriteString(z, "]")
	if err := z.Close(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL, &b)
	if err != nil {
		return errors.New("the collector's URL can't be used")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Content-Encoding", "gzip")
	req.Header.Set("User-Agent", "sluice")
	if c.TokenFile != "" {
		token, err := os.ReadFile(c.TokenFile)
		if err != nil {
			return fmt.Errorf("the collector's bearer token: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	res, err := c.Client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) { // without the URL, whose query may hold a key
			err = u.Err
		}
		return err
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, 64<<10) // so that the connection can be used again
	switch {
	case res.StatusCode/100 == 2:
		return nil
	case res.StatusCode == http.StatusBadRequest, res.StatusCode == http.StatusRequestEntityTooLarge, res.StatusCode == http.StatusUnprocessableEntity:
		return &refusal{res.Status}
	}
	return fmt.Errorf("the collector answered %s", res.Status)
}

// close sends what is left, until ctx ends.
func (c *Collector) close(ctx context.Context) error {
	close(c.ending)
	select {
	case <-c.over:
	case <-ctx.Done():
		c.quit()
		<-c.over
	}
	c.quit()
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.lines); n > 0 {
		c.log.stats[statDropped].Add(int64(n))
		return fmt.Errorf("%d decisions could not be sent to their collector: %w", n, c.behind)
	}
	return nil
}
