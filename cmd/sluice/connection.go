package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sluicegate/sluice/cache/disk"
	"github.com/sluicegate/sluice/configs"
	"github.com/sluicegate/sluice/proxy/api"
	"github.com/sluicegate/sluice/proxy/connection"
	"github.com/sluicegate/sluice/proxy/upstream"
)

func connectionCommand(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "connection",
		Short: "Pull tokens for upstream registries: set, test, list, remove",
		Long: `Pull tokens for upstream registries. A token that is set is sealed and kept in the
store; a running gateway uses it at once. One in the environment
(SLUICE_CGR_DEV_USERNAME and SLUICE_CGR_DEV_PASSWORD for cgr.dev) or in a mounted file
(credentials_dir of the upstream) comes first.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(connectionSet(g), connectionTest(g), connectionList(g), connectionPromote(g), connectionRemove(g))
	return cmd
}

func connectionSet(g *global) *cobra.Command {
	var username, repository string
	var stdin, force, next bool
	cmd := &cobra.Command{
		Use:   "set UPSTREAM",
		Short: "Try a pull token and keep it",
		Example: `  chainctl auth configure-docker --pull-token        # prints a user name and a password
  sluice connection set cgr.dev --username 0123…/4567… --password-stdin --repository acme/python`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if username == "" {
				return usage("--username is missing: the one that chainctl printed")
			}
			c, u, err := g.upstreamOf(args[0])
			if err != nil {
				return err
			}
			password, err := readPassword(cmd.InOrStdin(), stdin)
			if err != nil {
				return err
			}
			creds := upstream.Credentials{Username: username, Password: password}
			ok, err := g.tryConnection(cmd, u, creds, repository)
			if err != nil {
				return err
			}
			if !ok && !force {
				return &exitError{exitNo, errors.New("not saved, since the test failed; --force saves it all the same")}
			}
			return withVault(cmd.Context(), c, func(v api.Vault) error {
				if next {
					err = v.SetNext(cmd.Context(), u.Name, creds)
				} else {
					err = v.Set(cmd.Context(), u.Name, creds)
				}
				if err != nil {
					return err
				}
				if next && g.output != "json" {
					fmt.Fprintf(cmd.OutOrStdout(), "saved the next pull token for %s; it takes the current one's place when that ends or is refused, or by: sluice connection promote %s\n", u.Name, u.Name)
					return notePrecedence(cmd, v, u.Name)
				}
				if g.output != "json" {
					fmt.Fprintf(cmd.OutOrStdout(), "saved the pull token for %s\n", u.Name)
				}
				return notePrecedence(cmd, v, u.Name)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&username, "username", "", "user name of the pull token")
	f.BoolVar(&stdin, "password-stdin", false, "read the password from standard input")
	f.StringVar(&repository, "repository", "", "repository to try to read, such as acme/python:latest")
	f.BoolVar(&next, "next", false, "keep it beside the current one, whose place it takes when that ends or is refused")
	f.BoolVar(&force, "force", false, "save it although the test failed")
	return cmd
}

func connectionTest(g *global) *cobra.Command {
	var repository string
	cmd := &cobra.Command{
		Use:   "test UPSTREAM",
		Short: "Try the pull token in force, step by step",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, u, err := g.upstreamOf(args[0])
			if err != nil {
				return err
			}
			var creds upstream.Credentials
			err = withVault(cmd.Context(), c, func(v api.Vault) error {
				if running, ok := v.(*control); ok {
					return g.testRunning(cmd, running, u.Name, repository)
				}
				creds, err = v.(*connection.Vault).Credentials(cmd.Context(), u.Name)
				if err != nil {
					return err
				}
				ok, err := g.tryConnection(cmd, u, creds, repository)
				if err == nil && !ok {
					err = no()
				}
				return err
			})
			return err
		},
	}
	cmd.Flags().StringVar(&repository, "repository", "", "repository to try to read, such as acme/python:latest")
	return cmd
}

// testRunning has the gateway that runs try the token that it uses.
func (g *global) testRunning(cmd *cobra.Command, running *control, name, repository string) error {
	r, err := running.Test(cmd.Context(), name, repository)
	if err != nil {
		return err
	}
	if g.output == "json" {
		err = printJSON(cmd.OutOrStdout(), r)
	} else {
		for _, s := range r.Steps {
			printStep(cmd.OutOrStdout(), s)
		}
		printExpiry(cmd.OutOrStdout(), r.Connection)
	}
	if err == nil && !r.OK {
		err = no()
	}
	return err
}

func connectionList(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the connections, never their passwords",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := g.load()
			if err != nil {
				return err
			}
			return withVault(cmd.Context(), c, func(v api.Vault) error {
				infos, err := v.List(cmd.Context())
				if err != nil {
					return err
				}
				if g.output == "json" {
					return printJSON(cmd.OutOrStdout(), infos)
				}
				printConnections(cmd.OutOrStdout(), infos)
				return nil
			})
		},
	}
}

func connectionPromote(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "promote UPSTREAM",
		Short: "Put the next pull token in the current one's place",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, u, err := g.upstreamOf(args[0])
			if err != nil {
				return err
			}
			return withVault(cmd.Context(), c, func(v api.Vault) error {
				if err := v.Promote(cmd.Context(), u.Name); err != nil {
					return err
				}
				if g.output != "json" {
					fmt.Fprintf(cmd.OutOrStdout(), "the next pull token of %s is the current one now, and the other way around\n", u.Name)
				}
				return notePrecedence(cmd, v, u.Name)
			})
		},
	}
}

func connectionRemove(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "remove UPSTREAM",
		Short: "Forget the stored pull token",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.load()
			if err != nil {
				return err
			}
			return withVault(cmd.Context(), c, func(v api.Vault) error {
				infos, err := v.List(cmd.Context())
				if err != nil {
					return err
				}
				if !slices.ContainsFunc(infos, func(i connection.Info) bool { return i.Upstream == args[0] }) {
					return usage("no upstream %s is configured, and no pull token is stored for it", clean(args[0]))
				}
				if err := v.Remove(cmd.Context(), args[0]); err != nil {
					return err
				}
				if g.output != "json" {
					fmt.Fprintf(cmd.OutOrStdout(), "no pull token is stored for %s any more\n", clean(args[0]))
				}
				return notePrecedence(cmd, v, args[0])
			})
		},
	}
}

// notePrecedence says where an upstream's pull token comes from another source than the
// store, so that what was just done there changes nothing yet.
func notePrecedence(cmd *cobra.Command, v api.Vault, name string) error {
	infos, err := v.List(cmd.Context())
	if err != nil {
		return err
	}
	for _, i := range infos {
		user, _ := connection.EnvNames(name)
		where := map[string]string{connection.SourceEnvironment: "the environment (" + user + ")", connection.SourceFile: "credentials_dir", connection.SourceOIDC: "oidc"}[i.Source]
		if i.Upstream == name && where != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "note: the pull token in %s comes first, and is the one in force\n", where)
		}
	}
	return nil
}

// tryConnection tests credentials from here and prints each step as it ends.
func (g *global) tryConnection(cmd *cobra.Command, u configs.Upstream, creds upstream.Credentials, repository string) (bool, error) {
	r := newRegistry(u, nil)
	var err error
	if r.RootCAs, err = authorities(u); err != nil {
		return false, err
	}
	w := cmd.OutOrStdout()
	var each func(connection.Step)
	if g.output != "json" {
		each = func(s connection.Step) { printStep(w, s) }
	}
	result := connection.Test(cmd.Context(), r, creds, repository, each)
	if g.output == "json" {
		return result.OK, printJSON(w, result)
	}
	printExpiry(w, result.Connection)
	return result.OK, nil
}

func printStep(w io.Writer, s connection.Step) {
	p := paletteFor(w)
	mark := map[connection.State]string{connection.OK: p.good("ok  "), connection.Warn: p.warn("warn"), connection.Fail: p.bad("FAIL"), connection.Skip: p.dim("skip")}[s.State]
	fmt.Fprintf(w, "%s  %-9s  %s\n", mark, s.Name, clean(s.Detail))
}

func printExpiry(w io.Writer, i connection.Info) {
	if i.DaysLeft != nil {
		fmt.Fprintf(w, "the token ends %s: %s left\n", i.Expires.UTC().Format(time.RFC3339), plural(*i.DaysLeft, "day"))
	}
}

func printConnections(w io.Writer, infos []connection.Info) {
	rows := [][]string{{"UPSTREAM", "FROM", "USER", "ORGANISATION", "EXPIRES", "DAYS LEFT", "PROBLEM"}}
	for _, i := range infos {
		rows = append(rows, connectionRow(i))
		if i.Next != nil {
			next := *i.Next
			next.Upstream = "  next"
			rows = append(rows, connectionRow(next))
		}
	}
	table(w, rows)
}

func connectionRow(i connection.Info) []string {
	expires, left := "", ""
	if i.DaysLeft != nil {
		expires, left = i.Expires.UTC().Format(time.DateOnly), strconv.Itoa(*i.DaysLeft)
	}
	return []string{i.Upstream, i.Source, clean(i.Username), i.Organisation, expires, left, clean(cmp.Or(i.Problem, i.Refused))}
}

// upstreamOf returns the configured upstream of that name.
func (g *global) upstreamOf(name string) (configs.Config, configs.Upstream, error) {
	c, err := g.load()
	if err != nil {
		return c, configs.Upstream{}, err
	}
	var names []string
	for _, u := range c.Upstreams {
		if u.Name == name {
			return c, u, nil
		}
		names = append(names, u.Name)
	}
	return c, configs.Upstream{}, usage("no upstream %s is configured, only %s: add it under upstreams first", clean(name), strings.Join(names, ", "))
}

// withVault opens the pull tokens where they are kept: in the store, or through the
// gateway that has the embedded store open.
func withVault(ctx context.Context, c configs.Config, do func(api.Vault) error) error {
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return fmt.Errorf("state_dir: %w", err)
	}
	if g := running(c); g != nil {
		return do(g)
	}
	store, err := openStore(ctx, c, nil)
	if errors.Is(err, disk.ErrInUse) { // it has begun to run, or to stop
		if g := running(c); g != nil {
			return do(g)
		}
	}
	if err != nil {
		return err
	}
	defer store.Close()
	v, err := openVault(c, store, nil)
	if err != nil {
		return err
	}
	return do(v)
}

const maxPassword = 16 << 10 // bytes; a pull token is about one KiB

// readPassword reads a password from standard input: the first line of a pipe, or what
// is typed on a terminal, unseen.
func readPassword(r io.Reader, stdin bool) (string, error) {
	f, ok := r.(*os.File)
	if ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprint(os.Stderr, "password: ")
		b, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(os.Stderr)
		return strings.TrimSpace(string(b)), err
	}
	if !stdin {
		return "", usage("give --password-stdin and the password on standard input: a command line can be read by others on this machine")
	}
	line, err := bufio.NewReader(io.LimitReader(r, maxPassword)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the password: %w", err)
	}
	if line = strings.TrimSpace(line); line == "" {
		return "", usage("standard input holds no password")
	}
	return line, nil
}
