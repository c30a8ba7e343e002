package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicegate/sluice/configs"
	"github.com/sluicegate/sluice/policy/decisionlog"
	"github.com/sluicegate/sluice/policy/remote"
)

// openDecisions starts the decision log; nil where there is none.
func openDecisions(c configs.DecisionLog, log *slog.Logger) (*decisionlog.Log, error) {
	if c.File == "" && c.URL == "" {
		return nil, nil
	}
	l := &decisionlog.Log{
		File: c.File, Allows: c.Allows, AllowEvery: c.AllowEvery, Log: log,
		Labels: map[string]string{"app": "sluice", "version": strings.Trim(versionText(), "()")},
	}
	if c.URL != "" {
		client, err := remote.NewClient(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("decision_log: %w", err)
		}
		l.Collector = &decisionlog.Collector{URL: c.URL, TokenFile: c.TokenFile, Client: client}
	}
	if err := l.Start(); err != nil {
		return nil, fmt.Errorf("decision_log: %w", err)
	}
	return l, nil
}

// closeDecisions writes down what is left. A collector that is gone is not waited for long.
func (h *house) closeDecisions() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return h.decisions.Close(ctx)
}

// measureDecisions are the metrics of the decision log.
func measureDecisions(l *decisionlog.Log) []prometheus.Collector {
	counter := func(name, help string, labels prometheus.Labels, f func(decisionlog.Stats) int64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}, func() float64 { return float64(f(l.Stats())) })
	}
	records := func(result string, f func(decisionlog.Stats) int64) prometheus.Collector {
		return counter("sluice_decision_log_records_total", "Decisions by what became of their record: written, repeated (there is one already), unsampled, or dropped.", prometheus.Labels{"result": result}, f)
	}
	return []prometheus.Collector{
		records("written", func(s decisionlog.Stats) int64 { return s.Written }),
		records("repeated", func(s decisionlog.Stats) int64 { return s.Repeated }),
		records("unsampled", func(s decisionlog.Stats) int64 { return s.Unsampled }),
		records("dropped", func(s decisionlog.Stats) int64 { return s.Dropped }),
		counter("sluice_decision_log_failures_total", "Tries to write or send decisions that failed.", nil, func(s decisionlog.Stats) int64 { return s.Failed }),
	}
}
