package redis

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/redis/go-redis/v9"
)

// RouteLog sends what the Redis client writes to its log, which is one for the process
// and by default raw lines on standard error, to log; nil drops it. What it says comes
// as errors too, so that it is only for whoever debugs. Call it before Open.
func RouteLog(log *slog.Logger) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	redis.SetLogger(routed{log})
}

type routed struct{ log *slog.Logger }

func (r routed) Printf(ctx context.Context, format string, args ...any) {
	r.log.DebugContext(ctx, "redis client", "message", fmt.Sprintf(format, args...))
}
