// SPDX-License-Identifier: Apache-2.0

// Package nameserver is a node's DNS server as a process of its own. The node's agent starts it and feeds it (dataplane/dns/keeper); it goes on answering from what it
// knows when the agent is away, and takes the next agent's word for everything.
package nameserver

import (
	"bufio"
	"context"
	"encoding/gob"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"

	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/dataplane/dns"
	"github.com/fairlead/fairlead/dataplane/dns/directory"
	"github.com/fairlead/fairlead/dataplane/dns/link"
)

// Name is what the process is called.
const Name = "fairlead-dns"

// listenerFD is the descriptor of the listening socket that the agent starts the process with.
const listenerFD = 3

// Main runs the server with the process's arguments and returns its exit code.
func Main() int {
	flags := flag.NewFlagSet(Name, flag.ContinueOnError)
	build := flags.String("build", "", "what the agent calls this version")
	if err := flags.Parse(os.Args[1:]); err != nil {
		return 2
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50) // a node's memory is for its pods
	}
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	l, err := listener()
	if err == nil {
		err = Serve(ctx, l, *build)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", Name, err)
		return 1
	}
	return 0
}

func listener() (*net.UnixListener, error) {
	f := os.NewFile(listenerFD, "agent")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("no listening socket on descriptor %d: this program is started by `fairlead agent`: %w", listenerFD, err)
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, fmt.Errorf("descriptor %d is no unix socket: this program is started by `fairlead agent`", listenerFD)
	}
	u.SetUnlinkOnClose(false) // by then it may be the next server's
	return u, nil
}

// server is the state that lives over agents.
type server struct {
	ctx       context.Context
	build     string
	directory *directory.Directory
	corefiles chan string

	mu       sync.Mutex
	settings *link.Settings // nil: no agent came yet
	sockets  []*os.File
	running  bool
	serving  chan struct{} // closed when the server answers
	ended    chan error    // of the DNS server
}

// Serve accepts agents until ctx ends or the DNS server fails.
func Serve(ctx context.Context, l *net.UnixListener, build string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &server{ctx: ctx, build: build, directory: directory.New(), corefiles: make(chan string), serving: make(chan struct{}), ended: make(chan error, 1)}
	conns := make(chan *net.UnixConn)
	go func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return // closed
			}
			select {
			case conns <- conn:
			case <-ctx.Done():
				conn.Close()
			}
		}
	}()
	defer l.Close()
	var current *net.UnixConn
	var sessions sync.WaitGroup
	defer func() {
		if current != nil {
			current.Close()
		}
		sessions.Wait()
		link.Close(s.sockets)
	}()
	for {
		select {
		case conn := <-conns:
			if current != nil {
				current.Close()
				sessions.Wait()
			}
			current = conn
			sessions.Go(func() {
				if err := s.session(conn); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
					klog.FromContext(ctx).Error(err, "The agent's connection ended; answering from what is known")
				}
				conn.Close()
			})
		case err := <-s.ended:
			return err // the end of the connection tells the agent
		case <-ctx.Done():
			if s.started() {
				return <-s.ended
			}
			return nil
		}
	}
}

// session serves one agent.
func (s *server) session(conn *net.UnixConn) error {
	s.mu.Lock()
	hello := link.Hello{Protocol: link.Protocol, Build: s.build, Settings: s.settings, Complete: s.directory.Complete(), PID: os.Getpid()}
	sockets := s.sockets
	s.mu.Unlock()
	if err := link.Send(conn, hello, sockets); err != nil {
		return err
	}
	var start link.Start
	files, err := link.Receive(conn, &start)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.settings == nil {
		s.settings, s.sockets, files = &start.Settings, files, nil
	}
	s.mu.Unlock()
	link.Close(files)

	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-s.serving:
			_ = gob.NewEncoder(conn).Encode(link.Report{Serving: true}) // an agent that is gone is seen below
		case <-ended:
		}
	}()
	messages := gob.NewDecoder(bufio.NewReader(conn))
	for {
		var m link.Message
		if err := messages.Decode(&m); err != nil {
			return err
		}
		if m.Batch != nil {
			s.directory.Apply(m.Batch)
			if m.Batch.Whole {
				debug.FreeOSMemory() // what the former state and its transport took
			}
			if err := s.run(start.Corefile); err != nil {
				return err
			}
		}
		if m.Corefile != nil {
			if !s.started() {
				start.Corefile = m.Corefile.Text
				continue
			}
			select {
			case s.corefiles <- m.Corefile.Text:
			case <-s.ctx.Done():
				return nil
			}
		}
	}
}

func (s *server) started() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running
}

// run starts the DNS server, once there is something that it can answer from.
func (s *server) run(corefile string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running {
		return nil
	}
	s.running = true
	cfg := dns.Config{
		Directory: s.directory, Domain: s.settings.Domain, Listen: s.settings.Listen, Port: s.settings.Port, Service: s.settings.Service, Upstreams: s.settings.Upstreams, Metrics: s.settings.Metrics,
		Corefile: corefile, Corefiles: s.corefiles, Socket: s.settings.Control, ResolvConf: s.settings.ResolvConf, OnServing: func() { close(s.serving) },
	}
	var err error
	if cfg.Sockets, err = link.Copy(s.sockets); err != nil { // the DNS server closes its own; these are for the next agent
		return err
	}
	go func() { s.ended <- dns.Run(s.ctx, cfg) }()
	return nil
}
