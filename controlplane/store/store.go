// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"k8s.io/klog/v2"
)

// Config says where the state lives. Either Endpoints names an etcd cluster that somebody else runs, or this process runs a member in DataDir.
type Config struct {
	// DataDir holds the member's write-ahead log and database. It is created with mode 0700.
	DataDir string `json:"dataDir,omitempty"`
	// Socket is the path of the unix socket for clients; default DataDir/etcd.sock. Linux limits it to 107 bytes.
	Socket string `json:"socket,omitempty"`

	// Name of this member among its peers; default "default".
	Name string `json:"name,omitempty"`
	// Peer is set when this member belongs to a cluster of several; nil means that it is alone.
	Peer *Peer `json:"peer,omitempty"`

	// QuotaBytes bounds the database; beyond it writes fail until space was freed. Default 8 GiB.
	QuotaBytes int64 `json:"quotaBytes,omitempty"`
	// MinFreeBytes is the free space of DataDir's file system below which writes are refused before etcd could fail in the middle of one.
	// Default 128 MiB (twice a segment of the write-ahead log).
	MinFreeBytes uint64 `json:"minFreeBytes,omitempty"`

	// Endpoints are the URLs of an existing etcd cluster; no member runs here when they are set.
	Endpoints []string `json:"endpoints,omitempty"`
	// CertFile, KeyFile and CAFile are the client certificate for Endpoints and the CA that signed the servers' certificates.
	CertFile string `json:"certFile,omitempty"`
	KeyFile  string `json:"keyFile,omitempty"`
	CAFile   string `json:"caFile,omitempty"`
}

// Peer is how this member meets the others: always over TLS with certificates of both sides.
type Peer struct {
	// ListenURL and AdvertiseURL are https URLs.
	ListenURL    string `json:"listenURL"`
	AdvertiseURL string `json:"advertiseURL"`
	// Advertised returns where this member is reached now, or "" while that is not known. It is asked again and again, and the other members are told when
	// its answer has changed and stays. Nil means AdvertiseURL for ever. ListenURL must fit every answer.
	Advertised func() string `json:"-"`
	// Existing are the members of the cluster that this one joins at its first start, itself included (see AddLearner). Empty means that this
	// member is the first. Later starts know the members from their own data.
	Existing []Member `json:"existing,omitempty"`
	// CertFile, KeyFile and CAFile are this member's identity and the authority of all members'.
	CertFile string `json:"certFile"`
	KeyFile  string `json:"keyFile"`
	CAFile   string `json:"caFile"`
}

// Store is a running store. Its fields say how k8s.io/apiserver reaches it.
type Store struct {
	Endpoints                 []string
	CertFile, KeyFile, CAFile string

	etcd   *embed.Etcd
	direct func() *clientv3.Client
	client *clientv3.Client
	stop   context.CancelFunc
	guard  sync.WaitGroup
	failed chan error
}

const (
	dialTimeout         = 10 * time.Second
	defaultQuotaBytes   = 8 << 30
	defaultMinFreeBytes = 128 << 20
)

// Start brings the store up and returns when it answers; ctx bounds the start only. Close ends it.
func Start(ctx context.Context, cfg Config) (*Store, error) {
	if len(cfg.Endpoints) > 0 {
		return connect(ctx, cfg)
	}
	return runMember(ctx, cfg)
}

