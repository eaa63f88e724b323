// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/fairlead/fairlead/hack/sandbox"
	"github.com/fairlead/fairlead/hack/testcluster"
)

var serversPort = testcluster.Port(200)

// TestAnyOfThreeServersMayDie kills each of three servers in turn, under writes and under service load: the API answers again within seconds, no
// acknowledged write is lost, another server leads, an agent goes on with another server, no request to the service fails, the kubeconfig goes on working as it
// is, and the killed one returns. Afterwards the cluster goes back to a snapshot.
func TestAnyOfThreeServersMayDie(t *testing.T) {
	s := testcluster.New(t, "servers")
	images, err := testcluster.Images(filepath.Dir(env.bin))
	if err != nil {
		t.Fatal(err)
	}
	err = s.Up(t.Context(), sandbox.UpOptions{
		Servers: 3, Agents: 1, Families: sandbox.Families{IPv4: true}, APIPort: serversPort,
		Binary: filepath.Join(env.bin, "fairlead"), Images: images, Out: os.Stdout,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Sample(t.Context(), manifest, os.Stdout); err != nil {
		t.Fatal(err)
	}
	c := &threeServers{sandbox: s, acknowledged: map[string]string{}}
	for i := range 3 {
		c.clients = append(c.clients, clientAt(t, s, serversPort+1+i))
	}
	svc, err := c.clients[0].CoreV1().Services("sample").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for victim := range 3 {
		t.Run(fmt.Sprintf("server-%d", victim+1), func(t *testing.T) {
			load := fromHostOf(t, s, "ClusterIP from a node", "agent-1", url(svc.Spec.ClusterIP, 80))
			c.killAndReturn(t, victim)
			r, err := load.end()
			if err != nil {
				t.Fatal(err)
			}
			wantNoLoss(t, load.name, r)
		})
	}
	t.Run("snapshot", c.restore)
	for i := range 3 {
		if err := noneRefused(s, fmt.Sprintf("server-%d", i+1)); err != nil {
			t.Error(err)
		}
	}
}

// clientAt returns a client of the API server that port of this machine leads to.
func clientAt(t *testing.T, s *sandbox.Sandbox, port int) kubernetes.Interface {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", s.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	cfg.Host, cfg.QPS, cfg.Timeout = fmt.Sprintf("https://127.0.0.1:%d", port), -1, 3*time.Second
	return kubernetes.NewForConfigOrDie(cfg)
}

type threeServers struct {
	sandbox *sandbox.Sandbox
	clients []kubernetes.Interface

	mu           sync.Mutex
	acknowledged map[string]string // ConfigMap name -> resource version
}

// killAndReturn kills a server while the two others are written to, watches the cluster go on, and starts it again.
func (c *threeServers) killAndReturn(t *testing.T, victim int) {
	name := fmt.Sprintf("server-%d", victim+1)
	stop := make(chan struct{})
	var writers sync.WaitGroup
	var alive []kubernetes.Interface
	for i, client := range c.clients {
		if i == victim {
			continue
		}
		alive = append(alive, client)
		writers.Go(func() { c.write(fmt.Sprintf("%s-w%d", name, i), client, stop) })
	}
	eventually(t, 20*time.Second, func() error { return c.atLeast(100) })
	if _, err := c.sandbox.Control(name, sandbox.VerbKill, ""); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	for i, client := range alive {
		eventually(t, 10*time.Second, func() error {
			_, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "after-"}}, metav1.CreateOptions{})
			return err
		})
		t.Logf("%s killed: survivor %d took a write after %s", name, i, time.Since(killed).Round(time.Millisecond))
	}
	c.kubeconfigWorks(t)
	for _, lease := range []string{"kube-controller-manager", "kube-scheduler"} {
		eventually(t, 30*time.Second, func() error { return notHeldBy(alive[0], lease, name) })
	}
	t.Logf("%s killed: others lead after %s", name, time.Since(killed).Round(time.Millisecond))
	eventually(t, 30*time.Second, func() error { return endpointsAre(alive[0], c.addresses(t, victim)) })
	// A pod that is made now needs the controllers' quota and account, the scheduler, and an agent with another server.
	c.runPod(t, alive[0], "after-"+name)
	close(stop)
	writers.Wait()

	if _, err := c.sandbox.Control(name, sandbox.VerbStart, ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, 60*time.Second, func() error { return c.verify(c.clients[victim]) })
	eventually(t, 30*time.Second, func() error { return endpointsAre(c.clients[victim], c.addresses(t, -1)) })
	c.mu.Lock()
	defer c.mu.Unlock()
	t.Logf("%s is back and has all %d acknowledged writes", name, len(c.acknowledged))
}

// kubeconfigWorks asks with the sandbox's own kubeconfig, a connection each time. The dead server takes none, so not one request may fail.
func (c *threeServers) kubeconfigWorks(t *testing.T) {
	t.Helper()
	for range 20 {
		if _, err := clientAt(t, c.sandbox, serversPort).CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{}); err != nil {
			t.Errorf("with the kubeconfig as it was written: %v", err)
		}
	}
}

