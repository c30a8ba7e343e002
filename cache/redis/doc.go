// Package redis is a cache.Store in Redis 7 or later, shared by all replicas.
//
//	gateway ─┐                       sluice:v2:verdict:{0f3c…}             string
//	gateway ─┼── commands, scripts ─ sluice:v2:listing:{acme/web|sha256:…} hash
//	gateway ─┘    one key each       sluice:v2:ping                        string
//	                                 sluice:schema                         string
//	                                 sluice:v2:changes                     channel
//
// A key is prefix, "v2:", kind, ":", and the id in braces: a hash tag, so that what is known
// of one thing under several kinds (a lease and its fence, a blob's listing and that
// upstream vouched for it) is on one node of a Cluster. Bytes that are awkward in a shell,
// and braces, are escaped as %XX; | stands between the parts of a name. A value, and each
// field of a hash, is packed: compressed where that is worth it, with a checksum.
//
// The schema under which a prefix is used is in the key "schema". Open, and every Ping after
// it, refuses one that is not this code's; between a Ping and the next, which readiness
// asks for, a gateway of another version could write.
//
// # What it asks of the server
//
// Sluice writes and waits for the answer; that what was answered outlives the
// server is the server's part (appendonly yes). The server must not evict what has
// no end of life, such as waivers and pull tokens: Open refuses a server that has
// maxmemory with a policy of allkeys-….
//
// In a Cluster keys lie on all nodes; news go through all of them. Behind Sentinels the
// Store works again some seconds after a master was lost. What was written last may be lost
// with it, since Redis copies to replicas behind an answer: then it is made again, as if it
// had never been known, and who removed a waiver has to look whether it is gone
// (min-replicas-to-write narrows this).
//
// A user needs these rights, with the prefix of the configuration:
//
//	~sluice:* &sluice:* -@all +ping +info +hello +command|info +cluster|slots
//	+cluster|shards +cluster|nodes +subscribe +unsubscribe +publish +evalsha +eval
//	+type +get +set +unlink +hgetall +hset +hdel +pttl +pexpire +persist
//	+scan +memory|usage
//
// # Why
//
// No command touches more than one key, so that the same code runs on a Cluster, and no
// entry needs another to be right. Schema 1 had no hash tags.
//
// Every write is a script that also publishes which key was written, so that no other
// gateway can see the write and miss the news of it. What one gateway holds in its memory
// is so good as of the last beat that it heard from every master (Watch): beats are
// published by the gateway itself and come back in line with the news, so that a silent
// connection is noticed, which Redis's own tracking of clients would not notice. It needs
// no more than Pub/Sub, which every server and proxy has.
//
// A retry after a lost answer is safe: each command, run twice, leaves what it
// leaves when run once; PutNew finds its own value, and so does PutIf.
package redis
