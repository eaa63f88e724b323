// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder answers every request with what it saw.
type recorder struct {
	mu        sync.Mutex
	abandoned int
	wait      chan struct{} // nil: answer at once
	err       error
}

func (r *recorder) Handle(ctx context.Context, req *Request, netns *os.File) ([]byte, error) {
	if r.wait != nil {
		select {
		case <-r.wait:
		case <-ctx.Done():
		}
	}
	if r.err != nil {
		return nil, r.err
	}
	seen := struct {
		ID    string
		Netns bool
	}{req.ContainerID, netns != nil}
	if netns != nil {
		if _, err := netns.Stat(); err != nil {
			return nil, err
		}
	}
	return json.Marshal(seen)
}

func (r *recorder) Abandoned(context.Context, *Request, []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.abandoned++
}

func serve(t *testing.T, h Handler) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "cni.sock")
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, h) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error("serve:", err)
		}
	})
	return socket
}

func TestCallCarriesNamespace(t *testing.T) {
	socket := serve(t, &recorder{})
	if st, err := os.Stat(socket); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the socket is for root only: %v %v", st.Mode(), err)
	}
	f, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for fd, want := range map[int]bool{int(f.Fd()): true, -1: false} {
		resp, err := Call(t.Context(), socket, &Request{Command: Add, Attachment: Attachment{ContainerID: "c"}}, fd)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			ID    string
			Netns bool
		}
		if err := json.Unmarshal(resp.Result, &got); err != nil || got.ID != "c" || got.Netns != want {
			t.Errorf("answer %s, %v", resp.Result, err)
		}
	}
}

func TestLargeRequestInPieces(t *testing.T) {
	socket := serve(t, &recorder{})
	req := &Request{Command: Add, Attachment: Attachment{ContainerID: "big"}, Args: map[string]string{"x": string(bytes.Repeat([]byte("y"), MaxMessage-1000))}}
	if _, err := Call(t.Context(), socket, req, -1); err != nil {
		t.Fatal(err)
	}
	req.Args["x"] += string(bytes.Repeat([]byte("y"), 2000))
	if _, err := Call(t.Context(), socket, req, -1); !errors.Is(err, ErrTooLong) {
		t.Errorf("a message above the limit: %v", err)
	}
}

func TestErrorsKeepTheirCode(t *testing.T) {
	for err, code := range map[error]uint{types.NewError(100, "full", ""): 100, errors.New("plain"): types.ErrInternal} {
		resp, cerr := Call(t.Context(), serve(t, &recorder{err: err}), &Request{Command: Add}, -1)
		if cerr != nil || resp.Error == nil || resp.Error.Code != code || len(resp.Result) != 0 {
			t.Errorf("%v: %+v, %v", err, resp, cerr)
		}
	}
}

func TestNegotiate(t *testing.T) {
	for _, c := range []struct{ min, max, want int }{{1, 1, 1}, {1, 9, MaxVersion}, {MaxVersion + 1, MaxVersion + 2, 0}, {0, 0, 0}} {
		v, err := Negotiate(c.min, c.max)
		if v != c.want || (err == nil) != (c.want > 0) {
			t.Errorf("a plugin of %d to %d: version %d, %v", c.min, c.max, v, err)
		}
		if err != nil && err.Code != ErrWireVersion {
			t.Errorf("code %d", err.Code)
		}
	}
}

func TestNobodyListens(t *testing.T) {
	if _, err := Call(t.Context(), filepath.Join(t.TempDir(), "none"), &Request{Command: Add}, -1); !errors.Is(err, ErrAgentDown) {
		t.Error(err)
	}
	wait := make(chan struct{})
	defer close(wait)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Call(ctx, serve(t, &recorder{wait: wait}), &Request{Command: Add}, -1); !errors.Is(err, ErrAgentDown) {
		t.Error("an agent that does not answer in time:", err)
	}
}

func TestPluginHangsUp(t *testing.T) {
	r := &recorder{wait: make(chan struct{})}
	socket := serve(t, r)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	Call(ctx, socket, &Request{Command: Add}, -1)
	deadline := time.Now().Add(10 * time.Second)
	for {
		r.mu.Lock()
		n := r.abandoned
		r.mu.Unlock()
		if n == 1 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the handler was not told that nobody waits for its ADD")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestGarbage(t *testing.T) {
	socket := serve(t, &recorder{})
	for name, b := range map[string][]byte{
		"no JSON":        append(binary.BigEndian.AppendUint32(nil, 4), "{{{{"...),
		"huge length":    binary.BigEndian.AppendUint32(nil, 1<<31),
		"old version":    append(binary.BigEndian.AppendUint32(nil, 2), "{}"...),
		"JSON of a list": append(binary.BigEndian.AppendUint32(nil, 2), "[]"...),
	} {
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		c.Write(b)
		var resp Response
		if err := decode(c, &resp); err != nil || resp.Error == nil {
			t.Errorf("%s: %+v, %v", name, resp, err)
		}
		c.Close()
	}
	if _, err := Call(t.Context(), socket, &Request{Command: Add}, -1); err != nil {
		t.Error("the server must live on:", err)
	}
}

func FuzzDecode(f *testing.F) {
	good, _ := encode(&Request{Command: Add, Attachment: Attachment{ContainerID: "c", IfName: "eth0"}, PortMappings: []PortMapping{{HostPort: 1}}})
	f.Add(good)
	f.Add([]byte{0, 0, 0, 2, '{', '}'})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		req := new(Request)
		if decode(bytes.NewReader(b), req) != nil {
			return
		}
		again, err := encode(req)
		if err != nil {
			return
		}
		if err := decode(bytes.NewReader(again), new(Request)); err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
	})
}
