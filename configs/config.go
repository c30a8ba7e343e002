package configs

import "time"

// Config is everything that can be set about a gateway. Its zero value is of no use;
// start from Default. Durations are written "4m" or "20s", sizes "20GiB".
//
// No secret is a key here, so that the file can be kept with other configuration. The
// package's documentation lists the environment variables that hold them.
type Config struct {
	// Listen is the address that clients reach: /v2/, /api/v1/. Default
	// "127.0.0.1:8080". Off loopback the gateway does not start without TLS and a way
	// to know its callers; see AllowPlainHTTP and AllowAnonymous.
	Listen string `yaml:"listen"`

	// AdminListen is the address of /metrics, /healthz, /readyz and pprof, in plain
	// HTTP and without callers. Default "127.0.0.1:9090". Elsewhere than on loopback,
	// whoever reaches it can read memory profiles and slow the gateway: keep it on a
	// network of your own. "" turns it off.
	AdminListen string `yaml:"admin_listen"`

	// TLS is what the gateway proves its name with.
	TLS TLS `yaml:"tls"`

	// Auth is how the gateway knows its callers.
	Auth Auth `yaml:"auth"`

	// Limits are what callers may take.
	Limits CallerLimits `yaml:"limits"`

	// AllowPlainHTTP lets the gateway listen off loopback without TLS. Default false.
	// Everyone on the way reads the callers' passwords and can swap an image that is
	// pulled by tag: set it only behind something that ends TLS.
	AllowPlainHTTP bool `yaml:"allow_plain_http"`

	// AllowAnonymous serves requests that carry no credentials, off loopback too, as
	// the caller "". Default false; on loopback without an htpasswd file it is so
	// anyway. Everyone who reaches the gateway pulls with its pull token.
	AllowAnonymous bool `yaml:"allow_anonymous"`

	// StateDir is the folder for everything that survives a restart: the embedded
	// store, spooled blobs and layers, the vulnerability database, the sealing key.
	// Default "", which is $XDG_STATE_HOME/sluice, or ~/.local/state/sluice. One
	// gateway a folder.
	StateDir string `yaml:"state_dir"`

	// Store is where verdicts, SBOMs, manifests and relations are kept. Default "",
	// a file in StateDir. Gateways share them in Redis 7 or later: redis://HOST:PORT/DB,
	// redis-cluster://HOST:PORT,HOST:PORT, redis-sentinel://HOST:PORT,HOST:PORT/MASTER/DB,
	// each with rediss in place of redis for TLS. No password here: SLUICE_REDIS_PASSWORD,
	// or a file below.
	Store string `yaml:"store"`

	// Redis is how the Redis of Store is spoken to. None of it is for a file.
	Redis Redis `yaml:"redis"`

	// Objects is an S3-compatible object store by which gateways share blobs, so that each
	// is fetched from upstream once for all of them. Default: none.
	Objects Objects `yaml:"objects"`

	// SealKeyFile holds the key that stored pull tokens are sealed with, 32 bytes in
	// base64. Default "", which is StateDir/seal.key, made at the first start; any other
	// must be there. Where the environment has SLUICE_KEY, that is the key and no file
	// is read. Gateways that share a Redis store need the same key. If it is lost,
	// stored pull tokens have to be set again.
	SealKeyFile string `yaml:"seal_key_file"`

	// DefaultUpstream is the name of the upstream that serves requests that name
	// none. Default "cgr.dev".
	DefaultUpstream string `yaml:"default_upstream"`

	// Upstreams are the registries that the gateway may ask; any other is refused.
	// Default: cgr.dev alone, without credentials of its own. A list in the file
	// replaces the default list.
	Upstreams []Upstream `yaml:"upstreams"`

	// Gate is what is held, how long, and whether a violation blocks.
	Gate Gate `yaml:"gate"`

	// Policy is where the rules, the exceptions and the kill list come from.
	Policy Policy `yaml:"policy"`

	// DecisionLog is where decisions are written down.
	DecisionLog DecisionLog `yaml:"decision_log"`

	// Webhooks are web servers that events are sent to, at most 16. Default: none. Gateways
	// that share a store need the same ones.
	Webhooks []Webhook `yaml:"webhooks"`

	// Trust is what signatures and attestations of images are verified by. They are looked
	// for only where a policy reads them.
	Trust Trust `yaml:"trust"`

	// Database is the vulnerability database's life.
	Database Database `yaml:"database"`

	// Spool bounds the disk that blobs take.
	Spool Spool `yaml:"spool"`

	// Scan bounds what scanning takes, and what it accepts.
	Scan Scan `yaml:"scan"`

	// Log is what goes to standard error.
	Log Log `yaml:"log"`
}

