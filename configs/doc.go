// Package configs is what can be set about a gateway: one documented struct, a strict
// reader of YAML files, and the example files.
//
//	Default()            the gateway without a file
//	   │
//	Load(path)           the file over it: unknown keys are errors, with their line
//	   │
//	flags                cmd/sluice, for the few things that people change
//	   │
//	Resolve(os.Getenv)   validated, and what depends on the machine filled in
//	   ▼
//	cmd/sluice           hands each package its part
//
// The files beside this one are examples that a test loads: sluice.yaml to begin
// with, production.yaml for a network, waivers.yaml and kill.txt for policy, and
// reference.yaml, which holds every key with its default.
//
// Secrets come from the environment, or from files that the configuration names:
//
//	SLUICE_REDIS_PASSWORD      the password of the Redis that store names
//	SLUICE_OBJECTS_SECRET_KEY  the secret of objects.access_key
//	SLUICE_CGR_DEV_USERNAME    the pull token of the upstream cgr.dev; for another one
//	SLUICE_CGR_DEV_PASSWORD    its name in capitals, with _ for what is no letter or digit
//	SLUICE_DATABASE_URL        the database's mirror with credentials in it, in place of
//	                           database.url: https://NAME:PASSWORD@HOST/PATH
//	SLUICE_KEY                 the sealing key, in place of seal_key_file
//	OTEL_EXPORTER_OTLP_…       where traces go, as OpenTelemetry specifies; none without
//
// # Why
//
// Every key works. A key for a feature that is not there yet reads as a promise, and
// an operator who sets it believes it.
//
// A key that is not known stops the start. A misspelt `waiver_file` that is skipped
// in silence shows weeks later, in the middle of an outage. For the same reason a key
// without a value is an error: it would mean "the default" to one reader and "empty"
// to another.
//
// The decoder is our own, over the syntax tree of a YAML library: some two hundred
// lines buy all problems at once, each with file, line and the nearest key, and none
// of a library's good will towards wrong types ("8" as a number, yes as true).
//
// Paths are not checked here. Whether a file exists is found out by who opens it, who
// can also say what was wanted of it.
package configs
