package objects

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/sluicegate/sluice/cache"
)

const (
	dialTimeout = 2 * time.Second
	// headTimeout is how long the store may take to begin an answer: clients wait for it.
	headTimeout = 3 * time.Second
	// idleTimeout is how long it may take from one piece of a body to the next.
	idleTimeout = 10 * time.Second
	// restFor is how long a store that has failed is left alone.
	restFor = 5 * time.Second
	// putTimeout bounds an upload.
	putTimeout = time.Minute
	// deleteTimeout bounds the removal of what is damaged.
	deleteTimeout = 10 * time.Second
)

// Config says where the object store is.
type Config struct {
	// URL is https://HOST[:PORT]/BUCKET[/PREFIX], or http:// within a network that is
	// trusted with the blobs.
	URL string
	// Region is that of the bucket; "" asks the store for it.
	Region string
	// AccessKey and SecretKey are the credentials. Without AccessKey they are what AWS's
	// tools would use: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, their shared file, or
	// the role of the machine or pod.
	AccessKey, SecretKey string
	// CAFile holds authorities, in PEM, in place of the system's.
	CAFile string
	Log    *slog.Logger // nil: nothing is logged
}

// A Store is one bucket, or a folder in it. Objects are of at most some MiB. All methods may be called concurrently.
type Store struct {
	core   minio.Core
	bucket string
	prefix string
	log    *slog.Logger

	mu    sync.Mutex // guards what follows
	rest  time.Time  // until then the store is not asked
	cause error      // why it can't be used, nil where it can
	since time.Time  // that this is so
}

// Open returns the store, which is not asked yet: one that is gone is no error here.
func Open(c Config) (*Store, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, errors.New("it must be https://HOST/BUCKET or https://HOST/BUCKET/PREFIX")
	}
	bucket, prefix, _ := strings.Cut(strings.Trim(u.Path, "/"), "/")
	if bucket == "" {
		return nil, errors.New("it names no bucket: write https://HOST/BUCKET")
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{Timeout: dialTimeout}).DialContext
	t.TLSHandshakeTimeout, t.ResponseHeaderTimeout = dialTimeout, putTimeout
	t.MaxIdleConnsPerHost = 16
	t.DisableCompression = true // a blob is to come as it is
	if t.TLSClientConfig, err = tlsConfig(c.CAFile); err != nil {
		return nil, err
	}
	creds := credentials.NewStaticV4(c.AccessKey, c.SecretKey, "")
	if c.AccessKey == "" {
		creds = credentials.NewChainCredentials([]credentials.Provider{&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{Client: &http.Client{Timeout: headTimeout}}})
	}
	client, err := minio.New(u.Host, &minio.Options{Creds: creds, Secure: u.Scheme == "https", Transport: t, Region: c.Region, MaxRetries: 1})
	if err != nil {
		return nil, err
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Store{core: minio.Core{Client: client}, bucket: bucket, prefix: prefix, log: c.Log, since: time.Now()}, nil
}

func tlsConfig(caFile string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile == "" {
		return c, nil
	}
	b, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", caFile)
	}
	return c, nil
}

// Get opens the object of that name and size, which the caller has to close. Without it the
// error wraps cache.ErrNotExist; where the store can't be asked, cache.ErrDown. An object of
// another length counts as missing. What is read is what was stored; bytes that have changed
// since are an error that wraps cache.ErrDamaged, and Close deletes the object then. A read
// that waits too long is an error. ctx governs the reader too.
func (s *Store) Get(ctx context.Context, name string, size int64) (io.ReadCloser, error) {
	if err := s.resting(); err != nil {
		return nil, err
	}
	limited, cancel := context.WithCancel(ctx)
	slow := time.AfterFunc(headTimeout, cancel)
	body, info, _, err := s.core.GetObject(limited, s.bucket, path.Join(s.prefix, name), minio.GetObjectOptions{})
	if !slow.Stop() && err == nil {
		body.Close()
		err = context.Canceled
	}
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("no answer within %s", headTimeout)
	}
	if err = s.note(ctx, err); err != nil {
		cancel()
		return nil, fmt.Errorf("object %s: %w", name, err)
	}
	if want := framedSize(size); info.Size != want {
		body.Close()
		cancel()
		return nil, fmt.Errorf("object %s has %d bytes and should have %d: %w", name, info.Size, want, cache.ErrNotExist)
	}
	return &reader{s: s, name: name, ctx: ctx, cancel: cancel, body: body, left: size, buf: make([]byte, min(size, frameSize)+sumSize)}, nil
}

