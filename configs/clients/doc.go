// Package clients is how to point container clients at a gateway, as text: the files
// to write on a node, where they go, and what to know about them.
//
//	Setup{Gateway, Upstreams, CAFile} ──▶ Render("containerd", …) ──▶ Guide
//	                                                                   ├─ Notes
//	                                                                   └─ Files: path, text
//
// # Why
//
// Every client has a setting named "mirror", and every one of them goes to the
// registry itself after any error of the mirror, a denial included: a gate with a gap
// that nobody sees. So none of these guides uses it. containerd gets the gateway as
// the registry's server, podman and CRI-O a rewritten location, k3s the option that
// takes the fallback away, and docker, which has no such thing for registries other
// than Docker Hub, image names that begin with the gateway's.
//
// containerd's file says no more than every version of it can read: one that does not
// parse is skipped with a line in a log, and the registry asked. So there is an empty
// [host], without which 1.6 finds "invalid host tree", and no "referrers" among the
// capabilities, a word that older versions do not know.
//
// None of it keeps a node from reaching the registry by another way. Only the network
// does, which is why each guide ends with that.
package clients
