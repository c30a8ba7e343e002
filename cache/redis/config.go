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
	// URL is one of these, each with rediss… in place of redis… for TLS:
	//
	//	redis://[USER[:PASSWORD]@]HOST[:PORT][/DB]
	//	redis-cluster://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]…]
	//	redis-sentinel://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]…]/MASTER[/DB]
	//	unix://[USER[:PASSWORD]@]/PATH[?db=DB]
	//
	// Of a Cluster some of the nodes are enough; of Sentinels the port is 26379 where none
	// stands. Neither it nor a part of it that may be a password is ever shown.
	URL string

	// Username and Password, where they are set, take the place of those in URL. A
	// password belongs in the environment or in a file rather than in a URL.
	Username, Password string

	// Prefix begins every key, so that several gateways can share a server without
	// sharing what they remember. Default "sluice:".
	Prefix string

	// SentinelPassword is what Sentinels ask for, where they do. User and password are for
	// the servers behind them.
	SentinelPassword string

	// CAFile holds the certificates, in PEM, that the server's may be signed by, in
	// place of the system's. It needs rediss://.
	CAFile string

	// ServerName is the name that the server's certificate must bear, where it is not
	// the host in URL.
	ServerName string

	// CertFile and KeyFile, in PEM, are what the server knows this client by, where it asks
	// for a certificate.
	CertFile, KeyFile string

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
var errURL = errors.New("the URL of the store is not valid: write it as redis://HOST:PORT/DB, redis-cluster://HOST:PORT,HOST:PORT, " +
	"redis-sentinel://HOST:PORT,HOST:PORT/MASTER/DB or unix:///PATH?db=DB, rediss… for TLS, " +
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
	to, err := targetOf(u)
	if err != nil {
		return nil, "", err
	}
	o.Addrs, o.DB, o.MasterName, o.IsClusterMode = to.addrs, to.db, to.master, to.cluster
	o.SentinelPassword = c.SentinelPassword
	addr := strings.Join(to.addrs, ",")
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

// A target is where to connect.
type target struct {
	addrs   []string // HOST:PORT, or a path
	db      int
	master  string // what Sentinels are asked for
	cluster bool
}

// targetOf returns what u is the URL of.
func targetOf(u *url.URL) (to target, err error) {
	if u.Fragment != "" || u.Opaque != "" || u.Scheme != "unix" && u.RawQuery != "" {
		return to, errURL
	}
	path, port := strings.Trim(u.Path, "/"), "6379"
	switch strings.Replace(u.Scheme, "rediss", "redis", 1) {
	case "redis":
		if strings.Contains(u.Host, ",") {
			return to, errURL
		}
	case "redis-cluster":
		to.cluster = true
		if path != "" { // a Cluster has one database
			return to, errURL
		}
	case "redis-sentinel":
		port = "26379"
		if to.master, path, _ = strings.Cut(path, "/"); to.master == "" {
			return to, errURL
		}
	case "unix":
		return unixTarget(u)
	default:
		return to, errURL
	}
	for host := range strings.SplitSeq(u.Host, ",") {
		h := url.URL{Host: host}
		if h.Hostname() == "" || strings.Contains(h.Port(), ":") {
			return to, errURL
		}
		to.addrs = append(to.addrs, net.JoinHostPort(h.Hostname(), cmp.Or(h.Port(), port)))
	}
	to.db, err = database(path)
	return to, err
}

func unixTarget(u *url.URL) (to target, err error) {
	query := u.Query()
	number := query.Get("db")
	query.Del("db")
	if u.Host != "" || u.Path == "" || len(query) > 0 {
		return to, errURL
	}
	to.addrs = []string{u.Path}
	to.db, err = database(number)
	return to, err
}

// database reads the number of a database; none is 0.
func database(number string) (int, error) {
	if number == "" {
		return 0, nil
	}
	db, err := strconv.Atoi(number)
	if err != nil || db < 0 {
		return 0, errURL
	}
	return db, nil
}

func (c Config) tls(u *url.URL) (*tls.Config, error) {
	if !strings.HasPrefix(u.Scheme, "rediss") {
		if c.CAFile != "" || c.ServerName != "" || c.CertFile != "" || c.KeyFile != "" {
			return nil, errors.New("the store has a CA file, a server name or a certificate for TLS, but its URL is not rediss://")
		}
		return nil, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.ServerName} // none: that of the node that is dialled
	if c.CertFile != "" || c.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("the store's client certificate: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
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
