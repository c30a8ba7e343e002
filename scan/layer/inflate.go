package layer

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// blockSize is the unit of a tar.
const blockSize = 512

// sniff tells from the first bytes what a runtime would take a blob for. For those
// that some runtimes decompress and this package does not, it returns a *FormatError.
func sniff(head []byte) (Format, error) {
	switch {
	case bytes.HasPrefix(head, []byte("\x1f\x8b\x08")):
		return Gzip, nil
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")), isSkippable(head):
		return Zstd, nil
	case bytes.HasPrefix(head, []byte("BZh")):
		return None, unsupported("bzip2")
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		return None, unsupported("xz")
	}
	return None, nil
}

// isSkippable reports whether b begins a zstd skippable frame: 0x184D2A50 to …5F.
func isSkippable(b []byte) bool {
	return len(b) >= 4 && b[0]&0xf0 == 0x50 && b[1] == 0x2a && b[2] == 0x4d && b[3] == 0x18
}

func unsupported(what string) error {
	return &FormatError{What: "layer", Err: errors.New("it is compressed with " + what +
		", which is not supported: build the image with gzip or zstd")}
}

// isHeader reports whether b is a tar header as archive/tar recognises one: by its
// checksum, over signed or unsigned bytes.
func isHeader(b []byte) bool {
	if len(b) < blockSize {
		return false
	}
	field := strings.Trim(string(b[148:156]), " \x00")
	if i := strings.IndexByte(field, 0); i >= 0 {
		field = field[:i]
	}
	want, err := strconv.ParseInt("0"+field, 8, 64)
	if err != nil {
		return false
	}
	var unsigned, signed int64
	for i, c := range b[:blockSize] {
		if 148 <= i && i < 156 {
			c = ' '
		}
		unsigned += int64(c)
		signed += int64(int8(c))
	}
	return want == unsigned || want == signed
}

// inflater returns the uncompressed bytes of br. Its reads return a *FormatError for
// damage and a *LimitError for too large a window; note is told of Problems.
func inflater(br *bufio.Reader, f Format, lim Limits, note func(kind, path, detail string)) (io.ReadCloser, error) {
	switch f {
	case Gzip:
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, &FormatError{What: "gzip", Err: unexpected(err)}
		}
		z.Multistream(false)
		return &members{br: br, z: z, note: note}, nil
	case Zstd:
		// One decoder and no goroutines of its own: the pass has two already.
		opts := []zstd.DOption{zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true)}
		if lim.Window > 0 {
			opts = append(opts, zstd.WithDecoderMaxWindow(uint64(max(lim.Window, zstd.MinWindowSize))))
		}
		if lim.Uncompressed > 0 { // of what a frame says of itself, before any of it is there
			opts = append(opts, zstd.WithDecoderMaxMemory(uint64(lim.Uncompressed)))
		}
		z, err := zstd.NewReader(br, opts...)
		if err != nil {
			return nil, &FormatError{What: "zstd", Err: unexpected(err)}
		}
		return &frames{z: z, lim: lim}, nil
	}
	return io.NopCloser(br), nil
}

// members reads concatenated gzip members as one stream, as runtimes do. Go's reader
// would end with an error at bytes that are no member, gzip and pigz skip them: these
// are told as a Problem, and read past.
type members struct {
	br   *bufio.Reader
	z    *gzip.Reader
	note func(kind, path, detail string)
	end  bool
}

func (m *members) Read(p []byte) (int, error) {
	if m.end {
		return 0, io.EOF
	}
	n, err := m.z.Read(p)
	if err == nil {
		return n, nil
	}
	if err == io.EOF {
		err = m.next()
	}
	if err != nil && err != io.EOF {
		err = &FormatError{What: "gzip", Err: unexpected(err)}
	}
	return n, err
}

// next goes on to the next member; io.EOF where there is none.
func (m *members) next() error {
	head, err := m.br.Peek(2)
	switch {
	case len(head) == 0 && err == io.EOF:
		m.end = true
		return io.EOF
	case err != nil && err != io.EOF:
		return err
	case string(head) == "\x1f\x8b":
		if err := m.z.Reset(m.br); err != nil {
			return unexpected(err) // a header may be cut where its reader doesn't mind
		}
		m.z.Multistream(false)
		return nil
	}
	m.end = true
	n, err := io.Copy(io.Discard, m.br)
	if err != nil {
		return err
	}
	m.note(TrailingData, "", strconv.FormatInt(n, 10)+" bytes follow the end of the gzip data")
	return io.EOF
}

func (m *members) Close() error { return m.z.Close() }

// frames reads zstd frames, skippable ones among them, as one stream.
type frames struct {
	z   *zstd.Decoder
	lim Limits
}

func (f *frames) Read(p []byte) (int, error) {
	n, err := f.z.Read(p)
	switch {
	case err == nil, err == io.EOF:
		return n, err
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return n, &LimitError{What: "bytes of zstd window", Limit: f.lim.Window}
	case errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return n, &LimitError{What: "uncompressed bytes", Limit: f.lim.Uncompressed}
	}
	return n, &FormatError{What: "zstd", Err: unexpected(err)}
}

func (f *frames) Close() error {
	f.z.Close()
	return nil
}

// unexpected makes the end of a stream, where it is an error, look like one.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
