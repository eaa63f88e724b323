// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/controlplane/apiserver"
	"github.com/fairlead/fairlead/controlplane/apiserver/core"
	"github.com/fairlead/fairlead/controlplane/auth/pki"
	"github.com/fairlead/fairlead/controlplane/auth/tokens"
	"github.com/fairlead/fairlead/controlplane/store"
)

// Env is what a component works with.
type Env struct {
	// Config is this run's configuration with defaults filled in.
	Config Config
	// Client is a client configuration with all rights that reaches the server by function calls; a component makes a copy and names itself in UserAgent.
	Client *rest.Config
	// ClientAs is Client with the rights of the user of that name alone, which may be a service account's.
	ClientAs func(user string) *rest.Config
	// Pods is the API server's own informer of pods, without managed fields. It runs as long as the server: a component that reads all pods registers its
	// handlers there instead of keeping them a second time.
	Pods cache.SharedIndexInformer
	// Keys are the cluster's authorities and certificates; nil in a process that has none.
	Keys *pki.PKI
	// URL is where this server is reached from this host, "https://127.0.0.1:6443".
	URL string
	// AdminKubeconfig is the path of the administrator's kubeconfig.
	AdminKubeconfig string
}

// Component is a part of the control plane, or of the node, that runs in this process.
type Component struct {
	Name string
	// Run blocks until ctx ends and leaves nothing behind. An error before that ends the control plane.
	Run func(ctx context.Context, env Env) error
}

// Run runs a control plane until ctx ends and takes everything down in order. It returns nil when ctx was the reason.
func Run(ctx context.Context, cfg Config) error {
	started := time.Now()
	log := klog.FromContext(ctx)
	if err := cfg.complete(); err != nil {
		return err
	}
	settleMemory := easeStart(cfg.Idle)
	listener, err := cfg.listen()
	if err != nil {
		return err
	}
	defer listener.Close()
	port := listener.Addr().(*net.TCPAddr).Port

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var tasks tasks
	defer tasks.wait()
	defer cancel(nil)

	var members []store.Member
	if cfg.Join != nil && !cfg.joined() {
		if members, err = join(ctx, cfg); err != nil {
			return err
		}
	}
	keys, err := openKeys(ctx, cfg, port)
	if err != nil {
		return err
	}
	log.Info("Keys are ready", "component", "pki", "took", since(started))
	tasks.run(func() error { return keys.Run(ctx) }, cancel)

	// The API server still writes while it shuts down: the store outlives ctx.
	db, err := openStore(ctx, cfg, keys, members)
	if err != nil {
		return err
	}
	defer db.Close()

	api, err := newAPIServer(ctx, cfg, listener, keys, db)
	if err != nil {
		return err
	}
	serve, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	served := make(chan error, 1)
	go func() { served <- api.Run(serve) }()
	select {
	case <-api.Ready():
	case err := <-served:
		return fmt.Errorf("API server: %w", orEnded(err))
	case err := <-db.Err():
		return fmt.Errorf("store: %w", orEnded(err))
	case <-ctx.Done():
		stopServing()
		if err := <-served; err != nil && !errors.Is(err, context.Canceled) {
			log.Error(err, "API server did not stop cleanly")
		}
		return ended(ctx)
	}
	env := Env{Config: cfg, Client: api.Local(), ClientAs: localAs(api), Pods: api.Pods(), Keys: keys, URL: localURL(cfg.BindAddress, port), AdminKubeconfig: keys.AdminKubeconfig()}
	log.Info("API server is ready", "component", "apiserver", "url", env.URL, "kubeconfig", env.AdminKubeconfig, "took", since(started))
	tasks.run(func() error { settleMemory(ctx); return nil }, cancel)
	if err := settle(ctx, cfg, env); err != nil {
		cancel(err)
	} else if cfg.OnReady != nil {
		cfg.OnReady(env)
	}
	var components tasksGroup
	if context.Cause(ctx) == nil {
		components.start(ctx, cfg.Components, env, cancel)
	}
	select {
	case <-ctx.Done():
	case err := <-db.Err():
		cancel(fmt.Errorf("store: %w", orEnded(err)))
	case err := <-served:
		served <- err
		cancel(fmt.Errorf("API server: %w", orEnded(err)))
	}
	components.wait()
	stopServing()
	if err := <-served; err != nil && !errors.Is(err, context.Canceled) {
		log.Error(err, "API server did not stop cleanly")
	}
	return ended(ctx)
}

func localAs(api *apiserver.Server) func(string) *rest.Config {
	return func(name string) *rest.Config {
		who := &user.DefaultInfo{Name: name, Groups: []string{user.AllAuthenticated}}
		if namespace, _, err := serviceaccount.SplitUsername(name); err == nil {
			who.Groups = append(serviceaccount.MakeGroupNames(namespace), who.Groups...)
		}
		return api.LocalAs(who)
	}
}