// TLS names the certificate. Both files are read again when they change, without a
// restart; a pair that does not fit leaves the last good one in use.
type TLS struct {
	// CertFile is a PEM file: the certificate, then its intermediates. Default "", no TLS.
	CertFile string `yaml:"cert_file"`
	// KeyFile is the certificate's private key in PEM. Default "".
	KeyFile string `yaml:"key_file"`
	// ClientCAFile is a PEM file of authorities for clients' certificates: a caller that
	// shows one is "cert:" and its common name, or where it has none its first URI or DNS
	// name, and in the groups "cert:" and each of its organisations. Who shows none logs in
	// as all others. It is read again when it changes. Default "", none is asked for.
	ClientCAFile string `yaml:"client_ca_file"`
}

// Auth names the callers.
type Auth struct {
	// HtpasswdFile is a file of "name:hash" lines, bcrypt only (htpasswd -B). It is
	// read again when it changes. Default "", no callers are known.
	HtpasswdFile string `yaml:"htpasswd_file"`
	// GroupsFile is a file of "group: name name" lines, for policies, which see a caller's
	// groups as input.request.groups. It is read again when it changes. Default "", none.
	GroupsFile string `yaml:"groups_file"`
	// OIDC are issuers whose tokens are taken, as Bearer or in place of the password of any
	// name: CI services, the company's own provider, Kubernetes for its service accounts.
	// Default none.
	OIDC []Issuer `yaml:"oidc"`
	// TokenURL is the address of /token as clients reach it, such as
	// https://sluice.example.com/token. Where it is set, clients are sent there for a token
	// and send their password once in token_life; else with each request. Default "".
	TokenURL string `yaml:"token_url"`
	// TokenLife is how long a token of /token is good. Default 5m, at most 1h.
	TokenLife time.Duration `yaml:"token_life"`
	// ForeignCredentials says what becomes of what is plainly a Chainguard pull token, as a
	// pod's imagePullSecret for cgr.dev has a node send it to the mirror. "refuse": 401, with
	// the reason. "ignore": as if none was sent, so that the client certificate or
	// allow_anonymous counts. It is never looked at further, kept, or sent on. Default
	// "refuse".
	ForeignCredentials string `yaml:"foreign_credentials"`
	// Access says which callers may see which repositories: pull from, list, ask about.
	// Default none: every caller may see all. With any, what none of them names is refused.
	Access []Access `yaml:"access"`
}

// KnowsCallers reports whether there is a way to know a caller.
func (c Config) KnowsCallers() bool {
	return c.Auth.HtpasswdFile != "" || len(c.Auth.OIDC) > 0 || c.TLS.ClientCAFile != ""
}

// An Issuer issues tokens by OpenID Connect.
type Issuer struct {
	// Name stands with a colon before the names and groups of the issuer's callers, and has
	// none itself: github makes "github:repo:acme/web:ref:refs/heads/main". Required, unique.
	Name string `yaml:"name"`
	// Issuer is the URL that the tokens say in iss. Required.
	Issuer string `yaml:"issuer"`
	// Audience is what the tokens must say in aud. Required.
	Audience string `yaml:"audience"`
	// KeysURL is where the issuer's keys are. Default "": where its discovery document says.
	KeysURL string `yaml:"keys_url"`
	// KeysFile is a file with the issuer's keys, a JSON Web Key Set, in place of keys_url,
	// for a cluster that can't be reached from here. Default "".
	KeysFile string `yaml:"keys_file"`
	// CAFile is a PEM file of authorities for the issuer, in place of the system's. Default "".
	CAFile string `yaml:"ca_file"`
	// TokenFile is a file with a bearer token to ask for the keys with, as a cluster's API
	// server wants: /var/run/secrets/kubernetes.io/serviceaccount/token. Default "".
	TokenFile string `yaml:"token_file"`
	// NameClaim is the claim with the caller's name. Default "", which is sub. An email counts
	// only with email_verified.
	NameClaim string `yaml:"name_claim"`
	// GroupsClaim is the claim with the caller's groups. Default "", none; service accounts
	// have Kubernetes' groups, system:serviceaccounts:NAMESPACE, anyway.
	GroupsClaim string `yaml:"groups_claim"`
}

