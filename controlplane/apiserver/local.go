// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/rest"
)

// local is how clients in this process reach the server: a function call instead of TLS, HTTP/2 frames and system calls.
// Everything a request meets behind authentication is the same. Requests from before the server runs wait for it, as those to a listening socket do;
// after it ended, connections are refused.
type local struct {
	opened  chan struct{}
	handler atomic.Pointer[http.Handler]
}

func newLocal() *local { return &local{opened: make(chan struct{})} }

// config returns a copy of c, a configuration of the same server over TLS, that goes through l as who.
func (l *local) config(c *rest.Config, who user.Info) *rest.Config {
	c = rest.CopyConfig(c)
	c.TLSClientConfig = rest.TLSClientConfig{}
	c.Transport = localUser{l, who}
	return c
}

// loopbackUser is who the loopback client is.
var loopbackUser = &user.DefaultInfo{Name: user.APIServerUser, Groups: []string{user.AllAuthenticated, user.SystemPrivilegedGroup}}

// localUser is the local transport of one user.
type localUser struct {
	local *local
	who   user.Info
}

func (u localUser) RoundTrip(req *http.Request) (*http.Response, error) {
	return u.local.roundTrip(req, u.who)
}

// open lets requests in until the returned function is called. It may be called once.
func (l *local) open(h http.Handler) (closed func()) {
	l.handler.Store(&h)
	close(l.opened)
	return func() { l.handler.Store(nil) }
}

// roundTrip calls the handler. What streams (watch, logs, proxied connections) is handled in a goroutine of its own while the client reads; everything
// else in the caller's, because a stack that has grown once is worth keeping.
func (l *local) roundTrip(req *http.Request, who user.Info) (*http.Response, error) {
	h, err := l.await(req)
	if err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	// The caller's values stay behind: a server's request begins with none, and the caller may itself be handling a request.
	ctx, cancel := context.WithCancel(request.WithUser(context.Background(), who))
	stop := context.AfterFunc(req.Context(), cancel)
	in := serverSide(ctx, req)
	if streams(req.URL) {
		out := newStream(ctx)
		go func() {
			defer cancel()
			defer stop()
			out.finish(serve(*h, out, in))
		}()
		select {
		case <-out.started:
		case <-req.Context().Done():
			cancel()
			return nil, req.Context().Err()
		}
		if out.status == 0 { // it ended without an answer
			return nil, out.pipe.err
		}
		return response(req, out.status, out.header, -1, &clientEnd{&out.pipe, cancel}), nil
	}
	defer cancel()
	defer stop()
	out := &answer{ctx: ctx, header: http.Header{}}
	if err := serve(*h, out, in); err != nil {
		return nil, err
	}
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	out.WriteHeader(http.StatusOK) // unless it was called before
	return response(req, out.status, out.sent, int64(out.body.Len()), io.NopCloser(&out.body)), nil
}

func (l *local) await(req *http.Request) (*http.Handler, error) {
	select {
	case <-l.opened:
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
	if h := l.handler.Load(); h != nil {
		return h, nil
	}
	return nil, &net.OpError{Op: "dial", Net: "local", Err: syscall.ECONNREFUSED}
}

// streams reports whether the answer may arrive bit by bit.
func streams(u *url.URL) bool {
	return strings.Contains(u.RawQuery, "watch") || strings.Contains(u.Path, "/watch/") || strings.Contains(u.Path, "/proxy") || strings.HasSuffix(u.Path, "/log")
}

// serverSide is req as the server would have read it.
func serverSide(ctx context.Context, req *http.Request) *http.Request {
	u := *req.URL
	u.Scheme, u.Host = "", ""
	in := &http.Request{
		Method: req.Method, URL: &u, Proto: "HTTP/2.0", ProtoMajor: 2, Header: req.Header.Clone(), Body: req.Body, ContentLength: req.ContentLength,
		Host: req.URL.Host, RequestURI: u.RequestURI(), RemoteAddr: "127.0.0.1:0",
	}
	if in.Header == nil {
		in.Header = http.Header{}
	}
	in.Header.Del("Authorization") // as authentication would: it must not reach an aggregated server
	if in.Body == nil {
		in.Body = http.NoBody
	}
	return in.WithContext(ctx)
}

// serve calls h and returns what an aborted connection is for the client.
func serve(h http.Handler, w http.ResponseWriter, r *http.Request) (err error) {
	defer r.Body.Close()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s %s: the server gave up: %w", r.Method, r.URL.Path, io.ErrUnexpectedEOF)
		}
	}()
	h.ServeHTTP(w, r)
	return nil
}

