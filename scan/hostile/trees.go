package hostile

import (
	"fmt"
	"strings"
)

// trees is what makes one tree for a scanner and another for a runtime, or for two.
func trees() []Case {
	old := Package("2.37-r1")
	return []Case{
		tarred("a name that leaves the root", partial, "ambiguous_name", func(t *Tar) { t.File("../../"+Installed, old) }),
		tarred("a hard link that leaves the root", partial, "ambiguous_name", func(t *Tar) { t.Link("f", "../../etc/shadow") }),
		tarred("a hard link to itself", partial, "ambiguous_link", func(t *Tar) { t.Link("f", "f") }),
		tarred("hard links in a circle", partial, "ambiguous_link", func(t *Tar) { t.Link("a", "b").Link("b", "a") }),
		tarred("a hard link into a lower layer", partial, "ambiguous_link", func(t *Tar) { t.Link("f", Installed) }),
		tarred("an entry below a link", partial, "ambiguous_layout", func(t *Tar) { t.Symlink("x", "lib").File("x/apk/db/installed", old) }),
		tarred("an entry below a link out of the root", partial, "ambiguous_layout", func(t *Tar) { t.Symlink("x", "/tmp").File("x/f", "") }),
		tarred("an entry below a file", partial, "ambiguous_layout", func(t *Tar) { t.File("x", "").File("x/f", "") }),
		{Name: "a directory with contents becomes a link", Want: []string{partial, failed}, Layers: func() []Layer {
			return []Layer{zipped(new(Tar).File("x/f", "").Symlink("x", "lib").End())}
		}},
		tarred("an entry below a link of a lower layer", partial, "ambiguous_layout", func(t *Tar) { t.File("lib64/python3/site-packages/x-1.dist-info/METADATA", "Name: x\nVersion: 1\n") }),
		tarred("a whiteout below a link of a lower layer", partial, "ambiguous_layout", func(t *Tar) { t.File("bin/.wh.sh", "") }),
		tarred("an entry below a link, whose directory comes late", partial, "ambiguous_layout", func(t *Tar) { t.File("bin/f", "").Dir("bin/") }),
		tarred("twice below a link, whose directory comes in between", partial, "ambiguous_layout", func(t *Tar) { t.File("bin/f", "").Dir("bin/").File("bin/f", "") }),
		tarred("a link, then its directory", partial, "ambiguous_layout", func(t *Tar) { t.Symlink("lib", "/tmp").Dir("lib/") }),
		layered("an entry below /var/run, where /run leads to the database", partial, "ambiguous_layout",
			run().Symlink("run", "lib/apk/db"), new(Tar).File("var/run/installed", old)),
		layered("an entry below /var/run, of which a later layer hides one name", partial, "ambiguous_layout",
			run(), new(Tar).File("var/run/app/package.json", "{}"), new(Tar).Dir("var/").File("var/.wh.run", "")),
		tarred("an attribute of overlay file systems", partial, "ambiguous_layout", func(t *Tar) {
			t.Dir("hidden/").File("hidden/installed", old)
			t.Pax('x', "SCHILY.xattr.trusted.overlay.redirect=/hidden").Dir("lib/apk/db/")
		}),
		tarred("the whole root hidden", partial, "ambiguous_whiteout", func(t *Tar) { t.File(".wh..wh..opq", "") }),
		tarred("a whiteout of the parent", partial, "ambiguous_whiteout", func(t *Tar) { t.File("lib/apk/.wh...", "") }),
		tarred("a whiteout of nothing", partial, "ambiguous_whiteout", func(t *Tar) { t.File("lib/.wh.", "") }),
		tarred("below a whiteout", partial, "ambiguous_whiteout", func(t *Tar) { t.Dir(".wh.x/").File(".wh.x/"+Installed, old) }),
		tarred("a file and its whiteout", partial, "ambiguous_whiteout", func(t *Tar) { t.File(Installed, old).File("lib/apk/db/.wh.installed", "") }),
		tarred("a hidden directory, after what is in it", partial, "ambiguous_whiteout", func(t *Tar) { t.File("etc/a/f", "").File("etc/.wh..wh..opq", "") }),
	}
}

// run begins a layer with the link that most base images have.
func run() *Tar { return new(Tar).Dir("var/").Symlink("var/run", "/run") }