// Access lets callers see repositories.
type Access struct {
	// Callers are globs over names of callers, in which "*" stands for any text. Default none. A rule without callers and
	// groups is for everyone, those without a login too.
	Callers []string `yaml:"callers"`
	// Groups are globs like Callers' over names of groups. Default none.
	Groups []string `yaml:"groups"`
	// Repositories are globs like those of upstreams.allow over names that begin with the
	// upstream's: cgr.dev/acme/**. Required.
	Repositories []string `yaml:"repositories"`
}

// CallerLimits are what callers may take. A caller is a name, or where there is none an
// address. 0 is no limit.
type CallerLimits struct {
	// Requests are those that one caller may make in a second, on average. What comes a
	// little too early waits; what would wait for over two seconds is refused with 429 and
	// Retry-After. Default 0.
	Requests int `yaml:"requests"`
	// Burst is how many of them may come at once. Default 0, which is two seconds' worth.
	Burst int `yaml:"burst"`
	// Bytes are those of images that one caller gets in a second. Default 0.
	Bytes Size `yaml:"bytes"`
	// Open is how many requests of one caller are served at once; a pull has four or so.
	// Default 0.
	Open int `yaml:"open"`
	// OpenAll is how many requests are served at once, of which one caller gets half.
	// Default 4096.
	OpenAll int `yaml:"open_all"`
}

// An Upstream is a registry that the gateway reads from.
type Upstream struct {
	// Name is the registry's host as image references spell it: cgr.dev. Clients name
	// it with ?ns=NAME or as the first element of the path. Required, unique.
	Name string `yaml:"name"`
	// URL is where the registry is asked. Default "", https://NAME, and the address
	// that it is known for in the case of docker.io. http:// sends the pull token in
	// the clear.
	URL string `yaml:"url"`
	// RealmHosts are hosts, beside the registry's own, whose token endpoint may be
	// given the pull token. Default none: where a challenge names another host, it is
	// asked for a token without credentials, since a forged one would collect them.
	RealmHosts []string `yaml:"realm_hosts"`
	// RedirectHosts are hosts that the registry may redirect to wherever they lie, such
	// as storage behind a private address. Default none: a redirect, or a token endpoint,
	// may lie no nearer to the gateway than the registry itself does (public, private
	// network, this machine), and is refused else, so that no registry can have the
	// gateway ask what only the gateway reaches.
	RedirectHosts []string `yaml:"redirect_hosts"`
	// CredentialsDir is a folder with the files username and password, or with a
	// docker configuration, such as a mounted secret. It is read again when it
	// changes: a new token needs no restart. The environment's token comes before it,
	// and one set by `sluice connection set` after it. Default "", none.
	CredentialsDir string `yaml:"credentials_dir"`
	// CredentialHelpers lets a docker configuration in credentials_dir name a credential
	// helper, a program docker-credential-NAME in PATH, which is then run. Default false.
	CredentialHelpers bool `yaml:"credential_helpers"`
	// OIDC has no pull token stored at all: a token of the platform is exchanged for one of
	// the registry. It comes after the environment and credentials_dir. Default: none.
	OIDC Exchange `yaml:"oidc"`
	// CAFile is a PEM file of authorities that this registry's certificate may come
	// from, in place of the system's. Default "", the system's.
	CAFile string `yaml:"ca_file"`
	// PolicyDir is a folder of *.rego files that decides about this registry's images
	// in place of policy.dir and of the policies built in. Default "", neither: as all
	// others. Waivers, kill list and modes are the same for all.
	PolicyDir string `yaml:"policy_dir"`
	// TagTTL is gate.tag_ttl for this registry. Default "", gate.tag_ttl itself. 0 asks
	// at every request.
	TagTTL *time.Duration `yaml:"tag_ttl"`
	// Allow are globs over the names of the registry's repositories, without its own
	// name: acme/web. Only what one of them matches is served. Default none: all are.
	// "*" stands for any text without a slash, "**" for any text, "?" for one character
	// but a slash; the whole name must match. YAML wants quotes around one that begins
	// with "*".
	Allow []string `yaml:"allow"`
	// Deny are globs like Allow's over repositories that are refused, whatever Allow
	// says. Refused are manifests, blobs, tags, referrers and verdicts, before the
	// registry is asked. Default none.
	Deny []string `yaml:"deny"`
	// Requests are those that the registry may be sent in a second, on average; what comes
	// too early waits. How many are sent at once follows from gate.pulls. Default 0, as many
	// as need be.
	Requests int `yaml:"requests"`
}

