package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/proxy/upstream"
)

const maxPage = 10000 // tags in one page, whatever the client asks for and upstream sends

// maxLists bounds the lists that are read from upstream at once: each may take tens of
// MiB of memory while it is checked.
const maxLists = 16

// serveList answers what is read from upstream each time: tags, a tag's history,
// referrers.
func (g *Gateway) serveList(w http.ResponseWriter, r *http.Request, rt route) error {
	ctx, cancel := context.WithTimeout(r.Context(), g.Gate.UpstreamTimeout)
	defer cancel()
	select {
	case g.lists <- struct{}{}:
		defer func() { <-g.lists }()
	case <-ctx.Done():
		return &Error{Status: http.StatusServiceUnavailable, Code: codeUnavailable, RetryAfter: 5 * time.Second,
			Message: "this gateway reads too many lists of tags and referrers at once; try again", cause: ctx.Err()}
	}
	r = r.WithContext(ctx)
	defer accountOf(ctx).asked(time.Now())
	switch rt.resource {
	case rTags:
		return g.serveTags(w, r, rt)
	case rReferrers:
		return g.serveReferrers(w, r, rt)
	}
	return g.serveTagHistory(w, r, rt)
}

// serveTags answers a page of a repository's tags, as upstream has them now. Name and
// Link are of the path that the client asked, not of upstream's.
func (g *Gateway) serveTags(w http.ResponseWriter, r *http.Request, rt route) error {
	q := r.URL.Query()
	n, err := pageSize(q.Get("n"))
	if err != nil {
		return err
	}
	ask := 0 // as many as upstream likes: some refuse a number that they find too large
	if q.Get("n") != "" {
		ask = max(n, 1) // also for 0, since only upstream knows whether there is such a repository
	}
	page, err := g.upstream(rt.repo.Upstream).Registry.Tags(r.Context(), rt.repo.Name, ask, q.Get("last"))
	if e := (*upstream.Error)(nil); errors.As(err, &e) && e.Status == http.StatusBadRequest && ask > 0 {
		return badQuery("the upstream registry refuses this page of tags (" + upstreamReason(err) + "); ask for a smaller n")
	}
	if err != nil {
		return fromUpstream(err, "the tag list of "+rt.repo.String(), codeNameUnknown)
	}
	tags, last := cutPage(page, q.Get("last"), n)
	name := pathName(r, "/tags/list")
	if last != "" {
		next := url.Values{"last": {last}}
		if q.Get("n") != "" {
			next.Set("n", strconv.Itoa(n))
		}
		if rt.namespace != "" {
			next.Set("ns", rt.namespace)
		}
		w.Header().Set("Link", fmt.Sprintf(`</v2/%s/tags/list?%s>; rel="next"`, name, next.Encode()))
	}
	return writeJSON(w, "application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{name, tags})
}

// pageSize reads how many tags a client wants at most.
func pageSize(text string) (int, error) {
	if text == "" {
		return maxPage, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, badQuery("n must be a number of tags, not " + printable(text, 20))
	}
	return min(n, maxPage), nil
}

// cutPage returns the tags of a page that follow last, at most n, and what the next page
// follows, "" where there is none. Registries that know no paging send all tags each
// time.
func cutPage(page upstream.Tags, last string, n int) (tags []string, next string) {
	tags = append([]string{}, page.Tags...) // never null
	if i := slices.Index(tags, last); i >= 0 {
		tags = tags[i+1:]
	}
	switch {
	case n == 0: // distribution specification, "Listing Tags": an empty list, and no Link
		return tags[:0], ""
	case len(tags) > n:
		return tags[:n], tags[n-1]
	}
	return tags, page.Next
}

// serveReferrers answers the index of what refers to a manifest. It describes
// artifacts and holds none of their content. A filter that upstream doesn't apply is
// applied here, so that clients get one behaviour from every upstream.
func (g *Gateway) serveReferrers(w http.ResponseWriter, r *http.Request, rt route) error {
	artifactType := r.URL.Query().Get("artifactType")
	refs, err := g.upstream(rt.repo.Upstream).Registry.Referrers(r.Context(), rt.repo.Name, rt.digest, artifactType)
	if err != nil {
		return fromUpstream(err, "the list of referrers of "+rt.repo.String()+"@"+rt.digest.String(), codeManifestUnknown)
	}
	if err := bringsNothing(refs.Index); err != nil {
		return err
	}
	if artifactType == "" {
		return writeBody(w, ocispec.MediaTypeImageIndex, refs.Index)
	}
	if !refs.FiltersApplied {
		if refs.Index, err = filterReferrers(refs.Index, artifactType); err != nil {
			return err
		}
	}
	w.Header().Set("OCI-Filters-Applied", "artifactType")
	return writeBody(w, ocispec.MediaTypeImageIndex, refs.Index)
}

// bringsNothing refuses a list of referrers that holds content, or sends for it past the
// gateway: where it comes from a tag, anybody who may push wrote it.
func bringsNothing(index []byte) error {
	if err := uniqueKeys(index); err != nil {
		return refuse("the list of its referrers is no plain JSON object: " + err.Error())
	}
	var doc struct {
		Manifests []ocispec.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(index, &doc); err != nil {
		return refuse("the list of its referrers can't be read: " + printable(err.Error(), 120))
	}
	return checkChildren(doc.Manifests)
}

// filterReferrers returns an index with those manifests of another that have an
// artifact type. All that is said of them, and of the index, stays.
func filterReferrers(index []byte, artifactType string) ([]byte, error) {
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(index, &doc); err != nil {
		return nil, err
	}
	var all []json.RawMessage
	if raw := doc["manifests"]; raw != nil {
		if err := json.Unmarshal(raw, &all); err != nil {
			return nil, err
		}
	}
	kept := slices.DeleteFunc(append([]json.RawMessage{}, all...), func(raw json.RawMessage) bool {
		var desc ocispec.Descriptor
		return json.Unmarshal(raw, &desc) != nil || desc.ArtifactType != artifactType
	})
	var err error
	if doc["manifests"], err = json.Marshal(kept); err != nil {
		return nil, err
	}
	return json.Marshal(doc)
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
