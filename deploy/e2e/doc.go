// Package e2e drives the gateway as people will: the real binary, in front of a real
// registry, pulled through by real clients.
//
//	┌─ namespaces of the tests' own: network, processes, mounts ───────────────────┐
//	│                                                                              │
//	│  docker ──▶ cgr.dev:443 ─┐                                                   │
//	│  ctr, podman, skopeo ────┼─▶ sluice ──▶ token front ──▶ docker-registry      │
//	│  crane, sluice verdict ──┘      │       Bearer, counts     Debian's own       │
//	│                                 └──▶ redis-server                            │
//	│  a name that leads past the gateway ──▶ trap: nobody may ever knock          │
//	└──────────────────────────────────────────────────────────────────────────────┘
//
// The tests need Debian 12, root, and what install.sh installs. `make e2e` does both.
// A client that is missing fails its test with what to do, unless SLUICE_E2E_SKIP names
// it: SLUICE_E2E_SKIP=docker,podman. SLUICE_BIN is the binary, bin/sluice of the tree
// unless said otherwise.
//
// # Why
//
// What a client does with a refusal can't be known from its source alone: it falls
// back, retries, or swallows the reason. So each is run, and what its user sees is
// part of the test.
//
// The test binary runs itself again in namespaces of its own. There the name cgr.dev
// can lead where a test wants it to, ports collide with nothing, no test can reach the
// internet, and when the first process ends, for whatever reason, the kernel ends every
// other and takes every mount down.
package e2e
