package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sluicegate/sluice/configs"
)

var fence = regexp.MustCompile("(?ms)^```([a-z]+)\n(.*?)^```$")

// Every snippet of the README does what it says: configuration loads, make targets
// exist, and the commands run, in their order, in front of a registry.
func TestREADME(t *testing.T) {
	b, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	script.WriteString("env SLUICE_GATEWAY=http://$GATEWAY\n")
	snippets := 0
	for _, m := range fence.FindAllStringSubmatch(string(b), -1) {
		snippets++
		switch m[1] {
		case "yaml":
			c, err := configs.Parse("README.md", []byte(m[2]))
			if err == nil {
				err = c.Validate()
			}
			if err != nil {
				t.Error(err)
			}
		case "sh":
			for line := range strings.Lines(m[2]) {
				script.WriteString(scripted(t, strings.TrimSpace(line)))
			}
		default:
			t.Errorf("nothing runs a snippet in %s", m[1])
		}
	}
	if snippets < 4 {
		t.Errorf("found %d snippets only", snippets)
	}
	script.WriteString("kill -INT gateway\nwait gateway\n")
	file := filepath.Join(t.TempDir(), "readme.txt")
	if err := os.WriteFile(file, []byte(script.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newScene(t)
	testscript.Run(t, testscript.Params{Files: []string{file}, Setup: s.setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"ready": awaitReady}})
}

// scripted turns a line of a shell snippet into one of a script.
func scripted(t *testing.T, line string) string {
	switch {
	case strings.HasPrefix(line, "make "):
		if out, err := exec.Command("make", "-C", "../..", "-n", strings.TrimPrefix(line, "make ")).CombinedOutput(); err != nil {
			t.Errorf("%s: %s", line, out)
		}
		return ""
	case strings.HasPrefix(line, "printf %s "): // a password piped into a command
		_, command, _ := strings.Cut(line, "| ")
		return "stdin password\n" + strings.ReplaceAll(command, `"`, "") + "\n"
	case line == "sluice serve":
		return "sluice serve &gateway&\nready\n"
	}
	return strings.ReplaceAll(line, "127.0.0.1:8080", "$GATEWAY") + "\n"
}
