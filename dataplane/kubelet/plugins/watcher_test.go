// SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	registrationapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// handler tells what it is asked for, and refuses plugins of the name "bad".
type handler chan string

func (h handler) Register(_ context.Context, p Plugin) error {
	h <- "register " + p.Name + " " + p.Endpoint
	if p.Name == "bad" {
		return errors.New("not this one")
	}
	return nil
}

func (h handler) Deregister(p Plugin) { h <- "deregister " + p.Name }

// fake is a plugin; it tells the answer to its registration.
type fake struct {
	registrationapi.UnimplementedRegistrationServer
	info     *registrationapi.PluginInfo
	statuses chan *registrationapi.RegistrationStatus
}

func (f *fake) GetInfo(context.Context, *registrationapi.InfoRequest) (*registrationapi.PluginInfo, error) {
	return f.info, nil
}

func (f *fake) NotifyRegistrationStatus(_ context.Context, s *registrationapi.RegistrationStatus) (*registrationapi.RegistrationStatusResponse, error) {
	f.statuses <- s
	return &registrationapi.RegistrationStatusResponse{}, nil
}

func serveFake(t *testing.T, socket, kind, name, endpoint string) (f *fake, stop func()) {
	t.Helper()
	f = &fake{info: &registrationapi.PluginInfo{Type: kind, Name: name, Endpoint: endpoint}, statuses: make(chan *registrationapi.RegistrationStatus, 8)}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	registrationapi.RegisterRegistrationServer(server, f)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	stop = func() { server.Stop(); <-done }
	t.Cleanup(stop)
	return f, stop
}

// next is what comes out of c, within a while.
func next[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func watch(t *testing.T, dir string, h handler) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	w := &Watcher{Dir: dir, Handlers: map[string]Handler{"Kind": h}}
	go func() { done <- w.Run(ctx) }()
	var err error
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err = next(t, done); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	return stop
}

func TestPluginIsRegisteredWhileItsSocketIsThere(t *testing.T) {
	dir, h := t.TempDir(), make(handler, 8)
	before := filepath.Join(dir, "before.sock")
	f, _ := serveFake(t, before, "Kind", "before", "")
	stop := watch(t, dir, h)
	if got, want := next(t, h), "register before "+before; got != want { // without an endpoint of its own it serves where it registers
		t.Errorf("%q, want %q", got, want)
	}
	if s := next(t, f.statuses); !s.PluginRegistered {
		t.Errorf("%v", s)
	}
	below := filepath.Join(dir, "deeper")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	f, end := serveFake(t, filepath.Join(below, "later.sock"), "Kind", "later", "/elsewhere.sock")
	if got := next(t, h); got != "register later /elsewhere.sock" {
		t.Errorf("%q", got)
	}
	next(t, f.statuses)
	end() // the listener takes its socket away
	if got := next(t, h); got != "deregister later" {
		t.Errorf("%q", got)
	}
	stop() // the agent ends: the plugin that is there stays registered
	select {
	case got := <-h:
		t.Errorf("at the agent's end: %q", got)
	default:
	}
}

func TestPluginIsToldWhyItIsNotRegistered(t *testing.T) {
	dir, h := t.TempDir(), make(handler, 8)
	for name, c := range map[string]struct{ kind, name, why string }{
		"refused": {"Kind", "bad", "not this one"}, "stranger": {"Other", "x", `plugins of kind "Other" are not known here`}, "nameless": {"Kind", "", "the plugin has no name"},
	} {
		t.Run(name, func(t *testing.T) {
			f, _ := serveFake(t, filepath.Join(dir, name+".sock"), c.kind, c.name, "")
			stop := watch(t, dir, h)
			defer stop()
			for range 2 { // and it is tried again
				if s := next(t, f.statuses); s.PluginRegistered || s.Error != c.why {
					t.Errorf("%v, want %q", s, c.why)
				}
			}
		})
	}
}

func TestGroupTakesTheNewestOfAName(t *testing.T) {
	var g Group[int]
	old, young := Plugin{Name: "p", Endpoint: "old"}, Plugin{Name: "p", Endpoint: "young"}
	want := func(value int, found bool) {
		t.Helper()
		if v, ok := g.Get("p"); v != value || ok != found {
			t.Errorf("%d %t, want %d %t", v, ok, value, found)
		}
	}
	want(0, false)
	g.Put(old, 1)
	g.Put(young, 2)
	want(2, true)
	g.Put(old, 3) // it registered again
	want(3, true)
	if v, found, left := g.Take(old); v != 3 || !found || !left {
		t.Errorf("%d %t %t", v, found, left)
	}
	want(2, true)
	if _, found, left := g.Take(old); found || !left {
		t.Errorf("taken twice: %t %t", found, left)
	}
	if v, found, left := g.Take(young); v != 2 || !found || left {
		t.Errorf("%d %t %t", v, found, left)
	}
	want(0, false)
	if got := fmt.Sprint(g.All()); got != "map[]" {
		t.Errorf("%s", got)
	}
}
