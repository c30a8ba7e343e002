package redis

import (
	"context"

	"github.com/redis/go-redis/v9"
	"github.com/sluicegate/sluice/cache"
)

// Every write is a script, so that it is told to all who watch in the step in which it
// takes place. KEYS[1] is the entry, ARGV[1] the channel, ARGV[2] what to say there. A
// time to live is in ms, 0 for ever.
const (
	tell = `
redis.call('PUBLISH', ARGV[1], ARGV[2])`

	set = `
if ARGV[4] == '0' then redis.call('SET', KEYS[1], ARGV[3]) else redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4]) end` + tell

	// putScript sets the string to ARGV[3] for ARGV[4]. A plain SET would replace a hash
	// without a word.
	putScript = `
if redis.call('TYPE', KEYS[1]).ok == 'hash' then
	return redis.error_reply('WRONGTYPE a map is there')
end` + set + `
return 1`

	// putNewScript returns the string, or sets it as putScript does and returns nil.
	putNewScript = `
local there = redis.call('GET', KEYS[1])
if there then return there end` + set + `
return false`

	// putIfScript sets the string as putScript does where it is ARGV[5], and returns
	// whether it is ARGV[3] afterwards.
	putIfScript = `
local there = redis.call('GET', KEYS[1])
if there ~= ARGV[5] then return there == ARGV[3] and 1 or 0 end` + set + `
return 1`

	deleteScript = `
if redis.call('UNLINK', KEYS[1]) == 0 then return 0 end` + tell + `
return 1`

	// putFieldScript sets the field ARGV[5] of the hash to ARGV[3], and lets the hash live
	// for ARGV[4] at least. PTTL is -2 where there is no key and -1 where it has no end.
	putFieldScript = `
local left, ttl = redis.call('PTTL', KEYS[1]), tonumber(ARGV[4])
redis.call('HSET', KEYS[1], ARGV[5], ARGV[3])
if ttl == 0 then
	redis.call('PERSIST', KEYS[1])
elseif left == -2 or left >= 0 and left < ttl then
	redis.call('PEXPIRE', KEYS[1], ARGV[4])
end` + tell + `
return 1`

	deleteFieldScript = `
if redis.call('HDEL', KEYS[1], ARGV[3]) == 0 then return 0 end` + tell + `
return 1`
)

// script runs a script on k. It is sent by its hash, and with its source only where
// the server does not know it, as after a restart.
func (s *Store) script(ctx context.Context, source string, k cache.Key, args ...any) *redis.Cmd {
	args = append([]any{s.channel(), encodeChange(k)}, args...)
	return redis.NewScript(source).Run(ctx, s.client, []string{s.key(k)}, args...)
}
