package vuln

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// What a mirror may do wrong, and how soon it is to be asked again.
func TestMirrorFaults(t *testing.T) {
	m := newMirror(t)
	good := m.publish(t, 48*time.Hour)
	first := &Databases{Root: t.TempDir(), URL: m.URL}
	_, _, err := first.Update(t.Context(), nil)
	check(t, err)
	m.publish(t, time.Hour)
	elsewhere := httptest.NewServer(http.NotFoundHandler())
	defer elsewhere.Close()

	answer := func(code int, headers ...string) func(http.ResponseWriter, *http.Request, []byte) {
		return func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			for i := 0; i < len(headers); i += 2 {
				w.Header().Set(headers[i], headers[i+1])
			}
			w.WriteHeader(code)
		}
	}
	stall := func(w http.ResponseWriter, r *http.Request, b []byte) {
		w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		w.Write(b[:len(b)/2])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
	forever := func(w http.ResponseWriter, r *http.Request, _ []byte) {
		for r.Context().Err() == nil {
			if _, err := w.Write(bytes.Repeat([]byte{0}, 4096)); err != nil {
				return
			}
		}
	}
	drip := func(w http.ResponseWriter, r *http.Request, b []byte) {
		for r.Context().Err() == nil {
			w.Write(b[:1])
			w.(http.Flusher).Flush()
			select {
			case <-time.After(5 * time.Millisecond):
			case <-r.Context().Done():
			}
		}
	}
	for name, c := range map[string]struct {
		listing, archive func(http.ResponseWriter, *http.Request, []byte)
		bounds           bounds
		reason           Reason
		says             string
		after            time.Duration
	}{
		"listing not there":          {listing: answer(404), reason: Refused, says: "v6/latest.json"},
		"listing forbidden":          {listing: answer(401), reason: Refused, says: "SLUICE_DATABASE_URL"},
		"throttled":                  {listing: answer(429, "Retry-After", "1800"), reason: Refused, says: "429", after: 30 * time.Minute},
		"throttled, no word of when": {listing: answer(429), reason: Refused, says: "429"},
		"down for maintenance":       {archive: answer(503, "Retry-After", "7"), reason: Refused, says: "503", after: 7 * time.Second},
		"listing stalls":             {listing: stall, bounds: bounds{idle: 50 * time.Millisecond}, reason: Unreachable, says: "sent nothing for 50ms"},
		"no headers ever":            {listing: func(_ http.ResponseWriter, r *http.Request, _ []byte) { <-r.Context().Done() }, bounds: bounds{idle: 50 * time.Millisecond}, reason: Unreachable, says: "timeout"},
		"archive stalls":             {archive: stall, bounds: bounds{idle: 50 * time.Millisecond}, reason: Unreachable, says: "sent nothing for 50ms"},
		"archive drips":              {archive: drip, bounds: bounds{whole: 200 * time.Millisecond}, reason: Unreachable, says: "more than 200ms"},
		"endless archive":            {archive: forever, bounds: bounds{archive: 100_000}, reason: BadArchive, says: "more than 100000 bytes"},
		"announced too big":          {archive: answer(200, "Content-Length", "99999999999999"), reason: BadArchive, says: "99999999999999 bytes"},
		"endless listing":            {listing: forever, reason: BadListing, says: "more than"},
		"redirects in a circle": {listing: func(w http.ResponseWriter, r *http.Request, _ []byte) {
			http.Redirect(w, r, r.URL.Path+"?again", http.StatusFound)
		}, reason: Unreachable, says: "5 redirects"},
		"redirect to nowhere":        {archive: answer(302, "Location", elsewhere.URL+"/x?X-Amz-Signature=hunter2"), reason: Refused, says: elsewhere.URL + "/x: the server answered 404"},
		"redirect to a closed port":  {archive: answer(302, "Location", "http://127.0.0.1:1/x?X-Amz-Signature=hunter2"), reason: Unreachable, says: "refused"},
		"listing from the future":    {listing: edited(func(doc map[string]any) { doc["built"] = "2099-01-01T00:00:00Z" }), reason: BadListing, says: "set the clock"},
		"listing of nothing":         {listing: func(w http.ResponseWriter, _ *http.Request, _ []byte) { io.WriteString(w, "{}") }, reason: BadListing, says: "schema 0"},
		"an older archive than said": {listing: edited(func(doc map[string]any) { doc["path"], doc["checksum"] = oldest(t, m) }), reason: BadListing, says: "the listing says"},
	} {
		t.Run(name, func(t *testing.T) {
			m.breaks(func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					f := c.archive
					if strings.HasSuffix(r.URL.Path, ".json") {
						f = c.listing
					}
					if f == nil {
						h.ServeHTTP(w, r)
						return
					}
					b, _ := os.ReadFile(filepath.Join(m.dir, r.URL.Path))
					f(w, r, b)
				})
			})
			d := &Databases{Root: first.Root, URL: m.URL, bounds: c.bounds}
			_, changed, err := d.Update(t.Context(), nil)
			if err == nil || changed || !strings.Contains(err.Error(), c.says) || reasonOf(err) != c.reason || strings.Contains(err.Error(), "hunter2") {
				t.Fatalf("changed %v, reason %q, error %v; want %q and %q", changed, reasonOf(err), err, c.reason, c.says)
			}
			if f := new(failure); c.after > 0 && (!errors.As(err, &f) || f.after != c.after) {
				t.Errorf("to be asked again after %s, want %s", f.after, c.after)
			}
			if n := d.Counts(); n.Failures[c.reason] != 1 || n.Checks != 1 || n.Updates != 0 {
				t.Errorf("counts %+v", n)
			}
			if s := d.Status(t.Context()); s.LastReason != c.reason || s.Failures == 0 || s.State != Usable {
				t.Errorf("status %+v", s)
			}
			usable(t, d, good)
			leftovers(t, d)
		})
	}
	m.heals()
	d := &Databases{Root: first.Root, URL: m.URL + "/v6/latest.json?sig=hunter2"} // a listing, and a signed one
	if _, changed, err := d.Update(t.Context(), nil); err != nil || !changed {
		t.Fatalf("once it is well: %v, %v", changed, err)
	}
	info, err := os.Stat(m.archive(t))
	check(t, err)
	if n := d.Counts(); n.Updates != 1 || n.Bytes != info.Size() {
		t.Errorf("counts %+v", n)
	}
	if s := d.Status(t.Context()); s.Failures != 0 || s.LastError != "" || s.LastReason != "" || s.LastSuccess.IsZero() || strings.Contains(fmt.Sprintf("%+v", s), "hunter2") {
		t.Errorf("status %+v", s)
	}
}

