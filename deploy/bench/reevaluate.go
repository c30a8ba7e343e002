package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sluicegate/sluice/scan/vuln/sampledb"
)

// Images of a re-evaluation: as many as give a figure within seconds.
const (
	smallReviewed = 150
	largeReviewed = 8
	projected     = 100_000
)

// A review is how fast images that were pulled are matched with a new database.
type review struct {
	image    *image // of which each is a variant
	images   int
	packages int
	took     time.Duration
}

// rate is images a second.
func (r *review) rate() float64 { return float64(r.images) / r.took.Seconds() }

// measureReviews pulls variants of the small image, and then of image A, brings another
// build of the database, and waits until all are matched with it.
func measureReviews(ctx context.Context, y *yard, c *corpus, o options) (rows []*review, err error) {
	if o.database != "" {
		return nil, nil // one build, and there is no other to change to
	}
	for _, row := range []*review{{image: c.small, images: smallReviewed}, {image: c.large, images: largeReviewed}} {
		if o.quick {
			row.images = max(2, row.images/20)
		}
		if err := row.run(ctx, y); err != nil {
			return nil, fmt.Errorf("re-evaluate %d images like %s: %w", row.images, row.image.repo, err)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func (r *review) run(ctx context.Context, y *yard) (err error) {
	from, err := newOrigin("unshaped", 0, 0)
	if err != nil {
		return err
	}
	defer from.Close()
	gate, err := y.gateway(ctx, from)
	if err != nil {
		return err
	}
	defer gate.stop() //nolint:errcheck // measured before
	for i := range r.images {
		img, err := variant(r.image, i)
		if err != nil {
			return err
		}
		img.push(from.Server)
		if err := r.pull(ctx, gate, img); err != nil {
			return gate.fault(err)
		}
	}
	if r.took, err = y.renew(ctx, gate, r.images); err != nil {
		return gate.fault(err)
	}
	return nil
}

// variant is an image with a small layer of its own on top, so that it has an SBOM of its
// own.
func variant(base *image, i int) (*image, error) {
	p, err := newPacker(0)
	if err != nil {
		return nil, err
	}
	text := fmt.Appendf(nil, "%d\n", i)
	if err := p.add(&tar.Header{Name: "etc/variant", Mode: 0o644, Size: int64(len(text)), Format: tar.FormatUSTAR}, bytes.NewReader(text)); err != nil {
		return nil, err
	}
	top, err := p.close()
	if err != nil {
		return nil, err
	}
	return newImage(fmt.Sprintf("%s-%d", base.repo, i), base.about, append(base.layers[:len(base.layers):len(base.layers)], top))
}

// pull asks for an image as a client does, and waits for its verdict.
func (r *review) pull(ctx context.Context, gate *server, img *image) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, gate.url+"/v2/"+img.repo+"/manifests/"+img.tag, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close() // denied or not
	b, err := get(ctx, gate.url+"/api/v1/verdict?wait=5m&image="+url.QueryEscape(img.repo+":"+img.tag))
	if err != nil {
		return err
	}
	var a struct {
		Scan struct {
			State    string
			Packages int
		}
	}
	if err := json.Unmarshal(b, &a); err != nil || a.Scan.State != "complete" {
		return fmt.Errorf("the verdict on %s is %s: %w", img.repo, a.Scan.State, err)
	}
	r.packages = a.Scan.Packages
	return nil
}

// renew brings a gateway another build of the database, and returns how long it takes to
// match its images with that.
func (y *yard) renew(ctx context.Context, gate *server, images int) (time.Duration, error) {
	state := filepath.Dir(gate.log)
	y.count++
	db := filepath.Join(y.dir, fmt.Sprintf("db-%d", y.count))
	built, err := sampledb.Build(db, time.Now())
	if err != nil {
		return 0, err
	}
	if out, err := exec.CommandContext(ctx, y.sluice, "db", "import", built.Dir, "--config", state+".yaml").CombinedOutput(); err != nil {
		return 0, fmt.Errorf("import the database: %w\n%s", err, out)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(state, "control.sock"))
	}}}
	defer client.CloseIdleConnections()
	for deadline := time.Now().Add(10 * time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		resp, err := client.Get("http://gateway/api/v1/reevaluation")
		if err != nil {
			return 0, err
		}
		var s struct {
			Running                      bool
			Started, Ended               time.Time
			Total, Done, Skipped, Failed int
			Database                     struct{ Built time.Time }
		}
		err = json.NewDecoder(resp.Body).Decode(&s)
		resp.Body.Close()
		switch {
		case err != nil:
			return 0, err
		case s.Running || s.Total == 0 || s.Database.Built.Unix() != built.Built.Unix():
		case s.Total != images || s.Done != images || s.Skipped+s.Failed > 0:
			return 0, fmt.Errorf("of %d images %d were looked at, %d skipped, %d failed", images, s.Done, s.Skipped, s.Failed)
		default:
			return s.Ended.Sub(s.Started), nil
		}
	}
	return 0, fmt.Errorf("it takes too long")
}

func (r *report) writeReviews(b *strings.Builder) {
	b.WriteString("After a new vulnerability database the images pulled lately are matched again from their\nSBOMs, one at a time, each with an SBOM of its own, while nobody pulls:\n\n")
	fmt.Fprintf(b, "| image | packages | images | images a second | %d,000 images |\n|---|--:|--:|--:|--:|\n", projected/1000)
	for _, v := range r.reviews {
		fmt.Fprintf(b, "| %s | %d | %d | **%.1f** | %s |\n", short(v.image.about), v.packages, v.images, v.rate(),
			time.Duration(projected/v.rate()*float64(time.Second)).Round(time.Minute))
	}
	b.WriteString("\n")
}
