// Command sluice is a gate between a container registry and everyone who pulls from
// it. Its packages know nothing of each other but what they import; this one knows
// them all, and reads as an inventory.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit statuses: what a script needs to tell apart.
const (
	exitOK      = 0
	exitNo      = 1 // the answer is no: denied, not allowed, a failed test
	exitUsage   = 2
	exitUnknown = 3 // could not find out
)

// An exitError ends the command with a status. A nil err means that everything was
// said already.
type exitError struct {
	status int
	err    error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// no ends a command whose answer is no and was printed.
func no() error { return &exitError{status: exitNo} }

func usage(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

func main() { os.Exit(run(os.Args[1:])) }

// run carries out one command and returns its exit status. The first SIGINT or SIGTERM
// ends its context; the second kills the process.
func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	cmd := rootCommand()
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	var e *exitError
	if !errors.As(err, &e) {
		e = &exitError{exitUnknown, err}
	}
	if e.err != nil {
		fmt.Fprintln(os.Stderr, "sluice:", e.err)
	}
	return e.status
}

// outlivePipe has a write to a closed pipe fail, in place of ending the process, until
// the caller calls what it returns: a command with a temporary folder must get to remove
// it. Not for a gateway, which meets closed connections all the time.
func outlivePipe() (end func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGPIPE)
	return func() { signal.Stop(c) }
}

// global holds the flags that every command has.
type global struct {
	config string
	state  string
	output string // table or json
}

func rootCommand() *cobra.Command {
	g := &global{}
	root := &cobra.Command{
		Use:   "sluice",
		Short: "A gate between a container registry and everyone who pulls from it",
		Long: `Sluice stands in front of a container registry, holds the organisation's pull token,
streams every layer to the client while scanning the same bytes, and lets the last bytes
of an image through only when policy allows it.

Exit status: 0 fine, 1 the answer is no, 2 usage, 3 could not find out.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if g.output != "table" && g.output != "json" {
				return usage("--output %q: want table or json", g.output)
			}
			return nil
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage("%w; see %s --help", err, cmd.CommandPath())
	})
	f := root.PersistentFlags()
	f.StringVarP(&g.config, "config", "c", os.Getenv("SLUICE_CONFIG"), "configuration file (environment: SLUICE_CONFIG; default: none, built-in settings)")
	f.StringVar(&g.state, "state-dir", "", "folder for state (default: state_dir of the configuration, or $XDG_STATE_HOME/sluice)")
	f.StringVarP(&g.output, "output", "o", "table", "how to print: table or json")
	root.AddCommand(
		serveCommand(g), demoCommand(g), connectionCommand(g), scanCommand(g), verdictCommand(g),
		policyCommand(g), waiverCommand(g),
		dbCommand(g), cacheCommand(g), auditCommand(g), eventsCommand(g), reloadCommand(g), clientConfigCommand(g), healthcheckCommand(g), versionCommand(g), workerCommand(),
	)
	wrapArgs(root)
	return root
}

// wrapArgs makes a wrong number of arguments a usage error everywhere.
func wrapArgs(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usage("%w; see %s --help", err, cmd.CommandPath())
			}
			return nil
		}
	}
	for _, c := range cmd.Commands() {
		wrapArgs(c)
	}
}
