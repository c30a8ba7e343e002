package main

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// awaitMetric waits until the gateway of the script measures one of the lines.
func awaitMetric(ts *testscript.TestScript, _ bool, args []string) {
	var lines []string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		resp, err := http.Get("http://" + ts.Getenv("ADMIN") + "/metrics")
		if err != nil {
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		lines = strings.Split(string(body), "\n")
		if err == nil && slices.ContainsFunc(lines, func(l string) bool { return slices.Contains(args, l) }) {
			return
		}
	}
	ts.Fatalf("no metric %q in\n%s", args, strings.Join(lines, "\n"))
}
