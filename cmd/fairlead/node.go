// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/fairlead/fairlead/cmd/fairlead/memory"
	"github.com/fairlead/fairlead/cni/install"
	"github.com/fairlead/fairlead/controlplane/auth/discovery"
	"github.com/fairlead/fairlead/dataplane/agent"
	"github.com/fairlead/fairlead/dataplane/containerd"
	"github.com/fairlead/fairlead/dataplane/dns/link"
	"github.com/fairlead/fairlead/dataplane/endpoint"
	"github.com/fairlead/fairlead/dataplane/kubelet"
	"github.com/fairlead/fairlead/dataplane/network"
	"github.com/fairlead/fairlead/dataplane/route"
	"github.com/fairlead/fairlead/dataplane/servers"
)

// nodeOptions are the flags of a node; `fairlead server` and `fairlead agent` share them.
type nodeOptions struct {
	name            string
	ips             []string
	dataDir, runDir string
	pinDir          string
	clusterDomain   string
	runtimeEndpoint string
	runc            string
	overlay         string
	lb              lbOptions
	podDevice       string
	noNetwork       bool
	labels          map[string]string
	kubeletDir      string
	limits          nodeLimits
	upstreamDNS     []string
	serviceCIDRs    []string
	clusterCIDRs    []string

	// Set by the command, not by flags.
	kubeconfig, bootstrapKubeconfig string
	servingCert, clientCA           string
	servers                         *servers.List
}

func (o *nodeOptions) register(f *pflag.FlagSet) {
	f.StringVar(&o.name, "node-name", "", "name of the node (default: the host's name)")
	f.StringSliceVar(&o.ips, "node-ip", nil, "addresses of the node, at most one per family (default: that of the default route)")
	f.StringVar(&o.dataDir, "data-dir", defaultDataDir, "directory for everything that survives a reboot")
	f.StringVar(&o.runDir, "run-dir", "/run/fairlead", "directory for sockets")
	f.StringVar(&o.kubeletDir, "kubelet-dir", "", "directory of pods' volumes and of CSI and device plugins' sockets (default: "+wellKnownKubeletDir+
		", where plugins expect it, with the default --data-dir; else DATA-DIR/agent/kubelet)")
	o.limits.register(f)
	f.StringVar(&o.pinDir, "bpf-dir", "/sys/fs/bpf/fairlead", "directory on a bpffs for pinned maps and links")
	f.StringVar(&o.clusterDomain, "cluster-domain", "cluster.local", "DNS domain of the cluster")
	f.StringVar(&o.runtimeEndpoint, "container-runtime-endpoint", "", "use this CRI runtime (unix:///PATH) instead of the embedded containerd")
	f.StringVar(&o.runc, "runc", "", "the embedded containerd's OCI runtime, a path (default: runc beside this executable, else runc or crun of PATH)")
	f.StringVar(&o.overlay, "overlay", "auto", "how pods reach other nodes: auto, native, vxlan")
	o.lb.register(f)
	f.StringVar(&o.podDevice, "pod-device", "auto", "pairs of devices that connect new pods: auto (netkit where the kernel has it), veth, netkit")
	f.BoolVar(&o.noNetwork, "no-network", false, "leave pods' network, Services and cluster DNS to what is installed as pods; CNI plugins are taken from /opt/cni/bin and /etc/cni/net.d")
	f.StringToStringVar(&o.labels, "node-label", nil, "labels for the node, KEY=VALUE")
	f.StringSliceVar(&o.upstreamDNS, "upstream-dns", nil, "servers for names outside the cluster (default: those of /etc/resolv.conf)")
}

const (
	defaultDataDir      = "/var/lib/fairlead"
	wellKnownKubeletDir = "/var/lib/kubelet"
)

// kubeletRoot is the kubelet's directory. Drivers and device plugins have Kubernetes' path in their manifests, so an ordinary node uses that; one of several
// on a machine has its own.
func (o *nodeOptions) kubeletRoot() string {
	switch {
	case o.kubeletDir != "":
		return o.kubeletDir
	case o.dataDir == defaultDataDir:
		return wellKnownKubeletDir
	}
	return filepath.Join(o.dataDir, "agent", "kubelet")
}

