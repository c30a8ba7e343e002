package clients

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"unicode"

	"golang.org/x/tools/txtar"
)

//go:embed templates/*.txt
var templates embed.FS

// A Setup is what a node is to be told.
type Setup struct {
	// Gateway is where nodes reach the gateway: https://sluice.example.com:8443.
	Gateway string
	// Upstreams are the registries that are to be reached through it, by the names
	// that the gateway knows them by. At least one.
	Upstreams []string
	// CAFile is where, on the node, the authority of the gateway's certificate lies in
	// PEM. "" where the node trusts it anyway.
	CAFile string
}

// A File is a file to write on a node, as it stands.
type File struct {
	Path string `json:"path"`
	Text string `json:"text"`
}

// A Guide says how to point one client at a gateway.
type Guide struct {
	Client string `json:"client"`
	Notes  string `json:"notes"` // for people, ends with a newline
	Files  []File `json:"files"` // never null in JSON
}

// Names returns the clients that there are guides for, sorted.
func Names() []string {
	files, err := fs.Glob(templates, "templates/*.txt")
	if err != nil {
		panic(err) // the pattern is ours
	}
	for i, f := range files {
		files[i] = strings.TrimSuffix(path.Base(f), ".txt")
	}
	return files
}

// Render returns the guide for a client. Its text holds nothing of s that has a
// meaning of its own in a shell, in TOML or in YAML: such a Setup is an error.
func Render(client string, s Setup) (Guide, error) {
	if !slices.Contains(Names(), client) {
		return Guide{}, fmt.Errorf("there is no guide for %q, only for %s", client, strings.Join(Names(), ", "))
	}
	v, err := s.view()
	if err != nil {
		return Guide{}, err
	}
	t, err := template.New(client+".txt").Option("missingkey=error").ParseFS(templates, "templates/"+client+".txt")
	if err != nil {
		return Guide{}, fmt.Errorf("guide for %s: %w", client, err)
	}
	var text strings.Builder
	if err := t.Execute(&text, v); err != nil {
		return Guide{}, fmt.Errorf("guide for %s: %w", client, err)
	}
	archive := txtar.Parse([]byte(text.String()))
	g := Guide{Client: client, Notes: tidy(archive.Comment), Files: []File{}}
	for _, f := range archive.Files {
		g.Files = append(g.Files, File{Path: f.Name, Text: tidy(f.Data)})
	}
	return g, nil
}

// tidy leaves one newline at the end, whatever the template's branches left there.
func tidy(text []byte) string { return strings.TrimRight(string(text), "\n") + "\n" }

// String returns the guide as people read it: the notes, then each file behind a line
// with its path.
func (g Guide) String() string {
	var b strings.Builder
	b.WriteString(g.Notes)
	for _, f := range g.Files {
		fmt.Fprintf(&b, "\n-- %s --\n%s", f.Path, f.Text)
	}
	return b.String()
}

// view is what the templates see.
type view struct {
	URL       string // of the gateway, without a slash at the end
	Host      string // of the gateway, with the port if it is not the scheme's own
	Plain     bool   // the gateway speaks plain HTTP
	Upstreams []string
	First     string // of Upstreams, for examples
	CA        string
}

// hosts are what may stand before the first slash of an image reference.
var hosts = regexp.MustCompile(`^([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[0-9]{1,5})?$`)

func (s Setup) view() (view, error) {
	u, err := url.Parse(s.Gateway)
	switch {
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || !hosts.MatchString(u.Host):
		return view{}, fmt.Errorf("gateway %q: write it as https://HOST or https://HOST:PORT, in lower case", s.Gateway)
	case u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return view{}, errors.New("gateway: write only https://HOST:PORT, without a user, a path, ? or #")
	case len(s.Upstreams) == 0:
		return view{}, errors.New("upstreams: name at least one, such as cgr.dev")
	case s.CAFile != "" && (!path.IsAbs(s.CAFile) || strings.ContainsFunc(s.CAFile, awkward)):
		return view{}, fmt.Errorf("CA file %q: must be an absolute path on the node, of letters, digits and ./_-", s.CAFile)
	}
	for _, up := range s.Upstreams {
		if !hosts.MatchString(up) {
			return view{}, fmt.Errorf("upstream %q is no registry's host, such as cgr.dev", up)
		}
	}
	return view{
		URL:       u.Scheme + "://" + u.Host,
		Host:      u.Host,
		Plain:     u.Scheme == "http",
		Upstreams: s.Upstreams,
		First:     s.Upstreams[0],
		CA:        s.CAFile,
	}, nil
}

// awkward reports whether r would need quoting somewhere.
func awkward(r rune) bool {
	return !strings.ContainsRune("./_-", r) && !unicode.IsLetter(r) && !unicode.IsDigit(r)
}
