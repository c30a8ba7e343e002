package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/cache/audit"
	"github.com/sluicegate/sluice/cache/disk"
	"github.com/sluicegate/sluice/policy"
)

func cacheCommand(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "What the store remembers: inspect, purge, export, import",
		Long: `What the store remembers: verdicts, SBOMs, manifests, waivers, sealed pull tokens. The store
is the one of the configuration: the embedded file, also while a gateway has it open, or
Redis. A key is written KIND:ID; in Redis it is the prefix, v2:KIND:{ID}.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(cacheInspect(g), cachePurge(g), cacheExport(g), cacheImport(g))
	return cmd
}

func cacheInspect(g *global) *cobra.Command {
	limit := 50
	cmd := &cobra.Command{
		Use:   "inspect [KIND | KIND:ID]",
		Short: "Show what is in the store: how much of each kind, the keys of one, or one entry",
		Long: `Show what is in the store: how much of each kind, the keys of one kind, or one entry.
Sealed pull tokens are never shown.`,
		Example: "  sluice cache inspect\n  sluice cache inspect tag\n  sluice cache inspect 'tag:cgr.dev/acme/web|1'",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o := cacheOrder{Do: "kinds"}
			if len(args) == 1 {
				o = cacheOrder{Do: "keys", Kind: cache.Kind(args[0]), Limit: limit}
				if strings.Contains(args[0], ":") {
					o = cacheOrder{Do: "entry", Key: args[0]}
				}
			}
			var b bytes.Buffer
			if err := g.order(cmd.Context(), o, &b); err != nil {
				return err
			}
			if g.output == "json" {
				return printJSON(cmd.OutOrStdout(), json.RawMessage(b.Bytes()))
			}
			return o.print(cmd.OutOrStdout(), b.Bytes())
		},
	}
	cmd.Flags().IntVar(&limit, "limit", limit, "how many keys of a kind are shown")
	return cmd
}

func (g *global) order(ctx context.Context, o cacheOrder, w io.Writer) error {
	c, err := g.load()
	if err != nil {
		return err
	}
	return o.give(ctx, c, w)
}

// print writes an answer for people.
func (o cacheOrder) print(w io.Writer, answer []byte) error {
	switch o.Do {
	case "kinds":
		var kinds []kindCount
		if err := json.Unmarshal(answer, &kinds); err != nil {
			return err
		}
		rows := [][]string{{"KIND", "ENTRIES", "BYTES", "FOR EVER", "FIRST ENDS", "LAST ENDS"}}
		for _, k := range kinds {
			rows = append(rows, []string{clean(string(k.Kind)), strconv.Itoa(k.Entries), strconv.FormatInt(k.Bytes, 10), strconv.Itoa(k.Endless), endText(k.First), endText(k.Last)})
		}
		table(w, rows)
	case "keys":
		var list keyList
		if err := json.Unmarshal(answer, &list); err != nil {
			return err
		}
		if list.Total == 0 {
			_, err := fmt.Fprintf(w, "The store has nothing of the kind %s; sluice cache inspect shows what it has.\n", clean(string(o.Kind)))
			return err
		}
		rows := [][]string{{"KEY", "BYTES", "ENDS"}}
		for _, k := range list.Keys {
			rows = append(rows, []string{clean(k.Key), strconv.FormatInt(k.Bytes, 10), endText(k.Ends)})
		}
		table(w, rows)
		if more := list.Total - len(list.Keys); more > 0 {
			fmt.Fprintf(w, "… and %d more: --limit shows them\n", more)
		}
	case "entry":
		var e entryText
		if err := json.Unmarshal(answer, &e); err != nil {
			return err
		}
		fmt.Fprintf(w, "%s, %d bytes, ends %s\n", clean(e.Key), e.Bytes, endText(e.Ends))
		if !e.Map {
			fmt.Fprintln(w, readable(e.Value))
		}
		for _, name := range slices.Sorted(maps.Keys(e.Fields)) {
			fmt.Fprintf(w, "%s: %s\n", clean(name), readable(e.Fields[name]))
		}
	}
	return nil
}

// readable is a value of the store for a terminal.
func readable(value string) string {
	var b bytes.Buffer
	if json.Indent(&b, []byte(value), "", "  ") == nil {
		value = b.String()
	}
	lines := strings.Split(value, "\n")
	for i, l := range lines {
		lines[i] = clean(l)
	}
	return strings.Join(lines, "\n")
}

func endText(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

func cachePurge(g *global) *cobra.Command {
	var all, dryRun bool
	cmd := &cobra.Command{
		Use:   "purge KIND | KIND:ID | --all",
		Short: "Forget what can be found out again",
		Long: `Forget what can be found out again: all entries of a kind, one entry, or everything. Images
whose kind "image" is forgotten are scanned again when they are pulled next; where
manifests and listings are forgotten, clients ask for the manifest again first. When an
image was first seen, and what was allowed before, is forgotten with the kinds seen and
history: policies may ask for those.

Waivers and pull tokens stay: sluice waiver remove and sluice connection remove take them
away.`,
		Example: "  sluice cache purge image\n  sluice cache purge --all --dry-run",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o := cacheOrder{Do: "purge", DryRun: dryRun}
			switch {
			case all == (len(args) == 1):
				return usage("give a kind or a key to purge, or --all; sluice cache inspect shows them")
			case all:
			case strings.Contains(args[0], ":"):
				o.Key = args[0]
			default:
				o.Kind = cache.Kind(args[0])
			}
			var b bytes.Buffer
			if err := g.order(cmd.Context(), o, &b); err != nil {
				return err
			}
			if g.output == "json" {
				return printJSON(cmd.OutOrStdout(), json.RawMessage(b.Bytes()))
			}
			var p purged
			if err := json.Unmarshal(b.Bytes(), &p); err != nil {
				return err
			}
			word := "purged"
			if p.DryRun {
				word = "would purge"
			}
			entries := "1 entry"
			if p.Entries != 1 {
				entries = fmt.Sprintf("%d entries", p.Entries)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", word, entries)
			return err
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "everything but waivers and pull tokens")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say how many there are, and purge none")
	return cmd
}

func cacheExport(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "export FILE",
		Short: "Write all that the store has to a file",
		Long: `Write all that the store has to a file, for sluice cache import: to move from the embedded
store to Redis or back, or as a copy to keep. Pull tokens are in it as they are in the
store, sealed: a gateway that reads them needs the same key (seal_key_file or SLUICE_KEY).`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			f, err := os.CreateTemp(filepath.Dir(args[0]), ".sluice-export-*") // mode 0600
			if err != nil {
				return err
			}
			defer func() {
				f.Close()
				if err != nil {
					os.Remove(f.Name())
				}
			}()
			if err := g.order(cmd.Context(), cacheOrder{Do: "export"}, f); err != nil {
				return err
			}
			if _, err := f.Seek(0, io.SeekStart); err != nil {
				return err
			}
			n, err := cache.CountArchive(f) // one that was cut short has no end
			if err != nil {
				return err
			}
			if err := errors.Join(f.Sync(), f.Close()); err != nil {
				return err
			}
			if err := os.Rename(f.Name(), args[0]); err != nil {
				return err
			}
			if g.output == "json" {
				return printJSON(cmd.OutOrStdout(), map[string]int{"entries": n})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "wrote %d entries to %s; sealed pull tokens in it need this gateway's seal key\n", n, clean(args[0]))
			return err
		},
	}
}

func cacheImport(g *global) *cobra.Command {
	overwrite := false
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Put what sluice cache export wrote into the store",
		Long: `Put what sluice cache export wrote into the store of the configuration. Entries that are
there already stay, unless --overwrite is given, and none lives longer than it would have
where it came from. What was removed since the export comes back, waivers and pull tokens too. A file that is damaged, cut short or of another schema changes
nothing. An embedded store must not be in use: stop its gateway first.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.load()
			if err != nil {
				return err
			}
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			ctx := cmd.Context()
			s, err := openStore(ctx, c, newLog(c.Log, &slog.LevelVar{}))
			if errors.Is(err, disk.ErrInUse) {
				return fmt.Errorf("%w: stop the gateway first", err)
			}
			if err != nil {
				return err
			}
			n, err := cache.Import(ctx, s, f, overwrite)
			if n.Written > 0 { // gateways that share the store look at its waivers again
				err = errors.Join(err, policy.TellWaivers(ctx, s),
					(&audit.Log{Store: s}).Write(ctx, "cache.import", filepath.Base(args[0]), fmt.Sprintf("entries: %d", n.Written)))
			}
			if err = errors.Join(err, s.Close()); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if g.output == "json" {
				return printJSON(cmd.OutOrStdout(), n)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d entries written, %d kept as they were, %d had expired\n", n.Written, n.Kept, n.Expired)
			return err
		},
	}
	cmd.Flags().BoolVar(&overwrite, "overwrite", false, "put the file's entries in place of those that are there")
	return cmd
}

// cache gives an order to the gateway that has the store open.
func (c *control) cache(ctx context.Context, o cacheOrder, w io.Writer) error {
	body, err := json.Marshal(o)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://gateway"+cachePath, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return fmt.Errorf("ask the running gateway: %w", errors.Unwrap(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		return errors.New(strings.TrimSpace(string(b)))
	}
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("the running gateway's answer was cut short: %w", err)
	}
	return nil
}
