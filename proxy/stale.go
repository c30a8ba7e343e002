package proxy

import (
	"fmt"
	"time"
)

// staleTag counts a tag that is served from memory since upstream can't be read, and
// returns what its client is told with it (distribution specification, "Warnings"). The
// log says so once in a while for each tag. why is nil where upstream was not asked.
func (g *Gateway) staleTag(rt route, age time.Duration, why error) (warning string) {
	g.Metrics.staleTags.WithLabelValues(rt.repo.Upstream).Inc()
	age = age.Round(time.Second)
	if !g.noted.fresh("stale "+rt.repo.String()+":"+rt.reference, g.now(), logRefresh) {
		g.Log.Warn("tag served from memory: upstream can't be read", "repository", rt.repo, "tag", rt.reference, "age", age, "error", why)
	}
	return fmt.Sprintf(`299 - "the upstream registry can't be read now: this is what the tag was %v ago"`, age)
}
