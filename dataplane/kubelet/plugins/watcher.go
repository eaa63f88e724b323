// SPDX-License-Identifier: Apache-2.0

// Package plugins finds the node's plugins by the sockets they put into a directory, asks each what it is, and tells the handler of its kind
// (Kubernetes' plugin registration v1).
//
//	<dir>/**/*.sock ──scan──▶ GetInfo ──▶ Handler.Register ──▶ NotifyRegistrationStatus
//	socket gone or made anew ──▶ Handler.Deregister
//
// The directory is the only state: a watcher that starts again finds the same plugins.
package plugins

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/klog/v2"
	registrationapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const (
	scanPeriod  = 30 * time.Second // for what notifications missed
	retryPeriod = time.Second      // after a registration that failed; it doubles up to scanPeriod
	settle      = 50 * time.Millisecond
	callTimeout = 10 * time.Second
)

// Plugin is one that registered.
type Plugin struct {
	Kind, Name string
	Endpoint   string // its socket's path
	Versions   []string
}

// Handler takes plugins of one kind. Its methods may be called for several plugins at once.
type Handler interface {
	// Register takes a plugin into use; an error is told to the plugin and registration is tried again.
	Register(ctx context.Context, p Plugin) error
	// Deregister forgets it.
	Deregister(p Plugin)
}

// Watcher watches a directory.
type Watcher struct {
	Dir      string
	Handlers map[string]Handler // by kind: CSIPlugin, DevicePlugin, DRAPlugin
}

// socket tells a socket from another of the same path.
type socket struct {
	path     string
	inode    uint64
	modified time.Time
}

// entry is the plugin of one socket; its goroutine registers it.
type entry struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// Run watches until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	if err := os.MkdirAll(w.Dir, 0o750); err != nil {
		return fmt.Errorf("plugin directory: %w", err)
	}
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch plugin directory %s: %w", w.Dir, err)
	}
	defer notify.Close()
	known := map[socket]*entry{}
	defer func() {
		for _, e := range known {
			e.cancel()
			<-e.done
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-notify.Events:
			timer.Reset(settle)
			continue
		case err := <-notify.Errors:
			klog.FromContext(ctx).Error(err, "Watching the plugin directory", "dir", w.Dir)
			timer.Reset(settle)
			continue
		case <-timer.C:
		}
		w.reconcile(ctx, notify, known)
		timer.Reset(scanPeriod)
	}
}

// reconcile starts what is new and ends what is gone.
func (w *Watcher) reconcile(ctx context.Context, notify *fsnotify.Watcher, known map[socket]*entry) {
	found := map[socket]bool{}
	_ = filepath.WalkDir(w.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // gone meanwhile
		}
		if d.IsDir() {
			if err := notify.Add(path); err != nil {
				klog.FromContext(ctx).Error(err, "Watching a plugin directory", "dir", path)
			}
			return nil
		}
		info, err := d.Info()
		if err == nil && info.Mode()&fs.ModeSocket != 0 {
			found[socket{path, inode(info), info.ModTime()}] = true
		}
		return nil
	})
	for s, e := range known {
		if !found[s] {
			e.cancel()
			<-e.done
			delete(known, s)
		}
	}
	for _, s := range slices.SortedFunc(maps.Keys(found), func(a, b socket) int { return a.modified.Compare(b.modified) }) {
		if known[s] != nil {
			continue
		}
		own, cancel := context.WithCancel(ctx)
		e := &entry{cancel: cancel, done: make(chan struct{})}
		known[s] = e
		go func() {
			defer close(e.done)
			w.keep(own, ctx, s.path)
		}()
	}
}

