package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicegate/sluice/proxy/api"
)

// checkBatch is how many images are asked about at once: their answers are large.
const checkBatch = 20

// checkAll checks images until each of them is scanned or wait is over, and prints what
// was found out.
func (c *client) checkAll(cmd *cobra.Command, g *global, q api.CheckRequest, wait time.Duration) error {
	out := api.Checked{Answers: make([]api.CheckedImage, len(q.Images))}
	open := make([]int, len(q.Images)) // indexes of those that are not found out about
	for i := range open {
		open[i] = i
	}
	deadline := time.Now().Add(wait)
	p := newProgress("checking")
	defer p.done()
	for began := time.Now(); len(open) > 0; {
		p.say(fmt.Sprintf("%d of %d images, %s", len(q.Images)-len(open), len(q.Images), time.Since(began).Round(time.Second)))
		asked, left := time.Now(), time.Until(deadline)
		batch := open[:min(len(open), checkBatch)]
		if err := c.checkSome(cmd.Context(), q, out.Answers, batch, min(max(left, 0), 5*time.Second)); err != nil {
			return err
		}
		var again []int
		for _, i := range batch {
			if !settled(out.Answers[i]) && left > 0 {
				again = append(again, i)
			}
		}
		if len(again) == len(batch) { // a gateway that fails at once is not asked at once again
			pause(cmd.Context(), time.Second-time.Since(asked))
		}
		open = slices.Concat(open[len(batch):], again)
	}
	p.done()
	return reportChecked(cmd.OutOrStdout(), g, out)
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// checkSome asks about the images of some indexes.
func (c *client) checkSome(ctx context.Context, q api.CheckRequest, answers []api.CheckedImage, some []int, wait time.Duration) error {
	images := q.Images
	q.Images, q.Wait = nil, wait.String()
	for _, i := range some {
		q.Images = append(q.Images, images[i])
	}
	body, err := json.Marshal(q)
	if err != nil {
		return err
	}
	var got api.Checked
	if err := c.call(ctx, http.MethodPost, "/api/v1/check", body, &got); err != nil {
		return err
	}
	if len(got.Answers) != len(some) {
		return fmt.Errorf("the gateway answered about %d images in place of %d", len(got.Answers), len(some))
	}
	for n, i := range some {
		answers[i] = got.Answers[n]
	}
	return nil
}

// settled reports whether asking again would bring nothing new.
func settled(a api.CheckedImage) bool {
	if a.Answer != nil {
		return a.Answer.Scanned()
	}
	return a.Error == nil || a.Error.Status < http.StatusInternalServerError && a.Error.Status != http.StatusTooManyRequests
}

// reportChecked prints what was found out, and turns it into the exit status.
func reportChecked(w io.Writer, g *global, out api.Checked) error {
	denied, unknown := 0, 0
	for _, a := range out.Answers {
		switch {
		case a.Answer == nil && a.Error != nil && a.Error.Status == http.StatusForbidden && strings.HasPrefix(a.Error.Message, "blocked by policy"):
			denied++
		case a.Answer == nil || !a.Answer.Scanned():
			unknown++
		case a.Answer.Decision.Blocks():
			denied++
		}
	}
	out.Allow = denied+unknown == 0
	if g.output == "json" {
		if err := printJSON(w, out); err != nil {
			return err
		}
	} else {
		for _, a := range out.Answers {
			printCheckedImage(w, a)
		}
		if len(out.Answers) > 1 {
			fmt.Fprintf(w, "\n%s: %d allowed, %d denied, %d not found out about\n", plural(len(out.Answers), "image"), len(out.Answers)-denied-unknown, denied, unknown)
		}
	}
	switch {
	case denied > 0:
		return no()
	case unknown > 0:
		return &exitError{status: exitUnknown}
	}
	return nil
}

func printCheckedImage(w io.Writer, a api.CheckedImage) {
	p := paletteFor(w)
	switch {
	case a.Answer != nil && !a.Answer.Scanned():
		fmt.Fprintf(w, "%s  %s\n  it is still being scanned; ask again, or give a longer --timeout\n", p.warn("UNKNOWN"), clean(a.Image))
	case a.Answer != nil:
		fmt.Fprintf(w, "%s  %s\n", verdictWord(p, *a.Answer), clean(a.Answer.Image.Reference))
		for _, v := range a.Answer.Decision.Violations {
			fmt.Fprintf(w, "  %s %s\n", clean(v.Policy)+":", clean(v.Message))
			if v.Remediation != "" {
				fmt.Fprintf(w, "    %s\n", clean(v.Remediation))
			}
		}
		for _, v := range a.Answer.Decision.Warnings {
			fmt.Fprintf(w, "  %s %s\n", p.warn("! "+clean(v.Policy)+":"), clean(v.Message))
		}
	case a.Error != nil && strings.HasPrefix(a.Error.Message, "blocked by policy"):
		fmt.Fprintf(w, "%s  %s\n  %s\n", p.bad("DENIED "), clean(a.Image), clean(a.Error.Message))
	case a.Error != nil:
		fmt.Fprintf(w, "%s  %s\n  %s\n", p.warn("UNKNOWN"), clean(a.Image), clean(a.Error.Message))
	}
}