func (o *nodeOptions) nodeName() (string, error) {
	if o.name != "" {
		return checkNodeName(o.name)
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("name of this host: %w; give --node-name", err)
	}
	return checkNodeName(strings.ToLower(name))
}

// checkNodeName refuses early what the API server would refuse at registration, again and again.
func checkNodeName(name string) (string, error) {
	if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
		return "", fmt.Errorf("%q cannot be this node's name (%s); give another by --node-name", name, strings.Join(problems, "; "))
	}
	return name, nil
}

// run runs the node until ctx ends.
func (o *nodeOptions) run(ctx context.Context) error {
	cfg, err := o.config()
	if err != nil {
		return err
	}
	return agent.Run(ctx, cfg)
}

func (o *nodeOptions) config() (agent.Config, error) {
	var cfg agent.Config
	name, err := o.nodeName()
	if err != nil {
		return cfg, err
	}
	ips, err := parseAddrs(o.ips)
	if err != nil {
		return cfg, err
	}
	clusterCIDRs, err := parsePrefixes(o.clusterCIDRs)
	if err != nil {
		return cfg, err
	}
	clusterDNS, err := dnsAddresses(o.serviceCIDRs)
	if err != nil {
		return cfg, err
	}
	serviceIPs, err := parseAddrs(clusterDNS)
	if err != nil {
		return cfg, err
	}
	mode := route.Mode(o.overlay)
	switch mode {
	case route.Auto, route.Native, route.VXLAN:
	default:
		return cfg, fmt.Errorf("--overlay %q: want auto, native or vxlan", o.overlay)
	}
	cgroupRoot, err := cgroup2Root()
	if err != nil {
		return cfg, err
	}
	data := filepath.Join(o.dataDir, "agent")
	cfg.RuntimeEndpoint = o.runtimeEndpoint
	cfg.Containerd = containerd.Config{
		DataDir: filepath.Join(data, "containerd"), RunDir: filepath.Join(o.runDir, "containerd"),
		CNIConfDir: filepath.Join(data, "cni", "net.d"), CNIBinDirs: []string{filepath.Join(data, "cni", "bin"), "/usr/lib/cni", "/opt/cni/bin"},
		ImagesDir: filepath.Join(o.dataDir, "images"),
	}
	if o.runc != "" {
		if cfg.Containerd.RuncBinary, err = exec.LookPath(o.runc); err != nil {
			return cfg, fmt.Errorf("--runc: %w", err)
		}
	}
	if o.noNetwork {
		cfg.NoNetwork, cfg.Containerd.CNIConfDir, cfg.Containerd.CNIBinDirs = true, "/etc/cni/net.d", []string{"/opt/cni/bin"}
	}
	cfg.Kubelet = kubelet.Config{
		NodeName: name, NodeIPs: o.ips, Kubeconfig: o.kubeconfig, BootstrapKubeconfig: o.bootstrapKubeconfig,
		DataDir: o.kubeletRoot(), StaticPodDir: filepath.Join(o.dataDir, "manifests"),
		TLSCertFile: o.servingCert, TLSKeyFile: o.servingCert, ServerTLSBootstrap: o.servingCert == "", ClientCAFile: o.clientCA,
		Servers: o.servers, ClusterDNS: clusterDNS, ClusterDomain: o.clusterDomain, Labels: o.labels,
	}
	if err := o.limits.apply(&cfg.Kubelet); err != nil {
		return cfg, err
	}
	upstream := o.upstreamDNS
	if len(upstream) == 0 {
		upstream = hostResolvers("/etc/resolv.conf")
	}
	cfg.Network = network.Config{
		NodeName: name, NodeIPs: ips, DataDir: data, RunDir: o.runDir, PinDir: o.pinDir, CgroupRoot: cgroupRoot,
		ClusterCIDRs: clusterCIDRs, PodNetwork: true, Mode: mode, PodDevice: endpoint.Device(o.podDevice),
		CNI:        install.Options{BinDir: filepath.Join(data, "cni", "bin"), ConfDir: filepath.Join(data, "cni", "net.d")},
		DNS:        link.Settings{Domain: o.clusterDomain, Upstreams: upstream},
		ClusterDNS: serviceIPs,
		Registerer: prometheus.DefaultRegisterer,
	}
	if err := o.lb.apply(&cfg.Network); err != nil {
		return cfg, err
	}
	return cfg, nil
}

