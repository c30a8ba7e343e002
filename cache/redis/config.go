package redis

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Config says which Redis to use. Only URL is needed.
type Config struct {
	// URL is redis://[USER[:PASSWORD]@]HOST[:PORT][/DB], rediss://… for TLS, or
	// unix://[USER[:PASSWORD]@]/PATH[?db=DB]. Neither it nor a part of it that may be
	// a password is ever shown.
	URL string

	// Username and Password, where they are set, take the place of those in URL. A
	// password belongs in the environment or in a file rather than in a URL.
	Username, Password string

	// Prefix begins every key, so that several gateways can share a server without
	// sharing what they remember. Default "sluice:".
	Prefix string

	// CAFile holds the certificates, in PEM, that the server's may be signed by, in
	// place of the system's. It needs rediss://.
	CAFile string

	// ServerName is the name that the server's certificate must bear, where it is not
	// the host in URL.
	ServerName string

	// DialTimeout bounds making a connection, TLS included. Default 3 s.
	DialTimeout time.Duration

	// Timeout bounds each call of the Store, its retries and the wait for a connection
	// included. Default 5 s: enough for the largest value at 100 Mbit/s.
	Timeout time.Duration

	// PoolSize is the greatest number of connections. Default 16.
	PoolSize int
}

// errURL is all that is said of a URL that can't be read: whatever is wrong with it,
// the password may be in what would be quoted.
var errURL = errors.New("the URL of the store is not valid: write it as redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///PATH?db=DB, " +
	"with the special characters of a password as %XX, or better with the password outside of the URL")

// options returns go-redis's options, and the server's address for messages.
func (c Config) options() (*redis.UniversalOptions, string, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, "", errURL
	}
	o := &redis.UniversalOptions{
		Username:              c.Username,
		Password:              c.Password,
		DialTimeout:           cmp.Or(c.DialTimeout, 3*time.Second),
		ReadTimeout:           cmp.Or(c.Timeout, 5*time.Second),
		ContextTimeoutEnabled: true,
		DialerRetries:         1, // the retries of a command dial anew
		MaxRetries:            2,
		PoolSize:              cmp.Or(c.PoolSize, 16),
		MaxActiveConns:        cmp.Or(c.PoolSize, 16),
		PipelinePoolSize:      -1,
		// Wait for a connection as long as for an answer.
		PoolTimeout:              cmp.Or(c.Timeout, 5*time.Second),
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	if u.User != nil && o.Username == "" {
		o.Username = u.User.Username()
	}
	if o.Password == "" && u.User != nil {
		o.Password, _ = u.User.Password()
	}
	addr, db, err := target(u)
	if err != nil {
		return nil, "", err
	}
	o.Addrs, o.DB = []string{addr}, db
	if o.TLSConfig, err = c.tls(u); err != nil {
		return nil, "", err
	}
	if u.Scheme == "unix" {
		o.Dialer = func(ctx context.Context, _, _ string) (net.Conn, error) {
			d := net.Dialer{Timeout: o.DialTimeout}
			return d.DialContext(ctx, "unix", addr)
		}
	}
	return o, addr, nil
}

// target returns the address, HOST:PORT or a path, and the database of u.
func target(u *url.URL) (addr string, db int, err error) {
	number := strings.Trim(u.Path, "/")
	switch u.Scheme {
	case "redis", "rediss":
		if u.RawQuery != "" || u.Hostname() == "" {
			return "", 0, errURL
		}
		addr = net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "6379"))
	case "unix":
		query := u.Query()
		number = query.Get("db")
		query.Del("db")
		if u.Host != "" || u.Path == "" || len(query) > 0 {
			return "", 0, errURL
		}
		addr = u.Path
	default:
		return "", 0, errURL
	}
	if u.Fragment != "" || u.Opaque != "" {
		return "", 0, errURL
	}
	if number != "" {
		if db, err = strconv.Atoi(number); err != nil || db < 0 {
			return "", 0, errURL
		}
	}
	return addr, db, nil
}

func (c Config) tls(u *url.URL) (*tls.Config, error) {
	if u.Scheme != "rediss" {
		if c.CAFile != "" || c.ServerName != "" {
			return nil, errors.New("the store has a CA file or a server name for TLS, but its URL is not rediss://")
		}
		return nil, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: cmp.Or(c.ServerName, u.Hostname())}
	if c.CAFile == "" {
		return t, nil
	}
	pem, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("the store's CA file: %w", err)
	}
	t.RootCAs = x509.NewCertPool()
	if !t.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("the store's CA file %s has no certificate in PEM", c.CAFile)
	}
	return t, nil
}