func (c *threeServers) write(prefix string, client kubernetes.Interface, stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-time.After(5 * time.Millisecond): // a steady load, not the most there could be
		}
		obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", prefix, i)}}
		made, err := client.CoreV1().ConfigMaps("default").Create(context.Background(), obj, metav1.CreateOptions{})
		if err != nil {
			continue
		}
		c.mu.Lock()
		c.acknowledged[made.Name] = made.ResourceVersion
		c.mu.Unlock()
	}
}

func (c *threeServers) atLeast(n int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.acknowledged) < n {
		return fmt.Errorf("%d writes acknowledged, want %d", len(c.acknowledged), n)
	}
	return nil
}

// verify compares what a server has with what was acknowledged by others.
func (c *threeServers) verify(client kubernetes.Interface) error {
	list, err := client.CoreV1().ConfigMaps("default").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		return err
	}
	stored := map[string]string{}
	for _, m := range list.Items {
		stored[m.Name] = m.ResourceVersion
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, version := range c.acknowledged {
		if stored[name] != version {
			return fmt.Errorf("%s was acknowledged at %s and is stored at %q", name, version, stored[name])
		}
	}
	return nil
}

func (c *threeServers) addresses(t *testing.T, without int) []string {
	t.Helper()
	st, err := c.sandbox.Load()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for i, h := range st.Topology.Nodes() {
		if h.Role == sandbox.RoleServer && i != without {
			out = append(out, h.Addr().String())
		}
	}
	return out
}

func notHeldBy(client kubernetes.Interface, lease, name string) error {
	l, err := client.CoordinationV1().Leases("kube-system").Get(context.Background(), lease, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if l.Spec.HolderIdentity == nil || *l.Spec.HolderIdentity == name || *l.Spec.HolderIdentity == "" {
		return fmt.Errorf("lease %s is not held by another server", lease)
	}
	return nil
}

func endpointsAre(client kubernetes.Interface, want []string) error {
	slice, err := client.DiscoveryV1().EndpointSlices("default").Get(context.Background(), "kubernetes", metav1.GetOptions{})
	if err != nil {
		return err
	}
	var have []string
	for _, e := range slice.Endpoints {
		have = append(have, e.Addresses...)
	}
	slices.Sort(have)
	if !slices.Equal(have, want) {
		return fmt.Errorf("the Service kubernetes has endpoints %v, want %v", have, want)
	}
	return nil
}

// runPod wants a pod Running on the agent.
func (c *threeServers) runPod(t *testing.T, client kubernetes.Interface, name string) {
	t.Helper()
	eventually(t, 20*time.Second, func() error {
		_, err := client.CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.PodSpec{
				NodeSelector: map[string]string{corev1.LabelHostname: "agent-1"},
				Containers:   []corev1.Container{{Name: "web", Image: "fairlead.io/sample:latest", ImagePullPolicy: corev1.PullNever, Args: []string{"serve", "--listen=:8080"}}},
			},
		}, metav1.CreateOptions{})
		return err
	})
	eventually(t, 60*time.Second, func() error {
		pod, err := client.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
		if err == nil && pod.Status.Phase != corev1.PodRunning {
			err = fmt.Errorf("pod %s is %s: %v", name, pod.Status.Phase, pod.Status.Conditions)
		}
		return err
	})
}

// restore takes a snapshot, writes on, and brings all three servers back to it as docs/install.md tells operators to.
func (c *threeServers) restore(t *testing.T) {
	names := []string{"server-1", "server-2", "server-3"}
	in := func(host string, command ...string) {
		t.Helper()
		var out bytes.Buffer
		if err := c.sandbox.Exec(t.Context(), host, command, nil, &out, &out); err != nil {
			t.Fatalf("%s: %v: %v\n%s", host, command, err, out.String())
		}
	}
	control := func(host string, verb sandbox.Verb) {
		t.Helper()
		if _, err := c.sandbox.Control(host, verb, ""); err != nil {
			t.Fatal(err)
		}
	}
	note := func(name string) {
		t.Helper()
		_, err := c.clients[0].CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	fairlead, file := filepath.Join(env.bin, "fairlead"), "/var/lib/fairlead/cluster.db"
	note("before-the-snapshot")
	in("server-1", fairlead, "etcd", "snapshot", "save", file)
	note("after-the-snapshot")
	for _, name := range names {
		control(name, sandbox.VerbStop)
	}
	for _, name := range names {
		in(name, "mv", "/var/lib/fairlead/server/etcd/member", "/var/lib/fairlead/lost")
	}
	in("server-1", fairlead, "etcd", "snapshot", "restore", file)
	control("server-1", sandbox.VerbStart)
	eventually(t, 60*time.Second, func() error { return c.verify(c.clients[0]) })
	for _, name := range names[1:] {
		control(name, sandbox.VerbStart)
	}
	for i, client := range c.clients {
		eventually(t, 90*time.Second, func() error { return c.verify(client) })
		maps := client.CoreV1().ConfigMaps("default")
		if _, err := maps.Get(t.Context(), "before-the-snapshot", metav1.GetOptions{}); err != nil {
			t.Errorf("%s: %v", names[i], err)
		}
		if _, err := maps.Get(t.Context(), "after-the-snapshot", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("%s: what was written after the snapshot: %v, want it gone", names[i], err)
		}
	}
	eventually(t, 60*time.Second, func() error { return endpointsAre(c.clients[0], c.addresses(t, -1)) })
	c.runPod(t, c.clients[1], "after-the-restore")
}
