// SPDX-License-Identifier: Apache-2.0

package podworker

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/fairlead/fairlead/dataplane/kubelet/criconfig"
)

const etcHosts = "/etc/hosts"

// hostsMount writes the pod's /etc/hosts and returns its mount; nil when the container mounts something there itself.
func (w *worker) hostsMount(pod *v1.Pod, container *v1.Container, ips []string) (*runtimeapi.Mount, error) {
	if slices.ContainsFunc(container.VolumeMounts, func(m v1.VolumeMount) bool { return filepath.Clean(m.MountPath) == etcHosts }) {
		return nil, nil
	}
	name, domain := criconfig.Hostname(pod, w.ClusterDomain)
	var content string
	if pod.Spec.HostNetwork {
		own, err := os.ReadFile(etcHosts)
		if err != nil && !os.IsNotExist(err) {
			return nil, err
		}
		content = "# Kubernetes-managed hosts file (host network).\n" + string(own)
	} else {
		content = HostsFile(name, domain, ips)
	}
	content += hostAliases(pod.Spec.HostAliases)
	file := filepath.Join(w.Volumes.PodDir(pod.UID), "etc-hosts")
	if old, err := os.ReadFile(file); err != nil || string(old) != content {
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			return nil, err
		}
	}
	return &runtimeapi.Mount{ContainerPath: etcHosts, HostPath: file}, nil
}

// HostsFile is /etc/hosts of a pod in its own network.
func HostsFile(name, domain string, ips []string) string {
	var out strings.Builder
	out.WriteString("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
	for _, ip := range ips {
		if domain != "" {
			fmt.Fprintf(&out, "%s\t%s.%s\t%s\n", ip, name, domain, name)
		} else {
			fmt.Fprintf(&out, "%s\t%s\n", ip, name)
		}
	}
	return out.String()
}

func hostAliases(aliases []v1.HostAlias) string {
	if len(aliases) == 0 {
		return ""
	}
	var out strings.Builder
	out.WriteString("\n# Entries added by HostAliases.\n")
	for _, alias := range aliases {
		fmt.Fprintf(&out, "%s\t%s\n", alias.IP, strings.Join(alias.Hostnames, "\t"))
	}
	return out.String()
}