// layered is a case of some tars above the base.
func layered(name, want, says string, tars ...*Tar) Case {
	return Case{Name: name, Want: []string{want}, Says: says, Layers: func() (out []Layer) {
		for _, t := range tars {
			out = append(out, zipped(t.End()))
		}
		return out
	}}
}

// sound is what runtimes read in one way, however odd, and a scanner must read like them.
func sound() []Case {
	old, fixed := Package("2.37-r1"), Package("2.40-r1")
	with := func(name, why string, finds string, layers func() []Layer) Case {
		return Case{Name: name, Want: []string{complete}, Why: why, Finds: finds, Layers: layers}
	}
	whole := func() []byte {
		return new(Tar).Dir("lib/").Dir("lib/apk/").Dir("lib/apk/db/").File(Installed, old).End()
	}
	tar := func(fill func(*Tar)) func() []Layer {
		return func() []Layer {
			var t Tar
			fill(&t)
			return []Layer{zipped(t.End())}
		}
	}
	const members = "gzip's own specification, and every runtime, reads members as one stream"
	return []Case{
		with("gzip members with every header field", members, glibc, func() []Layer {
			b := whole()
			return []Layer{packed(join(Member(b[:100], "SG\x04\x00abcd", "a"), Member(nil, "", ""), Member(b[100:700], "", "b"), Member(nil, "x", ""), Member(b[700:], "SG\x16\x000000000000000000STARGZ", "")), b)}
		}),
		with("a thousand gzip members", members, glibc, func() []Layer {
			b, blob := whole(), []byte(nil)
			for len(b) > 0 {
				n := min(5, len(b))
				blob, b = append(blob, Member(b[:n], "", "")...), b[n:]
			}
			return []Layer{packed(blob, whole())}
		}),
		with("zstd frames and skippable ones", "decoders pass over skippable frames", glibc, func() []Layer {
			b := whole()
			return []Layer{packed(join(Skippable(nil), Zstd(b[:700]), Skippable([]byte("a table of contents")), Zstd(nil), Zstd(b[700:]), Skippable(make([]byte, 40))), b)}
		}),
		with("a file twice, the second old", "the last entry counts", glibc, tar(func(t *Tar) { t.File(Installed, fixed).File("./"+Installed, old) })),
		with("a file twice, the second fixed", "the last entry counts", "", tar(func(t *Tar) { t.File("/"+Installed, old).File(Installed, fixed) })),
		with("a link, then the file", "the last entry counts", glibc, tar(func(t *Tar) { t.Symlink(Installed, "/dev/null").File(Installed, old) })),
		with("a hard link to the first of two", "a hard link keeps the file that it was made of", glibc, tar(func(t *Tar) {
			t.Dir("x/").File("x/f", old).Dir("lib/").Dir("lib/apk/").Dir("lib/apk/db/").Link(Installed, "x/f").File("x/f", fixed)
		})),
		with("symlinks in circles", "they lead nowhere, and hide nothing", "", tar(func(t *Tar) {
			t.Symlink("a", "b").Symlink("b", "a").Symlink("self", "self").Symlink("up", "..").Symlink("out", "../../../../etc/passwd")
			for i := range 40 {
				t.Symlink(fmt.Sprintf("d%d", i), ".")
			}
		})),
		with("symlinks that double", "no reader follows them all", "", tar(func(t *Tar) {
			for i := range 60 {
				t.Symlink(fmt.Sprintf("l%d", i), fmt.Sprintf("l%d/l%d", i+1, i+1))
			}
		})),
		with("an entry 250 deep", "it is within the bound", glibc, tar(func(t *Tar) {
			t.Dir("lib/").Dir("lib/apk/").Dir("lib/apk/db/").File(Installed, old).File(strings.Repeat("d/", 250)+"f", "")
		})),
		with("ko's directory below /var/run", "no cataloguer looks for the one name or the other", "", func() []Layer {
			return []Layer{zipped(new(Tar).Dir("var/").Symlink("var/run", "/run").Dir("run/").End()), zipped(new(Tar).File("var/run/ko/LICENSE", "text").End())}
		}),
		with("padding of a megabyte", "zeros behind the end are padding", glibc, func() []Layer { return []Layer{zipped(append(whole(), make([]byte, 1<<20)...))} }),
	}
}
