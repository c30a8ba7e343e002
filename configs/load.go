package configs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// MaxFile is the largest configuration file that is read, in bytes.
const MaxFile = 1 << 20

// Load reads the file at path over the defaults. It does not Validate: flags may
// still change what the file said.
//
// The error of a file that can't be understood has one line for each thing that is
// wrong with it, each beginning with "PATH:LINE:".
func Load(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	return Parse(path, b)
}

// Parse is Load for bytes at hand; name stands in errors where the path would.
//
// A key that does not exist, is given twice or has no value is an error, and so is a
// value of another type, an anchor, a tag, or a second document. Empty input is the
// defaults.
func Parse(name string, b []byte) (Config, error) {
	c := Default()
	if len(b) > MaxFile {
		return Config{}, fmt.Errorf("%s: larger than %d KiB, no configuration file is", name, MaxFile>>10)
	}
	body, err := document(name, b)
	if err != nil {
		return Config{}, err
	}
	if body == nil {
		return c, nil
	}
	d := decoder{name: name}
	d.decode(body, &c)
	if err := errors.Join(d.problems...); err != nil {
		return Config{}, err
	}
	return c, nil
}

// document returns the body of the only document in b, nil where there is none.
func document(name string, b []byte) (ast.Node, error) {
	f, err := parser.ParseBytes(b, 0)
	var at yaml.Error
	if errors.As(err, &at) && at.GetToken() != nil {
		n := at.GetToken().Position.Line
		return nil, fmt.Errorf("%s:%d: %s%s", name, n, at.GetMessage(), aboutAsterisk(b, n))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var body ast.Node
	for _, doc := range f.Docs {
		switch {
		case doc.Body == nil || doc.Body.Type() == ast.CommentType:
		case doc.Body.Type() == ast.DirectiveType:
			return nil, fmt.Errorf("%s:%d: directives are not read here, remove the line", name, line(doc.Body))
		case body != nil:
			return nil, fmt.Errorf("%s:%d: a second document begins here, only one is read: remove the \"---\"", name, line(doc.Body))
		default:
			body = doc.Body
		}
	}
	return body, nil
}

// aboutAsterisk is what to do where line n may hold a glob that YAML takes for an alias.
func aboutAsterisk(b []byte, n int) string {
	lines := bytes.SplitN(b, []byte("\n"), n+1)
	if n < 1 || n > len(lines) || !bytes.ContainsRune(lines[n-1], '*') {
		return ""
	}
	return `; put a text that begins with "*" in quotes`
}

func line(n ast.Node) int {
	if t := n.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line
	}
	return 1
}
