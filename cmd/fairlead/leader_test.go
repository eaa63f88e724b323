// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/hack/await"
)

// runMain makes the test binary the command itself.
const runMain = "FAIRLEAD_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(runMain) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// command is a `fairlead ...` in a process of its own.
type command struct {
	*exec.Cmd
	log string
}

// kill ends c as a power cut would.
func (c *command) kill() {
	_ = c.Process.Kill() // it may have ended
	_ = c.Wait()
}

func startCommand(t *testing.T, dir, name string, args ...string) *command {
	t.Helper()
	c := &command{Cmd: exec.Command(os.Args[0], args...), log: filepath.Join(dir, name+".log")}
	log, err := os.Create(c.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c.Stdout, c.Stderr = log, log
	c.Env = append(os.Environ(), runMain+"=1")
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.kill()
		if t.Failed() {
			text, _ := os.ReadFile(c.log)
			t.Logf("%s said:\n%s", name, text[max(0, len(text)-4000):])
		}
	})
	return c
}

// pods watches what becomes of pods and plays their kubelets.
type pods struct {
	mu      sync.Mutex
	made    map[types.UID]string // by UID: its owner's name prefix
	bound   map[types.UID]string
	changed []string // pods whose node changed, which must not be
}

func (p *pods) count(m func(*pods) map[types.UID]string, prefix string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, name := range m(p) {
		if strings.HasPrefix(name, prefix) {
			n++
		}
	}
	return n
}

func made(p *pods) map[types.UID]string  { return p.made }
func bound(p *pods) map[types.UID]string { return p.bound }

func (p *pods) see(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) {
	p.mu.Lock()
	p.made[pod.UID] = pod.Name
	if pod.Spec.NodeName != "" {
		p.bound[pod.UID] = pod.Name
	}
	p.mu.Unlock()
	if pod.Spec.NodeName == "" || pod.Status.Phase != corev1.PodPending {
		return
	}
	status := controllertest.Running(pod, "10.244.0.9", time.Now())
	if pod.Labels["job-name"] != "" {
		status = controllertest.Ended(status, corev1.PodSucceeded, 0, time.Now())
	}
	_, _ = client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, status, metav1.UpdateOptions{}) // a conflict brings another event
}

