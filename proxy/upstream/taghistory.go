package upstream

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
)

const (
	opHistory  = "history"
	maxHistory = 4 << 20 // bytes; Chainguard's registry sends at most 1,000 moves, of about 130 bytes each
)

// TagHistory returns which digests a tag has pointed to, in the JSON that the registry
// wrote, byte by byte. It is an extension of Chainguard's registry (edu.chainguard.dev,
// "Using the Tag History API"); others say that there is no such thing, see NotFound.
// query holds start and end, where they are given.
func (r *Registry) TagHistory(ctx context.Context, repo, tag string, query url.Values) ([]byte, error) {
	c := pull(opHistory, http.MethodGet, repo, "_chainguard", "history", tag)
	c.query = query
	resp, body, err := r.read(ctx, c, maxHistory)
	if err != nil {
		return nil, err
	}
	if !json.Valid(body) {
		return nil, &Error{Op: opHistory, URL: shown(resp.Request.URL), Err: contentError("no JSON")}
	}
	return body, nil
}
