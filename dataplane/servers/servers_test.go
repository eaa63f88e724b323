// SPDX-License-Identifier: Apache-2.0

package servers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"
)

// fakeNet dials servers that are up, down (refused at once) or gone (no answer at all).
type fakeNet struct {
	mu    sync.Mutex
	state map[string]string
	tried []string
}

func (f *fakeNet) set(address, state string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state[address] = state
}

func (f *fakeNet) dial(ctx context.Context, _, address string) (net.Conn, error) {
	f.mu.Lock()
	state := f.state[address]
	f.tried = append(f.tried, address)
	f.mu.Unlock()
	switch state {
	case "up":
		here, there := net.Pipe()
		go func() { there.Read(make([]byte, 1)); there.Close() }()
		return here, nil
	case "gone":
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(dialTimeout):
			return nil, errors.New(address + ": i/o timeout")
		}
	}
	return nil, errors.New(address + ": connection refused")
}

func open(t *testing.T, known ...string) (*List, *fakeNet) {
	t.Helper()
	l, err := Open(filepath.Join(t.TempDir(), "servers.json"), "https://first:6443")
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeNet{state: map[string]string{"first:6443": "up"}}
	l.dial = f.dial
	for _, k := range known {
		f.set(k, "up")
	}
	if err := l.learn(known); err != nil {
		t.Fatal(err)
	}
	return l, f
}

func connect(t *testing.T, l *List) (net.Conn, error) {
	t.Helper()
	conn, err := l.DialContext(t.Context(), "tcp", "first:6443")
	if err == nil {
		t.Cleanup(func() { conn.Close() })
	}
	return conn, err
}

func TestADeadServerIsReplacedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, f := open(t, "a:6443", "b:6443")
		f.set("first:6443", "down")
		for range 5 {
			if _, err := connect(t, l); err != nil {
				t.Fatal(err)
			}
		}
		used := l.current
		f.set(used, "down")
		started := time.Now()
		if _, err := connect(t, l); err != nil {
			t.Fatal(err)
		}
		if l.current == used || time.Since(started) > 0 {
			t.Errorf("server %s was followed by %s after %s, want another one at once", used, l.current, time.Since(started))
		}
	})
}

func TestASilentServerDelaysByTheStaggerOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, f := open(t, "a:6443", "b:6443")
		if _, err := connect(t, l); err != nil {
			t.Fatal(err)
		}
		for _, a := range []string{"first:6443", "a:6443", "b:6443"} {
			if a != "b:6443" {
				f.set(a, "gone")
			}
		}
		started := time.Now()
		if _, err := connect(t, l); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(started); took > 2*stagger {
			t.Errorf("two silent servers delayed the connection by %s, want at most %s", took, 2*stagger)
		}
	})
}

func TestAllDown(t *testing.T) {
	l, f := open(t, "a:6443")
	f.set("first:6443", "down")
	f.set("a:6443", "down")
	if _, err := connect(t, l); err == nil || !strings.Contains(err.Error(), "first:6443") || !strings.Contains(err.Error(), "a:6443") {
		t.Errorf("error %v, want it to name both servers", err)
	}
}

func TestTheGoodOneIsKept(t *testing.T) {
	l, f := open(t, "a:6443", "b:6443", "c:6443")
	if _, err := connect(t, l); err != nil {
		t.Fatal(err)
	}
	f.tried = nil
	for range 20 {
		if _, err := connect(t, l); err != nil {
			t.Fatal(err)
		}
	}
	if slices.ContainsFunc(f.tried, func(a string) bool { return a != l.current }) {
		t.Errorf("tried %v although %s answers", f.tried, l.current)
	}
}

func TestAnotherAddressIsDialledAsItIs(t *testing.T) {
	l, f := open(t, "a:6443")
	f.set("elsewhere:443", "up")
	conn, err := l.DialContext(t.Context(), "tcp", "elsewhere:443")
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if !slices.Equal(f.tried, []string{"elsewhere:443"}) {
		t.Errorf("tried %v", f.tried)
	}
}

func TestServersAreRemembered(t *testing.T) {
	l, _ := open(t, "b:6443", "a:6443")
	again, err := Open(l.file, "https://first:6443")
	if err != nil {
		t.Fatal(err)
	}
	if got := again.Known(); !slices.Equal(got, []string{"a:6443", "b:6443"}) {
		t.Errorf("after a restart %v are known", got)
	}
	if err := l.learn(nil); err != nil || len(l.Known()) != 2 {
		t.Errorf("an empty list replaced what was known: %v, %v", l.Known(), err)
	}
	if err := os.WriteFile(l.file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(l.file, "https://first:6443"); err != nil {
		t.Errorf("a damaged memory: %v", err)
	}
}

func TestAServerThatIsNotReadyIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := open(t, "a:6443", "b:6443")
		conn, err := connect(t, l)
		if err != nil {
			t.Fatal(err)
		}
		bad, left := l.leave(time.Now())
		if !left {
			t.Fatal("it was not left although there are others")
		}
		if _, err := conn.Write([]byte{0}); err == nil {
			t.Error("the connection to the server that was left is still open")
		}
		for range 20 {
			if _, err := connect(t, l); err != nil {
				t.Fatal(err)
			}
			if l.current == bad {
				t.Fatalf("%s was chosen again", bad)
			}
		}
	})
}

func TestTheOnlyServerIsNeverLeft(t *testing.T) {
	l, _ := open(t, "first:6443")
	if _, err := connect(t, l); err != nil {
		t.Fatal(err)
	}
	if _, left := l.leave(time.Now()); left {
		t.Error("the only server was left")
	}
}

func TestAddressesOf(t *testing.T) {
	slice := &discoveryv1.EndpointSlice{
		Ports:     []discoveryv1.EndpointPort{{Name: ptr.To("https"), Port: ptr.To(int32(6443))}, {Name: ptr.To("other"), Port: ptr.To(int32(1))}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.1"}}, {Addresses: []string{"2001:db8::1"}}},
	}
	if got := addressesOf(slice); !slices.Equal(got, []string{"192.0.2.1:6443", "[2001:db8::1]:6443"}) {
		t.Errorf("addresses %v", got)
	}
}

func TestVerifyServer(t *testing.T) {
	for _, c := range []struct {
		name    string
		subject pkix.Name
		fits    bool
	}{
		{"an API server", pkix.Name{CommonName: "kube-apiserver"}, true},
		{"a node by its name", pkix.Name{CommonName: "system:node:a"}, false},
		{"a node by its group", pkix.Name{CommonName: "a", Organization: []string{"system:nodes"}}, false},
	} {
		err := VerifyServer(tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Subject: c.subject}}})
		if (err == nil) != c.fits {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if VerifyServer(tls.ConnectionState{}) == nil {
		t.Error("no certificate is accepted")
	}
}