// edited serves a listing with some of it changed.
func edited(edit func(doc map[string]any)) func(http.ResponseWriter, *http.Request, []byte) {
	return func(w http.ResponseWriter, _ *http.Request, b []byte) {
		var doc map[string]any
		json.Unmarshal(b, &doc)
		edit(doc)
		json.NewEncoder(w).Encode(doc)
	}
}

// oldest returns path and checksum of a real archive that is older than what is active.
func oldest(t *testing.T, m *mirror) (path, checksum string) {
	other := newMirror(t)
	other.publish(t, 100*time.Hour)
	b, err := os.ReadFile(other.archive(t))
	check(t, err)
	check(t, os.WriteFile(filepath.Join(m.dir, "v6", "old.tar.gz"), b, 0o600))
	var doc map[string]any
	b, err = os.ReadFile(filepath.Join(other.dir, "v6", "latest.json"))
	check(t, err)
	check(t, json.Unmarshal(b, &doc))
	return "old.tar.gz", doc["checksum"].(string)
}

// authority makes an authority and a certificate of it for some names and loopback.
func authority(t *testing.T, names ...string) (file string, pair tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	root, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	check(t, err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, DNSNames: names, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), key)
	check(t, err)
	file = filepath.Join(t.TempDir(), "ca.pem")
	check(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root}), 0o600))
	return file, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func tlsServer(t *testing.T, pair tls.Certificate, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug) // refused handshakes are the point
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// A mirror whose certificate comes from an authority of its own.
func TestAuthorities(t *testing.T) {
	m := newMirror(t)
	want := m.publish(t, time.Hour)
	file, pair := authority(t)
	other, _ := authority(t)
	junk := filepath.Join(t.TempDir(), "junk.pem")
	check(t, os.WriteFile(junk, []byte("hello"), 0o600))
	s := tlsServer(t, pair, m.Config.Handler)

	d := &Databases{Root: t.TempDir(), URL: s.URL}
	for name, c := range map[string]struct{ file, says string }{
		"none":         {"", "database.ca_file"},
		"another":      {other, "certificate signed by unknown authority"},
		"a file gone":  {"/nonexistent.pem", "/nonexistent.pem"},
		"no PEM in it": {junk, "no PEM certificate"},
	} {
		d.CACert = c.file
		if _, _, err := d.Update(t.Context(), nil); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
	d.CACert = file
	_, _, err := d.Update(t.Context(), nil)
	check(t, err)
	usable(t, d, want)

	// The listing is what vouches for the archive: no redirect takes it off TLS.
	m.publish(t, time.Minute)
	down := tlsServer(t, pair, http.RedirectHandler(m.URL+"/v6/latest.json", http.StatusFound))
	d.URL = down.URL
	if _, _, err := d.Update(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "from https to http") {
		t.Errorf("a redirect to plain HTTP: %v", err)
	}
}

// A mirror whose answers anybody on the way could replace is warned of, where people look
// and in the log.
func TestPlainMirror(t *testing.T) {
	for url, warned := range map[string]bool{
		"": false, "https://mirror.test": false, "http://127.0.0.1:8081/x": false, "http://localhost": false, "http://[::1]:80": false,
		"http://mirror.test": true, "HTTP://robot:hunter2@10.0.0.7:8081/v6/latest.json?sig=hunter2": true, "http://127.0.0.1.mirror.test": true,
	} {
		d := &Databases{Root: t.TempDir(), URL: url}
		if w := d.Status(t.Context()).Warning; (w != "") != warned || warned && !strings.Contains(w, "use https://") || strings.Contains(w, "hunter2") {
			t.Errorf("%s: %q", url, w)
		}
	}
	log, lines := logged()
	d := &Databases{Root: t.TempDir(), URL: "http://mirror.test", Log: log}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	check(t, d.Run(ctx))
	if got := lines(); len(got) != 1 || !strings.Contains(got[0], "level=WARN") || !strings.Contains(got[0], "plain HTTP") {
		t.Errorf("logged %q", got)
	}
}

// Credentials stay with the host that they are for, over redirects too.
func TestCredentials(t *testing.T) {
	m := newMirror(t)
	want := m.publish(t, time.Hour)
	var leaked atomic.Bool
	outside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, _, ok := r.BasicAuth(); ok {
			leaked.Store(true)
		}
		m.Config.Handler.ServeHTTP(w, r)
	}))
	defer outside.Close()
	inside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, password, _ := r.BasicAuth()
		switch {
		case name != "robot" || password != "hunter2%":
			w.WriteHeader(401)
		case strings.HasPrefix(r.URL.Path, "/databases/"):
			http.Redirect(w, r, "http://"+r.Host+strings.TrimPrefix(r.URL.Path, "/databases"), http.StatusMovedPermanently)
		case strings.HasSuffix(r.URL.Path, ".gz"):
			http.Redirect(w, r, strings.Replace(outside.URL, "127.0.0.1", "localhost", 1)+r.URL.Path, http.StatusFound)
		default:
			m.Config.Handler.ServeHTTP(w, r)
		}
	}))
	defer inside.Close()
	d := &Databases{Root: t.TempDir(), URL: strings.Replace(inside.URL, "http://", "http://robot:hunter2%25@", 1) + "/databases/"}
	_, _, err := d.Update(t.Context(), nil)
	check(t, err)
	usable(t, d, want)
	if leaked.Load() {
		t.Error("another host was given the credentials")
	}
}

