// SPDX-License-Identifier: Apache-2.0

// Package keeper keeps a node's DNS server running beside the agent, as a process that outlives it (dataplane/dns/nameserver).
//
//	dataplane/tables --dns/feed--> keeper --dns/link--> server process <--UDP-- pods
//	                               probe --UDP--------^
//
// The keeper starts the server, or takes over the one that an earlier agent started; replaces one of another version or with other settings, while the former goes on answering until the
// new one does; starts a dead one again, and kills one that no longer answers. It holds the server's sockets, too, so that questions wait for the next server instead of being
// refused. When the server stays away, the sockets are closed and Health says so, for the cluster to send the node's clients to other nodes' servers.
//
// The end of Run leaves the server running.
package keeper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/dataplane/dns"
	"github.com/fairlead/fairlead/dataplane/dns/link"
	"github.com/fairlead/fairlead/dataplane/dns/nameserver"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// Config of a keeper.
type Config struct {
	Tables   *tables.Tables
	Settings link.Settings
	// Corefiles delivers the cluster's Corefile: the first value soon, "" for none, and every change.
	Corefiles <-chan string
	RunDir    string // for the sockets
	LogFile   string // of the server
	// Executable is the server's program; empty: fairlead-dns beside this one, or this one under that name.
	Executable string
	// Health is called when the server has been away for a while (false) and when it answers again (true), then with those of Settings.Service that it answers at. May be nil.
	Health func(answers bool, service []netip.Addr)
}

const (
	startGrace    = 10 * time.Second // for the first server
	startPatience = 30 * time.Second // from a server's start to its first word
	downAfter     = time.Second      // without a server: Health(false)
	closeAfter    = 4 * time.Second  // without a server: no more questions are held for the next
	minBackoff    = 50 * time.Millisecond
	maxBackoff    = 10 * time.Second
	maxLogSize    = 4 << 20
)

// keeper is the state of Run.
type keeper struct {
	Config
	log     klog.Logger
	build   string
	sockets []*os.File // what the server reads; held here, too
	former  *process   // goes on answering until its successor does; nil: none

	mu       sync.Mutex
	corefile string
	known    bool          // corefile is what the cluster says
	changed  chan struct{} // closed when corefile is replaced
	told     *bool         // what Health was told last
	toldOf   []netip.Addr
	away     *time.Timer // runs while no server answers
	since    time.Time   // of that
}

// Run keeps the server until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Executable == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		cfg.Executable = self
		if beside := filepath.Join(filepath.Dir(self), nameserver.Name); isExecutable(beside) {
			cfg.Executable = beside
		}
	}
	if cfg.Settings.Port == 0 {
		cfg.Settings.Port = dns.Port
	}
	k := &keeper{Config: cfg, log: klog.FromContext(ctx).WithName("dns"), changed: make(chan struct{})}
	defer func() { k.hold(nil) }()
	k.gone(startGrace)
	defer k.away.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { k.followCorefile(ctx) })
	backoff := minBackoff
	for ctx.Err() == nil {
		started := time.Now()
		s, err := k.server(ctx)
		if err == nil {
			err = k.attend(ctx, s)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errComplete):
			continue // the one that answers is replaced now
		}
		if k.gone(downAfter) {
			backoff = minBackoff // it did answer: whatever ended it, the next one is wanted now
		}
		k.log.Error(err, "The DNS server ended; starting it again", "lived", time.Since(started).Round(time.Millisecond), "after", backoff, "log", cfg.LogFile)
		if k.former == nil && time.Since(k.since) > closeAfter {
			k.hold(nil) // better refused at once than answered too late
		}
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
		}
		backoff = min(2*backoff, maxBackoff)
	}
	return nil
}

// gone notes that no server answers, and reports whether that is new; after patience Health is told.
func (k *keeper) gone(patience time.Duration) bool {
	if !k.since.IsZero() || k.former != nil {
		return false
	}
	k.since = time.Now()
	k.away = time.AfterFunc(patience, func() { k.health(false, nil) })
	return true
}

