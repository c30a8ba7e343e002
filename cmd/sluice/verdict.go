package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sluicegate/sluice/configs"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/api"
)

const envPassword = "SLUICE_PASSWORD" // of the caller, for commands that ask a gateway

// A client asks a gateway.
type client struct {
	gateway  string
	user     string
	caFile   string
	password string
}

func verdictCommand(g *global) *cobra.Command {
	c := &client{}
	var check bool
	var platform, namespace string
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "verdict IMAGE",
		Short: "Ask a gateway: what is in an image, may I pull it, what should I do",
		Long: `Ask a gateway what is in an image and whether you may pull it. An image that was never
pulled is fetched and scanned first.

With --check, for CI: whether all of several images may be run, with a line or two for
each. One that is still being scanned after --timeout was not found out about.

The password of --user is read from ` + envPassword + `.
Exit status: 0 allowed, 1 denied (one of them), 2 usage, 3 could not find out (about one
of them, and none is denied).`,
		Example: "  sluice verdict cgr.dev/chainguard/python:latest\n  sluice verdict --gateway https://gate.example.com --user ci acme/web:1 -o json\n  sluice verdict --check --timeout 10m --namespace payments acme/web:1 acme/orders:2",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkPlatform(platform); platform != "" && err != nil {
				return err
			}
			c.password = os.Getenv(envPassword)
			if check {
				return c.checkAll(cmd, g, api.CheckRequest{Images: args, Platform: platform, Namespace: namespace}, wait)
			}
			if len(args) > 1 || namespace != "" {
				return usage("several images, and --namespace, need --check")
			}
			a, err := c.verdict(cmd.Context(), args[0], platform, wait)
			if err != nil {
				return err
			}
			return report(cmd.OutOrStdout(), g, a)
		},
	}
	f := cmd.Flags()
	c.flags(f, &platform, &wait)
	f.BoolVar(&check, "check", false, "check images before they are run; several can be named")
	f.DurationVar(&wait, "timeout", 5*time.Minute, "the same as --wait")
	f.StringVar(&namespace, "namespace", "", "Kubernetes namespace that the images are to run in")
	return cmd
}

// flags adds those of a command that asks for a verdict.
func (c *client) flags(f *pflag.FlagSet, platform *string, wait *time.Duration) {
	f.StringVar(&c.gateway, "gateway", cmp.Or(os.Getenv("SLUICE_GATEWAY"), "http://127.0.0.1:8080"), "URL of the gateway (environment: SLUICE_GATEWAY)")
	f.StringVar(&c.user, "user", "", "name to log in with")
	f.StringVar(&c.caFile, "ca-file", "", "PEM file of the authority that the gateway's certificate comes from")
	f.StringVar(platform, "platform", "", "os/arch[/variant] of an image for several platforms (default: the gateway's own)")
	f.DurationVar(wait, "wait", 5*time.Minute, "how long to wait for the scan of an unknown image")
}

// platformForm is what names a platform: linux/amd64, linux/arm/v7.
var platformForm = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9_]+(/[a-z0-9]+)?$`)

func checkPlatform(s string) error {
	if !platformForm.MatchString(s) {
		return usage("--platform %q: want os/arch or os/arch/variant, such as linux/amd64", clean(s))
	}
	return nil
}

// report prints an answer and turns it into the command's exit status.
func report(w io.Writer, g *global, a policy.Answer) error {
	if g.output == "json" {
		if err := printJSON(w, a); err != nil {
			return err
		}
	} else {
		printAnswer(w, a)
	}
	if a.Decision.Blocks() {
		return no()
	}
	return nil
}

// verdict asks until the image is scanned or wait is over.
func (c *client) verdict(ctx context.Context, image, platform string, wait time.Duration) (policy.Answer, error) {
	return untilScanned(image, wait, policy.Answer.Scanned, func(a *policy.Answer, left time.Duration) error {
		return c.get(ctx, questionPath("verdict", image, platform, left), a)
	})
}

func questionPath(about, image, platform string, wait time.Duration) string {
	q := url.Values{"image": {image}, "wait": {wait.String()}}
	if platform != "" {
		q.Set("platform", platform)
	}
	return "/api/v1/" + about + "?" + q.Encode()
}

// untilScanned asks, five seconds at a time, until the answer is about an image that is
// scanned, or wait is over.
func untilScanned[T any](image string, wait time.Duration, scanned func(T) bool, ask func(*T, time.Duration) error) (T, error) {
	deadline := time.Now().Add(wait)
	p := newProgress("scanning " + clean(image))
	defer p.done()
	for began := time.Now(); ; {
		var answer T
		err := ask(&answer, min(max(time.Until(deadline), 0), 5*time.Second))
		if err != nil || scanned(answer) || time.Now().After(deadline) {
			return answer, err
		}
		p.say(time.Since(began).Round(time.Second).String())
	}
}

// get reads JSON from the gateway.
func (c *client) get(ctx context.Context, path string, into any) error {
	return c.call(ctx, http.MethodGet, path, nil, into)
}

// call sends a body, if there is one, and reads JSON from the gateway.
func (c *client) call(ctx context.Context, method, path string, body []byte, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.gateway, "/")+path, bytes.NewReader(body))
	if err != nil {
		return usage("--gateway: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.user != "" {
		if req.URL.Scheme != "https" && !configs.Loopback(net.JoinHostPort(req.URL.Hostname(), "0")) {
			return usage("--user needs an https gateway: %s would send the password in the clear", c.gateway)
		}
		req.SetBasicAuth(c.user, c.password)
	}
	transport, err := c.transport()
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return fmt.Errorf("ask the gateway: %w", errors.Unwrap(err))
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 256<<20))
	if err != nil {
		return fmt.Errorf("read the gateway's answer: %w", err)
	}
	switch {
	case resp.StatusCode == http.StatusUnauthorized && c.user == "":
		return fmt.Errorf("%s wants to know who asks: give --user NAME, and the password in %s", c.gateway, envPassword)
	case resp.StatusCode == http.StatusUnauthorized:
		return fmt.Errorf("%s refuses %s with the password in %s", c.gateway, clean(c.user), envPassword)
	case resp.StatusCode != http.StatusOK:
		return gatewayError(resp, answer)
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("read the gateway's answer: %w; is %s a sluice?", err, c.gateway)
	}
	return nil
}

// gatewayError is what a gateway said instead of an answer. That it refuses an image
// which can't even be scanned is an answer: no.
func gatewayError(resp *http.Response, body []byte) error {
	var doc struct {
		Errors []struct{ Code, Message string }
	}
	text := resp.Status
	if json.Unmarshal(body, &doc) == nil && len(doc.Errors) > 0 {
		text = clean(doc.Errors[0].Message)
	}
	status := exitUnknown
	if resp.StatusCode == http.StatusForbidden && strings.HasPrefix(text, "blocked by policy") {
		status = exitNo
	}
	return &exitError{status, errors.New(text)}
}

func (c *client) transport() (http.RoundTripper, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	if c.caFile == "" {
		return t, nil
	}
	pem, err := os.ReadFile(c.caFile)
	if err != nil {
		return nil, usage("--ca-file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, usage("--ca-file %s: no PEM certificate in it", c.caFile)
	}
	t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return t, nil
}
