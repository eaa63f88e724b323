// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/cni/queue"
	"github.com/fairlead/fairlead/cni/wire"
	"github.com/fairlead/fairlead/dataplane/ipam"
	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// Config of the endpoint server.
type Config struct {
	Socket  string // the CNI plugin's way in
	DataDir string // endpoint files are kept in DataDir/endpoints, queued deletions in QueueDir
	// QueueDir holds the deletions that plugins queued while no agent ran.
	QueueDir string
	Loader   *loader.Loader
	Tables   *tables.Tables
	Pool     *ipam.Pool
	// Constants are the programs' .rodata, as route.Router.Constants gives them.
	Constants map[string]any
	// MTU returns the pods' MTU.
	MTU func() int
	// Ready returns nil when pods can be connected; its error is what STATUS says. nil: ready when the pool has a range.
	Ready func() error
	// Device is the kind of pair that new pods get; empty: DeviceAuto.
	Device Device
	// Sandboxes lists the container IDs of every pod sandbox that the container runtime knows, whatever its state. nil: the sweep relies on interfaces alone.
	Sandboxes func(context.Context) (map[string]bool, error)
	// OnListening is called when the socket answers. May be nil.
	OnListening func()
	// OnExhausted is told, at most once a minute, that a pod was refused because a range is full. May be nil; must not block.
	OnExhausted func(error)
	// SweepInterval is the time between two looks for leaks; 0: a minute.
	SweepInterval time.Duration
	// OnStep is told each step of an ADD and a DEL when it is done: tests end the agent there. May be nil.
	OnStep func(Step)
}

// Server answers the CNI plugin. It implements wire.Handler.
type Server struct {
	cfg  Config
	rec  *reconciler
	self nsID // the node's own network namespace
	// netkit says that new pods get netkit pairs.
	netkit bool

	mu     sync.Mutex
	busy   map[string]*attachment // attachments with a request in flight
	fullAt time.Time              // when OnExhausted was told last
	absent map[string]time.Time   // pods that the runtime did not know, since when
}

// attachment serialises the requests for one interface of one container.
type attachment struct {
	sync.Mutex
	users int
}