// An Exchange is an assumed identity of Chainguard's in place of a pull token.
type Exchange struct {
	// TokenFile is a file with the platform's token, such as a projected one of a Kubernetes
	// service account with the audience issuer.enforce.dev. It is read at each exchange.
	// Default "", no exchange.
	TokenFile string `yaml:"token_file"`
	// Identity is the path of the identity to assume, as `chainctl iam identities list`
	// shows it. Required with token_file.
	Identity string `yaml:"identity"`
	// Issuer exchanges tokens. Default "", https://issuer.enforce.dev.
	Issuer string `yaml:"issuer"`
	// Audience is what the registry wants in a token. Default "", the upstream's name.
	Audience string `yaml:"audience"`
	// CAFile is a PEM file of authorities for the issuer, in place of the system's. Default "".
	CAFile string `yaml:"ca_file"`
}

// Gate holds the gate's settings.
type Gate struct {
	// Mode says what becomes of a violation. Default "enforce": the pull is refused.
	// "warn": served with a Warning header, counted and logged. "dry-run": served and
	// logged. "off": nothing is decided; only the kill list holds.
	Mode string `yaml:"mode"`
	// Modes are exceptions from Mode, for some policies or some repositories. The first
	// that matches counts. Default none.
	Modes []ModeRule `yaml:"modes"`
	// Strict sends no byte of a layer before the decision. Default false: layers
	// stream while they are scanned, and only the last part waits. Strict also keeps
	// confidential what is denied, and makes every first pull wait for its scan.
	Strict bool `yaml:"strict"`
	// ManifestWait is how long the manifest of an unknown image waits for a decision,
	// counted from its pull's start. Default 2s: enough for a small image to get a
	// clean answer; longer delays big ones, whose layers can't be asked for before.
	ManifestWait time.Duration `yaml:"manifest_wait"`
	// HeaderWait is how long a config or a strict layer waits before headers are sent.
	// Default 20s, at most 25s, since containerd gives up on headers after 30.
	HeaderWait time.Duration `yaml:"header_wait"`
	// Drip is how often a held response sends a few of its bytes. Default 5s, at most
	// 9s, since some CRI-O versions give up on a pull without progress after 10.
	Drip time.Duration `yaml:"drip"`
	// HoldCap is how long a response is held, counted from the last byte of the image
	// that upstream sent, before it fails as scan_timeout. Default 4m, under 5m, since
	// containerd cancels a pull without progress after 5. The scan goes on.
	HoldCap time.Duration `yaml:"hold_cap"`
	// TagTTL is how long a tag is answered without asking upstream. Default 60s. 0
	// asks at every request.
	TagTTL time.Duration `yaml:"tag_ttl"`
	// StaleTags is for how long a tag's last known digest is served while upstream
	// can't be reached, errs or throttles. Default 24h. 0 serves none.
	StaleTags time.Duration `yaml:"stale_tags"`
	// NegativeTTL is how long "not found" from upstream is remembered. Default 30s.
	// 0 asks each time.
	NegativeTTL time.Duration `yaml:"negative_ttl"`
	// RelationTTL is how long the gateway remembers which manifests list a blob, from
	// their last use. Default 720h (30 days). Past it, a blob can be had only after
	// its manifest was asked for again.
	RelationTTL time.Duration `yaml:"relation_ttl"`
	// Pulls is how many images are fetched from upstream at once; more wait in a
	// queue. Default 4. More is faster for many small images and takes more disk,
	// connections and memory.
	Pulls int `yaml:"pulls"`
	// Drain is how long pulls in flight may take to finish after SIGTERM. Default 5m.
	// What stops the process must wait longer than this.
	Drain time.Duration `yaml:"drain"`
}