func connect(ctx context.Context, cfg Config) (*Store, error) {
	client, err := Dial(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if _, err := client.MemberList(ctx); err != nil {
		client.Close()
		return nil, fmt.Errorf("reach the etcd cluster at %s: %w", strings.Join(cfg.Endpoints, ","), err)
	}
	return &Store{Endpoints: cfg.Endpoints, CertFile: cfg.CertFile, KeyFile: cfg.KeyFile, CAFile: cfg.CAFile, client: client, stop: func() {}}, nil
}

// Dial returns a client of the store that cfg describes: of its Endpoints, else of the member whose socket is in its data directory.
// The member may run in another process.
func Dial(ctx context.Context, cfg Config) (*clientv3.Client, error) {
	c, err := clientConfig(cfg)
	if err != nil {
		return nil, err
	}
	c.Context = ctx
	client, err := clientv3.New(c)
	if err != nil {
		return nil, fmt.Errorf("connect to etcd at %s: %w", strings.Join(c.Endpoints, ","), err)
	}
	return client, nil
}

func runMember(ctx context.Context, cfg Config) (*Store, error) {
	started := time.Now()
	log := klog.FromContext(ctx)
	member, err := cfg.member(log)
	if err != nil {
		return nil, err
	}
	e, err := embed.StartEtcd(member)
	if err != nil {
		return nil, fmt.Errorf("start etcd in %s: %w", cfg.DataDir, err)
	}
	if err := awaitMember(ctx, log, e); err != nil {
		e.Close()
		return nil, fmt.Errorf("start etcd in %s: %w", cfg.DataDir, err)
	}
	if err := os.Chmod(cfg.socket(), 0o600); err != nil {
		e.Close()
		return nil, fmt.Errorf("protect the etcd socket: %w", err)
	}
	guardCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	client, err := Dial(guardCtx, cfg)
	if err != nil {
		stop()
		e.Close()
		return nil, err
	}
	s := &Store{Endpoints: []string{socketURL(cfg.socket())}, etcd: e, client: client, stop: stop, failed: make(chan error, 1),
		direct: sync.OnceValue(func() *clientv3.Client { return v3client.New(e.Server) })}
	g := &guard{log: log, member: e.Server, client: client, dir: cfg.DataDir, minFree: cfg.MinFreeBytes, endpoint: s.Endpoints[0]}
	if g.minFree == 0 {
		g.minFree = defaultMinFreeBytes
	}
	s.guard.Go(func() { g.run(guardCtx) })
	s.guard.Go(func() { watch(e, s.failed, guardCtx.Done()) })
	if cfg.Peer != nil {
		p := &peers{log: log, member: e.Server, client: client, announced: cfg.Peer.AdvertiseURL, present: cfg.Peer.Advertised}
		s.guard.Go(func() { p.run(guardCtx) })
	}
	log.Info("Store is ready", "component", "etcd", "dataDir", cfg.DataDir, "took", time.Since(started).Round(time.Millisecond))
	return s, nil
}

// Client returns a client for members, snapshots, defragmentation and alarms. It is closed by Close.
func (s *Store) Client() *clientv3.Client { return s.client }

// Direct returns a client that calls the embedded member without a socket between, or nil when the store is elsewhere. It ends with the store.
func (s *Store) Direct() *clientv3.Client {
	if s.etcd == nil {
		return nil
	}
	return s.direct()
}

// Err delivers the error that ended the embedded member, ErrRemoved for one; nil channel when the store is elsewhere.
func (s *Store) Err() <-chan error { return s.failed }

// Close ends the member or the connection, waits for it and may be called once.
func (s *Store) Close() {
	s.stop()
	s.guard.Wait()
	s.client.Close()
	if s.etcd != nil {
		s.etcd.Close()
	}
}

func (c Config) socket() string {
	if c.Socket != "" {
		return c.Socket
	}
	return filepath.Join(c.DataDir, "etcd.sock")
}

func socketURL(path string) string { return "unix://" + path }

// member prepares the data directory and returns etcd's own configuration.
func (c Config) member(log klog.Logger) (*embed.Config, error) {
	m, err := c.embedded()
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{c.DataDir, filepath.Dir(c.socket())} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("create the etcd data directory: %w", err)
		}
	}
	for _, path := range []string{c.socket(), c.peerSocket()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("remove the socket of an earlier run: %w", err)
		}
	}
	m.ZapLoggerBuilder = embed.NewZapLoggerBuilder(newZap(log))
	return m, nil
}

func (c Config) peerSocket() string { return strings.TrimSuffix(c.socket(), ".sock") + ".peer.sock" }

// embedded translates c into etcd's own configuration; it changes nothing.
func (c Config) embedded() (*embed.Config, error) {
	if c.DataDir == "" {
		return nil, errors.New("store: neither a data directory nor etcd endpoints are given")
	}
	peerSocket := c.peerSocket()
	if len(peerSocket) > 107 {
		return nil, fmt.Errorf("store: socket path %q is longer than 107 bytes; set a shorter one", peerSocket)
	}
	m := embed.NewConfig()
	m.Dir = c.DataDir
	if c.Name != "" {
		m.Name = c.Name
	}
	m.ListenClientUrls = []url.URL{{Scheme: "unix", Path: c.socket()}}
	m.AdvertiseClientUrls = m.ListenClientUrls
	m.EnableGRPCGateway = false
	m.Metrics = "basic"
	m.QuotaBackendBytes = c.QuotaBytes
	if m.QuotaBackendBytes == 0 {
		m.QuotaBackendBytes = defaultQuotaBytes
	}
	// k8s.io/apiserver compacts; etcd's own compaction stays off. Progress notifications keep the watch caches fresh.
	m.WatchProgressNotifyInterval = 5 * time.Second
	m.SnapshotCount = 10000
	if c.Peer == nil {
		m.ListenPeerUrls = []url.URL{{Scheme: "unix", Path: peerSocket}}
		m.AdvertisePeerUrls = m.ListenPeerUrls
		m.InitialCluster = m.Name + "=unix://" + peerSocket
		// Nobody else votes: short ticks only shorten the wait for the own election.
		m.TickMs, m.ElectionMs = 10, 100
		return m, nil
	}
	listen, err := url.Parse(c.Peer.ListenURL)
	if err != nil || listen.Scheme != "https" {
		return nil, fmt.Errorf("store: peer listen URL %q is not an https URL", c.Peer.ListenURL)
	}
	advertise, err := url.Parse(c.Peer.AdvertiseURL)
	if err != nil || advertise.Scheme != "https" {
		return nil, fmt.Errorf("store: peer advertise URL %q is not an https URL", c.Peer.AdvertiseURL)
	}
	m.ListenPeerUrls, m.AdvertisePeerUrls = []url.URL{*listen}, []url.URL{*advertise}
	m.InitialCluster = m.Name + "=" + advertise.String()
	if len(c.Peer.Existing) > 0 {
		m.InitialCluster, m.ClusterState = initialCluster(m.Name, advertise.String(), c.Peer.Existing), embed.ClusterStateFlagExisting
	}
	m.MaxLearners = maxLearners
	m.PeerTLSInfo = transport.TLSInfo{
		CertFile: c.Peer.CertFile, KeyFile: c.Peer.KeyFile, TrustedCAFile: c.Peer.CAFile, ClientCertAuth: true,
		// The authority signs members only. A host with several addresses may come from one that its certificate does not name.
		SkipClientSANVerify: true,
	}
	return m, nil
}
