package main

import (
	"context"
	"net"

	sys "golang.org/x/sys/unix"

	"github.com/sluicegate/sluice/cache/audit"
)

// withPeer has what comes by a connection to the control socket be done by who opened it.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return ctx
	}
	var peer *sys.Ucred
	if raw.Control(func(fd uintptr) { peer, err = sys.GetsockoptUcred(int(fd), sys.SOL_SOCKET, sys.SO_PEERCRED) }) != nil || err != nil {
		return ctx
	}
	return audit.By(ctx, audit.User(int(peer.Uid)))
}