// watch follows all pods until the test ends.
func watch(t *testing.T, client kubernetes.Interface) *pods {
	p := &pods{made: map[types.UID]string{}, bound: map[types.UID]string{}}
	factory := informers.NewSharedInformerFactory(client, 0)
	_, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { p.see(t.Context(), client, obj.(*corev1.Pod)) },
		UpdateFunc: func(old, obj any) {
			was, is := old.(*corev1.Pod), obj.(*corev1.Pod)
			if was.Spec.NodeName != "" && was.Spec.NodeName != is.Spec.NodeName {
				p.mu.Lock()
				p.changed = append(p.changed, is.Name)
				p.mu.Unlock()
			}
			p.see(t.Context(), client, is)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	factory.StartWithContext(t.Context())
	return p
}

func lease(t *testing.T, client kubernetes.Interface, name string) *coordinationv1.Lease {
	t.Helper()
	var out *coordinationv1.Lease
	await.Nil(t, 30*time.Second, func() (err error) {
		out, err = client.CoordinationV1().Leases("kube-system").Get(t.Context(), name, metav1.GetOptions{})
		if err == nil && (out.Spec.HolderIdentity == nil || *out.Spec.HolderIdentity == "") {
			err = fmt.Errorf("nobody holds lease %s", name)
		}
		return err
	})
	return out
}

const (
	// leaseSeconds goes with renewals a second apart: who waits for the lease tells two renewals in the same second from none (client-go compares times in seconds),
	// and would be up to a second early.
	leaseSeconds = 4
	schedulerYML = `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
leaderElection: {leaderElect: true, leaseDuration: 4s, renewDeadline: 3s, retryPeriod: 1s}
`
	auditYML = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  verbs: [create, update, patch, delete]
- level: None
`
)

// TestComponentsAloneFailOver runs API server, two controllers and two schedulers as processes of their own, under their own identities, and kills the
// leading one of each in the middle of work: the other takes over when the lease has run out, not before, ends the work, and does nothing twice.
func TestComponentsAloneFailOver(t *testing.T) {
	dir, err := os.MkdirTemp("", "components") // not t.TempDir: its path may be too long for a unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	policy, audit := filepath.Join(dir, "audit.yaml"), filepath.Join(dir, "audit.log")
	if err := os.WriteFile(policy, []byte(auditYML), 0o600); err != nil {
		t.Fatal(err)
	}
	startCommand(t, dir, "apiserver", "apiserver", "--data-dir="+dir, "--bind-address=127.0.0.1", "--port="+strconv.Itoa(port), "--server-name=alone",
		"--audit-policy-file="+policy, "--audit-log-path="+audit)
	pki := filepath.Join(dir, "server", "pki")
	var client kubernetes.Interface
	await.Nil(t, time.Minute, func() error {
		cfg, err := clientcmd.BuildConfigFromFlags("", filepath.Join(pki, "admin.kubeconfig"))
		if err != nil {
			return err
		}
		cfg.QPS = -1
		client = kubernetes.NewForConfigOrDie(cfg)
		return client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(t.Context()).Error()
	})
	seen := watch(t, client)
	nodes(t, client)
	config := filepath.Join(dir, "scheduler.yaml")
	if err := os.WriteFile(config, []byte(schedulerYML), 0o600); err != nil {
		t.Fatal(err)
	}
	controllersArgs := []string{"controllers", "--kubeconfig=" + filepath.Join(pki, "controller-manager.kubeconfig"), "--ca-cert=" + filepath.Join(pki, "ca.crt"),
		"--leader-elect-lease-duration=4s", "--leader-elect-renew-deadline=3s", "--leader-elect-retry-period=1s"}
	schedulerArgs := []string{"scheduler", "--kubeconfig=" + filepath.Join(pki, "scheduler.kubeconfig"), "--config=" + config}

	leaders := map[string]*command{"kube-controller-manager": startCommand(t, dir, "controllers-1", controllersArgs...), "kube-scheduler": startCommand(t, dir, "scheduler-1", schedulerArgs...)}
	first := map[string]string{}
	for name := range leaders {
		first[name] = *lease(t, client, name).Spec.HolderIdentity
	}
	others := []*command{startCommand(t, dir, "controllers-2", controllersArgs...), startCommand(t, dir, "scheduler-2", schedulerArgs...)}

	const replicas, completions = 60, 20
	for name, progress := range map[string]func(*pods) map[types.UID]string{"kube-controller-manager": made, "kube-scheduler": bound} {
		app := "app-" + strings.TrimPrefix(name, "kube-")
		deploy(t, client, app, replicas)
		job(t, client, "job-"+app, completions)
		await.Nil(t, 30*time.Second, func() error {
			if n := seen.count(progress, app); n < 10 {
				return fmt.Errorf("%d pods", n)
			}
			return nil
		})
		leaders[name].kill()
		killed := time.Now()
		before := lease(t, client, name)
		var after *coordinationv1.Lease
		await.Nil(t, 30*time.Second, func() error {
			if after = lease(t, client, name); *after.Spec.HolderIdentity == first[name] {
				return errors.New("the dead leader still holds the lease")
			}
			return nil
		})
		ran := after.Spec.AcquireTime.Sub(before.Spec.RenewTime.Time)
		t.Logf("%s: the other leads %s after the kill, %s after the last renewal", name, time.Since(killed).Round(10*time.Millisecond), ran.Round(10*time.Millisecond))
		if ran < leaseSeconds*time.Second {
			t.Errorf("%s: the other leads %s after the last renewal, before the lease of %d s had run out", name, ran, leaseSeconds)
		}
		await.Nil(t, time.Minute, func() error { return finished(client, app, replicas, completions) })
		if n, m := seen.count(made, app), seen.count(made, "job-"+app); n != replicas || m != completions {
			t.Errorf("%s: %d pods were made for %d replicas and %d for %d completions", name, n, replicas, m, completions)
		}
	}
	seen.mu.Lock()
	if len(seen.changed) > 0 {
		t.Errorf("pods were bound twice: %v", seen.changed)
	}
	seen.mu.Unlock()
	testWhoWrote(t, client, audit)
	for _, c := range others {
		text, err := os.ReadFile(c.log)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, "forbidden") || strings.Contains(line, "Forbidden") {
				t.Errorf("the default roles do not suffice: %s", line)
			}
		}
	}
}

// testWhoWrote looks into the audit log, managedFields and events for the controllers' own identities.
func testWhoWrote(t *testing.T, client kubernetes.Interface, audit string) {
	t.Helper()
	text, err := os.ReadFile(audit)
	if err != nil {
		t.Fatal(err)
	}
	writers := map[string]map[string]bool{} // who did "create replicasets"
	for line := range strings.Lines(string(text)) {
		var e auditv1.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("audit log: %v in %s", err, line)
		}
		if e.ObjectRef == nil {
			continue
		}
		what := e.Verb + " " + e.ObjectRef.Resource
		if writers[what] == nil {
			writers[what] = map[string]bool{}
		}
		writers[what][e.User.Username] = true
		if e.User.Username == "system:kube-controller-manager" && !slices.Contains([]string{"leases", "serviceaccounts"}, e.ObjectRef.Resource) {
			t.Errorf("the controller manager itself did %s %s/%s", what, e.ObjectRef.Namespace, e.ObjectRef.Name)
		}
	}
	const accounts = "system:serviceaccount:kube-system:"
	for what, want := range map[string][]string{
		"create replicasets":     {accounts + "deployment-controller"},
		"create pods":            {accounts + "replicaset-controller", accounts + "job-controller", "system:kube-scheduler"}, // the scheduler's are bindings
		"create serviceaccounts": {accounts + "service-account-controller", "system:kube-controller-manager"},                // the manager's are the controllers' own, and their tokens
	} {
		for who := range writers[what] {
			if !slices.Contains(want, who) {
				t.Errorf("%s by %s, want %v", what, who, want)
			}
		}
		if !writers[what][want[0]] {
			t.Errorf("%s by %v, want %s among them", what, writers[what], want[0])
		}
	}
	sets, err := client.AppsV1().ReplicaSets("default").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(sets.Items) == 0 {
		t.Fatalf("replica sets: %v, %v", sets, err)
	}
	if m := sets.Items[0].ManagedFields; len(m) == 0 || m[0].Manager != "kube-controller-manager" {
		t.Errorf("managedFields of a replica set: %+v, want the manager kube-controller-manager", m)
	}
	await.Nil(t, 30*time.Second, func() error {
		events, err := client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "reason=ScalingReplicaSet"})
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(events.Items, func(e corev1.Event) bool { return e.Source.Component == "deployment-controller" }) {
			return fmt.Errorf("%d events of a scaled ReplicaSet, none from the deployment-controller", len(events.Items))
		}
		return nil
	})
}

func nodes(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	for i := range 2 {
		name := controllertest.NodeName(i)
		if _, err := client.CoreV1().Nodes().Create(t.Context(), controllertest.Node(name), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := client.CoreV1().Nodes().UpdateStatus(t.Context(), controllertest.Node(name), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		go func() { // its heartbeat, or its pods would be evicted
			for t.Context().Err() == nil {
				now := metav1.NowMicro()
				obj := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: name},
					Spec: coordinationv1.LeaseSpec{HolderIdentity: &name, RenewTime: &now, LeaseDurationSeconds: ptr.To[int32](40)}}
				leases := client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
				if had, err := leases.Get(t.Context(), name, metav1.GetOptions{}); err == nil {
					had.Spec = obj.Spec
					_, _ = leases.Update(t.Context(), had, metav1.UpdateOptions{})
				} else {
					_, _ = leases.Create(t.Context(), obj, metav1.CreateOptions{})
				}
				select {
				case <-t.Context().Done():
				case <-time.After(5 * time.Second):
				}
			}
		}()
	}
}

func template(labels map[string]string, restart corev1.RestartPolicy) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec: corev1.PodSpec{RestartPolicy: restart, Containers: []corev1.Container{{Name: "c", Image: "image.invalid/c"}}}}
}

func deploy(t *testing.T, client kubernetes.Interface, name string, replicas int32) {
	t.Helper()
	labels := map[string]string{"app": name}
	_, err := client.AppsV1().Deployments("default").Create(t.Context(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template(labels, corev1.RestartPolicyAlways)}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func job(t *testing.T, client kubernetes.Interface, name string, completions int32) {
	t.Helper()
	_, err := client.BatchV1().Jobs("default").Create(t.Context(), &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: batchv1.JobSpec{Completions: &completions, Parallelism: ptr.To[int32](4), Template: template(nil, corev1.RestartPolicyNever)}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// finished reports what is left to do for a Deployment and its companion Job.
func finished(client kubernetes.Interface, app string, replicas, completions int32) error {
	d, err := client.AppsV1().Deployments("default").Get(context.Background(), app, metav1.GetOptions{})
	if err != nil {
		return err
	}
	j, err := client.BatchV1().Jobs("default").Get(context.Background(), "job-"+app, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if d.Status.ReadyReplicas != replicas || j.Status.Succeeded != completions || j.Status.CompletionTime == nil {
		return fmt.Errorf("%d of %d replicas are ready, %d of %d completions succeeded", d.Status.ReadyReplicas, replicas, j.Status.Succeeded, completions)
	}
	return nil
}