// A ModeRule gives a mode of their own to some policies in some repositories.
type ModeRule struct {
	// Policy is a glob over the names of violations, as the answers show them:
	// known_exploited, scan_*. A cause such as db_stale is one too. Default "", all.
	// policy_error is meant only where it is written out. The kill list has no mode.
	Policy string `yaml:"policy"`
	// Upstream is the name of one of upstreams. Default "", all.
	Upstream string `yaml:"upstream"`
	// Repository is a glob like that of upstreams.allow, over acme/web or
	// cgr.dev/acme/web. Default "", all.
	Repository string `yaml:"repository"`
	// Mode is what becomes of the violations: enforce, warn, dry-run, off. Required.
	Mode string `yaml:"mode"`
}

// Policy names the rules' sources. All are watched; a version with an error in it
// leaves the last good one in force and is reported.
type Policy struct {
	// Dir is a folder of *.rego files. Default "", the policies built in. It replaces
	// them, it does not add to them; but what could not be scanned is refused, as by the
	// policies built in, where none of the folder's reads input.scan.cause.
	Dir string `yaml:"dir"`
	// Bundle is where a bundle of policies comes from, in place of Dir.
	Bundle Bundle `yaml:"bundle"`
	// WaiverFile is a YAML file of exceptions, each with an owner, a reason and an
	// expiry. Default "", none. Those of `sluice waiver` hold beside it.
	WaiverFile string `yaml:"waiver_file"`
	// WaiverMax is how long a waiver that is added by `sluice waiver` may last: 2160h.
	// Default 0, no limit.
	WaiverMax time.Duration `yaml:"waiver_max"`
	// VEX are files with VEX documents, and folders whose *.json files are: OpenVEX 0.2.0,
	// or CSAF 2.0 with the profile VEX. What they say is not affected or fixed in an image
	// is set aside, and shown. They are read again when they change. Default none.
	VEX []string `yaml:"vex"`
	// VEXAttestations has OpenVEX in an image's attestations count like that of files,
	// where the signature is verified. Default false: whoever may sign could say of his
	// own image that nothing affects it.
	VEXAttestations bool `yaml:"vex_attestations"`
	// KillFile is a text file of digests, one a line, that are refused at once, in
	// every mode and whatever policy says. Default "", none.
	KillFile string `yaml:"kill_file"`
}

// Bundle names a bundle of policies in OPA's format, a tar.gz as `opa build` makes it. A
// new version counts once it compiles and its tests pass; until then, and while it can't
// be had, the last good one does, which is kept in state_dir.
type Bundle struct {
	// Source is a file, https://HOST/PATH, or oci://UPSTREAM/REPOSITORY:TAG with one of
	// upstreams, whose credentials are used. Default "", none.
	Source string `yaml:"source"`
	// Every is how often a server or a registry is asked for a new version. Default 1m.
	// A file is watched.
	Every time.Duration `yaml:"every"`
	// Keys are public keys, one of which must have signed the bundle. Default none: it
	// need not be signed.
	Keys []BundleKey `yaml:"keys"`
	// CAFile is a PEM file of authorities for an https source, in place of the system's.
	// Default "".
	CAFile string `yaml:"ca_file"`
	// TokenFile is a file with a bearer token for an https source, read at each request.
	// Default "", none.
	TokenFile string `yaml:"token_file"`
}

