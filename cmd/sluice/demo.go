package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"github.com/sluicegate/sluice/configs"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/connection"
	"github.com/sluicegate/sluice/proxy/proxytest"
	"github.com/sluicegate/sluice/proxy/proxytest/sample"
	"github.com/sluicegate/sluice/proxy/upstream"
	"github.com/sluicegate/sluice/scan/vuln/sampledb"
)

func demoCommand(g *global) *cobra.Command {
	var keep bool
	var listen string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "The whole story offline: registry, pull token, one image allowed, others blocked",
		Long: `Run a registry that demands a token, and a gateway in front of it that holds the pull
token, and pull images through it: one passes, the others are stopped in their first pull.
Everything is on loopback and in a folder of its own; nothing is fetched from outside.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if g.output == "json" {
				return usage("the demo is a story for people: it has no JSON")
			}
			defer outlivePipe()()
			ctx, cancel := context.WithCancelCause(cmd.Context())
			defer cancel(nil)
			d := &demo{out: &audience{cmd.OutOrStdout(), cancel}, p: paletteFor(cmd.OutOrStdout()), listen: listen, keep: keep}
			err := d.run(ctx, g)
			if cause := context.Cause(ctx); errors.Is(cause, errNobodyReads) {
				return cause
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "stay up afterwards and print commands to try")
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:0", "address of the gateway")
	return cmd
}

// demoBandwidth is the speed of the demo's registry, in bytes a second: slow enough
// that a pull can be watched being stopped in its middle.
const demoBandwidth = 8 << 20

var errNobodyReads = errors.New("nobody reads the story")

// An audience ends the demo when it has left, as head does.
type audience struct {
	io.Writer
	leave context.CancelCauseFunc
}

func (a *audience) Write(b []byte) (int, error) {
	n, err := a.Writer.Write(b)
	if err != nil {
		a.leave(fmt.Errorf("%w: %w", errNobodyReads, err))
	}
	return n, err
}

// A demo tells the story and checks each of its outcomes.
type demo struct {
	out    io.Writer
	p      palette
	listen string
	keep   bool

	dir     string
	origin  *proxytest.Server
	gateway string // host:port
	control string
	wrong   []string
}

func (d *demo) run(ctx context.Context, g *global) (err error) {
	if d.dir, err = os.MkdirTemp("", "sluice-demo-"); err != nil {
		return err
	}
	defer os.RemoveAll(d.dir)
	began := time.Now()
	if err := d.openOrigin(); err != nil {
		return err
	}
	defer d.origin.Close()
	stop, err := d.openGateway(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()

	d.pullDirect(ctx)
	d.pullAllowed(ctx)
	d.pullBlocked(ctx)
	d.verdict(ctx)
	d.otherClient(ctx)
	if len(d.wrong) > 0 {
		return &exitError{exitNo, fmt.Errorf("the demo did not go as it should:\n  %s", strings.Join(d.wrong, "\n  "))}
	}
	d.say("\n%s in %s. Every outcome was checked.", d.p.good("All as it should be"), time.Since(began).Round(100*time.Millisecond))
	if d.keep {
		return d.stay(ctx)
	}
	d.say("Stay and try it yourself: %s", d.p.dim(os.Args[0]+" demo --keep"))
	return nil
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }
func (d *demo) step(title string)              { d.say("\n%s", d.p.paint("1", title)) }

// expect notes an outcome that is off.
func (d *demo) expect(ok bool, what string, args ...any) {
	if !ok {
		d.wrong = append(d.wrong, fmt.Sprintf(what, args...))
	}
}

// openOrigin starts a registry that demands a token, with a blob host of its own, and
// fills it with images.
func (d *demo) openOrigin() error {
	d.step("1. A registry that demands a token")
	username, password := proxytest.PullToken(time.Now().Add(30 * 24 * time.Hour))
	var err error
	d.origin, err = proxytest.Start(proxytest.Origin{Username: username, Password: password, BlobRedirect: true, Bandwidth: demoBandwidth, Delay: 10 * time.Millisecond})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(d.dir, "username"), []byte(username), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(d.dir, "password"), []byte(password), 0o600); err != nil {
		return err
	}
	for _, i := range []struct {
		name  string
		about string
		build func(sample.Options) (v1.Image, error)
		o     sample.Options
	}{
		{"web", "Wolfi, up to date", sample.WolfiClean, sample.Options{}},
		{"legacy", "Wolfi of 2023, with a glibc that has been fixed since", sample.WolfiVulnerable, sample.Options{}},
		{"orders", "a Java application with log4j-core 2.14.1, 40 MiB", sample.JavaApp, sample.Options{Filler: 40 << 20, FillerLayers: 4}},
	} {
		img, err := i.build(i.o)
		if err != nil {
			return err
		}
		if _, err := d.origin.PushImage("acme/"+i.name, "1", img); err != nil {
			return err
		}
		d.say("   acme/%-8s %s", i.name+":1", d.p.dim(i.about))
	}
	d.say("   at %s, blobs at %s, about 70 Mbit/s", d.origin.Host(), d.origin.BlobHost())
	return nil
}

// openGateway starts a gateway on its embedded defaults, with the pull token, and a
// database of a few dozen well-known advisories.
func (d *demo) openGateway(ctx context.Context) (stop func() error, err error) {
	d.step("2. A gateway that holds the pull token")
	c := configs.Default()
	c.Listen, c.AdminListen, c.StateDir = d.listen, "", filepath.Join(d.dir, "state")
	c.Upstreams = []configs.Upstream{{Name: "cgr.dev", URL: d.origin.URL()}}
	c.Database.UpdateEvery = 0
	c.Log.Level = "error"
	if c, err = c.Resolve(os.Getenv); err != nil {
		return nil, err
	}
	d.control = controlSocket(c)
	built, err := sampledb.Build(filepath.Join(d.dir, "sample-db"), time.Now())
	if err != nil {
		return nil, fmt.Errorf("build the sample database: %w", err)
	}
	h, err := build(ctx, c, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	if _, err = h.databases.Import(ctx, built.Dir); err == nil {
		err = d.connect(ctx, h)
	}
	if err == nil {
		err = h.warmUp(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, h.close())
	}
	servers, err := h.listen()
	if err != nil {
		return nil, errors.Join(err, h.close())
	}
	d.gateway = servers[0].listener.Addr().String()
	failed := make(chan error, len(servers)) // the demo's next step says so
	for _, s := range servers {
		s.start(failed)
	}
	d.say("   at %s, with syft, grype and %d policies in it", d.gateway, h.policies[""].Status().Policies)
	return func() error {
		for _, s := range servers {
			s.stop()
		}
		return h.close()
	}, nil
}

// connect sets the pull token as `sluice connection set` does.
func (d *demo) connect(ctx context.Context, h *house) error {
	username, err := os.ReadFile(filepath.Join(d.dir, "username"))
	if err != nil {
		return err
	}
	password, err := os.ReadFile(filepath.Join(d.dir, "password"))
	if err != nil {
		return err
	}
	creds := upstream.Credentials{Username: string(username), Password: string(password)}
	r := connection.Test(ctx, h.gateway.Upstreams[0].Registry, creds, "acme/web:1", nil)
	d.expect(r.OK, "the pull token's test failed: %+v", r.Steps)
	for _, s := range r.Steps {
		fmt.Fprint(d.out, "   ")
		printStep(d.out, s)
	}
	if r.Connection.DaysLeft != nil {
		d.say("   the token has %s left", plural(*r.Connection.DaysLeft, "day"))
	}
	return h.connections.Set(ctx, "cgr.dev", creds)
}

// pullDirect shows that nobody gets anything from the registry without a token.
func (d *demo) pullDirect(ctx context.Context) {
	d.step("3. Straight to the registry, without a token")
	_, err := pullImage(ctx, d.origin.Host()+"/acme/web:1", nil)
	d.expect(err != nil, "the registry served an image without a token")
	d.say("   %s %s", d.p.bad("refused:"), reason(err))
}

// pullAllowed pulls an image that passes, by its first client and by a second one.
func (d *demo) pullAllowed(ctx context.Context) {
	d.step("4. An image that passes, pulled without any credential")
	for _, who := range []string{"first", "second"} {
		began := time.Now()
		got, err := pullImage(ctx, d.gateway+"/acme/web:1", nil)
		d.expect(err == nil, "acme/web:1 was not served: %v", err)
		if err == nil {
			d.say("   %s %s pull: %s in %s, %s", d.p.good("pulled"), who, plural(len(got), "blob"), time.Since(began).Round(time.Millisecond), d.p.dim("every digest right"))
		}
	}
	d.expect(len(d.origin.Leaks()) == 0, "the registry's token went to the blob host")
}

// pullBlocked pulls images that don't pass: a small one, refused before it begins, and
// a big one, stopped in the middle of its first pull.
func (d *demo) pullBlocked(ctx context.Context) {
	d.step("5. An image with a known exploited vulnerability, refused at its manifest")
	_, err := pullImage(ctx, d.gateway+"/acme/legacy:1", nil)
	d.expect(isDenied(err, "CVE-2023-4911"), "acme/legacy:1 should be denied for CVE-2023-4911: %v", err)
	d.say("   %s %s", d.p.bad("denied:"), reason(err))

	d.step("6. A big image, stopped in the middle of its first pull")
	var progress pullProgress
	_, err = pullImage(ctx, d.gateway+"/acme/orders:1", &progress)
	got, total := progress.sum()
	d.expect(isDenied(err, "CVE-2021-44228"), "acme/orders:1 should be denied for CVE-2021-44228: %v", err)
	d.expect(got > 0 && got < total, "acme/orders:1: the client should have some of %d bytes, and has %d", total, got)
	d.say("   the client had %s of %s when the scan ended", bytesText(got), bytesText(total))
	d.say("   %s %s", d.p.bad("denied:"), reason(err))
	_, err = pullImage(ctx, d.gateway+"/acme/orders:1", nil)
	d.expect(isDenied(err, "CVE-2021-44228"), "the second pull of acme/orders:1 should be denied at once: %v", err)
	d.say("   %s %s", d.p.bad("again: "), d.p.dim("refused at the manifest, nothing is fetched"))
	times, _ := d.origin.Served(progress.largest()) // of what it shares with others, the registry is asked whether it has it
	d.expect(times == 1, "a blob was fetched from the registry %d times", times)
}

// verdict asks what is in the image that was stopped.
func (d *demo) verdict(ctx context.Context) {
	d.step("7. sluice verdict acme/orders:1")
	var a policy.Answer
	c := &client{gateway: "http://" + d.gateway}
	a, err := c.verdict(ctx, "acme/orders:1", "linux/amd64", time.Minute)
	d.expect(err == nil && a.Decision.Blocks() && len(a.Findings) > 0, "no verdict on acme/orders:1: %v", err)
	var b strings.Builder
	printAnswer(&b, a)
	for line := range strings.Lines(strings.TrimSpace(b.String())) {
		fmt.Fprint(d.out, "   ", line)
	}
	d.say("")
}

// stay keeps everything up until the person has had enough.
func (d *demo) stay(ctx context.Context) error {
	d.step("Still up. Try, in another terminal:")
	sluice := os.Args[0] // as it was started: it need not be in the path
	for _, line := range []string{
		"docker pull " + d.gateway + "/acme/web:1",
		"docker pull " + d.gateway + "/acme/orders:1",
		sluice + " verdict --gateway http://" + d.gateway + " acme/legacy:1",
		sluice + " connection list --state-dir " + filepath.Dir(d.control),
		"curl -s http://" + d.gateway + "/api/v1/verdict?image=acme/web:1",
	} {
		d.say("   %s", line)
	}
	d.say("\nCtrl-C ends it.")
	<-ctx.Done()
	return nil
}

// reason is what a client's user reads.
func reason(err error) string {
	if err == nil {
		return "nothing: it was served"
	}
	text := err.Error()
	if i := strings.Index(text, "DENIED: "); i >= 0 {
		text = text[i+len("DENIED: "):]
	}
	if i := strings.Index(text, "; map["); i >= 0 { // the detail, which is for programs
		text = text[:i]
	}
	if i := strings.Index(text, "unexpected status code "); i >= 0 {
		text = text[i:]
	}
	return clean(text)
}

func isDenied(err error, finding string) bool {
	return err != nil && strings.Contains(err.Error(), "blocked by policy") && strings.Contains(err.Error(), finding)
}

// noProxy is a transport that only this machine can be reached through.
func noProxy() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = nil
	return t
}
