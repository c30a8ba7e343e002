package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/cache/disk"
	"github.com/sluicegate/sluice/cache/objects"
	"github.com/sluicegate/sluice/cache/redis"
	"github.com/sluicegate/sluice/configs"
)

// openStore opens the store that the configuration names, as it is.
func openStore(ctx context.Context, c configs.Config, log *slog.Logger) (cache.Store, error) {
	if c.Store == "" {
		return disk.Open(filepath.Join(c.StateDir, "store.db"))
	}
	return openRedis(ctx, c, log)
}

func openRedis(ctx context.Context, c configs.Config, log *slog.Logger) (*redis.Store, error) {
	redis.RouteLog(log)
	r := redis.Config{URL: c.Store, Username: c.Redis.Username, Password: os.Getenv(configs.EnvRedisPassword), Prefix: c.Redis.Prefix,
		CAFile: c.Redis.CAFile, ServerName: c.Redis.ServerName, CertFile: c.Redis.CertFile, KeyFile: c.Redis.KeyFile,
		Timeout: c.Redis.Timeout, PoolSize: c.Redis.Connections}
	for _, secret := range []struct {
		key, file string
		to        *string
	}{{"redis.password_file", c.Redis.PasswordFile, &r.Password}, {"redis.sentinel_password_file", c.Redis.SentinelPasswordFile, &r.SentinelPassword}} {
		if secret.file == "" {
			continue
		}
		b, err := os.ReadFile(secret.file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", secret.key, err)
		}
		*secret.to = strings.TrimRight(string(b), "\r\n")
	}
	s, err := redis.Open(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return s, nil
}

// openStore opens the gateway's store. One that is shared is waited for, since gateways and
// it may be started together, and has copies of what is read lately before it.
func (h *house) openStore(ctx context.Context) (err error) {
	if h.config.Store == "" {
		h.store, err = openStore(ctx, h.config, h.log)
		return err
	}
	shared, err := openRedis(ctx, h.config, h.log)
	for waited := false; errors.Is(err, cache.ErrDown) && ctx.Err() == nil; waited = true {
		if !waited {
			h.log.Error("waiting for the store: nothing is served until it can be reached", "error", err)
			h.waitsFor("waiting for the store: " + err.Error())
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
			shared, err = openRedis(ctx, h.config, h.log)
		}
	}
	if err != nil {
		return err
	}
	h.waitsFor("starting")
	h.local = cache.NewLocal(shared, cache.LocalConfig{Fixed: fixedKinds(), Never: uncopiedKinds(), Remade: remadeKinds(), Log: h.log})
	h.store = h.local
	return nil
}

// fixedKinds are those whose keys are of what they hold.
func fixedKinds() []cache.Kind {
	return []cache.Kind{"manifest", "config", "sbom", "packages", "verdict", "baselayers"}
}

// uncopiedKinds are those whose readers have rules of their own for when the store is gone:
// for how long waivers and pull tokens still count then.
func uncopiedKinds() []cache.Kind { return []cache.Kind{"waivers", "waiversat", "connection"} }

// remadeKinds are those that are made again where they are missing, and of which nothing
// that denies rests on an entry being there: not what people have entered, not denials, nor
// who lists a blob, which a listing alone knows of images that upstream has no more.
func remadeKinds() []cache.Kind {
	return []cache.Kind{"layer", "image", "sbom", "packages", "verdict", "manifest", "config", "served", "vouched",
		"tag", "base", "baselayers", "history", "pulled", "callers", "databases", "fetched", "raised", "signatures"}
}

// openObjects returns where gateways share blobs, nil for nowhere.
func (h *house) openObjects() error {
	c := h.config.Objects
	if c.URL == "" {
		return nil
	}
	o := objects.Config{URL: c.URL, Region: c.Region, AccessKey: c.AccessKey, SecretKey: os.Getenv(configs.EnvObjectsSecretKey), CAFile: c.CAFile, Log: h.log}
	if c.SecretKeyFile != "" {
		b, err := os.ReadFile(c.SecretKeyFile)
		if err != nil {
			return fmt.Errorf("objects.secret_key_file: %w", err)
		}
		o.SecretKey = strings.TrimRight(string(b), "\r\n")
	}
	if c.AccessKey != "" && o.SecretKey == "" {
		return fmt.Errorf("objects.access_key: there is no secret for it: put it into the environment as %s, or into a file for objects.secret_key_file", configs.EnvObjectsSecretKey)
	}
	var err error
	if h.objects, err = objects.Open(o); err != nil {
		return fmt.Errorf("objects: %w", err)
	}
	return nil
}

// objectsCheck says how the object store is. Without it a gateway is as ready as with it,
// and upstream has more to do.
func (h *house) objectsCheck(ctx context.Context) check {
	c := check{Name: "objects", OK: true}
	if err := h.objects.Ping(ctx); err != nil {
		since, _ := h.objects.State()
		c.Detail = fmt.Sprintf("%v; since %s blobs come from upstream alone", err, since.UTC().Format(time.RFC3339))
	}
	return c
}

// replicaName names this gateway to people who look at what gateways share.
func replicaName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s/%d", host, os.Getpid())
}

// storePatience is how long readiness waits for the store: one that takes longer is no more
// use to an unknown image than one that is gone.
const storePatience = 2 * time.Second

// storeCheck says how the store is. A gateway that can answer from its copies is not ready
// all the same: unknown images have to go to another.
func (h *house) storeCheck(ctx context.Context) check {
	limited, cancel := context.WithTimeout(ctx, storePatience)
	defer cancel()
	err := h.store.Ping(limited)
	if err == nil {
		return check{Name: "store", OK: true}
	}
	if limited.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("the store has not answered within %v", storePatience)
	}
	c := check{Name: "store", Detail: err.Error()}
	if h.local != nil {
		s := h.local.Stats()
		c.Detail += fmt.Sprintf("; since %s what is in memory answers, %s", s.Since.UTC().Format(time.RFC3339), plural(s.Copies, "value"))
	}
	return c
}

// measureStore counts what a shared store is asked, and what it need not be.
func (h *house) measureStore() []prometheus.Collector {
	var all []prometheus.Collector
	if h.objects != nil {
		all = append(all, gauge("sluice_object_store_up", "Whether the shared object store could be used when it was asked last.", nil, func() float64 {
			if _, down := h.objects.State(); down != nil {
				return 0
			}
			return 1
		}))
	}
	if h.local == nil {
		return all
	}
	count := func(name, help string, f func(cache.LocalStats) float64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return f(h.local.Stats()) })
	}
	return append(all,
		count("sluice_store_asked_total", "Calls that went to the shared store.", func(s cache.LocalStats) float64 { return float64(s.Asked) }),
		count("sluice_store_local_total", "Reads of the shared store that a copy in memory answered.", func(s cache.LocalStats) float64 { return float64(s.Hits) }),
		count("sluice_store_stale_total", "Those among them that were answered so because the store was slow or gone.", func(s cache.LocalStats) float64 { return float64(s.Stale) }),
		gauge("sluice_store_local_bytes", "Bytes that copies of the shared store take in memory.", nil, func() float64 { return float64(h.local.Stats().Bytes) }),
	)
}