// A BundleKey is a key that may sign bundles.
type BundleKey struct {
	// Name is the "kid" or "keyid" in signatures, which must name one where there are
	// several. Required.
	Name string `yaml:"name"`
	// File is a PEM file: a public key, or a certificate, which counts while it is valid.
	// Required.
	File string `yaml:"file"`
	// Algorithm is that of JSON Web Signatures. Default "": RS256 for RSA, by the curve
	// for ECDSA, EdDSA.
	Algorithm string `yaml:"algorithm"`
}

// Redis says how a shared store is spoken to.
type Redis struct {
	// Username is that of an ACL user, which needs no more rights than the documentation
	// of package cache/redis lists. Default "", the default user.
	Username string `yaml:"username"`

	// PasswordFile is a file with the password, read at the start. Default "", which is
	// SLUICE_REDIS_PASSWORD, or none.
	PasswordFile string `yaml:"password_file"`

	// SentinelPasswordFile is a file with the password that Sentinels ask for. Default "".
	SentinelPasswordFile string `yaml:"sentinel_password_file"`

	// Prefix begins every key, so that several sets of gateways can use one server.
	// Default "sluice:".
	Prefix string `yaml:"prefix"`

	// CAFile holds the certificates, in PEM, that the server's may be signed by. Default
	// "", those of the system.
	CAFile string `yaml:"ca_file"`

	// ServerName is the name that the server's certificate must bear. Default "", the host
	// that is dialled.
	ServerName string `yaml:"server_name"`

	// CertFile and KeyFile, in PEM, are what the server knows the gateway by. Default "".
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`

	// Timeout bounds each call. Default 5s. Connections are at most this many; default 16.
	Timeout     time.Duration `yaml:"timeout"`
	Connections int           `yaml:"connections"`
}

// Objects says where blobs are shared. What can't be had there comes from upstream.
type Objects struct {
	// URL is https://HOST/BUCKET or https://HOST/BUCKET/PREFIX; the bucket must be there,
	// and a lifecycle rule of it says when objects go. Default "", none.
	URL string `yaml:"url"`

	// Region is that of the bucket. Default "", which asks for it.
	Region string `yaml:"region"`

	// AccessKey is the access key's ID. Default "": the credentials are what AWS's tools
	// would use, from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, their file, or the role
	// of the machine or pod.
	AccessKey string `yaml:"access_key"`

	// SecretKeyFile is a file with the secret of AccessKey, read at the start. Default "",
	// which is SLUICE_OBJECTS_SECRET_KEY.
	SecretKeyFile string `yaml:"secret_key_file"`

	// CAFile holds the certificates, in PEM, that the server's may be signed by. Default
	// "", those of the system.
	CAFile string `yaml:"ca_file"`
}

// DecisionLog says where decisions are written down: one JSON record for each, in the
// format of OPA's decision logs. Default: nowhere, since records name callers. The rule
// mask of package sluice.log, among the policies, takes out what must not be written.
type DecisionLog struct {
	// File is a file that records are appended to, one a line, and "-" is standard
	// output. Where it is moved away it is begun anew. Default "", none.
	File string `yaml:"file"`
	// URL is a collector that takes arrays of records by POST, gzip-compressed. Up to
	// 16 MiB of them wait while it fails. Default "", none.
	URL string `yaml:"url"`
	// CAFile is a PEM file of authorities for URL, in place of the system's. Default "".
	CAFile string `yaml:"ca_file"`
	// TokenFile is a file with a bearer token for URL, read at each request. Default "".
	TokenFile string `yaml:"token_file"`
	// Allows is the share of allows that are written, from 0 to 1; denials always are.
	// Default 1.
	Allows float64 `yaml:"allows"`
	// AllowEvery is how long the same image allowed to the same caller by the same
	// policies is not written again. Default 1h.
	AllowEvery time.Duration `yaml:"allow_every"`
}

// Trust names the roots of trust. Files are read again when they change; a version that
// can't be read leaves the last good one in force. Nothing is asked beyond the image's own
// registry: logs and authorities are those of RootFile.
type Trust struct {
	// RootFile is sigstore's trusted_root.json: certificate authorities, transparency
	// logs, time stamp authorities. `cosign trusted-root create` and `gh attestation
	// trusted-root` write one. Default "", none: no certificate and no log counts.
	RootFile string `yaml:"root_file"`
	// Keys are public keys that sign without a certificate. Default none.
	Keys []TrustedKey `yaml:"keys"`
	// Identities are those whose certificates count. Default none: by a public root,
	// everybody has a certificate.
	Identities []TrustedIdentity `yaml:"identities"`
	// IgnoreTlog takes signatures that no transparency log of RootFile has. Default
	// false. Who signs in secret with a stolen key is then never seen. Needed for keys
	// without RootFile.
	IgnoreTlog bool `yaml:"ignore_tlog"`
	// IgnoreCTLog takes certificates that no certificate transparency log of RootFile
	// has, as those of an authority of one's own. Default false.
	IgnoreCTLog bool `yaml:"ignore_ct_log"`
	// CurrentTime holds certificates against the present time in place of the time that a
	// log or a time stamp authority saw the signature, as for authorities whose
	// certificates last. Default false. A signature counts until its certificate ends.
	CurrentTime bool `yaml:"current_time"`
}

