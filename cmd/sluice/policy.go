package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicegate/sluice/policy"
)

func policyCommand(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "The rules that decide: check, test, explain, what-if",
		Long: `The rules that decide. Where no folder is named, the built-in policies or those of the
configuration (policy.dir, upstreams.policy_dir) are meant.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(policyChecked(g), policyTest(g), policyExplain(g), policyWhatIf(g))
	return cmd
}

// A checked set of policies, as -o json prints it.
type checked struct {
	policy.Status
	Listings []policy.Listing `json:"listings"`
	Error    string           `json:"error,omitempty"` // why a gateway would not take them
}

func policyChecked(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "check [DIR|BUNDLE]",
		Short: "Load policies, waivers, kill list and VEX documents as a gateway would",
		Long: `Load policies, waivers, kill list and VEX documents as a gateway would: parse, compile,
check against the schema of the input, run the policies' tests, and decide about two
examples. A folder or a bundle that is named is checked in place of the policies of the
configuration, whose own bundle is fetched. Nothing is changed, and no gateway is asked:
waivers of its store are not looked at.

Exit status: 0 a gateway would take them, 1 it would not, 2 usage, 3 could not find out.`,
		Example: "  sluice policy check\n  sluice policy check ./policies\n  sluice policy check bundle.tar.gz",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.load()
			if err != nil {
				return err
			}
			h := &house{config: c}
			if len(args) == 0 {
				return h.check(cmd.Context(), cmd.OutOrStdout(), g, h.policyDirs(), h.policyConfig)
			}
			if _, err := os.Stat(args[0]); err != nil {
				return err
			}
			return h.check(cmd.Context(), cmd.OutOrStdout(), g, args, h.policiesIn)
		},
	}
}

// check prints how each set of policies does, with the files that hold for all.
func (h *house) check(ctx context.Context, w io.Writer, g *global, dirs []string, configOf func(dir string) policy.Config) error {
	documents := &policy.Exceptions{VEX: h.config.Policy.VEX}
	vexErr := documents.Open(ctx)
	good, all := vexErr == nil, []checked{}
	work, err := os.MkdirTemp("", "sluice-check-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	for _, dir := range dirs {
		r := checked{Listings: []policy.Listing{}}
		var bundleErr error
		if dir == "" {
			bundleErr = h.checkBundle(ctx, work)
		}
		pc := configOf(dir)
		if vexErr == nil {
			pc.Exceptions = documents
		}
		var e *policy.Engine
		err := bundleErr
		if err == nil {
			e, err = policy.Open(ctx, pc)
		}
		if err == nil {
			r.Status, r.Listings = e.Status(), e.Policies()
			err = errorOf(r.LastError)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			good, r.Source, r.Error = false, cmp.Or(pc.Origin, dir, "embedded defaults"), err.Error()
		}
		all = append(all, r)
	}
	if vexErr != nil {
		all = append(all, checked{Status: policy.Status{Source: "policy.vex"}, Listings: []policy.Listing{}, Error: vexErr.Error()})
	}
	if err := printChecked(w, g, good, all); err != nil {
		return err
	}
	if !good {
		return no()
	}
	return nil
}

func errorOf(s string) error {
	if s == "" {
		return nil
	}
	return errors.New(s)
}

func printChecked(w io.Writer, g *global, good bool, all []checked) error {
	if g.output == "json" {
		return printJSON(w, map[string]any{"good": good, "checked": all})
	}
	p := paletteFor(w)
	for i, r := range all {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if r.Error == "" {
			printGood(w, p, r)
			continue
		}
		fmt.Fprintf(w, "%s  %s\n", p.bad("BAD"), clean(r.Source))
		for line := range strings.SplitSeq(strings.ReplaceAll(r.Error, "; ", "\n"), "\n") {
			fmt.Fprintf(w, "  %s\n", clean(line))
		}
	}
	return nil
}

func printGood(w io.Writer, p palette, r checked) {
	fmt.Fprintf(w, "%s  %s, revision %s\n\n", p.good("GOOD"), clean(r.Source), r.Revision)
	rows := [][]string{{"POLICY", "TITLE", "FILE"}}
	for _, l := range r.Listings {
		rows = append(rows, []string{clean(l.Package), clean(cmp.Or(l.Title, "-")), clean(l.File)})
	}
	table(w, rows)
	fmt.Fprintf(w, "\nmode %s, %s in force, %s, %s on the kill list\n", r.Mode, plural(r.Waivers, "waiver"), plural(r.VEX, "VEX document"), plural(r.Killed, "digest"))
	for _, hint := range r.Hints {
		fmt.Fprintf(w, "%s %s\n", p.warn("!"), clean(hint))
	}
	if len(r.Expiring) > 0 {
		fmt.Fprintf(w, "%s %s\n", p.warn("! end within 7 days:"), clean(strings.Join(r.Expiring, ", ")))
	}
	if len(r.Expired) > 0 {
		fmt.Fprintf(w, "%s %s\n", p.warn("! have ended, and are ignored:"), clean(strings.Join(r.Expired, ", ")))
	}
}

func policyTest(g *global) *cobra.Command {
	var verbose bool
	cmd := &cobra.Command{
		Use:   "test DIR|BUNDLE",
		Short: "Run the tests of policies",
		Long: `Compile the policies of a folder or a bundle as a gateway would and run the tests in its files
*_test.rego, with the same cut capabilities.

Exit status: 0 all pass, 1 one fails or the policies don't compile, 2 usage, 3 could not
find out.`,
		Example: "  sluice policy test ./policies --verbose",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := os.Stat(args[0]); err != nil {
				return err
			}
			tests, err := policy.Tests(cmd.Context(), args[0])
			if cmd.Context().Err() != nil {
				return cmd.Context().Err()
			}
			w := cmd.OutOrStdout()
			if err != nil {
				return &exitError{status: exitNo, err: err}
			}
			failed, took := 0, time.Duration(0)
			for _, t := range tests {
				took += t.Took
				if !t.Pass && !t.Skipped {
					failed++
				}
				if g.output != "json" && (verbose || !t.Pass) {
					fmt.Fprintln(w, clean(t.String()))
				}
			}
			if g.output == "json" {
				if tests == nil {
					tests = []policy.Test{}
				}
				err = printJSON(w, tests)
			} else if len(tests) == 0 {
				_, err = fmt.Fprintln(w, "the policies compile; there are no tests (files named *_test.rego)")
			} else {
				_, err = fmt.Fprintf(w, "%s, %d failed, %v\n", plural(len(tests), "test"), failed, took.Round(time.Millisecond))
			}
			if err == nil && failed > 0 {
				return no()
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "also name the tests that pass")
	return cmd
}

func policyExplain(g *global) *cobra.Command {
	c := &client{}
	var platform string
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "explain IMAGE",
		Short: "Ask a gateway why an image is decided as it is, and what would change that",
		Long: `Ask a gateway why an image is decided as it is: each rule that has something to say, the
findings that made it speak, and what would silence it; the condition that does not hold
of each rule that says nothing; what waivers and VEX documents set aside; and what updates
or time alone would change.

The password of --user is read from ` + envPassword + `.
Exit status: 0 allowed, 1 denied, 2 usage, 3 could not find out.`,
		Example: "  sluice policy explain cgr.dev/acme/web:1",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkPlatform(platform); platform != "" && err != nil {
				return err
			}
			c.password = os.Getenv(envPassword)
			e, err := untilScanned(args[0], wait, func(e policy.Explanation) bool { return e.Scanned() }, func(e *policy.Explanation, left time.Duration) error {
				return c.get(cmd.Context(), questionPath("explain", args[0], platform, left), e)
			})
			if err != nil {
				return err
			}
			if g.output == "json" {
				err = printJSON(cmd.OutOrStdout(), e)
			} else {
				printExplanation(cmd.OutOrStdout(), e)
			}
			if err == nil && e.Decision.Blocks() {
				return no()
			}
			return err
		},
	}
	c.flags(cmd.Flags(), &platform, &wait)
	return cmd
}
