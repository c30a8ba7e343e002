package hostile

import (
	"fmt"
	"strings"
)

// texts is what goes off in whoever reads a package's description.
func texts() []Case {
	return []Case{
		contents("an os-release of 60 MiB", "etc/os-release", func() []byte { return []byte("ID=wolfi\nNAME=" + strings.Repeat("x", 60<<20)) }),
		contents("a package.json of a million brackets", "app/node_modules/a/package.json", func() []byte {
			return []byte(`{"name":"a","version":"1.0.0","x":` + strings.Repeat("[", 1_000_000))
		}).why("node can't load it either"),
		contents("a package.json of 60 MiB", "app/node_modules/a/package.json", func() []byte {
			return []byte(`{"name":"` + strings.Repeat("a", 60<<20) + `","version":"1.0.0"}`)
		}).why("its name and version are read"),
		contents("Python metadata of one header", "usr/lib/python3/site-packages/a-1.dist-info/METADATA", func() []byte {
			return []byte("Name: a\nVersion: 1\nX: " + strings.Repeat(" x\n", 20<<20))
		}),
		contents("a gemspec of a million brackets", "usr/lib/ruby/gems/3.2.0/specifications/a-1.gemspec", func() []byte {
			return []byte("Gem::Specification.new do |s|\n s.name = \"a\"\n s.version = \"1\"\n s.licenses = " + strings.Repeat("[", 5_000_000))
		}),
		contents("a hundred thousand packages", "app/vendor/composer/installed.json", func() []byte {
			var b strings.Builder
			b.WriteString(`{"packages":[`)
			for i := range 100_000 {
				fmt.Fprintf(&b, `{"name":"v/p%d","version":"1.0.%d"},`, i, i)
			}
			return []byte(strings.TrimSuffix(b.String(), ",") + "]}")
		}),
	}
}
