//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"
)

// containerd2Config has one daemon serve both ctr and the kubelet's interface, with the
// folder that `sluice client-config containerd` writes to.
func containerd2Config() string {
	config := `version = 3
[plugins."io.containerd.cri.v1.images".registry]
config_path = "/etc/containerd/certs.d"
`
	if onOverlay() {
		config += `[plugins."io.containerd.cri.v1.images"]
snapshotter = "native"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "linux/amd64"
snapshotter = "native"
`
	}
	return config
}

func (s *scene) startContainerd2(t *testing.T, g *gateway) *containerd {
	t.Helper()
	daemon, ctr := slowToBuild(t, "containerd2", "containerd"), slowToBuild(t, "containerd2", "ctr")
	g.guide(t, "containerd", "--ca-file", s.ca.file)
	return startContainerd(t, daemon, ctr, containerd2Config())
}

// containerd2 pulls by ctr, which has the daemon fetch and unpack.
func (s *scene) containerd2(t *testing.T, g *gateway) *client {
	c := s.startContainerd2(t, g)
	return c.client("containerd 2", row(t, "containerd 2.4 (`ctr`)", c.ctr, "--version"))
}

// criClient pulls as the kubelet does.
func (s *scene) criClient(t *testing.T, g *gateway) *client {
	c := s.startContainerd2(t, g)
	c.namespace = "k8s.io"
	images := &cri{socket: c.socket}
	return &client{
		name: "containerd 2, CRI",
		view: row(t, "containerd 2.4 (CRI)", c.ctr, "--version"),
		pull: func(t *testing.T, i *image) result {
			if _, err := images.call(t, "PullImage", "cgr.dev/"+i.ref); err != nil {
				return result{out: err.Error(), status: 1}
			}
			return result{}
		},
		has: func(t *testing.T, i *image) bool {
			answer, err := images.call(t, "ImageStatus", "cgr.dev/"+i.ref)
			if err != nil {
				t.Errorf("ImageStatus %s: %v", i.ref, err)
			}
			return bytes.Contains(answer, []byte(i.config)) // its ID
		},
		arrived: c.holds,
		forget: func(t *testing.T, i *image) {
			if _, err := images.call(t, "RemoveImage", "cgr.dev/"+i.ref); err != nil {
				t.Errorf("RemoveImage %s: %v", i.ref, err)
			}
		},
	}
}

// A cri calls the image service of the kubelet's interface, as gRPC has it: a message
// behind five bytes over HTTP/2, the status in the trailer.
type cri struct{ socket string }

// call sends a request whose first field is an ImageSpec, whose first field is the image:
// that is what they all begin with.
func (c *cri) call(t *testing.T, method, image string) ([]byte, error) {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", c.socket)
	}}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	message := field(1, field(1, []byte(image)))
	frame := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://containerd/runtime.v1.ImageService/"+method, bytes.NewReader(frame))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	end := resp.Trailer
	if end.Get("Grpc-Status") == "" {
		end = resp.Header // an answer of nothing but a status
	}
	switch code := end.Get("Grpc-Status"); code {
	case "0":
		return answer, nil
	case "":
		return nil, fmt.Errorf("%s: %s without a gRPC status", method, resp.Status)
	default:
		text, err := url.PathUnescape(end.Get("Grpc-Message"))
		return nil, errors.Join(fmt.Errorf("code %s: %s", code, text), err)
	}
}

// field is a field of a protocol buffer that holds bytes.
func field(number int, b []byte) []byte {
	return append(binary.AppendUvarint([]byte{byte(number<<3 | 2)}, uint64(len(b))), b...)
}
