package proxy

import (
	"io"
	"math"
	"net/http"
	"strconv"
	"time"
)

// sendPiece is how many bytes a client must take within Gate.SendPatience: 8 KiB/s at its
// default, less than any line brings that images are pulled over.
const sendPiece = 1 << 20

// A meter counts what one response sends.
type meter struct {
	http.ResponseWriter
	resource resource
	status   int // 0 while nothing was sent
	bytes    int64
	patience time.Duration // 0: for ever
	pace     pace
}

func (m *meter) WriteHeader(status int) {
	if m.status == 0 && status >= 200 {
		m.status = status
	}
	m.ResponseWriter.WriteHeader(status)
}

func (m *meter) Write(b []byte) (int, error) {
	if m.status == 0 {
		m.status = http.StatusOK
	}
	total := 0
	for {
		n, err := m.pace.piece(int64(len(b) - total))
		if err != nil {
			return total, err
		}
		m.hurry()
		wrote, err := m.ResponseWriter.Write(b[total : total+int(n)])
		total += wrote
		m.bytes += int64(wrote)
		if err != nil || total == len(b) {
			return total, err
		}
	}
}

// hurry has the client take the next piece in time. Where the connection can't do
// that, there is no client to wait for.
func (m *meter) hurry() {
	if m.patience > 0 {
		http.NewResponseController(m.ResponseWriter).SetWriteDeadline(time.Now().Add(m.patience))
	}
}

// ReadFrom lets the server send files without copying them through this process, a piece
// at a time.
func (m *meter) ReadFrom(r io.Reader) (int64, error) {
	if m.status == 0 {
		m.status = http.StatusOK
	}
	left := int64(math.MaxInt64)
	limited, _ := r.(*io.LimitedReader)
	if limited != nil { // the server sends a file only from under a single limit
		r, left = limited.R, limited.N
	}
	var total int64
	var err error
	for err == nil && left > 0 {
		var n, may int64
		if may, err = m.pace.piece(min(sendPiece, left)); err != nil {
			break
		}
		m.hurry()
		n, err = io.CopyN(m.ResponseWriter, r, may)
		total, left = total+n, left-n
	}
	if limited != nil {
		limited.N = left
	}
	m.bytes += total
	if err == io.EOF {
		err = nil
	}
	return total, err
}

// Unwrap lets http.ResponseController reach the connection.
func (m *meter) Unwrap() http.ResponseWriter { return m.ResponseWriter }

// record adds the response to the gateway's metrics.
func (m *meter) record(to *Metrics) {
	status := "none" // cut before its headers
	if m.status != 0 {
		status = strconv.Itoa(m.status)
	}
	to.requests.WithLabelValues(string(m.resource), status).Inc()
	to.sentBytes.Add(float64(m.bytes))
}
