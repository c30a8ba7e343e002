// Package connection keeps the pull tokens with which the gateway reads from other
// registries: where they come from, how they lie in the Store, whether they work.
//
//	environment  SLUICE_CGR_DEV_USERNAME, …_PASSWORD  ─┐ first
//	file         a mounted secret, read again, or a    ├──▶ Vault.Credentials ──▶ upstream.Registry
//	             credential helper that it names       │                                │
//	Exchange     a platform's token for the registry's │        Vault.Refused ◀── 401, 403
//	Store        sealed, current and next             ─┘ last
//
// A Vault answers, for each upstream, with the credentials in force now; a new token
// is used about a second after it was set, without a restart. Test goes step by step
// from the registry's name to its blob storage and says at which one it ends.
//
// # A sealed token
//
// In the Store there is one map, under the kind "connection", with a field for each
// upstream, and one for its next token, "next " and that name:
//
//	version (1 byte, 1) | key ID (8 bytes) | nonce (12 bytes) | AES-256-GCM ciphertext and tag
//
// of a JSON object with username, password and when they were set. The version and
// the upstream's name are authenticated with it, so that a record does not open under
// another name. The key ID, a hash of the key, tells a wrong key from a damaged record.
//
// # Why
//
// Files are read when they are needed, at most once a second, rather than watched:
// it is the same for a mounted secret whose symbolic link is swapped, a network file
// system and a rename, it needs no goroutine, and nothing can be missed. A file that
// is half replaced is read again.
//
// A source that can't be read now (a Store that is away, a file between two writes)
// leaves its last credentials in force for five minutes: it is no reason to fail
// pulls. That a source has no credentials any more is an answer, and holds at once.
//
// A next token is promoted by the gateway whose request is refused: it exchanges the two, so
// that a registry that errs for a moment costs no token. Gateways that do so at the same time
// write the same. Two tokens that are both refused don't take turns; then the registry is
// asked less and less often (upstream.Registry.Refusal). A 403 promotes nothing: it may be
// about the one repository.
//
// What a credential helper says is used for a minute, since it may ask others, and a program
// is only run where the configuration allows it: who may write the docker configuration
// could else choose one.
//
// A test never stands in the way of saving: a registry that has locked out the old
// token would else refuse the new one as well.
package connection
