package proxy

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// maxInstant bounds start and end of a tag's history, in bytes: RFC 3339 takes 35.
const maxInstant = 64

// historyPath is what stands between a repository and a tag in the path of the tag's
// history.
const historyPath = "/_chainguard/history/"

// historyRoute reads NAME/_chainguard/history/TAG. ok is false for any other path.
func historyRoute(path string) (rt route, name string, ok bool, err error) {
	i := strings.LastIndex(path, historyPath)
	if i < 0 {
		return route{}, "", false, nil
	}
	rt = route{resource: rHistory, reference: path[i+len(historyPath):]}
	if !tagForm.MatchString(rt.reference) {
		return route{}, "", true, &Error{Status: http.StatusNotFound, Code: codeManifestUnknown, Message: "not a valid tag: " + printable(rt.reference, 130)}
	}
	return rt, path[:i], true, nil
}

// serveTagHistory answers which digests a tag has pointed to, as upstream says it now.
// It holds digests and dates, and nothing of an image.
func (g *Gateway) serveTagHistory(w http.ResponseWriter, r *http.Request, rt route) error {
	query, err := historyQuery(r.URL.Query())
	if err != nil {
		return err
	}
	body, err := g.upstream(rt.repo.Upstream).Registry.TagHistory(r.Context(), rt.repo.Name, rt.reference, query)
	if err != nil {
		return fromUpstream(err, "the history of "+rt.repo.String()+":"+rt.reference, codeManifestUnknown)
	}
	return writeBody(w, "application/json", body)
}

// historyQuery returns the parameters that the tag history knows. Nothing else of a
// client's query reaches upstream.
func historyQuery(q url.Values) (url.Values, error) {
	out := url.Values{}
	for _, key := range []string{"start", "end"} {
		switch v := q[key]; {
		case len(v) > 1 || len(v) == 1 && len(v[0]) > maxInstant:
			return nil, badQuery(fmt.Sprintf("%s must be one point in time, such as %s=2026-01-31T00:00:00Z", key, key))
		case len(v) == 1:
			out[key] = v
		}
	}
	return out, nil
}