// agentOptions are the flags of `fairlead agent`.
type agentOptions struct {
	node nodeOptions
	join joinOptions
}

func newAgentCommand() *cobra.Command {
	var o agentOptions
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Join this host to a cluster as a node",
		Example: `  fairlead agent --server https://10.0.0.1:6443 --token-file token --ca-hash sha256:...

"fairlead token create --print-join-command" on a server prints this line.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			memory.ForNode(cmd.Context())
			return o.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	o.node.register(f)
	o.join.register(f, "URL of one of the cluster's servers; the others are learned from it")
	f.StringSliceVar(&o.node.clusterCIDRs, "cluster-cidr", []string{"10.244.0.0/16", "fd00:10:244::/56"}, "addresses of pods, as the server has them")
	f.StringSliceVar(&o.node.serviceCIDRs, "service-cidr", []string{"10.96.0.0/16", "fd00:10:96::/112"}, "addresses of Services, as the server has them")
	require(cmd, "server")
	return cmd
}

func (o *agentOptions) run(ctx context.Context) error {
	token, err := o.join.readToken()
	if err != nil {
		return err
	}
	if token == "" {
		return errors.New("no token: give --token-file or --token; `fairlead token create` on a server makes one")
	}
	if err := o.join.check(); err != nil {
		return err
	}
	ca, err := o.clusterCA(ctx)
	if err != nil {
		return err
	}
	dir := filepath.Join(o.node.dataDir, "agent")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	o.node.bootstrapKubeconfig, o.node.clientCA = filepath.Join(dir, "bootstrap.kubeconfig"), filepath.Join(dir, "ca.crt")
	if err := os.WriteFile(o.node.clientCA, ca, 0o644); err != nil {
		return err
	}
	if o.node.servers, err = servers.Open(filepath.Join(dir, "servers.json"), o.join.server); err != nil {
		return err
	}
	if err := clientcmd.WriteToFile(bootstrapConfig(o.join.server, ca, token), o.node.bootstrapKubeconfig); err != nil {
		return err
	}
	return o.node.run(ctx)
}

// clusterCA returns the cluster's authority. A node that has joined before knows it, and starts also while no server answers.
func (o *agentOptions) clusterCA(ctx context.Context) ([]byte, error) {
	if o.join.caCert == "" {
		known, err := os.ReadFile(filepath.Join(o.node.dataDir, "agent", "ca.crt"))
		if err == nil {
			if hash, err := discovery.HashPEM(known); err == nil && hash == o.join.caHash {
				return known, nil
			}
		}
	}
	return o.join.authority(ctx)
}

func bootstrapConfig(server string, ca []byte, token string) clientcmdapi.Config {
	c := clientcmdapi.NewConfig()
	c.Clusters["fairlead"] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: ca}
	c.AuthInfos["bootstrap"] = &clientcmdapi.AuthInfo{Token: token}
	c.Contexts["bootstrap"] = &clientcmdapi.Context{Cluster: "fairlead", AuthInfo: "bootstrap", Namespace: corev1.NamespaceDefault}
	c.CurrentContext = "bootstrap"
	return *c
}

func parseAddrs(texts []string) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, t := range texts {
		a, err := netip.ParseAddr(t)
		if err != nil {
			return nil, fmt.Errorf("node address %q: %w", t, err)
		}
		out = append(out, a.Unmap())
	}
	return out, nil
}

func parsePrefixes(texts []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, t := range texts {
		p, err := netip.ParsePrefix(t)
		if err != nil {
			return nil, fmt.Errorf("range %q: %w", t, err)
		}
		out = append(out, p)
	}
	return out, nil
}

// cgroup2Root is where the cgroup2 hierarchy is mounted: all there is on newer hosts, beside version 1 on hybrid ones.
func cgroup2Root() (string, error) {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1], nil
		}
	}
	return "", errors.New("cgroup2 is not mounted; the socket hooks need it: mount -t cgroup2 none /sys/fs/cgroup/unified")
}

// hostResolvers returns the servers of a resolv.conf, without this host itself: a stub there may well send queries back to us.
func hostResolvers(path string) []string {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if ip := net.ParseIP(f[1]); ip != nil && !ip.IsLoopback() {
			out = append(out, f[1])
		}
	}
	return out
}
