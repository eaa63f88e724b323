// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/sys"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/log"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// startLimit bounds a start that nobody waits for any more.
const startLimit = 2 * time.Minute

// The daemon's gRPC server is our own in place of containerd's plugin of that name, for one reason: the start of a container goes on when its caller
// dies. Given up half way, nobody could tell whether the process had run, and starting it again might run it twice.
func init() {
	registry.Register(&plugin.Registration{
		Type: plugins.ServerPlugin, ID: "grpc", Requires: []plugin.Type{plugins.GRPCPlugin},
		Config: &serverConfig{Address: defaults.DefaultAddress, MaxMessage: defaults.DefaultMaxRecvMsgSize},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			config := ic.Config.(*serverConfig)
			if config.Address == "" {
				return nil, errors.New("no address for the gRPC server")
			}
			server := newServer(config.MaxMessage)
			for _, p := range ic.Plugins().GetAll() {
				if p.Registration.Type != plugins.GRPCPlugin {
					continue
				}
				instance, err := p.Instance()
				if err != nil {
					continue // the daemon has logged it, and goes on without that plugin
				}
				if service, ok := instance.(interface{ Register(*grpc.Server) error }); ok {
					if err := service.Register(server); err != nil {
						return nil, err
					}
				}
			}
			return daemonServer{server, config.Address}, nil
		},
	})
}

// serverConfig is the plugin's section of config.toml.
type serverConfig struct {
	Address    string `toml:"address"`
	MaxMessage int    `toml:"max_message_size"`
}

// daemonServer is what the daemon starts and closes.
type daemonServer struct {
	*grpc.Server
	address string
}

func (s daemonServer) Start(ctx context.Context) error {
	listener, err := sys.GetLocalListener(s.address, os.Geteuid(), os.Getegid())
	if err != nil {
		return err
	}
	log.G(ctx).WithField("address", s.address).Info("serving...")
	go func() {
		defer listener.Close()
		if err := s.Serve(listener); err != nil && !errors.Is(err, net.ErrClosed) {
			log.G(ctx).WithError(err).WithField("address", s.address).Fatal("serve failure")
		}
	}()
	return nil
}

func (s daemonServer) Close() error {
	s.Stop()
	return nil
}

func newServer(maxMessage int) *grpc.Server {
	starts := &starts{running: map[string]*pendingStart{}}
	return grpc.NewServer(grpc.ChainUnaryInterceptor(unaryNamespace, starts.intercept), grpc.ChainStreamInterceptor(streamNamespace),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
}

// starts are the container starts under way, by container.
type starts struct {
	mu      sync.Mutex
	running map[string]*pendingStart
}

// pendingStart is one of them; response and err may be read once done is closed.
type pendingStart struct {
	done     chan struct{}
	response any
	err      error
}

// intercept lets a StartContainer run to its end whatever becomes of its caller. Another one for the same container, as by the agent that follows one
// that was killed, waits for it and has the same answer.
func (s *starts) intercept(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	r, ok := request.(*runtimeapi.StartContainerRequest)
	if !ok {
		return handler(ctx, request)
	}
	id := r.GetContainerId()
	s.mu.Lock()
	one := s.running[id]
	if one == nil {
		one = &pendingStart{done: make(chan struct{})}
		s.running[id] = one
		go func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startLimit)
			defer cancel()
			one.response, one.err = handler(ctx, request)
			s.mu.Lock()
			delete(s.running, id)
			s.mu.Unlock()
			close(one.done)
		}()
	}
	s.mu.Unlock()
	select {
	case <-one.done:
		return one.response, one.err
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

// unaryNamespace and streamNamespace make the namespace that a client asked for known to the services that its call leads to.
func unaryNamespace(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	return handler(withNamespace(ctx), request)
}

func streamNamespace(service any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return handler(service, namespacedStream{stream, withNamespace(stream.Context())})
}

func withNamespace(ctx context.Context) context.Context {
	if namespace, ok := namespaces.Namespace(ctx); ok {
		return namespaces.WithNamespace(ctx, namespace)
	}
	return ctx
}

type namespacedStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s namespacedStream) Context() context.Context { return s.ctx }
