// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/client-go/rest"

	"github.com/fairlead/fairlead/dataplane/kubelet/node"
	"github.com/fairlead/fairlead/dataplane/kubelet/shutdown"
	"github.com/fairlead/fairlead/dataplane/servers"
)

// Version is the Kubernetes version the node reports.
const Version = "v1.37.2"

// Config says how a node's kubelet works. Zero fields have the defaults named.
type Config struct {
	// NodeName is the Node object's name. Default: the host's name in lower case.
	NodeName string
	// NodeIPs are the node's addresses, the primary family first. Default: the sources of its default routes.
	NodeIPs []string
	// Hostname is the node's address of type Hostname. Default: NodeName.
	Hostname string

	// REST is the API server and the credential to use. Without it Kubeconfig is read, and without that BootstrapKubeconfig's
	// credential (a bootstrap token) gets a certificate, which is kept below DataDir and renewed.
	REST                *rest.Config
	Kubeconfig          string
	BootstrapKubeconfig string
	// Servers are the API servers behind BootstrapKubeconfig's; nil means that there is only that one.
	Servers *servers.List

	// DataDir holds pods' volumes, certificates and state. Default: /var/lib/fairlead/agent/kubelet.
	DataDir string
	// PodLogsDir holds containers' logs. Default: /var/log/pods.
	PodLogsDir string
	// StaticPodDir is watched for pod manifests to run without an API server. Empty: none.
	StaticPodDir string

	// CRIEndpoint is the container runtime's socket (unix:///...). ImageEndpoint, when another, is where images are.
	CRIEndpoint   string
	ImageEndpoint string
	// CgroupRoot is the path, below the mount point of each cgroup hierarchy, that all of this node's pods live under. Default: /.
	CgroupRoot string

	// Address and Port are where logs, exec and metrics are served. Port 0: 10250; below 0: an unused one.
	Address string
	Port    int
	// TLSCertFile and TLSKeyFile are the server's. Default: a certificate signed by itself, below DataDir.
	TLSCertFile, TLSKeyFile string
	// ServerTLSBootstrap asks the cluster to sign the server's certificate instead.
	ServerTLSBootstrap bool
	// ClientCAFile authenticates the API server's client certificate.
	ClientCAFile string

	ClusterDNS    []string
	ClusterDomain string // default: cluster.local
	ResolvConf    string // of the node; default: /etc/resolv.conf

	MaxPods      int   // default 110
	PodPidsLimit int64 // 0: none
	Labels       map[string]string
	Taints       []v1.Taint
	Reserved     v1.ResourceList // kept from pods, for the system
	// EvictionHard are thresholds by signal, a quantity or a percentage: memory.available, nodefs.available, nodefs.inodesFree,
	// imagefs.available, pid.available. Default: 100Mi, 10%, 5%, 15%, none.
	EvictionHard map[string]string

	// EvictionSoft are thresholds that act only after they were crossed for their EvictionSoftGrace; a pod ended for one has EvictionMaxPodGrace
	// at most to end. EvictionMinimumReclaim is by how much a crossed threshold must be exceeded to count as relieved, and a pressure condition
	// stays for EvictionPressureTransition (default 5 min) after that.
	EvictionSoft, EvictionMinimumReclaim map[string]string
	EvictionSoftGrace                    map[string]time.Duration
	EvictionMaxPodGrace                  time.Duration
	EvictionPressureTransition           time.Duration

	// Shutdown says how pods end when the machine shuts down. Without periods they are not ended by the kubelet then.
	Shutdown shutdown.Config

	SeccompDefault       bool
	AllowedUnsafeSysctls []string
	ParallelPulls        int // default 4
	// ImageGCHigh and ImageGCLow are percentages of the image filesystem: above the first, unused images go until below the second; 100 means never. 85 and 80.
	ImageGCHigh, ImageGCLow int
	ContainerLogMaxSize     int64   // default 10 MiB
	ContainerLogMaxFiles    int     // default 5
	QPS                     float32 // requests a second to the API server; default 50
	Burst                   int     // default 100
	// OnReady is called once the node is registered and pods are watched.
	OnReady func()
}

func (c Config) withDefaults() (Config, error) {
	if c.NodeName == "" {
		name, err := os.Hostname()
		if err != nil {
			return c, fmt.Errorf("kubelet: name of this host: %w", err)
		}
		c.NodeName = strings.ToLower(name)
	}
	if c.Hostname == "" {
		c.Hostname = c.NodeName
	}
	if len(c.NodeIPs) == 0 {
		ips, err := node.DetectIPs()
		if err != nil {
			return c, fmt.Errorf("kubelet: %w", err)
		}
		c.NodeIPs = ips
	}
	if c.CRIEndpoint == "" {
		return c, errors.New("kubelet: no container runtime endpoint")
	}
	if c.ImageEndpoint == "" {
		c.ImageEndpoint = c.CRIEndpoint
	}
	defaultTo(&c.DataDir, "/var/lib/fairlead/agent/kubelet")
	defaultTo(&c.PodLogsDir, "/var/log/pods")
	defaultTo(&c.ClusterDomain, "cluster.local")
	defaultTo(&c.ResolvConf, "/etc/resolv.conf")
	defaultTo(&c.CgroupRoot, "/")
	defaultTo(&c.Port, 10250)
	defaultTo(&c.MaxPods, 110)
	defaultTo(&c.ParallelPulls, 4)
	defaultTo(&c.ImageGCHigh, 85)
	defaultTo(&c.ImageGCLow, 80)
	defaultTo(&c.ContainerLogMaxSize, 10<<20)
	defaultTo(&c.ContainerLogMaxFiles, 5)
	defaultTo(&c.QPS, 50)
	defaultTo(&c.Burst, 100)
	defaultTo(&c.EvictionPressureTransition, 5*time.Minute)
	if c.EvictionHard == nil {
		c.EvictionHard = map[string]string{"memory.available": "100Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%", "imagefs.available": "15%",
			"imagefs.inodesFree": "5%"}
	}
	for _, dir := range []string{c.DataDir, c.PodLogsDir} {
		if !filepath.IsAbs(dir) {
			return c, fmt.Errorf("kubelet: directory %q is not absolute", dir)
		}
	}
	return c, nil
}

func defaultTo[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// evictionReserve is the memory that eviction keeps free, which pods therefore cannot have.
func (c Config) evictionReserve(capacity v1.ResourceList) v1.ResourceList {
	out := v1.ResourceList{}
	for signal, name := range map[string]v1.ResourceName{"memory.available": v1.ResourceMemory, "nodefs.available": v1.ResourceEphemeralStorage} {
		value, ok := c.EvictionHard[signal]
		if !ok {
			continue
		}
		if percent, ok := strings.CutSuffix(value, "%"); ok {
			var n float64
			if _, err := fmt.Sscan(percent, &n); err == nil {
				total := capacity[name]
				out[name] = *resource.NewQuantity(int64(float64(total.Value())*n/100), resource.BinarySI)
			}
			continue
		}
		if quantity, err := resource.ParseQuantity(value); err == nil {
			out[name] = quantity
		}
	}
	return out
}
