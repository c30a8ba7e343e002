package upstream

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	maxTagsBody     = 32 << 20 // bytes; a repository with a tag for each build has tens of thousands on a page
	maxReferrers    = 10000    // in all pages
	maxReferrerPage = 50
	maxReferrersAll = 16 << 20 // bytes of all pages
)

// Tags is one page of a repository's tags, as the registry gave them.
type Tags struct {
	Name string // of the repository, by its own words
	Tags []string
	Next string // what to pass as last for the next page, "" at the end
}

// Tags returns the page of at most n tags (0: as many as the registry likes) that
// follow the tag last ("" for the first).
func (r *Registry) Tags(ctx context.Context, repo string, n int, last string) (Tags, error) {
	c := pull(opTags, http.MethodGet, repo, "tags", "list")
	c.query = url.Values{}
	if n > 0 {
		c.query.Set("n", strconv.Itoa(n))
	}
	if last != "" {
		c.query.Set("last", last)
	}
	resp, body, err := r.read(ctx, c, maxTagsBody)
	if err != nil {
		return Tags{}, err
	}
	var doc struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}
	if json.Unmarshal(body, &doc) != nil {
		return Tags{}, &Error{Op: opTags, URL: shown(resp.Request.URL), Err: contentError("no list of tags")}
	}
	page := Tags{Name: doc.Name, Tags: doc.Tags}
	if next, ok := nextLink(resp.Header); ok {
		page.Next = next.Query().Get("last")
		if page.Next == "" && len(doc.Tags) > 0 { // a cursor of the registry's own
			page.Next = doc.Tags[len(doc.Tags)-1]
		}
		if page.Next == last { // else a client would ask for the same page for ever
			page.Next = ""
		}
	}
	return page, nil
}

// Referrers is what refers to a manifest: signatures, attestations, SBOMs.
type Referrers struct {
	Index          []byte // an OCI index of all pages; the registry's own bytes where there is one page
	FiltersApplied bool   // it holds only the artifact type that was asked for

	manifests []json.RawMessage
	bytes     int // of the pages so far
}

// Referrers returns all that refers to a manifest, of one artifact type where that
// is given and the registry filters by it. A registry without the referrers API is
// asked for the tag that stands in for it (distribution specification, "Referrers
// Tag Schema"); that there is none is an empty list.
func (r *Registry) Referrers(ctx context.Context, repo string, d digest.Digest, artifactType string) (Referrers, error) {
	var refs Referrers
	c := pull(opReferrers, http.MethodGet, repo, "referrers", d.String())
	if artifactType != "" {
		c.query = url.Values{"artifactType": {artifactType}}
	}
	for page := 0; ; page++ {
		resp, body, err := r.read(ctx, c, maxManifest)
		if page == 0 && (NotFound(err) || hasStatus(err, http.StatusMethodNotAllowed)) {
			return r.referrersTag(ctx, repo, d)
		}
		if err != nil {
			return Referrers{}, err
		}
		if err := refs.add(body); err != nil {
			return Referrers{}, &Error{Op: opReferrers, URL: shown(resp.Request.URL), Err: err}
		}
		filters := strings.Split(resp.Header.Get("OCI-Filters-Applied"), ",")
		applied := slices.ContainsFunc(filters, func(s string) bool { return strings.TrimSpace(s) == "artifactType" })
		refs.FiltersApplied = applied && (page == 0 || refs.FiltersApplied)
		next, ok := nextLink(resp.Header)
		switch {
		case !ok || next.RawQuery == c.query.Encode():
			return refs, refs.join(page + 1)
		case page+1 == maxReferrerPage:
			return Referrers{}, &Error{Op: opReferrers, URL: shown(resp.Request.URL), Err: contentError("more than %d pages", maxReferrerPage)}
		}
		c.query = next.Query()
	}
}

func (r *Registry) referrersTag(ctx context.Context, repo string, d digest.Digest) (Referrers, error) {
	refs := Referrers{Index: []byte(emptyIndex)}
	encoded := d.Encoded()
	m, err := r.Manifest(ctx, repo, d.Algorithm().String()+"-"+encoded[:min(len(encoded), 64)])
	if NotFound(err) {
		return refs, nil
	}
	if err != nil {
		return Referrers{}, err
	}
	if err := refs.add(m.Body); err != nil {
		return Referrers{}, &Error{Op: opReferrers, URL: r.Name + "/" + repo, Err: err}
	}
	return refs, nil
}

func (f *Referrers) add(body []byte) error {
	var doc struct {
		Manifests []json.RawMessage `json:"manifests"`
	}
	if json.Unmarshal(body, &doc) != nil {
		return contentError("no index of referrers")
	}
	f.Index = body
	f.manifests = append(f.manifests, doc.Manifests...)
	f.bytes += len(body)
	switch {
	case len(f.manifests) > maxReferrers:
		return contentError("more than %d referrers", maxReferrers)
	case f.bytes > maxReferrersAll:
		return contentError("more than %d bytes of referrers", maxReferrersAll)
	}
	return nil
}

// join makes one index of several pages.
func (f *Referrers) join(pages int) (err error) {
	if pages == 1 {
		return nil // the registry's own bytes
	}
	f.Index, err = json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "manifests": append([]json.RawMessage{}, f.manifests...)})
	return err
}

const emptyIndex = `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[]}`

// nextLink returns the target of the Link header with rel="next" (RFC 8288). Only
// its query is of use: the next page is always asked for at the registry's own
// address.
func nextLink(h http.Header) (*url.URL, bool) {
	for _, s := range h.Values("Link") {
		for range 16 { // links in a header
			_, rest, ok := strings.Cut(s, "<")
			target, params, ok2 := strings.Cut(rest, ">")
			if !ok || !ok2 {
				break
			}
			var rel string
			rel, s = cutRel(params)
			if !slices.Contains(strings.Fields(strings.ToLower(rel)), "next") {
				continue
			}
			if u, err := url.Parse(target); err == nil {
				return u, true
			}
		}
	}
	return nil, false
}

// cutRel reads a link's parameters and returns the value of rel and what follows
// the link.
func cutRel(s string) (rel, rest string) {
	for {
		s = strings.TrimLeft(s, " \t")
		if !strings.HasPrefix(s, ";") {
			return rel, s
		}
		var name, value string
		name, s = cutToken(strings.TrimLeft(s[1:], " \t"))
		s = strings.TrimLeft(s, " \t")
		if strings.HasPrefix(s, "=") {
			var ok bool
			if value, s, ok = cutValue(strings.TrimLeft(s[1:], " \t")); !ok {
				return rel, ""
			}
		}
		if strings.EqualFold(name, "rel") && rel == "" {
			rel = value
		}
	}
}
