package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const maxPage = 10000 // tags in one page, whatever the client asks for

// serveTags answers a page of a repository's tags, as upstream has them now.
func (g *Gateway) serveTags(w http.ResponseWriter, r *http.Request, rt route) error {
	q := r.URL.Query()
	n := 0
	if s := q.Get("n"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil || n < 0 {
			return &Error{Status: http.StatusBadRequest, Code: codeUnsupported, Message: "n must be a number of tags, not " + printable(s, 20)}
		}
		n = min(n, maxPage)
	}
	ctx, cancel := context.WithTimeout(r.Context(), g.Gate.UpstreamTimeout)
	defer cancel()
	tags, err := g.upstream(rt.repo.Upstream).Registry.Tags(ctx, rt.repo.Name, n, q.Get("last"))
	if err != nil {
		return fromUpstream(err, "the tags of "+rt.repo.String(), codeNameUnknown)
	}
	name := pathName(r, "/tags/list")
	if tags.Next != "" {
		next := url.Values{"last": {tags.Next}}
		if n > 0 {
			next.Set("n", strconv.Itoa(n))
		}
		if ns := q.Get("ns"); ns != "" {
			next.Set("ns", ns)
		}
		w.Header().Set("Link", fmt.Sprintf(`</v2/%s/tags/list?%s>; rel="next"`, name, next.Encode()))
	}
	return writeJSON(w, "application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{name, tags.Tags})
}

// serveReferrers answers the index of what refers to a manifest. It describes
// artifacts and holds none of their content.
func (g *Gateway) serveReferrers(w http.ResponseWriter, r *http.Request, rt route) error {
	ctx, cancel := context.WithTimeout(r.Context(), g.Gate.UpstreamTimeout)
	defer cancel()
	refs, err := g.upstream(rt.repo.Upstream).Registry.Referrers(ctx, rt.repo.Name, rt.digest, r.URL.Query().Get("artifactType"))
	if err != nil {
		return fromUpstream(err, "the referrers of "+rt.repo.String()+"@"+rt.digest.String(), codeManifestUnknown)
	}
	if refs.FiltersApplied {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	return writeBody(w, ocispec.MediaTypeImageIndex, refs.Index)
}

// pathName returns the repository as the client wrote it in the path.
func pathName(r *http.Request, suffix string) string {
	const prefix = "/v2/"
	p := r.URL.Path
	return p[len(prefix) : len(p)-len(suffix)]
}

func writeJSON(w http.ResponseWriter, contentType string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeBody(w, contentType, b)
}

// writeBody answers 200. To a HEAD the server sends the headers alone.
func writeBody(w http.ResponseWriter, contentType string, b []byte) error {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.Write(b)
	return nil
}