// A TrustedKey is a public key with the name that policies know it by.
type TrustedKey struct {
	// Name is what input.image.signatures calls it. Required, unique.
	Name string `yaml:"name"`
	// File is the key in PEM, such as cosign.pub. Required.
	File string `yaml:"file"`
}

// A TrustedIdentity is an identity whose certificates count.
type TrustedIdentity struct {
	// Issuer is who knew the identity, exactly as the certificate has it:
	// https://token.actions.githubusercontent.com. Required.
	Issuer string `yaml:"issuer"`
	// Subject is the e-mail address or URI, exactly. Default "": Pattern instead.
	Subject string `yaml:"subject"`
	// Pattern is a regular expression (RE2) that must match the whole of it. A dot that is
	// meant is written "\\.". Default "": Subject instead.
	Pattern string `yaml:"pattern"`
}

// Database holds the vulnerability database's settings. It lies in StateDir/db: the
// active build and the one before, 1 to 2 GB each, and while one is installed as much
// again twice over. An update never takes the last 256 MiB of the disk.
type Database struct {
	// URL is a mirror: the folder above v6/latest.json, as grype's db.update-url, or
	// the listing itself, which ends in .json. Default "", grype's own. Credentials for
	// it go into the environment: SLUICE_DATABASE_URL. HTTPS_PROXY, HTTP_PROXY and
	// NO_PROXY count.
	URL string `yaml:"url"`
	// CAFile is a PEM file of authorities for URL, in place of the system's. Default "".
	CAFile string `yaml:"ca_file"`
	// UpdateEvery is how often a newer database is looked for, give or take a tenth, so
	// that gateways don't ask together. Default 2h. 0 never does: bring databases with
	// `sluice db import`.
	UpdateEvery time.Duration `yaml:"update_every"`
	// MaxAge is how old a database may be, counted from when it was built, before
	// verdicts from it fail as db_stale. Default 120h (5 days). 0 is no limit: what was
	// published since is then missed without a word.
	MaxAge time.Duration `yaml:"max_age"`
}

// Spool holds the spool's settings. Least recently used blobs go first, never one in
// use; an image that does not fit is refused before its pull begins.
type Spool struct {
	// Dir is the folder for blobs and layers. Default "", StateDir/spool. Its disk
	// should hold both quotas.
	Dir string `yaml:"dir"`
	// BlobsQuota bounds the blobs as clients get them, compressed. Default 20GiB.
	// Smaller means more is fetched again.
	BlobsQuota Size `yaml:"blobs_quota"`
	// LayersQuota bounds the layers as they are scanned, uncompressed. Default 40GiB.
	LayersQuota Size `yaml:"layers_quota"`
}

