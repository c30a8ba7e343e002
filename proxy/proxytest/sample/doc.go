// Package sample builds the images that tests, the demo and the benchmarks pull:
// real package names and versions in the form in which apko, npm and Maven leave
// them, with placeholders for the software itself.
//
//	[]File, apk's installed database ──▶ tar ──▶ gzip or zstd ──▶ layer ─┐
//	Options: labels, media types, filler, more layers ───────────────────┴─▶ image ──▶ index
//
// [WolfiClean] has nothing known against it. [WolfiVulnerable] is the same image of
// 2023: CVE-2023-4911 in glibc is known to be exploited and was fixed upstream.
// [NodeApp] and [JavaApp] stand on the clean base and bring dependencies that are known
// to be exploited: CVE-2019-10758 and CVE-2020-11023 in the one, CVE-2021-44228 in the
// other. [Large] is clean, and as big as an application on a full distribution.
// [Oddities] are what a gateway must not trip over: layers that are no layers,
// manifests that lie, artifacts that are no images.
//
// # Why
//
// Everything is made by code and is the same in every run: times are fixed, and so
// is the seed of what looks random. Whoever needs a digest that no cache has seen
// sets another Seed.
//
// Oddities are blobs and a manifest rather than images, since what makes most of
// them odd can't be said through an image library.
package sample
