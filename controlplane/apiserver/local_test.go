// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/endpoints/request"
)

// localServer returns a client whose requests h handles.
func localServer(t *testing.T, h http.HandlerFunc) *http.Client {
	t.Helper()
	l := newLocal()
	t.Cleanup(l.open(h))
	return &http.Client{Transport: localUser{l, loopbackUser}}
}

func ask(t *testing.T, c *http.Client, ctx context.Context, method, url, body string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, "https://server"+url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer secret")
	return c.Do(req)
}

type callerKey struct{}

func TestLocalAnswer(t *testing.T) {
	c := localServer(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Context().Value(callerKey{}) != nil {
			t.Error("the handler sees values of the caller's context")
		}
		if who, _ := request.UserFrom(r.Context()); who == nil || who.GetName() != "system:apiserver" {
			t.Errorf("the handler sees %v, want system:apiserver", who)
		}
		if r.Header.Get("Authorization") != "" {
			t.Error("the handler sees the caller's token")
		}
		w.Header().Set("X-Before", "yes")
		w.WriteHeader(http.StatusCreated)
		w.Header().Set("X-After", "yes")
		_, _ = io.WriteString(w, r.Method+" "+r.RequestURI+" "+string(body))
	})
	resp, err := ask(t, c, context.WithValue(t.Context(), callerKey{}, 1), "POST", "/api?dryRun=All", "hello")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "POST /api?dryRun=All hello" {
		t.Errorf("body %q, %v", body, err)
	}
	if resp.StatusCode != http.StatusCreated || resp.ContentLength != int64(len(body)) {
		t.Errorf("status %s, content length %d", resp.Status, resp.ContentLength)
	}
	if resp.Header.Get("X-Before") != "yes" || resp.Header.Get("X-After") != "" {
		t.Errorf("header %v, want what was set before the status", resp.Header)
	}
}

func TestLocalStreamArrivesWhileItIsWritten(t *testing.T) {
	next, ended := make(chan string), make(chan struct{})
	c := localServer(t, func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		w.(http.Flusher).Flush()
		for {
			select {
			case s := <-next:
				_, _ = io.WriteString(w, s)
			case <-r.Context().Done():
				return
			}
		}
	})
	resp, err := ask(t, c, t.Context(), "GET", "/api/v1/pods?watch=true", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"one", "two"} {
		next <- want
		got := make([]byte, 3)
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
			t.Fatalf("read %q, %v; want %q", got, err, want)
		}
	}
	resp.Body.Close()
	wantClosed(t, ended, "closing the body did not end the request")
	if _, err := resp.Body.Read(make([]byte, 1)); err == nil {
		t.Error("a closed body can be read")
	}
}

func TestLocalStreamWaitsForItsReader(t *testing.T) {
	written := make(chan struct{})
	c := localServer(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, pipeSize))
		_, _ = w.Write([]byte("x"))
		close(written)
	})
	resp, err := ask(t, c, t.Context(), "GET", "/api/v1/pods?watch=true", "")
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-written:
		t.Error("more than the pipe holds was written before anything was read")
	case <-time.After(20 * time.Millisecond): // it would take microseconds
	}
	n, err := io.Copy(io.Discard, resp.Body)
	if n != pipeSize+1 || err != nil {
		t.Errorf("read %d bytes, %v; want %d", n, err, pipeSize+1)
	}
}

func TestLocalCancel(t *testing.T) {
	for _, url := range []string{"/api/v1/pods", "/api/v1/pods?watch=true"} {
		t.Run(url, func(t *testing.T) {
			begun, ended := make(chan struct{}), make(chan struct{})
			c := localServer(t, func(_ http.ResponseWriter, r *http.Request) {
				close(begun)
				<-r.Context().Done()
				close(ended)
			})
			ctx, cancel := context.WithCancel(t.Context())
			go func() { <-begun; cancel() }()
			if _, err := ask(t, c, ctx, "GET", url, ""); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v, want canceled", err)
			}
			wantClosed(t, ended, "the handler did not see the cancellation")
		})
	}
}

func TestLocalAbort(t *testing.T) {
	c := localServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("late") {
			_, _ = io.WriteString(w, "begin")
		}
		panic(http.ErrAbortHandler)
	})
	for _, url := range []string{"/x", "/x?watch=true"} {
		if _, err := ask(t, c, t.Context(), "GET", url, ""); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: error %v, want unexpected EOF", url, err)
		}
	}
	resp, err := ask(t, c, t.Context(), "GET", "/x?watch=true&late", "")
	if err != nil {
		t.Fatal(err)
	}
	if data, err := io.ReadAll(resp.Body); string(data) != "begin" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read %q, %v; want begin, unexpected EOF", data, err)
	}
}

func TestLocalWaitsBeforeAndRefusesAfter(t *testing.T) {
	l := newLocal()
	c := &http.Client{Transport: localUser{l, loopbackUser}}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ask(t, c, ended, "GET", "/", ""); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want canceled", err)
	}
	early := make(chan error, 1)
	go func() {
		resp, err := ask(t, c, t.Context(), "GET", "/early", "")
		if err == nil && resp.StatusCode != http.StatusNotFound {
			err = errors.New(resp.Status)
		}
		early <- err
	}()
	closed := l.open(http.NotFoundHandler())
	if err := <-early; err != nil {
		t.Errorf("a request from before the server ran: %v", err)
	}
	closed()
	if _, err := ask(t, c, t.Context(), "GET", "/", ""); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("error %v, want connection refused", err)
	}
}

func wantClosed(t *testing.T, c <-chan struct{}, message string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(10 * time.Second):
		t.Error(message)
	}
}