// No error, status or file holds what may be a secret in a URL, however wrong it is.
func TestURLs(t *testing.T) {
	for _, c := range []struct{ url, says string }{
		{"https://robot:hunter2%zz@mirror.test/", "%25"},
		{"https://robot:hunter2@mirror.test:port/", "can't be read"},
		{"https://hunter2@127.0.0.1:1/", "refused"}, // a token in place of a name
		{"http://127.0.0.1:1/v6/latest.json?token=hunter2", "refused"},
		{"file:///srv/hunter2/databases", "sluice db import"},
		{"/srv/hunter2", "sluice db import"},
		{"ftp://robot:hunter2@mirror.test/", "https://"},
	} {
		d := &Databases{Root: t.TempDir(), URL: c.url}
		_, _, err := d.Update(t.Context(), nil)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", c.url, err, c.says)
		}
		said, _ := json.Marshal(d.Status(t.Context()))
		noted, _ := os.ReadFile(filepath.Join(d.Root, checkFile))
		for _, s := range []string{fmt.Sprint(err), string(said), string(noted)} {
			if strings.Contains(s, "hunter2") {
				t.Errorf("%s: the secret is in %s", c.url, s)
			}
		}
	}
}

// The environment's proxy is used, with its password, which nobody gets to see.
func TestProxy(t *testing.T) {
	m := newMirror(t)
	want := m.publish(t, time.Hour)
	file, pair := authority(t, "mirror.test")
	secure := tlsServer(t, pair, m.Config.Handler)
	var asked atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Header.Get("Proxy-Authorization") != "Basic cm9ib3Q6aHVudGVyMg==" { // robot:hunter2
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		if r.Method != http.MethodConnect {
			m.Config.Handler.ServeHTTP(w, r)
			return
		}
		up, err := net.Dial("tcp", secure.Listener.Addr().String())
		if err != nil {
			return
		}
		down, buffered, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		io.WriteString(down, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { io.Copy(up, buffered); up.Close() }()
		io.Copy(down, up)
		down.Close()
	}))
	defer proxy.Close()
	withPassword := func(password string) string {
		u, _ := url.Parse(proxy.URL)
		u.User = url.UserPassword("robot", password)
		return u.String()
	}
	for _, c := range []struct {
		name, url, says string
		env             []string
		asked           bool
	}{
		{"http", "http://mirror.test", "", []string{"HTTP_PROXY=" + withPassword("hunter2")}, true},
		{"https", "https://mirror.test", "", []string{"HTTPS_PROXY=" + withPassword("hunter2")}, true},
		{"wrong password", "http://mirror.test", "HTTPS_PROXY or HTTP_PROXY", []string{"HTTP_PROXY=" + withPassword("hunter3")}, true},
		{"wrong password, https", "https://mirror.test", "Proxy Authentication Required", []string{"HTTPS_PROXY=" + withPassword("hunter3")}, true},
		{"not for this one", "http://127.0.0.2:1", "refused", []string{"HTTP_PROXY=" + withPassword("hunter2"), "NO_PROXY=127.0.0.2"}, false},
		{"proxy down", "http://mirror.test", "refused", []string{"HTTP_PROXY=http://robot:hunter2@127.0.0.1:1"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			asked.Store(0)
			d := &Databases{Root: t.TempDir(), URL: c.url}
			env := append([]string{envCA + "=" + file, "HTTP_PROXY=", "HTTPS_PROXY=", "http_proxy=", "https_proxy=", "NO_PROXY=", "no_proxy="}, c.env...)
			p, said := child(t, d, env...)
			err := p.Wait()
			if (err == nil) != (c.says == "") || !strings.Contains(said.String(), c.says) {
				t.Errorf("%v, %s; want %q", err, said, c.says)
			}
			if (asked.Load() > 0) != c.asked {
				t.Errorf("the proxy was asked %d times", asked.Load())
			}
			noted, _ := os.ReadFile(filepath.Join(d.Root, checkFile))
			for _, secret := range []string{"hunter2", "hunter3"} {
				if strings.Contains(said.String()+string(noted), secret) {
					t.Errorf("the proxy's password is in %s or %s", said, noted)
				}
			}
			if c.says == "" {
				usable(t, d, want)
			}
		})
	}
}
