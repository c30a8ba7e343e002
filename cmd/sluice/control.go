package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/sluicegate/sluice/configs"
	"github.com/sluicegate/sluice/proxy/api"
	"github.com/sluicegate/sluice/proxy/connection"
	"github.com/sluicegate/sluice/proxy/upstream"
)

// controlSocket is where a running gateway takes orders from this machine. The
// embedded store is one process's alone, so that commands which change what is in it
// go through the gateway while that runs. Whoever may open the state's folder, which
// only its owner may, may also give orders.
func controlSocket(c configs.Config) string { return filepath.Join(c.StateDir, "control.sock") }

func (h *house) controlServer() (*server, error) {
	path := controlSocket(h.config)
	// A socket that a killed gateway left behind: the store's lock says that none runs.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w; a shorter state_dir may help", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	c := &api.Connections{Vault: h.connections, Log: h.log, Registry: func(name string) *upstream.Registry {
		for _, u := range h.gateway.Settings().Upstreams {
			if u.Name == name {
				return u.Registry
			}
		}
		return nil
	}}
	mux := http.NewServeMux()
	mux.Handle("/api/v1/", c.Handler())
	waivers := (&api.Waivers{Book: h.exceptions, Log: h.log}).Handler()
	mux.Handle("/api/v1/waivers", waivers)
	mux.Handle("/api/v1/waivers/", waivers)
	mux.Handle(whatIfPath, (&api.WhatIfs{Gateway: h.gateway, Compile: h.candidate, Log: h.log}).Handler())
	mux.HandleFunc("POST "+cachePath, h.serveCache)
	mux.HandleFunc("GET "+reevaluationPath, h.serveReevaluation)
	mux.HandleFunc("GET "+auditPath, h.serveAudit)
	mux.HandleFunc("POST "+reloadPath, h.serveReload)
	mux.HandleFunc("GET "+eventsPath, h.serveEvents)
	mux.HandleFunc("GET "+deadPath, h.serveDead)
	mux.HandleFunc("POST "+retryPath, h.serveRetry)
	s := &server{Server: newServer(mux, h.log), listener: l}
	s.ConnContext = withPeer
	return s, nil
}

// control is a running gateway, seen through its control socket.
type control struct{ http.Client }

// running returns the gateway that runs in the state's folder, nil where none answers. A
// store that gateways share needs none of them.
func running(c configs.Config) *control {
	if c.Store != "" {
		return nil
	}
	return controlOf(c)
}

// controlOf returns the gateway that runs in the state's folder, whatever its store.
func controlOf(c configs.Config) *control {
	path := controlSocket(c)
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return nil
	}
	conn.Close()
	return dialControl(path)
}

func dialControl(path string) *control {
	return &control{http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}}
}

var _ api.Vault = (*control)(nil)

func (c *control) Set(ctx context.Context, name string, creds upstream.Credentials) error {
	body, err := json.Marshal(map[string]string{"username": creds.Username, "password": creds.Password})
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodPut, "/"+url.PathEscape(name), body, nil)
}

func (c *control) SetNext(ctx context.Context, name string, creds upstream.Credentials) error {
	body, err := json.Marshal(map[string]string{"username": creds.Username, "password": creds.Password})
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodPut, "/"+url.PathEscape(name)+"?slot=next", body, nil)
}

func (c *control) Promote(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodPost, "/"+url.PathEscape(name)+"/promote", nil, nil)
}

func (c *control) Remove(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/"+url.PathEscape(name), nil, nil)
}

func (c *control) List(ctx context.Context) (infos []connection.Info, err error) {
	return infos, c.call(ctx, http.MethodGet, "", nil, &infos)
}

// Test has the gateway try the pull token in force.
func (c *control) Test(ctx context.Context, name, repository string) (r connection.Result, err error) {
	return r, c.call(ctx, http.MethodPost, "/"+url.PathEscape(name)+"/test?repository="+url.QueryEscape(repository), nil, &r)
}

func (c *control) call(ctx context.Context, method, path string, body []byte, into any) error {
	return c.callPath(ctx, method, "/api/v1/connections"+path, body, into)
}

func (c *control) callPath(ctx context.Context, method, path string, body []byte, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://gateway"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return fmt.Errorf("ask the running gateway: %w", errors.Unwrap(err))
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return fmt.Errorf("ask the running gateway: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return gatewayError(resp, b)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(b, into)
}
