package vex

import (
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	openvex "github.com/openvex/go-vex/pkg/vex"
	"github.com/package-url/packageurl-go"
)

// An Image is what statements are held against.
type Image struct {
	Registry   string   // cgr.dev
	Repository string   // acme/web
	Digests    []string // its own, and those of indexes that list it
	Tags       []string // that point at one of the digests
	Platform   string   // linux/arm64/v8
}

// A component is how a product, or a part of one, is named: in any of these ways, but
// hashes, where there are some, must match. Without any it is nothing that is known here.
type component struct {
	images   []packageurl.PackageURL // of type oci or docker
	packages []string                // package URLs of any other type
	refs     []string                // image references, and digests
	hashed   bool
	digests  []string // of the hashes, those that an image can have
}

// name adds a name: a package URL, an image reference, a digest; what is none of them
// names nothing here.
func (c *component) name(s string) {
	if !strings.HasPrefix(s, "pkg:") {
		if _, err := digest.Parse(s); err == nil || strings.Contains(s, "/") && !strings.Contains(s, "://") {
			c.refs = append(c.refs, s)
		}
		return
	}
	p, err := packageurl.FromString(s)
	switch {
	case err != nil:
	case p.Type == "oci" || p.Type == "docker":
		c.images = append(c.images, p)
	default:
		c.packages = append(c.packages, s)
	}
}

func (c *component) hash(algorithm, value string) {
	c.hashed = true
	a := strings.ReplaceAll(strings.ToLower(algorithm), "-", "")
	if d := a + ":" + strings.ToLower(value); digest.Digest(d).Validate() == nil {
		c.digests = append(c.digests, d)
	}
}

// exact returns c without the names that are those of all versions.
func (c *component) exact() *component {
	return &component{
		hashed: c.hashed, digests: c.digests,
		images: slices.DeleteFunc(slices.Clone(c.images), func(p packageurl.PackageURL) bool {
			return p.Version == "" && p.Qualifiers.Map()["tag"] == ""
		}),
		packages: slices.DeleteFunc(slices.Clone(c.packages), func(s string) bool {
			p, err := packageurl.FromString(s)
			return err != nil || p.Version == ""
		}),
		refs: slices.DeleteFunc(slices.Clone(c.refs), func(s string) bool {
			return !strings.Contains(s[strings.LastIndexByte(s, '/')+1:], ":") // neither a tag nor a digest
		}),
	}
}

// namesImage reports whether an image is meant, as far as one can tell.
func (c *component) namesImage() bool {
	return len(c.images) > 0 || len(c.refs) > 0 || c.hashed && len(c.packages) == 0
}

// image reports whether img is meant. bound says that its signature names it already.
func (c *component) image(img *Image, bound bool) bool {
	if c.hashed {
		return slices.ContainsFunc(c.digests, func(d string) bool { return slices.Contains(img.Digests, d) })
	}
	return slices.ContainsFunc(c.images, func(p packageurl.PackageURL) bool { return img.purl(&p, bound) }) ||
		slices.ContainsFunc(c.refs, img.reference)
}

// pkg reports whether the package of that package URL is meant. What bytes it has is not
// known, so that one with a hash can't be.
func (c *component) pkg(purl string) bool {
	return purl != "" && !c.hashed && slices.ContainsFunc(c.packages, func(p string) bool { return openvex.PurlMatches(p, purl) })
}

func (i *Image) name() string { return host(i.Registry) + "/" + i.Repository }

// host gives registries with two names one.
func host(registry string) string {
	if registry == "index.docker.io" || registry == "registry-1.docker.io" {
		return "docker.io"
	}
	return registry
}

// reference reports whether s, a digest or an image reference with its registry, is i.
func (i *Image) reference(s string) bool {
	name, d, hasDigest := strings.Cut(s, "@")
	if !hasDigest && !strings.Contains(s, "/") {
		name, d, hasDigest = "", s, true
	}
	if hasDigest && !slices.Contains(i.Digests, d) {
		return false
	}
	if name == "" {
		return true
	}
	if at := strings.LastIndexByte(name, ':'); at > strings.LastIndexByte(name, '/') {
		if !hasDigest && !slices.Contains(i.Tags, name[at+1:]) {
			return false
		}
		name = name[:at]
	}
	registry, repository, _ := strings.Cut(name, "/")
	return host(registry)+"/"+repository == i.name()
}

// purl reports whether a package URL of type oci or docker is i, by
// https://github.com/package-url/purl-spec.
func (i *Image) purl(p *packageurl.PackageURL, bound bool) bool {
	q := p.Qualifiers.Map()
	repository := q["repository_url"]
	if p.Subpath != "" || !i.qualified(q) {
		return false
	}
	if p.Type == "docker" {
		repository = strings.Trim(repository, "/")
		if repository == "" {
			repository = "docker.io"
		}
		full := path.Join(host(trimScheme(repository)), p.Namespace, p.Name)
		if p.Namespace == "" && host(repository) == "docker.io" {
			full = path.Join("docker.io/library", p.Name)
		}
		return full == i.name() && (p.Version == "" || slices.Contains(i.Digests, p.Version) || slices.Contains(i.Tags, p.Version))
	}
	if p.Version != "" && !slices.Contains(i.Digests, p.Version) || p.Namespace != "" {
		return false
	}
	if !strings.EqualFold(p.Name, path.Base(i.Repository)) {
		return false
	}
	if repository == "" {
		return p.Version != "" || bound
	}
	return i.within(repository)
}

func trimScheme(url string) string {
	for _, scheme := range []string{"https://", "http://", "docker://", "oci://"} {
		url = strings.TrimPrefix(url, scheme)
	}
	return url
}

// within reports whether a repository_url names i: by the whole name, or by all of it
// but its last element, which is then the name of the package URL.
func (i *Image) within(repository string) bool {
	registry, rest, _ := strings.Cut(strings.Trim(trimScheme(repository), "/"), "/")
	named := strings.TrimSuffix(host(registry)+"/"+rest, "/")
	return named == i.name() || named == path.Dir(i.name())
}

// qualified reports whether i is what the qualifiers but repository_url ask for.
func (i *Image) qualified(q map[string]string) bool {
	platform := strings.SplitN(i.Platform, "/", 3)
	for len(platform) < 3 {
		platform = append(platform, "")
	}
	for key, want := range q {
		switch key {
		case "repository_url":
		case "tag":
			if !slices.Contains(i.Tags, want) {
				return false
			}
		case "os":
			if want != platform[0] {
				return false
			}
		case "arch":
			if !slices.Contains(archNames[platform[1]], want) && want != platform[1] || platform[1] == "" {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// archNames are what others call an architecture.
var archNames = map[string][]string{"amd64": {"x86_64"}, "arm64": {"aarch64"}, "386": {"i386", "x86"}}