// Run serves until ctx ends. Pods stay connected when it returns.
func Run(ctx context.Context, cfg Config) error {
	if cfg.SweepInterval == 0 {
		cfg.SweepInterval = time.Minute
	}
	s := &Server{cfg: cfg, busy: map[string]*attachment{}, absent: map[string]time.Time{}}
	var err error
	if s.self, err = namespaceOf("/proc/thread-self/ns/net"); err != nil {
		return err
	}
	if s.netkit, err = cfg.Device.choose(cfg.Loader.HaveTCX()); err != nil {
		return err
	}
	klog.FromContext(ctx).Info("New pods' interfaces", "netkit", s.netkit)
	if s.rec, err = newReconciler(cfg); err != nil {
		return err
	}
	defer s.rec.close()
	if err := s.restore(ctx); err != nil {
		return fmt.Errorf("restore endpoints: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { s.rec.run(ctx) })
	wg.Go(func() { s.rec.settle(ctx) })

	// The queue's lock is held until the socket answers and the queue is empty: see package queue.
	q := queue.Dir(cfg.QueueDir)
	lock, err := q.Lock(ctx, true)
	if err != nil {
		return err
	}
	l, err := wire.Listen(cfg.Socket)
	if err != nil {
		lock.Close()
		return err
	}
	if err := q.Drain(func(e queue.Entry) error { return s.del(ctx, id(e.ContainerID, e.IfName)) }); err != nil {
		klog.FromContext(ctx).Error(err, "Some queued CNI deletions stay queued")
	}
	lock.Close()
	if cfg.OnListening != nil {
		cfg.OnListening()
	}
	wg.Go(func() { s.sweepLoop(ctx) })
	return wire.Serve(ctx, l, s)
}

func id(container, ifName string) string { return container + "/" + ifName }

// lock serialises work on one attachment; the returned function unlocks.
func (s *Server) lock(id string) func() {
	s.mu.Lock()
	a := s.busy[id]
	if a == nil {
		a = new(attachment)
		s.busy[id] = a
	}
	a.users++
	s.mu.Unlock()
	a.Lock()
	return func() {
		a.Unlock()
		s.mu.Lock()
		if a.users--; a.users == 0 {
			delete(s.busy, id)
		}
		s.mu.Unlock()
	}
}

// Handle implements wire.Handler.
func (s *Server) Handle(ctx context.Context, req *wire.Request, netns *os.File) ([]byte, error) {
	start := time.Now()
	result, err := s.handle(ctx, req, netns)
	observe(req.Command, err, time.Since(start))
	log := klog.FromContext(ctx).WithValues("command", req.Command, "container", req.ContainerID, "pod", klog.KRef(req.Args["K8S_POD_NAMESPACE"], req.Args["K8S_POD_NAME"]))
	if err != nil {
		log.Info("CNI request refused", "err", err)
	} else {
		log.V(2).Info("CNI request done", "took", time.Since(start))
	}
	return result, err
}

func (s *Server) handle(ctx context.Context, req *wire.Request, netns *os.File) ([]byte, error) {
	switch req.Command {
	case wire.Status:
		return nil, s.status()
	case wire.GC:
		return nil, s.gc(ctx, req)
	}
	if req.ContainerID == "" || req.IfName == "" {
		return nil, types.NewError(types.ErrInvalidEnvironmentVariables, "container ID or interface name missing", "")
	}
	key := id(req.ContainerID, req.IfName)
	defer s.lock(key)()
	switch req.Command {
	case wire.Add:
		if err := s.checkNetns(netns); err != nil {
			return nil, err
		}
		if err := s.ready(); err != nil {
			return nil, types.NewError(types.ErrTryAgainLater, "the node's pod network is not ready", err.Error())
		}
		result, err := s.add(ctx, key, req, netns)
		if err != nil {
			return nil, err
		}
		defer s.cfg.step(AddAnswer)
		return json.Marshal(result)
	case wire.Del:
		defer s.cfg.step(DelAnswer)
		// A deletion is finished even if the plugin hangs up: the runtime asks again only sometimes.
		return nil, s.delLocked(context.WithoutCancel(ctx), key)
	case wire.Check:
		if err := s.checkNetns(netns); err != nil {
			return nil, err
		}
		return nil, s.check(key, req, netns)
	}
	return nil, types.NewError(types.ErrUnsupportedField, "unknown command", string(req.Command))
}

// full counts a refusal for want of an address and passes it on.
func (s *Server) full(err error) {
	exhausted.Inc()
	s.mu.Lock()
	tell := s.cfg.OnExhausted != nil && time.Since(s.fullAt) > time.Minute
	if tell {
		s.fullAt = time.Now()
	}
	s.mu.Unlock()
	if tell {
		s.cfg.OnExhausted(err)
	}
}

// Abandoned implements wire.Handler: nobody learned of the interface, so it goes. Another ADD that came meanwhile has replaced it already.
func (s *Server) Abandoned(ctx context.Context, req *wire.Request, result []byte) {
	pod, _, ok := s.cfg.Tables.LocalPods.Get(s.cfg.Tables.DB.ReadTxn(), tables.LocalPodByID.Query(id(req.ContainerID, req.IfName)))
	made := new(types100.Result)
	if !ok || json.Unmarshal(result, made) != nil {
		return
	}
	if !pod.Chained && !slices.ContainsFunc(made.Interfaces, func(i *types100.Interface) bool { return i.Name == pod.HostIf }) {
		return
	}
	if err := s.delPod(ctx, pod); err != nil {
		klog.FromContext(ctx).Error(err, "Interface of an abandoned ADD stays until the sweep", "container", req.ContainerID)
	}
}

func (s *Server) ready() error {
	if s.cfg.Ready != nil {
		return s.cfg.Ready()
	}
	if len(s.cfg.Pool.CIDRs()) == 0 {
		return ipam.ErrNoRange
	}
	return nil
}

func (s *Server) status() error {
	if err := s.ready(); err != nil {
		return types.NewError(types.ErrPluginNotAvailable, "the node's pod network is not ready", err.Error())
	}
	full := 0
	usage := s.cfg.Pool.Usage()
	for _, u := range usage {
		if u.Exceeded {
			full++
		}
	}
	if full > 0 && full == len(usage) {
		return types.NewError(types.ErrPluginNotAvailable, "the node has no free pod address", "")
	}
	return nil
}

// gc removes every attachment of the network that is not in the request's list.
func (s *Server) gc(ctx context.Context, req *wire.Request) error {
	keep := map[string]bool{}
	for _, a := range req.Valid {
		keep[id(a.ContainerID, a.IfName)] = true
	}
	var errs []error
	for p := range s.cfg.Tables.LocalPods.All(s.cfg.Tables.DB.ReadTxn()) {
		if p.Network == req.Network && !keep[p.ID] {
			if err := s.delPod(ctx, p); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// nsID tells network namespaces apart.
type nsID struct{ dev, ino uint64 }

func namespaceOf(path string) (nsID, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nsID{}, fmt.Errorf("stat network namespace %s: %w", path, err)
	}
	return nsID{uint64(st.Dev), st.Ino}, nil
}

// checkNetns refuses what is no network namespace and the node's own one.
func (s *Server) checkNetns(f *os.File) error {
	if f == nil {
		return types.NewError(types.ErrInvalidNetNS, "no network namespace came with the request", "")
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil || fs.Type != unix.NSFS_MAGIC {
		return types.NewError(types.ErrInvalidNetNS, "CNI_NETNS is no namespace", f.Name())
	}
	if t, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE); err != nil || t != unix.CLONE_NEWNET {
		return types.NewError(types.ErrInvalidNetNS, "CNI_NETNS is no network namespace", f.Name())
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return types.NewError(types.ErrInvalidNetNS, "cannot stat CNI_NETNS", err.Error())
	}
	if (nsID{uint64(st.Dev), st.Ino}) == s.self {
		return types.NewError(types.ErrInvalidNetNS, "CNI_NETNS is the node's own network namespace", "")
	}
	return nil
}