// A reader gives the bytes of an object, each frame once it is known to be whole.
type reader struct {
	s       *Store
	name    string
	ctx     context.Context //nolint:containedctx // the caller's: an io.Reader has no other way to get one
	cancel  context.CancelFunc
	body    io.ReadCloser
	left    int64  // bytes of the object behind frame
	buf     []byte // a frame and its sum
	frame   []byte // of buf: not yet given
	damaged bool
}

func (r *reader) Read(p []byte) (int, error) {
	if len(r.frame) == 0 {
		if r.left == 0 {
			return 0, io.EOF
		}
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.frame)
	r.frame = r.frame[n:]
	return n, nil
}

// next reads a frame.
func (r *reader) next() error {
	n := min(r.left, frameSize)
	if _, err := io.ReadFull(readerFunc(r.read), r.buf[:n+sumSize]); err != nil {
		return err
	}
	if !whole(r.buf[:n], r.buf[n:n+sumSize]) {
		r.damaged = true
		return fmt.Errorf("object %s: %w", r.name, cache.ErrDamaged)
	}
	r.left -= n
	r.frame = r.buf[:n]
	return nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// read reads of the body, and ends one that stands still.
func (r *reader) read(p []byte) (int, error) {
	stuck := time.AfterFunc(idleTimeout, r.cancel)
	n, err := r.body.Read(p)
	if !stuck.Stop() {
		err = fmt.Errorf("nothing came for %s", idleTimeout)
	}
	if err != nil && err != io.EOF && r.ctx.Err() == nil {
		r.s.failed(err)
	}
	return n, err
}

func (r *reader) Close() error {
	r.cancel()
	err := r.body.Close()
	if r.damaged {
		r.s.log.Error("an object was damaged in the object store: it is deleted, and fetched again", "bucket", r.s.bucket, "object", r.name)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), deleteTimeout)
		defer cancel()
		err = errors.Join(err, r.s.Delete(ctx, r.name))
	}
	return err
}

// Put stores an object, unless one of that name and size is there. It takes at most a
// minute.
func (s *Store) Put(ctx context.Context, name string, object []byte) error {
	if err := s.resting(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, putTimeout)
	defer cancel()
	place, size := path.Join(s.prefix, name), framedSize(int64(len(object)))
	info, err := s.core.StatObject(ctx, s.bucket, place, minio.StatObjectOptions{})
	if err == nil && info.Size == size {
		return nil
	}
	if err = s.note(ctx, err); err != nil && !errors.Is(err, cache.ErrNotExist) {
		return fmt.Errorf("object %s: %w", name, err)
	}
	_, err = s.core.Client.PutObject(ctx, s.bucket, place, framed(object), size, minio.PutObjectOptions{ContentType: "application/octet-stream", DisableMultipart: true})
	if err = s.note(ctx, err); err != nil {
		return fmt.Errorf("object %s: %w", name, err)
	}
	return nil
}

// Delete removes an object; that there is none is no error.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := s.resting(); err != nil {
		return err
	}
	err := s.note(ctx, s.core.RemoveObject(ctx, s.bucket, path.Join(s.prefix, name), minio.RemoveObjectOptions{}))
	if errors.Is(err, cache.ErrNotExist) {
		return nil
	}
	return err
}

// Ping asks the store whether the bucket is there, and returns why it can't be used.
func (s *Store) Ping(ctx context.Context) error {
	there, err := s.core.BucketExists(ctx, s.bucket)
	if err == nil && !there {
		err = errors.New("there is no such bucket")
	}
	return s.note(ctx, err)
}

// State returns since when the store can be used, or why it can not.
func (s *Store) State() (since time.Time, down error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.since, s.cause
}

// resting returns why the store is not asked now.
func (s *Store) resting() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Now().Before(s.rest) {
		return s.cause
	}
	return nil
}

// note makes of an answer what the caller is told, and learns from it how the store is.
func (s *Store) note(ctx context.Context, err error) error {
	switch code := minio.ToErrorResponse(err).Code; {
	case err == nil:
		s.works()
		return nil
	case code == minio.NoSuchKey:
		s.works()
		return cache.ErrNotExist
	case ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded): // the caller has gone
		return context.Cause(ctx)
	}
	return s.failed(err)
}

func (s *Store) works() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause == nil {
		return
	}
	s.log.Info("the object store can be used again", "bucket", s.bucket, "after", time.Since(s.since).Round(time.Second))
	s.cause, s.since, s.rest = nil, time.Now(), time.Time{}
}

// failed has the store left alone for a while, and returns why.
func (s *Store) failed(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.cause
	s.cause = fmt.Errorf("bucket %s: %w: %w", s.bucket, cache.ErrDown, err)
	s.rest = time.Now().Add(restFor)
	if was == nil {
		s.since = time.Now()
		s.log.Error("the object store can't be used; blobs come from upstream meanwhile", "bucket", s.bucket, "error", err)
	}
	return s.cause
}
