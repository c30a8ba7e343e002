package main

import (
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/sluicegate/sluice/configs"
	"github.com/sluicegate/sluice/scan"
	"github.com/sluicegate/sluice/scan/sbom"
	"github.com/sluicegate/sluice/scan/vuln"
	"github.com/sluicegate/sluice/scan/worker"
)

// newWorkers returns the pool of processes that catalogue and match: this binary, run
// as `sluice worker`. They may read what lies under the directories of layers and
// databases, both of which are made where they are missing.
func newWorkers(c configs.Config, layers, databases string, log *slog.Logger) (*worker.Pool, error) {
	recipe, err := recipe()
	if err != nil {
		return nil, err
	}
	read := make([]string, 0, 2)
	for _, dir := range []string{layers, databases} {
		if dir, err = filepath.Abs(dir); err != nil { // workers have another working directory
			return nil, err
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("%w; it has to be there before a worker starts", err)
		}
		read = append(read, dir)
	}
	cores, memory := worker.Machine()
	size, limit := worker.Fit(cores, memory, c.Scan.Workers)
	if c.Scan.WorkerMemory > 0 {
		limit = int64(c.Scan.WorkerMemory)
	}
	return &worker.Pool{Versions: recipe, Size: size, MemoryLimit: limit, TempLimit: int64(c.Scan.WorkerTemp), Read: read,
		TempDir: filepath.Join(c.Spool.Dir, "work"), Log: log}, nil
}

// reportWorkers logs what the machine carries, once it does.
func reportWorkers(p *worker.Pool, log *slog.Logger) {
	cores, memory := worker.Machine()
	log.Info("workers are warm", "workers", p.Size, "memory_each", bytesText(p.MemoryLimit), "temp_each", bytesText(p.TempLimit), "cores", cores, "memory", bytesText(memory), "walls", p.Walls())
}

// coldFor is how long there may be no worker process that can be asked: to replace one
// takes seconds, and an image that ends them is no reason to take the gateway away.
const coldFor = time.Minute

// workersCheck is the readiness of workers, with how many there are and what keeps them in.
func workersCheck(p *worker.Pool, warm *string) check {
	if warm == nil {
		return check{"worker", false, "starting"}
	}
	n, cold := p.Warm()
	w := p.Walls()
	switch {
	case w == nil: // none ever was
		return check{"worker", false, *warm}
	case n == 0 && time.Since(cold) > coldFor:
		return check{"worker", false, "none is ready since " + cold.UTC().Format(time.RFC3339) + "; the log says why"}
	}
	c := check{Name: "worker", OK: true, Detail: fmt.Sprintf("%s of %s each; %s", plural(p.Size, "worker"), bytesText(p.MemoryLimit), w)}
	if n < p.Size {
		c.Detail += fmt.Sprintf("; %d not ready yet", p.Size-n)
	}
	return c
}

// measureWorkers measures what the workers do, and what keeps them in.
func measureWorkers(p *worker.Pool) []prometheus.Collector {
	wall := func(name string, up func(worker.Walls) bool) prometheus.Collector {
		return gauge("sluice_worker_wall", "1 while the kernel keeps worker processes from files, or system calls, that they don't need.", prometheus.Labels{"wall": name}, func() float64 {
			w := p.Walls()
			return oneIf(w != nil && up(*w))
		})
	}
	return []prometheus.Collector{
		gauge("sluice_workers", "Processes that catalogue and match.", nil, func() float64 { return float64(p.Size) }),
		gauge("sluice_workers_warm", "Of these, those that can be asked now.", nil, func() float64 { n, _ := p.Warm(); return float64(n) }),
		gauge("sluice_worker_memory_limit_bytes", "Memory that one worker process should not use more of; at twice as many it ends.", nil, func() float64 { return float64(p.MemoryLimit) }),
		gauge("sluice_scans_running", "Images and matches in worker processes now.", nil, func() float64 { return float64(p.Load().Running) }),
		gauge("sluice_scans_waiting", "Images and matches that wait for a free worker process.", nil, func() float64 { return float64(p.Load().Waiting) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "sluice_worker_deaths_total", Help: "Worker processes that crashed or were killed."}, func() float64 { return float64(p.Deaths()) }),
		wall("files", func(w worker.Walls) bool { return w.Files > 0 }),
		wall("calls", func(w worker.Walls) bool { return w.Calls }),
	}
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
			return worker.Serve(cmd.Context(), os.Stdin, os.Stdout, &sbom.Cataloguer{Concurrent: 1}, &vuln.Matcher{})
		},
	}
}
