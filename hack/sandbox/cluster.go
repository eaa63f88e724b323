// SPDX-License-Identifier: Apache-2.0

package sandbox

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

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	pollInterval  = 50 * time.Millisecond
	readyPatience = 2 * time.Minute
)

// Client returns a client of the cluster through 127.0.0.1.
func (s *Sandbox) Client() (kubernetes.Interface, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", s.Kubeconfig())
	if err != nil {
		return nil, err
	}
	cfg.QPS = -1
	return kubernetes.NewForConfig(cfg)
}

// adoptKubeconfig waits for the server's admin kubeconfig and writes it with the address by which the host reaches it.
func (s *Sandbox) adoptKubeconfig(ctx context.Context, server Host, st State, patience time.Duration) error {
	path := filepath.Join(s.nodeDir(server.Name), "data", "server", "pki", "admin.kubeconfig")
	var lastErr error
	err := wait.PollUntilContextTimeout(ctx, pollInterval, patience, true, func(context.Context) (bool, error) {
		status, err := s.control(server.Name, request{Verb: VerbStatus})
		if err == nil && !status.Running {
			return false, fmt.Errorf("the server ended: %s", status.Last)
		}
		cfg, err := clientcmd.LoadFromFile(path)
		if err != nil {
			lastErr = err
			return false, nil
		}
		for _, c := range cfg.Clusters {
			c.Server = "https://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(st.APIPort))
		}
		b, err := clientcmd.Write(*cfg)
		if err != nil {
			return false, err
		}
		return true, writeAtomic(s.Kubeconfig(), b, 0o600)
	})
	if wait.Interrupted(err) {
		return fmt.Errorf("the server wrote no kubeconfig within %s: %w", patience, lastErr)
	}
	return err
}

func waitReadyz(ctx context.Context, c kubernetes.Interface, patience time.Duration) error {
	var lastErr error
	err := wait.PollUntilContextTimeout(ctx, pollInterval, patience, true, func(ctx context.Context) (bool, error) {
		_, lastErr = c.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return lastErr == nil, nil
	})
	if err != nil {
		return fmt.Errorf("/readyz: %w", errors.Join(err, lastErr))
	}
	return nil
}

// waitNodes waits until every node of the topology is registered and, with ready, Ready, and says each one's time.
func waitNodes(ctx context.Context, c kubernetes.Interface, t Topology, p *progress, ready bool, patience time.Duration) error {
	missing := map[string]string{}
	for _, h := range t.Nodes() {
		missing[h.Name] = "not registered"
	}
	var lastErr error
	err := wait.PollUntilContextTimeout(ctx, pollInterval, patience, true, func(ctx context.Context) (bool, error) {
		nodes, err := c.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			lastErr = err
			return false, nil
		}
		for _, n := range nodes.Items {
			if _, waiting := missing[n.Name]; !waiting {
				continue
			}
			for _, cond := range n.Status.Conditions {
				if cond.Type != corev1.NodeReady {
					continue
				}
				if cond.Status == corev1.ConditionTrue {
					delete(missing, n.Name)
					p.done("node " + n.Name + " is Ready")
				} else if !ready {
					delete(missing, n.Name)
					p.done("node " + n.Name + " is registered")
				} else {
					missing[n.Name] = cond.Message
				}
			}
		}
		return len(missing) == 0, nil
	})
	if err == nil {
		return nil
	}
	var why []string
	for name, reason := range missing {
		why = append(why, name+" ("+reason+")")
	}
	return fmt.Errorf("not Ready within %s: %s: %w", patience, strings.Join(why, ", "), errors.Join(err, lastErr))
}

// HostStatus is one line of `sandbox status`.
type HostStatus struct {
	Host   Host   `json:"host"`
	Status Status `json:"status"`
}

// HostStatuses returns what every host of the sandbox is doing.
func (s *Sandbox) HostStatuses() ([]HostStatus, error) {
	st, err := s.Load()
	if err != nil {
		return nil, err
	}
	var out []HostStatus
	for _, h := range st.Topology.Hosts {
		status, err := s.control(h.Name, request{Verb: VerbStatus})
		if err != nil {
			status.Last = "gone"
		}
		status.Host = h.Name
		out = append(out, HostStatus{Host: h, Status: status})
	}
	return out, nil
}

// Partition cuts host off the link; heal joins it again.
func (s *Sandbox) Partition(host string, heal bool) error {
	st, err := s.Load()
	if err != nil {
		return err
	}
	if _, err := st.Topology.Host(host); err != nil {
		return err
	}
	return setPort(st.Inits["fabric"], host, heal)
}

// Control starts, stops, kills or restarts the main process of host, or crashes the whole host; binary replaces its executable when not empty.
// A crashed host is off the link until it is started again.
func (s *Sandbox) Control(host string, verb Verb, binary string) (Status, error) {
	st, err := s.Load()
	if err != nil {
		return Status{}, err
	}
	h, err := st.Topology.Host(host)
	if err != nil {
		return Status{}, err
	}
	if !h.Role.IsNode() {
		return Status{}, fmt.Errorf("%s runs no node; nodes are %v", host, nodeNames(st.Topology))
	}
	switch verb {
	case VerbCrash: // a machine without power answers nothing, not even with a refusal
		if err := setPort(st.Inits["fabric"], host, false); err != nil {
			return Status{}, err
		}
	case VerbStart:
		if err := setPort(st.Inits["fabric"], host, true); err != nil {
			return Status{}, err
		}
	}
	return s.control(host, request{Verb: verb, Binary: binary})
}

func nodeNames(t Topology) []string {
	var names []string
	for _, h := range t.Nodes() {
		names = append(names, h.Name)
	}
	return names
}

// InitPid returns the pid, on the machine, of host's init: its namespaces are the host's.
func (s *Sandbox) InitPid(host string) (int, error) {
	st, err := s.Load()
	if err != nil {
		return 0, err
	}
	if _, err := st.Topology.Host(host); err != nil {
		return 0, err
	}
	pid, ok := st.Inits[host]
	if !ok {
		return 0, fmt.Errorf("%s was never started; `fairlead sandbox down` and up again", host)
	}
	if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); err != nil {
		return 0, fmt.Errorf("%s is gone", host)
	}
	return pid, nil
}
