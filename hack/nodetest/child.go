// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"

	"github.com/fairlead/fairlead/cmd/fairlead/memory"
	"github.com/fairlead/fairlead/dataplane/containerd"
	"github.com/fairlead/fairlead/dataplane/kubelet"
)

// childEnv names the file that tells this program to be a node's agent.
const childEnv = "FAIRLEAD_NODETEST_AGENT"

// childConfig is what an agent in a process of its own is told.
type childConfig struct {
	Containerd  containerd.Config
	Kubelet     kubelet.Config
	Host, Token string
	CA          []byte
	Ready       string // file to make when the node is ready
}

// runChild is the agent's process; it returns the exit code.
func runChild(file string) int {
	data, err := os.ReadFile(file)
	if err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		return 1
	}
	var c childConfig
	if err := json.Unmarshal(data, &c); err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		return 1
	}
	c.Kubelet.REST = &rest.Config{Host: c.Host, BearerToken: c.Token, TLSClientConfig: rest.TLSClientConfig{CAData: c.CA, ServerName: apiServerName}}
	c.Kubelet.OnReady = func() { _ = os.WriteFile(c.Ready, nil, 0o644) }
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ctx = klog.NewContext(ctx, textlogger.NewLogger(textlogger.NewConfig()))
	memory.ForNode(ctx) // as fairlead agent does
	if err := (Config{Containerd: c.Containerd, Kubelet: c.Kubelet}).run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		return 1
	}
	return 0
}

// apiServerName is what the API server's own certificate for itself says.
const apiServerName = "apiserver-loopback-client"

// Spawn starts the agent as a process of its own and waits until the node is ready; Down must have ended the one inside.
func (n *Node) Spawn() {
	n.T.Helper()
	ready := filepath.Join(n.Config.RunDir, "ready")
	_ = os.Remove(ready)
	c := childConfig{Containerd: n.Config.Containerd, Kubelet: n.Config.Kubelet, Host: n.REST.Host, Token: n.REST.BearerToken, CA: n.REST.CAData, Ready: ready}
	c.Kubelet.REST, c.Kubelet.OnReady = nil, nil
	data, err := json.Marshal(childFields(c))
	if err != nil {
		n.T.Fatal(err)
	}
	file := filepath.Join(n.Config.RunDir, "agent.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		n.T.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		n.T.Fatal(err)
	}
	log, err := os.OpenFile(filepath.Join(n.Config.DataDir, "agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		n.T.Fatal(err)
	}
	defer log.Close()
	n.agent = exec.Command(self)
	n.agent.Env = append(os.Environ(), childEnv+"="+file)
	n.agent.Stdout, n.agent.Stderr = log, log
	if err := n.agent.Start(); err != nil {
		n.T.Fatal(err)
	}
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(ready); err == nil {
			return
		}
		if time.Now().After(deadline) {
			data, _ := os.ReadFile(log.Name())
			n.T.Fatalf("the agent is not ready\n%s", data)
		}
	}
}

// childFields drops what JSON cannot carry.
func childFields(c childConfig) map[string]any {
	k := c.Kubelet
	return map[string]any{
		"Containerd": c.Containerd, "Host": c.Host, "Token": c.Token, "CA": c.CA, "Ready": c.Ready,
		"Kubelet": map[string]any{
			"NodeName": k.NodeName, "NodeIPs": k.NodeIPs, "DataDir": k.DataDir, "PodLogsDir": k.PodLogsDir, "StaticPodDir": k.StaticPodDir,
			"CRIEndpoint": k.CRIEndpoint, "CgroupRoot": k.CgroupRoot, "Address": k.Address, "Port": k.Port, "ClusterDNS": k.ClusterDNS,
			"EvictionHard": k.EvictionHard, "QPS": k.QPS, "Burst": k.Burst, "MaxPods": k.MaxPods, "ClientCAFile": k.ClientCAFile,
		},
	}
}

// AgentPID is the spawned agent's process.
func (n *Node) AgentPID() int { return n.agent.Process.Pid }

// Kill ends the spawned agent with SIGKILL.
func (n *Node) Kill() {
	n.T.Helper()
	if n.agent == nil {
		return
	}
	if err := n.agent.Process.Kill(); err != nil {
		n.T.Error(err)
	}
	_ = n.agent.Wait()
	n.agent = nil
}

// RuntimePID is containerd's process.
func (n *Node) RuntimePID() int {
	n.T.Helper()
	data, err := os.ReadFile(filepath.Join(n.Config.Containerd.RunDir, "containerd.pid"))
	if err != nil {
		n.T.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(data), &pid); err != nil {
		n.T.Fatal(err)
	}
	return pid
}

// Crash is a power cut: all processes of the node end at once, and mounts and the run directory are gone; the data directory stays.
func (n *Node) Crash() {
	n.T.Helper()
	n.Kill()
	n.Down()
	if err := unix.Kill(n.RuntimePID(), unix.SIGKILL); err != nil {
		n.T.Fatal(err)
	}
	for unix.Kill(n.RuntimePID(), 0) == nil && !zombie(n.RuntimePID()) {
		time.Sleep(5 * time.Millisecond)
	}
	if err := containerd.Teardown(context.Background(), n.Config.Containerd); err != nil {
		n.T.Fatal(err)
	}
	for _, point := range mounts(n.Config.DataDir) {
		_ = unix.Unmount(point, unix.MNT_DETACH)
	}
}

func zombie(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(data), ") Z ")
}

// mounts lists mount points below dir, the last mounted first.
func mounts(dir string) (out []string) {
	data, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); strings.HasPrefix(fields[4], dir+"/") {
			out = append([]string{fields[4]}, out...)
		}
	}
	return out
}