// back notes that the server answers.
func (k *keeper) back() {
	if k.away != nil {
		k.away.Stop()
	}
	k.since = time.Time{}
	k.health(true, k.service())
	if k.former != nil {
		k.former.signal(unix.SIGTERM)
		k.former.close()
		k.former = nil
	}
}

func (k *keeper) health(answers bool, service []netip.Addr) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.Health != nil && (k.told == nil || *k.told != answers || !slices.Equal(k.toldOf, service)) {
		k.told, k.toldOf = &answers, service
		k.Health(answers, service)
	}
}

// service returns those of the Service's addresses at which the server has its sockets.
func (k *keeper) service() []netip.Addr {
	held := map[netip.AddrPort]map[string]bool{}
	for _, f := range k.sockets {
		if network, at, err := dns.SocketAddress(f); err == nil {
			if held[at] == nil {
				held[at] = map[string]bool{}
			}
			held[at][network] = true
		}
	}
	var out []netip.Addr
	for _, a := range k.Settings.Service {
		if at := held[netip.AddrPortFrom(a, dns.ServicePort)]; at["udp"] && at["tcp"] {
			out = append(out, a)
		}
	}
	return out
}

// followCorefile keeps the latest Corefile.
func (k *keeper) followCorefile(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case text := <-k.Corefiles:
			k.mu.Lock()
			k.corefile, k.known = text, true
			close(k.changed)
			k.changed = make(chan struct{})
			k.mu.Unlock()
		}
	}
}

func (k *keeper) currentCorefile() (text string, known bool, changed <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.corefile, k.known, k.changed
}

// server returns the server that runs, if it is what would be started, or a new one.
func (k *keeper) server(ctx context.Context) (*server, error) {
	k.build = fingerprint(k.Executable)
	if old := k.dial(); old != nil {
		same := old.hello.Build == k.build && (old.hello.Settings == nil || equal(*old.hello.Settings, k.Settings))
		understood := old.hello.Protocol == link.Protocol
		// Its successor must know as much as it does. Until that can be, it is fed as it is.
		early := !same && understood && old.hello.Complete && !k.complete()
		if understood && (same || early) {
			k.log.Info("Took over the DNS server that was running", "pid", old.process.pid, "only until the tables are complete", early)
			old.early = early
			k.hold(old.files)
			return old, k.begin(old)
		}
		k.hold(old.files)
		old.conn.Close()
		k.former = old.process
		k.log.Info("Replacing the DNS server that was running: another version or other settings", "pid", old.process.pid)
	}
	return k.start(ctx)
}

func (k *keeper) complete() bool {
	txn := k.Tables.DB.ReadTxn()
	services, _ := k.Tables.Services.Initialized(txn)
	slices, _ := k.Tables.EndpointSlices.Initialized(txn)
	return services && slices
}

// server is a running server.
type server struct {
	conn    *net.UnixConn
	process *process
	hello   link.Hello
	files   []*os.File // its sockets; held by the keeper from when it is accepted
	early   bool       // to be replaced when the tables are complete
}

// connect connects to whoever listens and hears its first word.
func (k *keeper) connect() (*server, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: k.socket(), Net: "unix"})
	if err != nil {
		return nil, err
	}
	s := &server{conn: conn}
	if err = conn.SetReadDeadline(time.Now().Add(startPatience)); err == nil {
		s.files, err = link.Receive(conn, &s.hello)
	}
	if err == nil {
		err = conn.SetReadDeadline(time.Time{})
	}
	if err == nil {
		s.process, err = open(s.hello.PID)
	}
	if err != nil {
		link.Close(s.files)
		conn.Close()
		return nil, err
	}
	return s, nil
}

func (s *server) close() {
	s.conn.Close()
	s.process.close()
}

