package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

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
	var url string
	update := &cobra.Command{
		Use:   "update",
		Short: "Download a newer build, if there is one",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := g.databases()
			if err != nil {
				return err
			}
			if url != "" {
				d.URL = url
			}
			p := newProgress("downloading the vulnerability database")
			_, changed, err := d.Update(cmd.Context(), p.bytes)
			p.done()
			if err != nil {
				return err
			}
			return g.printDatabase(cmd, d, map[bool]string{true: "updated", false: "already the newest"}[changed])
		},
	}
	update.Flags().StringVar(&url, "url", "", "mirror to download from (default: database.url of the configuration)")
	cmd.AddCommand(update,
		&cobra.Command{
			Use:   "status",
			Short: "Say which build is active and whether it is fresh enough",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				d, err := g.databases()
				if err != nil {
					return err
				}
				return g.printDatabase(cmd, d, "")
			},
		},
		&cobra.Command{
			Use:     "import FILE",
			Short:   "Install a build from an archive, where there is no network",
			Long:    "Install a build from an archive as a mirror serves it (.tar.zst, .tar.gz, .tar.xz), from a vulnerability.db, or from a folder with one.",
			Example: "  sluice db import vulnerability-db_v6.1.10_2026-11-20T06:12:11Z_1763622000.tar.zst",
			Args:    cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				d, err := g.databases()
				if err != nil {
					return err
				}
				p := newProgress("importing")
				p.say(args[0])
				_, err = d.Import(cmd.Context(), args[0])
				p.done()
				if err != nil {
					return err
				}
				return g.printDatabase(cmd, d, "imported")
			},
		})
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
	if g.output == "json" {
		if err := printJSON(w, s); err != nil {
			return err
		}
	} else {
		printDatabaseTable(w, s, did)
	}
	if s.Error != "" {
		return no()
	}
	return nil
}

func printDatabaseTable(w io.Writer, s vuln.Status, did string) {
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
		rows = append(rows,
			[]string{"built", s.Built.UTC().Format(time.RFC3339) + fmt.Sprintf(" (%s ago, limit %s)", (time.Duration(s.Age)*time.Second).Round(time.Hour), time.Duration(s.MaxAge)*time.Second)},
			[]string{"checksum", s.Checksum}, []string{"schema", s.Schema}, []string{"file", s.Path}, []string{"from", s.Source})
	}
	rows = append(rows, []string{"mirror", s.URL})
	if !s.LastCheck.IsZero() {
		last := s.LastCheck.UTC().Format(time.RFC3339)
		if s.LastError != "" {
			last += ", failed: " + s.LastError
		}
		rows = append(rows, []string{"last check", last})
	}
	table(w, rows)
}
