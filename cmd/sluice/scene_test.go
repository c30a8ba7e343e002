package main

import (
	"database/sql"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sluicegate/sluice/configs"
	"github.com/sluicegate/sluice/scan"
	"github.com/sluicegate/sluice/scan/vuln"
	"github.com/sluicegate/sluice/scan/vuln/sampledb"
)

// config is that of a gateway in this process, in front of the scene's registry, with so
// many workers. Its database is what is imported.
func (s *scene) config(t *testing.T, workers int) configs.Config {
	t.Helper()
	addr, err := freeAddr()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SLUICE_CGR_DEV_USERNAME", s.user)
	t.Setenv("SLUICE_CGR_DEV_PASSWORD", s.password)
	c := configs.Default()
	c.Listen, c.AdminListen, c.StateDir = addr, "", t.TempDir()
	c.Upstreams[0].URL = s.origin.URL()
	c.Database.UpdateEvery, c.Database.MaxAge = 0, 0
	c.Scan.Workers, c.Gate.Drain, c.Log.Level = workers, 10*time.Second, "error"
	if c, err = c.Resolve(os.Getenv); err != nil {
		t.Fatal(err)
	}
	return c
}

// bring imports a database that was built at a time, without what is known of a package
// unless that is empty, as people do beside a gateway.
func (s *scene) bring(t *testing.T, d *vuln.Databases, built time.Time, without string) scan.Database {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "db")
	db, err := sampledb.Copy(s.database, dir, built)
	if err == nil && without != "" {
		err = forget(dir, without)
	}
	if err == nil {
		db, err = d.Import(t.Context(), filepath.Join(dir, "vulnerability.db"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// forget removes what a database knows of a package.
func forget(dir, name string) error {
	db, err := sql.Open("sqlite", filepath.Join(dir, "vulnerability.db"))
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.Exec("DELETE FROM affected_package_handles WHERE package_id IN (SELECT id FROM packages WHERE name = ?)", name)
	return err
}
