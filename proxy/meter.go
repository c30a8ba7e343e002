package proxy

import (
	"io"
	"net/http"
	"strconv"
)

// A meter counts what one response sends.
type meter struct {
	http.ResponseWriter
	resource resource
	status   int // 0 while nothing was sent
	bytes    int64
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
	n, err := m.ResponseWriter.Write(b)
	m.bytes += int64(n)
	return n, err
}

// ReadFrom lets the server send files without copying them through this process.
func (m *meter) ReadFrom(r io.Reader) (int64, error) {
	if m.status == 0 {
		m.status = http.StatusOK
	}
	n, err := io.Copy(m.ResponseWriter, r)
	m.bytes += n
	return n, err
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