// dial returns the server that runs, nil when there is none that answers.
func (k *keeper) dial() *server {
	if _, err := os.Stat(k.socket()); err != nil {
		return nil
	}
	s, err := k.connect()
	if err != nil {
		k.log.V(2).Info("No DNS server runs", "why", err)
		return nil
	}
	return s
}

// start starts a server with the sockets that are held, or opened.
func (k *keeper) start(ctx context.Context) (*server, error) {
	if err := k.open(); err != nil {
		k.hold(nil)
		return nil, err
	}
	if err := k.spawn(); err != nil {
		return nil, fmt.Errorf("start the DNS server %s: %w", k.Executable, err)
	}
	s, err := k.connect() // answered once it runs; its death ends the connection
	if err == nil {
		err = k.begin(s)
	}
	if err != nil {
		return nil, fmt.Errorf("start the DNS server: %w", err)
	}
	return s, nil
}

// open makes the sockets held those of the settings' addresses: it closes others and opens what is missing. Without the Service's the server is of use nevertheless: some other server on
// this machine may have taken port 53 of every address.
func (k *keeper) open() error {
	wanted := map[netip.AddrPort]bool{}
	for _, a := range k.Settings.Listen {
		wanted[netip.AddrPortFrom(a, uint16(k.Settings.Port))] = true
	}
	for _, a := range k.Settings.Service {
		wanted[netip.AddrPortFrom(a, dns.ServicePort)] = true
	}
	held := map[netip.AddrPort]bool{}
	k.sockets = slices.DeleteFunc(k.sockets, func(f *os.File) bool {
		_, at, err := dns.SocketAddress(f)
		if err != nil || !wanted[at] {
			f.Close()
			return true
		}
		held[at] = true
		return false
	})
	for _, a := range k.Settings.Listen {
		if at := netip.AddrPortFrom(a, uint16(k.Settings.Port)); !held[at] {
			files, err := dns.OpenSockets(at)
			if err != nil {
				return err
			}
			k.sockets = append(k.sockets, files...)
		}
	}
	for _, a := range k.Settings.Service {
		if !held[netip.AddrPortFrom(a, dns.ServicePort)] {
			files, err := dns.OpenServiceSockets(a)
			if err != nil {
				k.log.Error(err, "Packets to the cluster DNS Service are translated instead of answered under its address", "address", a)
				continue
			}
			k.sockets = append(k.sockets, files...)
		}
	}
	return nil
}

func (k *keeper) begin(s *server) error {
	text, _, _ := k.currentCorefile()
	if err := link.Send(s.conn, link.Start{Settings: k.Settings, Corefile: text}, k.sockets); err != nil {
		s.close()
		return err
	}
	return nil
}

// spawn starts the process with its listening socket, in a session of its own.
func (k *keeper) spawn() error {
	for _, dir := range []string{k.RunDir, filepath.Dir(k.LogFile)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.Remove(k.socket()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: k.socket(), Net: "unix"})
	if err != nil {
		return err
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(k.socket(), 0o600); err != nil {
		return err
	}
	inherited, err := l.File()
	if err != nil {
		return err
	}
	defer inherited.Close()
	output, err := openLog(k.LogFile)
	if err != nil {
		return err
	}
	defer output.Close()
	cmd := exec.Command(k.Executable, "--build", k.build)
	cmd.Args[0], cmd.Dir = nameserver.Name, "/"
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = output, output, []*os.File{inherited}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // its end shows on the connection; the goroutine ends with it or with this process
	k.log.Info("Started the DNS server", "pid", cmd.Process.Pid, "log", k.LogFile)
	return nil
}

// hold closes the sockets held so far and holds files.
func (k *keeper) hold(files []*os.File) {
	link.Close(k.sockets)
	k.sockets = files
}

func (k *keeper) socket() string { return filepath.Join(k.RunDir, link.SocketName) }
