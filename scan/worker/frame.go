package worker

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/scan"
)

// maxFrame bounds a message: a manifest of 4 MiB and a config of 8 MiB in base64, and
// what is around them. Results are files, and not part of a message.
const maxFrame = 32 << 20

// What a parent can ask for.
const (
	opBegin     = "begin"     // Session, Image, DiffIDs
	opLayer     = "layer"     // Session, Index, Path
	opCatalogue = "catalogue" // Session → SBOM, File
	opClose     = "close"     // Session; answered when its work has ended
	opMatch     = "match"     // File, Database, Dir → File
	opCancel    = "cancel"    // Call: ends that call; not answered
)

// A request is a message to the child. Each but opCancel is answered once, in any order.
type request struct {
	ID      uint64 `json:"id"`
	Op      string `json:"op"`
	Session uint64 `json:"session,omitempty"`

	Image   *scan.Image     `json:"image,omitempty"`
	DiffIDs []digest.Digest `json:"diff_ids,omitempty"`

	Index int    `json:"index,omitempty"`
	Path  string `json:"path,omitempty"`

	File     string         `json:"file,omitempty"` // name in the process's directory
	Database *scan.Database `json:"database,omitempty"`
	Dir      string         `json:"dir,omitempty"` // of Database, which doesn't encode it

	Call uint64 `json:"call,omitempty"`
}

// A response is a message of the child. The first has ID 0 and says that it is warm,
// and which walls are around it.
type response struct {
	ID      uint64 `json:"id"`
	Error   string `json:"error,omitempty"`
	Content bool   `json:"content,omitempty"` // the error is a scan.ContentError
	File    string `json:"file,omitempty"`    // name in the process's directory
	SBOM    *facts `json:"sbom,omitempty"`
	Walls   *Walls `json:"walls,omitempty"`
}

// facts is a scan.SBOM without its JSON.
type facts struct {
	Packages  int            `json:"packages"`
	Distro    string         `json:"distro"`
	DistroVer string         `json:"distro_version"`
	Problems  []scan.Problem `json:"problems"`
	Steps     []scan.Step    `json:"steps"`
}

// A frameWriter writes messages, each whole. It may be used concurrently.
type frameWriter struct {
	mu  sync.Mutex // guards w: one message at a time
	w   io.Writer
	err error // the first: what follows half a message would be garbage
}

// writeTimeout is how long the other side may leave a message unread.
const writeTimeout = 30 * time.Second

func (f *frameWriter) write(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxFrame {
		return fmt.Errorf("a message of %d bytes, more than %d", len(b), maxFrame)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	if d, ok := f.w.(interface{ SetWriteDeadline(time.Time) error }); ok {
		_ = d.SetWriteDeadline(time.Now().Add(writeTimeout)) // files that have none don't block either
	}
	_, f.err = f.w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return f.err
}

// readFrame reads one message into v. At the end between two messages it returns io.EOF.
func readFrame(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxFrame {
		return fmt.Errorf("a message of %d bytes, more than %d", n, maxFrame)
	}
	// Not allocated at once: the length is only what the other side says.
	b, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err == nil && len(b) < int(n) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return errors.Join(errors.New("a message that can't be read"), err)
	}
	return nil
}
