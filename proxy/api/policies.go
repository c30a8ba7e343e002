package api

import (
	"net/http"

	"github.com/sluicegate/sluice/policy"
)

// A PolicySet is the policies of some upstreams.
type PolicySet struct {
	Upstreams []string `json:"upstreams"` // by name; never null in JSON
	policy.Status
	Listings []policy.Listing `json:"listings"` // by package; never null in JSON
}

func (h *Handler) policies(w http.ResponseWriter) error {
	sets := []PolicySet{}
	if h.Policies != nil {
		sets = h.Policies()
	}
	return writeJSON(w, map[string][]PolicySet{"sets": sets})
}
