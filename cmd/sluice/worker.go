package main

import (
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sluicegate/sluice/configs"
	"github.com/sluicegate/sluice/scan"
	"github.com/sluicegate/sluice/scan/sbom"
	"github.com/sluicegate/sluice/scan/vuln"
	"github.com/sluicegate/sluice/scan/worker"
)

// newWorkers returns the pool of processes that catalogue and match: this binary, run
// as `sluice worker`.
func newWorkers(c configs.Config, log *slog.Logger) (*worker.Pool, error) {
	recipe, err := recipe()
	if err != nil {
		return nil, err
	}
	return &worker.Pool{Versions: recipe, Size: c.Scan.Workers, TempDir: filepath.Join(c.Spool.Dir, "work"), Log: log}, nil
}

// recipe names what verdicts depend on in this binary.
func recipe() (scan.Recipe, error) {
	syft, catalogue, err := sbom.Recipe()
	return scan.Recipe{Syft: syft, Catalogue: catalogue, Grype: vuln.Version(), Match: vuln.Settings()}, err
}

// workerCommand is the child that parses what strangers send. It ends when its
// standard input does.
func workerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "worker",
		Short:  "Catalogue and match for a gateway, over pipes",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			signal.Ignore(os.Interrupt, syscall.SIGTERM) // the gateway drains first, then ends it
			return worker.Serve(cmd.Context(), os.Stdin, os.Stdout, &sbom.Cataloguer{}, &vuln.Matcher{})
		},
	}
}
