// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/kubernetes"

	"github.com/fairlead/fairlead/cni/install"
	"github.com/fairlead/fairlead/dataplane/agent"
	"github.com/fairlead/fairlead/dataplane/endpoint"
	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/network"
	"github.com/fairlead/fairlead/dataplane/podnet"
	"github.com/fairlead/fairlead/dataplane/route"
)

// dataplaneOptions are the flags of `fairlead dataplane`.
type dataplaneOptions struct {
	kubeconfig, nodeName    string
	ips, cidrs, uplinks     []string
	dataDir, runDir, pinDir string
	cgroupRoot, overlay     string
	podDevice               string
	xdp                     string
	podNetwork, uninstall   bool
	runtimeEndpoint         string
	statusAddress           string
	lb                      lbOptions
	cni                     install.Options
}

func newDataplaneCommand() *cobra.Command {
	var o dataplaneOptions
	cmd := &cobra.Command{
		Use:   "dataplane",
		Short: "Run the service dataplane alone, as kube-proxy replacement on any Kubernetes cluster",
		Example: `  fairlead dataplane --kubeconfig dataplane.kubeconfig --node-name worker-1 --node-ip 10.0.0.7
  fairlead dataplane --pod-network      also connect pods, as the node's CNI plugin
  fairlead dataplane --uninstall        remove every program, link and map from this node`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.uninstall {
				return o.remove()
			}
			return o.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig file (default: KUBECONFIG, ~/.kube/config, the pod's service account)")
	f.StringVar(&o.nodeName, "node-name", "", "name of this node in the cluster (default: the host's name)")
	f.StringSliceVar(&o.ips, "node-ip", nil, "addresses of this node, at most one per family")
	f.StringSliceVar(&o.cidrs, "cluster-cidr", []string{"10.244.0.0/16", "fd00:10:244::/56"}, "addresses of the cluster's pods")
	f.StringSliceVar(&o.uplinks, "uplink", nil, "devices on which traffic from outside arrives (default: those that have the node's addresses)")
	f.StringVar(&o.xdp, "xdp", "auto", "where traffic from outside is handled: auto, xdp, tcx")
	o.lb.register(f)
	f.StringVar(&o.dataDir, "data-dir", "/var/lib/fairlead/agent", "directory for what survives a reboot")
	f.StringVar(&o.runDir, "run-dir", "/run/fairlead", "directory for sockets")
	f.StringVar(&o.pinDir, "bpf-dir", loader.DefaultPinDir, "directory on a bpffs for pinned maps and links")
	f.StringVar(&o.cgroupRoot, "cgroup", "", "cgroup2 directory whose processes get the socket hooks (default: the root)")
	f.BoolVar(&o.podNetwork, "pod-network", false, "connect pods, too, and install the CNI plugin")
	f.StringVar(&o.overlay, "overlay", "auto", "how pods reach other nodes: auto, native, vxlan")
	f.StringVar(&o.podDevice, "pod-device", "auto", "pairs of devices that connect new pods: auto (netkit where the kernel has it), veth, netkit")
	f.StringVar(&o.cni.BinDir, "cni-bin-dir", "/opt/cni/bin", "directory of CNI plugins")
	f.StringVar(&o.cni.ConfDir, "cni-conf-dir", "/etc/cni/net.d", "directory of CNI configurations")
	f.StringVar(&o.runtimeEndpoint, "container-runtime-endpoint", "", "CRI runtime (unix:///PATH) whose sandboxes the sweep for leaked pod interfaces compares with (default: it looks at interfaces alone)")
	f.StringVar(&o.statusAddress, "status-address", "127.0.0.1:4245", "where /metrics and /readyz are served; empty: nowhere")
	f.BoolVar(&o.uninstall, "uninstall", false, "remove every program, link and map from this node and end")
	return cmd
}

func (o *dataplaneOptions) run(ctx context.Context) error {
	rest, err := restConfig(o.kubeconfig)
	if err != nil {
		return err
	}
	rest.QPS = -1
	client, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return err
	}
	node := nodeOptions{name: o.nodeName}
	if o.nodeName, err = node.nodeName(); err != nil {
		return err
	}
	cfg := network.Config{
		Client: client, NodeName: o.nodeName, DataDir: o.dataDir, RunDir: o.runDir, PinDir: o.pinDir, CgroupRoot: o.cgroupRoot,
		Uplinks: o.uplinks, XDP: o.xdp, PodNetwork: o.podNetwork, Mode: route.Mode(o.overlay), PodDevice: endpoint.Device(o.podDevice), CNI: o.cni, Registerer: prometheus.DefaultRegisterer,
	}
	if cfg.NodeIPs, err = parseAddrs(o.ips); err != nil {
		return err
	}
	if err := o.lb.apply(&cfg); err != nil {
		return err
	}
	if len(cfg.NodeIPs) == 0 && len(cfg.Uplinks) == 0 {
		return fmt.Errorf("which device does traffic from outside use? give --node-ip or --uplink")
	}
	if cfg.ClusterCIDRs, err = parsePrefixes(o.cidrs); err != nil {
		return err
	}
	if cfg.CgroupRoot == "" {
		if cfg.CgroupRoot, err = cgroup2Root(); err != nil {
			return err
		}
	} else if cfg.CgroupRoot, err = cgroup2Below(cfg.CgroupRoot); err != nil {
		return err
	}
	if o.runtimeEndpoint != "" {
		cfg.Sandboxes = agent.Sandboxes(o.runtimeEndpoint)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return network.Run(ctx, cfg) })
	if o.statusAddress != "" {
		g.Go(func() error { return o.serveStatus(ctx) })
	}
	return g.Wait()
}

// serveStatus serves the metrics, and whether pods can be connected, until ctx ends.
func (o *dataplaneOptions) serveStatus(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.Handler())
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, r *http.Request) {
		if !o.podNetwork {
			return
		}
		if err := install.Probe(r.Context(), filepath.Join(o.runDir, "cni.sock")); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	l, err := net.Listen("tcp", o.statusAddress)
	if err != nil {
		return fmt.Errorf("--status-address: %w", err)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// cgroup2Below returns dir if it is on cgroup2, else dir/unified, where hosts with both versions have it.
func cgroup2Below(dir string) (string, error) {
	for _, d := range []string{dir, filepath.Join(dir, "unified")} {
		var fs unix.Statfs_t
		if err := unix.Statfs(d, &fs); err == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
			return d, nil
		}
	}
	return "", fmt.Errorf("--cgroup %s: neither it nor %s/unified is a cgroup2 directory; mount -t cgroup2 none %s/unified on the host", dir, dir, dir)
}

// remove takes the dataplane off this node. Pods that it connected lose their network.
func (o *dataplaneOptions) remove() error {
	cni := o.cni
	cni.Socket, cni.QueueDir = filepath.Join(o.runDir, "cni.sock"), filepath.Join(o.dataDir, "cni-deletions")
	if err := install.Uninstall(cni); err != nil {
		return err
	}
	if err := podnet.Uninstall(); err != nil {
		return err
	}
	l, err := loader.Open(loader.Config{PinDir: o.pinDir})
	if err != nil {
		return err
	}
	return l.Uninstall()
}
