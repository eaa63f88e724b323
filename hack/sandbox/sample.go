// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

	"github.com/fairlead/fairlead/hack/kubectl"
	"github.com/fairlead/fairlead/hack/load"
)

const (
	sampleNamespace = "sample"
	sampleService   = "web"
	sampleRate      = 200 // requests per second and way
	sampleDuration  = 2 * time.Second
)

// Sample deploys the sample application, waits until it serves, and requests it by every way into it: service address and name from a pod,
// node port and load-balancer address from outside. It fails when a way gave no answer or lost a request.
func (s *Sandbox) Sample(ctx context.Context, manifest string, out io.Writer) error {
	st, err := s.Load()
	if err != nil {
		return err
	}
	p := newProgress(out)
	client := s.Kubectl()
	if _, err := client.Run(ctx, "apply", "-f", manifest); err != nil {
		return err
	}
	p.done("applied " + manifest)
	for _, what := range []string{"deployment/web", "statefulset/store"} {
		if _, err := client.Run(ctx, "-n", sampleNamespace, "rollout", "status", what, "--timeout=2m"); err != nil {
			return err
		}
	}
	if _, err := client.Run(ctx, "-n", sampleNamespace, "wait", "pod/client", "--for=condition=Ready", "--timeout=2m"); err != nil {
		return err
	}
	p.done("web, store and client run")
	c, err := s.Client()
	if err != nil {
		return err
	}
	svc, err := waitLoadBalancer(ctx, c)
	if err != nil {
		return err
	}
	p.done("service has its addresses")
	var failed []error
	for _, w := range sampleWays(st.Topology, svc) {
		r, err := s.try(ctx, w)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s (%s): %w", w.name, w.url, err))
			p.done(w.name + " FAILED: " + err.Error())
			continue
		}
		p.done(fmt.Sprintf("%-28s %4d requests, %d failed, %d backends, p50 %s p99 %s", w.name, r.Sent, r.Failed, len(r.Backends),
			r.P50.Round(time.Microsecond), r.P99.Round(time.Microsecond)))
		if r.Failed > 0 || r.OK == 0 {
			failed = append(failed, fmt.Errorf("%s (%s): %d of %d requests failed: %v", w.name, w.url, r.Failed, r.Sent, r.Errors))
		}
	}
	fmt.Fprintln(out, "\nThe service in the kernel of "+st.Topology.Nodes()[0].Name+":")
	if err := s.Exec(ctx, st.Topology.Nodes()[0].Name, []string{s.sibling("flctl"), "lb", "show", sampleNamespace + "/" + sampleService}, nil, out, out); err != nil {
		failed = append(failed, fmt.Errorf("flctl lb show: %w", err))
	}
	return errors.Join(failed...)
}

// way is one way to reach the sample service.
type way struct {
	name string
	pod  bool // from the client pod; else from the client host
	url  string
}

func sampleWays(t Topology, svc *corev1.Service) []way {
	url := func(host string, port int32) string {
		return "http://" + net.JoinHostPort(host, strconv.Itoa(int(port))) + "/"
	}
	port := svc.Spec.Ports[0]
	ways := []way{
		{"DNS name, from a pod", true, "http://" + sampleService + "/"},
		{"headless DNS name, from a pod", true, url("store-0.store."+sampleNamespace+".svc.cluster.local", 8080)},
	}
	for _, ip := range svc.Spec.ClusterIPs {
		ways = append(ways, way{"ClusterIP, from a pod", true, url(ip, port.Port)})
	}
	for _, n := range t.Nodes() {
		for _, a := range n.Addrs() {
			ways = append(ways, way{"NodePort of " + n.Name, false, url(a.String(), port.NodePort)})
		}
	}
	for _, in := range svc.Status.LoadBalancer.Ingress {
		ways = append(ways, way{"LoadBalancer, from outside", false, url(in.IP, port.Port)})
	}
	return ways
}

// try sends a short load along w.
func (s *Sandbox) try(ctx context.Context, w way) (load.Result, error) {
	args := []string{"--url", w.url, "--rate", strconv.Itoa(sampleRate), "--duration", sampleDuration.String()}
	var r load.Result
	if w.pod {
		out, err := s.Kubectl().Run(ctx, append([]string{"-n", sampleNamespace, "exec", "client", "--", "/sample", "load", "--json"}, args...)...)
		if err != nil {
			return r, err
		}
		return r, json.Unmarshal([]byte(out), &r)
	}
	var out, errOut bytes.Buffer
	if err := s.Exec(ctx, "client", append([]string{s.sibling("fairlead"), "sandbox", "load", "--here", "-o", "json"}, args...), nil, &out, &errOut); err != nil {
		return r, fmt.Errorf("%w %s", err, strings.TrimSpace(errOut.String()))
	}
	return r, json.Unmarshal(out.Bytes(), &r)
}

func waitLoadBalancer(ctx context.Context, c kubernetes.Interface) (*corev1.Service, error) {
	var svc *corev1.Service
	err := wait.PollUntilContextTimeout(ctx, pollInterval, readyPatience, true, func(ctx context.Context) (bool, error) {
		var err error
		svc, err = c.CoreV1().Services(sampleNamespace).Get(ctx, sampleService, metav1.GetOptions{})
		return err == nil && len(svc.Status.LoadBalancer.Ingress) >= len(svc.Spec.ClusterIPs), nil
	})
	if err != nil {
		return nil, fmt.Errorf("service %s/%s got no load-balancer address: %w", sampleNamespace, sampleService, err)
	}
	return svc, nil
}

// Kubectl is a client of the sandbox's cluster.
func (s *Sandbox) Kubectl() kubectl.Client {
	return kubectl.Client{Fairlead: s.sibling("fairlead"), Kubeconfig: s.Kubeconfig()}
}

// sibling is the path of one of Fairlead's executables.
func (s *Sandbox) sibling(name string) string {
	if s.Bin != "" {
		return filepath.Join(s.Bin, name)
	}
	exe, err := os.Executable()
	if err != nil {
		return name
	}
	return filepath.Join(filepath.Dir(exe), name)
}