// keep registers the plugin of a socket, trying again until it works, and deregisters it when ctx ends because the socket is gone. When the agent
// ends, the plugin is not: what was registered stays.
func (w *Watcher) keep(ctx, agent context.Context, path string) {
	log := klog.FromContext(ctx)
	for delay := retryPeriod; ; delay = min(2*delay, scanPeriod) {
		plugin, err := w.register(ctx, path)
		if err == nil {
			log.Info("Registered a plugin", "kind", plugin.Kind, "name", plugin.Name, "endpoint", plugin.Endpoint)
			<-ctx.Done()
			if agent.Err() == nil {
				w.Handlers[plugin.Kind].Deregister(plugin)
			}
			return
		}
		if ctx.Err() == nil {
			log.Info("A plugin was not registered", "socket", path, "err", err)
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return
		}
	}
}

func (w *Watcher) register(ctx context.Context, path string) (Plugin, error) {
	connection, err := Dial(path)
	if err != nil {
		return Plugin{}, err
	}
	defer connection.Close()
	client := registrationapi.NewRegistrationClient(connection)
	asking, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	info, err := client.GetInfo(asking, &registrationapi.InfoRequest{})
	if err != nil {
		return Plugin{}, fmt.Errorf("ask %s what it is: %w", path, err)
	}
	plugin := Plugin{Kind: info.Type, Name: info.Name, Endpoint: info.Endpoint, Versions: info.SupportedVersions}
	if plugin.Endpoint == "" {
		plugin.Endpoint = path
	}
	var failed error
	switch handler := w.Handlers[plugin.Kind]; {
	case handler == nil:
		failed = fmt.Errorf("plugins of kind %q are not known here", plugin.Kind)
	case plugin.Name == "":
		failed = errors.New("the plugin has no name")
	default:
		failed = handler.Register(ctx, plugin)
	}
	status := &registrationapi.RegistrationStatus{PluginRegistered: failed == nil}
	if failed != nil {
		status.Error = failed.Error()
	}
	telling, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err = client.NotifyRegistrationStatus(telling, status)
	if failed != nil {
		return plugin, failed
	}
	if err != nil {
		w.Handlers[plugin.Kind].Deregister(plugin)
		return plugin, fmt.Errorf("tell %s that it is registered: %w", path, err)
	}
	return plugin, nil
}

// Dial returns a connection to a plugin's socket; it connects with the first call and again when it was cut.
func Dial(path string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	options = append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}),
	}, options...)
	connection, err := grpc.NewClient("passthrough:///plugin", options...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	return connection, nil
}

// Group runs a handler's plugins of one name: several sockets may register the same name, as when a plugin is replaced; the last one counts.
type Group[T any] struct {
	mu      sync.Mutex
	members map[string][]member[T]
}

type member[T any] struct {
	endpoint string
	value    T
}

// Put adds a plugin, or replaces the one of the same endpoint.
func (g *Group[T]) Put(p Plugin, value T) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.members == nil {
		g.members = map[string][]member[T]{}
	}
	g.members[p.Name] = append(slices.DeleteFunc(g.members[p.Name], func(m member[T]) bool { return m.endpoint == p.Endpoint }), member[T]{p.Endpoint, value})
}

// Take removes a plugin and returns it, and whether another of its name is left.
func (g *Group[T]) Take(p Plugin) (value T, found, left bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := g.members[p.Name]
	if i := slices.IndexFunc(list, func(m member[T]) bool { return m.endpoint == p.Endpoint }); i >= 0 {
		value, found = list[i].value, true
		list = slices.Delete(list, i, i+1)
	}
	if len(list) == 0 {
		delete(g.members, p.Name)
		return value, found, false
	}
	g.members[p.Name] = list
	return value, found, true
}

// Get returns the newest plugin of a name.
func (g *Group[T]) Get(name string) (value T, found bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if list := g.members[name]; len(list) > 0 {
		return list[len(list)-1].value, true
	}
	return value, false
}

// All returns the newest plugin of every name.
func (g *Group[T]) All() map[string]T {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := map[string]T{}
	for name, list := range g.members {
		out[name] = list[len(list)-1].value
	}
	return out
}
