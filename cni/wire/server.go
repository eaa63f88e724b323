// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"
)

// Handler answers requests. netns is nil when the plugin sent none; it is closed after Handle returns. ctx ends when the plugin hangs up or the server stops.
// Handle returns the value of Response.Result, or an error; a *types.Error keeps its code, anything else becomes code 999.
type Handler interface {
	Handle(ctx context.Context, req *Request, netns *os.File) (result []byte, err error)
	// Abandoned is told of an ADD that succeeded, with Handle's result, but whose plugin was gone when the answer was written.
	Abandoned(ctx context.Context, req *Request, result []byte)
}

// requestTimeout bounds the arrival of a request once a plugin has connected.
const requestTimeout = 10 * time.Second

// Listen makes the socket, for root only, replacing one that a dead agent left behind.
func Listen(path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for the CNI plugin: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Serve answers on l until ctx ends, then closes l and waits for the requests in flight.
func Serve(ctx context.Context, l *net.UnixListener, h Handler) error {
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var flights sync.WaitGroup
	defer flights.Wait()
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() {
				continue
			}
			if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ECONNABORTED) {
				select {
				case <-time.After(50 * time.Millisecond):
				case <-ctx.Done():
				}
				continue
			}
			return fmt.Errorf("accept from the CNI plugin: %w", err)
		}
		flights.Go(func() { serveConn(ctx, c, h) })
	}
}

func serveConn(ctx context.Context, c *net.UnixConn, h Handler) {
	defer c.Close()
	if uid, err := peerUID(c); err != nil || uid != 0 {
		return
	}
	c.SetReadDeadline(time.Now().Add(requestTimeout))
	stop := context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })
	req, netns, err := readRequest(c)
	stop()
	if netns != nil {
		defer netns.Close()
	}
	if err != nil {
		reply(c, &Response{Version: MaxVersion, Error: types.NewError(types.ErrDecodingFailure, "node agent cannot read the request", err.Error())})
		return
	}
	version, refusal := Negotiate(req.MinVersion, req.MaxVersion)
	if refusal != nil {
		reply(c, &Response{Version: MaxVersion, Error: refusal})
		return
	}
	hctx, cancel := context.WithCancel(ctx)
	hangup := make(chan struct{})
	go func() { // a plugin sends nothing after its request: any end of this read means that it is gone
		defer close(hangup)
		c.SetReadDeadline(time.Time{})
		var b [1]byte
		c.Read(b[:])
		cancel()
	}()
	result, err := h.Handle(hctx, req, netns)
	resp := &Response{Version: version, Result: result}
	if err != nil {
		resp.Result = nil
		var ce *types.Error
		if !errors.As(err, &ce) {
			ce = types.NewError(types.ErrInternal, err.Error(), "")
		}
		resp.Error = ce
	}
	gone := hctx.Err() != nil && ctx.Err() == nil
	if !gone {
		gone = reply(c, resp) != nil
	}
	if gone && req.Command == Add && err == nil {
		h.Abandoned(context.WithoutCancel(ctx), req, result)
	}
	c.Close()
	<-hangup
	cancel()
}

func reply(c *net.UnixConn, resp *Response) error {
	frame, err := encode(resp)
	if err != nil {
		return err
	}
	c.SetWriteDeadline(time.Now().Add(requestTimeout))
	_, err = c.Write(frame)
	return err
}

func peerUID(c *net.UnixConn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if cerr != nil {
		return 0, cerr
	}
	return cred.Uid, nil
}

// fdReader reads from a unix socket and keeps the descriptors that come along.
type fdReader struct {
	c   *net.UnixConn
	fds []int
}

func (r *fdReader) Read(p []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4*4))
	n, oobn, _, _, err := r.c.ReadMsgUnix(p, oob)
	if oobn > 0 {
		if msgs, perr := unix.ParseSocketControlMessage(oob[:oobn]); perr == nil {
			for i := range msgs {
				if fds, ferr := unix.ParseUnixRights(&msgs[i]); ferr == nil {
					r.fds = append(r.fds, fds...)
				}
			}
		}
	}
	if n == 0 && err == nil && len(p) > 0 {
		return 0, errors.New("connection closed before the request was complete")
	}
	return n, err
}

// readRequest returns the request and the first descriptor that came with it; any other is closed.
func readRequest(c *net.UnixConn) (*Request, *os.File, error) {
	r := &fdReader{c: c}
	req := new(Request)
	err := decode(r, req)
	var netns *os.File
	for i, fd := range r.fds {
		if i == 0 {
			unix.CloseOnExec(fd)
			netns = os.NewFile(uintptr(fd), "netns")
		} else {
			unix.Close(fd)
		}
	}
	return req, netns, err
}