// ended returns why ctx ended: nil when the caller asked for it.
func ended(ctx context.Context) error {
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

func orEnded(err error) error {
	if err == nil {
		return errors.New("ended by itself")
	}
	return err
}

func since(t time.Time) time.Duration { return time.Since(t).Round(time.Millisecond) }

func localURL(bind string, port int) string {
	host := "127.0.0.1"
	if ip := net.ParseIP(bind); ip != nil && !ip.IsUnspecified() {
		host = bind
	}
	return "https://" + net.JoinHostPort(host, strconv.Itoa(port))
}

func openKeys(ctx context.Context, cfg Config, port int) (*pki.PKI, error) {
	keys, err := pki.Open(ctx, pki.Config{
		Dir: cfg.pkiDir(), Addresses: cfg.names, Etcd: cfg.ClusterInit || pki.HasEtcd(cfg.pkiDir()), ServiceCIDRs: cfg.ServiceCIDRs, ClusterDomain: cfg.ClusterDomain,
		Server: localURL(cfg.BindAddress, port),
	})
	if err != nil {
		return nil, fmt.Errorf("open the cluster's keys: %w", err)
	}
	if cfg.Kubeconfig == "" {
		return keys, nil
	}
	data, err := os.ReadFile(keys.AdminKubeconfig())
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(cfg.Kubeconfig), 0o700); err != nil {
		return nil, fmt.Errorf("write the kubeconfig: %w", err)
	}
	if err := pki.WriteFile(cfg.Kubeconfig, data, 0o600); err != nil {
		return nil, fmt.Errorf("write the kubeconfig: %w", err)
	}
	return keys, nil
}

// openStore starts the store. Only its start ends with ctx, not its life. existing are the members of the cluster that this server just joined.
func openStore(ctx context.Context, cfg Config, keys *pki.PKI, existing []store.Member) (*store.Store, error) {
	if len(cfg.Store.Endpoints) == 0 && pki.HasEtcd(cfg.pkiDir()) {
		cfg.Store.Name = cfg.Name
		cfg.Store.Peer = &store.Peer{
			ListenURL: cfg.peerListenURL(), AdvertiseURL: cfg.peerURL(), Advertised: cfg.presentPeerURL, Existing: existing,
			CertFile: keys.EtcdPeerFile(), KeyFile: keys.EtcdPeerFile(), CAFile: keys.EtcdCAFile(),
		}
	}
	db, err := store.Start(ctx, cfg.Store)
	if err != nil {
		return nil, fmt.Errorf("open the store: %w", err)
	}
	return db, nil
}

func newAPIServer(ctx context.Context, cfg Config, listener net.Listener, keys *pki.PKI, db *store.Store) (*apiserver.Server, error) {
	serving, err := dynamiccertificates.NewDynamicServingContentFromFiles("serving-cert", keys.ServingFile(), keys.ServingFile())
	if err != nil {
		return nil, err
	}
	clientCA, err := dynamiccertificates.NewDynamicCAContentFromFile("client-ca", keys.CAFile())
	if err != nil {
		return nil, err
	}
	port := listener.Addr().(*net.TCPAddr).Port
	g := &guards{cfg: cfg, keys: keys, store: db, clientCA: clientCA, port: port}
	api, err := apiserver.New(ctx, apiserver.Config{
		Listener: listener, ServingCert: serving, ClientCA: clientCA,
		ProxyCertFile: keys.FrontProxyClientFile(), ProxyKeyFile: keys.FrontProxyClientFile(),
		Advertise: cfg.advertised, AdvertisePort: port, Name: cfg.Name,
		Store:        apiserver.Store{Endpoints: db.Endpoints, CertFile: db.CertFile, KeyFile: db.KeyFile, CAFile: db.CAFile, Client: db.Direct()},
		Guards:       g.build,
		ServiceCIDRs: cfg.ServiceCIDRs, NodePorts: cfg.NodePorts,
		Kubelet:          core.KubeletConfig{CertFile: keys.KubeletClientFile(), KeyFile: keys.KubeletClientFile(), CAFile: keys.CAFile()},
		EncryptionConfig: cfg.EncryptionConfig, AuditPolicy: cfg.AuditPolicy, AuditLog: cfg.AuditLog, AuditWebhook: cfg.AuditWebhook,
		TracingConfig: cfg.TracingConfig, ShutdownDelay: cfg.ShutdownDelay,
	})
	if err != nil {
		return nil, fmt.Errorf("assemble the API server: %w", err)
	}
	return api, nil
}

// settle makes the join tokens.
func settle(ctx context.Context, cfg Config, env Env) error {
	client, err := kubernetes.NewForConfig(env.Client)
	if err != nil {
		return err
	}
	node := tokens.Bootstrap{Description: "The token for nodes that was given to the server at its start."}
	server := tokens.Bootstrap{
		Description: "The token for servers that was given to the server at its start.", Usages: []string{"authentication"}, Groups: []string{tokens.ServerGroup},
	}
	return errors.Join(makeToken(ctx, client, cfg.Token, node), makeToken(ctx, client, cfg.ServerToken, server))
}

// makeToken stores text as b unless there is such a token. A store that cannot write now, as while it has no leader, is asked again for tokenPatience.
func makeToken(ctx context.Context, client kubernetes.Interface, text string, b tokens.Bootstrap) error {
	if text == "" {
		return nil
	}
	var ok bool
	if b.ID, b.Secret, ok = strings.Cut(text, "."); !ok {
		return errors.New("the join token is not of the form id.secret")
	}
	var refused error
	err := wait.PollUntilContextTimeout(ctx, tokenRetry, tokenPatience, true, func(ctx context.Context) (bool, error) {
		_, err := tokens.CreateBootstrap(ctx, client, b)
		switch {
		case err == nil || apierrors.IsAlreadyExists(err):
			return true, nil
		case !apierrors.IsInternalError(err) && !apierrors.IsTimeout(err) && !apierrors.IsServerTimeout(err) && !apierrors.IsTooManyRequests(err):
			return false, err
		}
		refused = err
		klog.FromContext(ctx).Error(err, "The join token is not stored yet, will retry", "in", tokenRetry)
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("store the join token: %w", errors.Join(err, refused))
	}
	return nil
}

const (
	tokenRetry    = 2 * time.Second
	tokenPatience = 2 * time.Minute
)
