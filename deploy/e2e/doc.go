// Package e2e drives the gateway as people will: the real binary, in front of a real
// registry, pulled through by real clients.
//
//	┌─ namespaces of the tests' own: network, processes, mounts ───────────────────┐
//	│                                                                              │
//	│  docker ──▶ cgr.dev:443 ──────┐                                              │
//	│  ctr, CRI, podman, buildah ───┼─▶ sluice ──▶ token front ──▶ docker-registry │
//	│  skopeo, crane, oras, regctl ─┘      │     Bearer, counts     Debian's own    │
//	│  sluice verdict, cosign              └──▶ redis-server                       │
//	│  a name that leads past the gateway ──▶ trap: nobody may ever knock          │
//	└──────────────────────────────────────────────────────────────────────────────┘
//
// The tests need Debian 12, root, and what install.sh installs. `make e2e` does both.
// A client that is missing fails its test with what to do, unless SLUICE_E2E_SKIP names
// it: SLUICE_E2E_SKIP=docker,podman. containerd 2.4 and cosign, which take long to build,
// are skipped where they are missing; `make e2e-slow` installs them first. SLUICE_BIN is
// the binary, bin/sluice of the tree unless said otherwise.
//
// Each client pulls images that policy allows and images that it denies, unknown to the
// gateway and known to it, small and of ten layers. What arrives is hashed in the client's
// own store. What its user sees of a denial is held to the table in the README, which
// -update writes.
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
