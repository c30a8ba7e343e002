package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// A shape is the order in which a kind of client asks for blobs.
type shape string

const (
	configFirst shape = "config, then 3 layers"  // containerd's CRI, podman
	sideBySide  shape = "config beside 3 layers" // docker
)

const layersAtOnce = 3

// A registry is what a client pulls from.
type registry struct {
	url                string
	username, password string // empty where nobody is asked for them
}

// A client pulls from one repository, with nothing kept of earlier pulls: no
// connection, no token, no blob.
type client struct {
	registry
	repo  string
	image *image // whose bytes blobs must be; nil where none are asked for
	http  *http.Client
	token string
}

func newClient(r registry, repo string) *client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = nil
	t.DisableCompression = true
	t.MaxIdleConnsPerHost = 64
	return &client{registry: r, repo: repo, http: &http.Client{Transport: t}}
}

func (c *client) close() { c.http.CloseIdleConnections() }

// pull pulls an image by tag as real clients do, checks every byte, and returns how long
// it took.
func pull(ctx context.Context, r registry, img *image, s shape) (time.Duration, error) {
	c := newClient(r, img.repo)
	defer c.close()
	c.image = img
	began := time.Now()
	if err := c.pull(ctx, img.tag, s); err != nil {
		return 0, fmt.Errorf("pull %s from %s: %w", img.repo, r.url, err)
	}
	return time.Since(began), nil
}

func (c *client) pull(ctx context.Context, tag string, s shape) error {
	d, err := c.resolve(ctx, tag)
	if err != nil {
		return err
	}
	raw, err := c.manifest(ctx, d)
	if err != nil {
		return err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return err
	}
	var all errgroup.Group
	if s == configFirst {
		if err := c.blob(ctx, m.Config); err != nil {
			return err
		}
	} else {
		all.Go(func() error { return c.blob(ctx, m.Config) })
	}
	var layers errgroup.Group
	layers.SetLimit(layersAtOnce)
	for _, l := range m.Layers {
		layers.Go(func() error { return c.blob(ctx, l) })
	}
	return errors.Join(layers.Wait(), all.Wait())
}

// resolve asks for a tag's digest, and for a token where one is demanded.
func (c *client) resolve(ctx context.Context, tag string) (digest.Digest, error) {
	for range 2 {
		resp, err := c.send(ctx, http.MethodHead, "manifests/"+tag)
		if err != nil {
			return "", err
		}
		resp.Body.Close()
		switch {
		case resp.StatusCode == http.StatusOK:
			return digest.Parse(resp.Header.Get("Docker-Content-Digest"))
		case resp.StatusCode != http.StatusUnauthorized || c.token != "":
			return "", fmt.Errorf("HEAD of %s: %s", tag, resp.Status)
		}
		if err := c.login(ctx, resp.Header.Get("WWW-Authenticate")); err != nil {
			return "", err
		}
	}
	return "", errors.New("the token that the registry gave is not good")
}

// login gets a token from where a challenge says.
func (c *client) login(ctx context.Context, challenge string) error {
	fields := map[string]string{}
	for part := range strings.SplitSeq(strings.TrimPrefix(challenge, "Bearer "), ",") {
		k, v, _ := strings.Cut(part, "=")
		fields[strings.TrimSpace(k)] = strings.Trim(v, `"`)
	}
	q := url.Values{"service": {fields["service"]}, "scope": {"repository:" + c.repo + ":pull"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fields["realm"]+"?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	req.SetBasicAuth(c.username, c.password)
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct{ Token string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Token == "" {
		return fmt.Errorf("no token from %s: %s (%v)", fields["realm"], resp.Status, err)
	}
	c.token = answer.Token
	return nil
}

func (c *client) manifest(ctx context.Context, d digest.Digest) ([]byte, error) {
	resp, err := c.get(ctx, "manifests/"+d.String())
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err == nil && digest.FromBytes(raw) != d {
		err = fmt.Errorf("the manifest is not %s", d)
	}
	return raw, err
}

// blob reads a blob and checks its bytes.
func (c *client) blob(ctx context.Context, desc ocispec.Descriptor) error {
	resp, err := c.get(ctx, "blobs/"+desc.Digest.String())
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	v := &expected{rest: c.image.data(desc.Digest)}
	n, err := drop(v, resp.Body)
	switch {
	case err != nil:
		return fmt.Errorf("%s, after %d bytes: %w", desc.Digest, n, err)
	case n != desc.Size || v.wrong || len(v.rest) > 0:
		return fmt.Errorf("%d bytes came that are not %s of %d", n, desc.Digest, desc.Size)
	}
	return nil
}

// expected compares what is written to it with what should come. A hash would cost ten
// times as much, of cores that a real client does not share with the gateway.
type expected struct {
	rest  []byte
	wrong bool
}

func (e *expected) Write(p []byte) (int, error) {
	next, ok := bytes.CutPrefix(e.rest, p)
	e.rest, e.wrong = next, e.wrong || !ok
	return len(p), nil
}

// drop reads r to its end by large pieces, which w sees before they are forgotten.
func drop(w io.Writer, r io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, 256<<10))
}

func (c *client) get(ctx context.Context, path string) (*http.Response, error) {
	return c.ask(ctx, http.MethodGet, path)
}

// ask is send, where only 200 will do.
func (c *client) ask(ctx context.Context, method, path string) (*http.Response, error) {
	resp, err := c.send(ctx, method, path)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		said, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, said)
	}
	return resp, nil
}

func (c *client) send(ctx context.Context, method, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.url+"/v2/"+c.repo+"/"+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", ocispec.MediaTypeImageManifest)
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	return c.http.Do(req)
}