func response(req *http.Request, status int, header http.Header, length int64, body io.ReadCloser) *http.Response {
	if length >= 0 && header.Get("Content-Length") == "" {
		header.Set("Content-Length", strconv.FormatInt(length, 10))
	}
	return &http.Response{
		Status: strconv.Itoa(status) + " " + http.StatusText(status), StatusCode: status, Proto: "HTTP/2.0", ProtoMajor: 2,
		Header: header, Body: body, ContentLength: length, Request: req,
	}
}

// answer is the http.ResponseWriter of what comes as a whole. It also implements what k8s.io/apiserver expects of an HTTP/2 server's.
type answer struct {
	ctx    context.Context
	header http.Header
	sent   http.Header // as it was when the status was written
	status int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(status int) {
	if a.status != 0 || status < http.StatusOK { // later ones and informational ones do not count
		return
	}
	a.status, a.sent = status, a.header.Clone()
}

func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(p)
}

func (a *answer) Flush() { a.WriteHeader(http.StatusOK) }

func (a *answer) CloseNotify() <-chan bool { return closeNotify(a.ctx) }

func closeNotify(ctx context.Context) <-chan bool {
	c := make(chan bool, 1)
	context.AfterFunc(ctx, func() { c <- true })
	return c
}

// stream is the http.ResponseWriter of what arrives bit by bit. started is closed when status and header are there, or nothing will come.
type stream struct {
	ctx     context.Context
	header  http.Header // as it was when the status was written
	live    http.Header // the handler's
	status  int
	started chan struct{}
	once    sync.Once
	pipe    pipe
}

func newStream(ctx context.Context) *stream {
	s := &stream{ctx: ctx, live: http.Header{}, started: make(chan struct{})}
	s.pipe.changed.L = &s.pipe.mu
	return s
}

func (s *stream) Header() http.Header { return s.live }

func (s *stream) WriteHeader(status int) {
	if status < http.StatusOK {
		return
	}
	s.once.Do(func() {
		s.status, s.header = status, s.live.Clone()
		close(s.started)
	})
}

func (s *stream) Write(p []byte) (int, error) {
	s.WriteHeader(http.StatusOK)
	return s.pipe.Write(p)
}

func (s *stream) Flush() { s.WriteHeader(http.StatusOK) }

func (s *stream) CloseNotify() <-chan bool { return closeNotify(s.ctx) }

// finish ends the stream after the handler.
func (s *stream) finish(err error) {
	if err == nil {
		s.WriteHeader(http.StatusOK)
		err = io.EOF
	}
	s.pipe.end(err)
	s.once.Do(func() { close(s.started) })
}

// clientEnd is the body of a stream. Closing it ends the request.
type clientEnd struct {
	pipe   *pipe
	cancel context.CancelFunc
}

func (c *clientEnd) Read(p []byte) (int, error) { return c.pipe.Read(p) }

func (c *clientEnd) Close() error {
	c.cancel()
	c.pipe.end(io.ErrClosedPipe)
	return nil
}

// pipe carries bytes from one writer to one reader and lets the writer be this far ahead.
const pipeSize = 64 << 10

type pipe struct {
	mu      sync.Mutex
	changed sync.Cond
	data    bytes.Buffer
	err     error // no more is written; the reader gets it after the data
}

func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.err == nil && p.data.Len() >= pipeSize {
		p.changed.Wait()
	}
	if p.err != nil {
		return 0, p.err
	}
	if p.data.Len() == 0 {
		p.changed.Broadcast()
	}
	return p.data.Write(b)
}

func (p *pipe) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.err == nil && p.data.Len() == 0 {
		p.changed.Wait()
	}
	if p.data.Len() == 0 {
		return 0, p.err
	}
	if p.data.Len() >= pipeSize {
		p.changed.Broadcast()
	}
	return p.data.Read(b)
}

// end makes reads return err when all data was read, and writes at once. The first call counts.
func (p *pipe) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
	p.changed.Broadcast()
}