// Scan holds the scanner's settings.
type Scan struct {
	// Timeout is how long cataloguing and matching one image may take before the
	// worker that does it is killed and the image is scan_failed. Default 10m: longer
	// than HoldCap, so that the next try finds the answer.
	Timeout time.Duration `yaml:"timeout"`
	// Workers is how many processes catalogue and match, each one image at a time; up to
	// four more wait in each while they arrive. Default 0: half the processors, at least
	// two, and no more than fit into three quarters of the memory.
	Workers int `yaml:"workers"`
	// WorkerMemory is what one of them should not use more of; at twice as much it ends,
	// and its image is scan_failed. Default 0: 2GiB, or less where that does not fit.
	// An image takes about 200MiB and 6KiB for each of its files: 1.8GiB for 300,000.
	WorkerMemory Size `yaml:"worker_memory"`
	// WorkerTemp is how much disk under spool.dir one of them may take for what it
	// unpacks before it is killed and its image is scan_failed. Default 4GiB.
	WorkerTemp Size `yaml:"worker_temp"`
	// Limits bound what an image may be. Past one, the image is scan_limit, never clean.
	Limits Limits `yaml:"limits"`
}

// Limits are the bounds on what is scanned.
type Limits struct {
	// LayerCompressed bounds one layer as it is transferred. Default 8GiB: above all but
	// the largest layers in public use, of GPU and model images.
	LayerCompressed Size `yaml:"layer_compressed"`
	// LayerUncompressed bounds one layer as it is unpacked. Default 16GiB.
	LayerUncompressed Size `yaml:"layer_uncompressed"`
	// ImageUncompressed bounds all layers of an image together. Default 40GiB. It
	// can't be more than spool.layers_quota.
	ImageUncompressed Size `yaml:"image_uncompressed"`
	// LayerEntries bounds the files, folders and links in one layer. Default 300000:
	// a scanner takes up to 4 KB of memory for each.
	LayerEntries int `yaml:"layer_entries"`
	// Ratio bounds how many times larger a layer gets when it is unpacked, past its
	// first 64 MiB. Default 200: real layers stay under 30 there, bombs reach 1032.
	Ratio int `yaml:"ratio"`
}

// Log holds the settings of the log.
type Log struct {
	// Level is debug, info, warn or error. Default "info": one line a pull with its decision.
	Level string `yaml:"level"`
	// Format is "text" for people or "json" for programs. Default "text".
	Format string `yaml:"format"`
	// Requests writes a line for each request of a client, at level info: its caller, image,
	// status, bytes, decision, and how long it waited for the registry and for a verdict.
	// Default true.
	Requests bool `yaml:"requests"`
}

// Default returns the configuration of a gateway without a file: on loopback, in
// front of cgr.dev without credentials, with the policies built in, enforced.
func Default() Config {
	return Config{
		Listen:          "127.0.0.1:8080",
		AdminListen:     "127.0.0.1:9090",
		Auth:            Auth{TokenLife: 5 * time.Minute, ForeignCredentials: "refuse"},
		Limits:          CallerLimits{OpenAll: 4096},
		DefaultUpstream: "cgr.dev",
		Upstreams:       []Upstream{{Name: "cgr.dev"}},
		Gate: Gate{
			Mode:         "enforce",
			ManifestWait: 2 * time.Second,
			HeaderWait:   20 * time.Second,
			Drip:         5 * time.Second,
			HoldCap:      4 * time.Minute,
			TagTTL:       time.Minute,
			StaleTags:    24 * time.Hour,
			NegativeTTL:  30 * time.Second,
			RelationTTL:  30 * 24 * time.Hour,
			Pulls:        4,
			Drain:        5 * time.Minute,
		},
		DecisionLog: DecisionLog{Allows: 1, AllowEvery: time.Hour},
		Policy:      Policy{Bundle: Bundle{Every: time.Minute}},
		Database:    Database{UpdateEvery: 2 * time.Hour, MaxAge: 5 * 24 * time.Hour},
		Spool:       Spool{BlobsQuota: 20 * GiB, LayersQuota: 40 * GiB},
		Scan: Scan{
			Timeout:    10 * time.Minute,
			WorkerTemp: 4 * GiB,
			Limits: Limits{
				LayerCompressed:   8 * GiB,
				LayerUncompressed: 16 * GiB,
				ImageUncompressed: 40 * GiB,
				LayerEntries:      300_000,
				Ratio:             200,
			},
		},
		Log: Log{Level: "info", Format: "text", Requests: true},
	}
}
