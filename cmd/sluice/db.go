package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicegate/sluice/configs"
	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/scan/vuln"
)

func dbCommand(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "db",
		Short: "The vulnerability database: status, update, import",
		Long:  "The vulnerability database. A running gateway takes up a new build within seconds.",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(g.dbUpdate(), g.dbStatus(), g.dbImport())
	return cmd
}

func (g *global) dbUpdate() *cobra.Command {
	var mirror string
	cmd := &cobra.Command{
		Use:   "update",
		Short: "Download a newer build, if there is one",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := g.databases()
			if err != nil {
				return err
			}
			if mirror != "" {
				if u, err := url.Parse(mirror); err != nil || u.User != nil {
					return usage("--url: is no URL, or holds credentials, which every user of this machine could read: put it into the environment as %s", configs.EnvDatabaseURL)
				}
				d.URL = mirror
			}
			p := newProgress("downloading the vulnerability database")
			d.Waiting = func(who string, most time.Duration) {
				fmt.Fprintf(cmd.ErrOrStderr(), "sluice: another update is under way (%s); waiting for it, %s at most\n", who, most)
			}
			_, changed, err := d.Update(cmd.Context(), p.bytes)
			p.done()
			if err != nil {
				return err
			}
			return g.printDatabase(cmd, d, map[bool]string{true: "updated", false: "already the newest"}[changed])
		},
	}
	cmd.Flags().StringVar(&mirror, "url", "", "mirror to download from (default: database.url of the configuration)")
	return cmd
}

func (g *global) dbStatus() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Say which build is active and whether it is fresh enough",
		Long:  "Say which build is active, whether it is fresh enough, and how the last check for a newer one went. Exit status 1 when there is none that can be used.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := g.databases()
			if err != nil {
				return err
			}
			return g.printDatabase(cmd, d, "")
		},
	}
}

func (g *global) dbImport() *cobra.Command {
	var older bool
	cmd := &cobra.Command{
		Use:     "import FILE",
		Short:   "Install a build from an archive, where there is no network",
		Long:    "Install a build from an archive as a mirror serves it (.tar.zst, .tar.gz, .tar), from a vulnerability.db (also .zst, .gz), or from a folder with one. What is active stays so if the file is no good.",
		Example: "  sluice db import vulnerability-db_v6.1.10_2026-11-20T06:12:11Z_1763622000.tar.zst",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := g.databases()
			if err != nil {
				return err
			}
			if u, err := url.Parse(args[0]); err == nil && (u.Scheme == "https" || u.Scheme == "http") {
				return usage("import takes a file; what a mirror serves is fetched by `sluice db update --url URL`, the URL being that of the folder above v6/latest.json")
			}
			bring, did := d.Import, "imported"
			if older {
				bring = d.ImportAny
			}
			p := newProgress("importing")
			p.say(args[0])
			_, err = bring(cmd.Context(), args[0])
			p.done()
			if errors.Is(err, vuln.ErrOlder) {
				return &exitError{exitNo, fmt.Errorf("%w; what was published in between would be missed: give --force to go back all the same", err)}
			}
			if err != nil {
				return err
			}
			if older && !d.Offline {
				did += " (the next update takes the newest one again, unless database.update_every is 0s)"
			}
			return g.printDatabase(cmd, d, did)
		},
	}
	cmd.Flags().BoolVar(&older, "force", false, "take a build that is older than the active one, to go back")
	return cmd
}

func (g *global) databases() (*vuln.Databases, error) {
	c, err := g.load()
	if err != nil {
		return nil, err
	}
	return openDatabases(c, nil), nil
}

// printDatabase says how the database stands. One that can't be used is the answer no.
func (g *global) printDatabase(cmd *cobra.Command, d *vuln.Databases, did string) error {
	s := d.Status(cmd.Context())
	w := cmd.OutOrStdout()
	r := g.reevaluation(cmd.Context())
	if g.output == "json" {
		if err := printJSON(w, databaseStatus{s, r}); err != nil {
			return err
		}
	} else {
		printDatabaseTable(w, s, r, did)
	}
	if s.Unknown {
		return &exitError{status: exitUnknown}
	}
	if s.Error != "" {
		return no()
	}
	return nil
}

func printDatabaseTable(w io.Writer, s vuln.Status, r *proxy.Reevaluation, did string) {
	p := paletteFor(w)
	state := p.good("usable")
	if s.Error != "" {
		state = p.bad("not usable") + ": " + s.Error
	}
	if did != "" {
		state = did + ", " + state
	}
	rows := [][]string{{"state", state}}
	if !s.Built.IsZero() {
		limit := "no limit"
		if age := time.Duration(s.MaxAge) * time.Second; age < noAgeLimit {
			limit = "limit " + age.String()
		}
		rows = append(rows,
			[]string{"built", s.Built.UTC().Format(time.RFC3339) + fmt.Sprintf(" (%s ago, %s)", (time.Duration(s.Age)*time.Second).Round(time.Minute), limit)},
			[]string{"checksum", s.Checksum}, []string{"schema", s.Schema}, []string{"file", s.Path}, []string{"from", s.Source})
	}
	mirror := s.URL
	if s.Offline {
		mirror += " (asked only by `sluice db update`: database.update_every is 0s)"
	}
	rows = append(rows, []string{"mirror", mirror})
	if s.Warning != "" {
		rows = append(rows, []string{"", p.warn("warning") + ": " + s.Warning})
	}
	if !s.LastCheck.IsZero() {
		last := s.LastCheck.UTC().Format(time.RFC3339)
		if s.LastError != "" {
			last += ", " + p.warn("failed") + fmt.Sprintf(" (%s, %s in a row): %s", s.LastReason, plural(s.Failures, "failure"), clean(s.LastError))
		}
		rows = append(rows, []string{"last check", last})
		if s.LastError != "" && !s.LastSuccess.IsZero() {
			rows = append(rows, []string{"last good check", s.LastSuccess.UTC().Format(time.RFC3339)})
		}
	}
	if r != nil && r.Total > 0 {
		rows = append(rows, []string{"images matched", reevaluationText(*r, time.Now())})
	}
	table(w, rows)
}
