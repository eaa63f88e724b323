// SPDX-License-Identifier: Apache-2.0

// Package controllertest stands in for the parts of a cluster that a controller's test does not have: nodes, their kubelets and a scheduler, played by Kubelets
// on any client, and an API server's manners, taught to client-go's fake client by NewContext.
package controllertest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/ptr"
)

// Kubelets plays nodes: it binds pods that have no node, makes them ready, and ends those that are being deleted. A node or pod that somebody else has
// declared not ready, because heartbeats came late, is reported ready again, as its kubelet would.
type Kubelets struct {
	Client kubernetes.Interface
	Nodes  int
	// Exit, when set, says how a pod ends by itself: its phase and exit code. ok false means that it keeps running.
	Exit func(pod *corev1.Pod) (phase corev1.PodPhase, code int32, ok bool)
	// Heartbeat is the interval of the nodes' leases; 0 renews none.
	Heartbeat time.Duration

	pods  corelisters.PodLister
	nodes corelisters.NodeLister
	queue workqueue.TypedRateLimitingInterface[string] // namespace/name of pods, names of nodes
	mu    sync.Mutex
	next  int
	ip    int
}

// NodeName is the name of the i-th node.
func NodeName(i int) string { return fmt.Sprintf("node-%d", i) }

// Run creates the nodes and plays them until ctx ends.
func (k *Kubelets) Run(ctx context.Context) error {
	for i := range k.Nodes {
		if err := k.register(ctx, NodeName(i)); err != nil {
			return err
		}
	}
	k.queue = workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](5*time.Millisecond, time.Second))
	factory := informers.NewSharedInformerFactory(k.Client, 0)
	pods, nodes := factory.Core().V1().Pods(), factory.Core().V1().Nodes()
	k.pods, k.nodes = pods.Lister(), nodes.Lister()
	for _, informer := range []cache.SharedIndexInformer{pods.Informer(), nodes.Informer()} {
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: k.enqueue, UpdateFunc: func(_, obj any) { k.enqueue(obj) },
		}); err != nil {
			return err
		}
	}
	factory.StartWithContext(ctx)
	defer factory.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), pods.Informer().HasSynced, nodes.Informer().HasSynced) {
		return ctx.Err()
	}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for k.work(ctx) {
			}
		})
	}
	if k.Heartbeat > 0 {
		wg.Go(func() { k.heartbeats(ctx) })
	}
	<-ctx.Done()
	k.queue.ShutDown()
	wg.Wait()
	return nil
}

func (k *Kubelets) enqueue(obj any) {
	if key, err := cache.MetaNamespaceKeyFunc(obj); err == nil {
		k.queue.Add(key)
	}
}

func (k *Kubelets) work(ctx context.Context) bool {
	key, stop := k.queue.Get()
	if stop {
		return false
	}
	defer k.queue.Done(key)
	if err := k.sync(ctx, key); err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		k.queue.AddRateLimited(key)
	} else {
		k.queue.Forget(key)
	}
	return true
}

func (k *Kubelets) sync(ctx context.Context, key string) error {
	namespace, name, _ := cache.SplitMetaNamespaceKey(key)
	if namespace == "" {
		return k.syncNode(ctx, name)
	}
	pod, err := k.pods.Pods(namespace).Get(name)
	if err != nil {
		return err
	}
	api := k.Client.CoreV1().Pods(namespace)
	switch {
	case pod.DeletionTimestamp != nil && pod.Spec.NodeName == "":
		return nil // no kubelet has it
	case pod.DeletionTimestamp != nil:
		if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
			pod = pod.DeepCopy()
			pod.Status.Phase = corev1.PodFailed
			if _, err := api.UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
				return err
			}
		}
		return api.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0), Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	case pod.Spec.NodeName == "":
		return api.Bind(ctx, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: pod.UID}, Target: corev1.ObjectReference{Kind: "Node", Name: k.place(pod)},
		}, metav1.CreateOptions{})
	case pod.Status.Phase == corev1.PodPending || pod.Status.Phase == "" || pod.Status.Phase == corev1.PodRunning && !isReady(pod):
		_, err := api.UpdateStatus(ctx, k.started(pod), metav1.UpdateOptions{})
		return err
	case pod.Status.Phase == corev1.PodRunning && k.Exit != nil:
		phase, code, ok := k.Exit(pod)
		if !ok {
			return nil
		}
		_, err := api.UpdateStatus(ctx, Ended(pod, phase, code, time.Now()), metav1.UpdateOptions{})
		return err
	}
	return nil
}

// syncNode reports a node ready again that was declared unreachable.
func (k *Kubelets) syncNode(ctx context.Context, name string) error {
	node, err := k.nodes.Get(name)
	if err != nil {
		return err
	}
	for i, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			node = node.DeepCopy()
			node.Status.Conditions[i] = Node(name).Status.Conditions[0]
			_, err := k.Client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
			return err
		}
	}
	return nil
}

func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue })
}

// pinned is the node that a pod's affinity names, "" for none.
func pinned(pod *corev1.Pod) string {
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
			for _, f := range term.MatchFields {
				return f.Values[0]
			}
		}
	}
	return ""
}

// place is the node a pod is pinned to, else the next in turn.
func (k *Kubelets) place(pod *corev1.Pod) string {
	if node := pinned(pod); node != "" {
		return node
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.next++
	return NodeName(k.next % max(1, k.Nodes))
}

func (k *Kubelets) started(pod *corev1.Pod) *corev1.Pod {
	ip := pod.Status.PodIP
	if ip == "" {
		k.mu.Lock()
		k.ip++
		ip = fmt.Sprintf("10.244.%d.%d", k.ip/250%250, k.ip%250+1)
		k.mu.Unlock()
	}
	return Running(pod, ip, time.Now())
}

// Running returns pod as its kubelet reports it when it is ready.
func Running(pod *corev1.Pod, ip string, at time.Time) *corev1.Pod {
	pod = pod.DeepCopy()
	now := metav1.NewTime(at)
	pod.Status.Phase, pod.Status.StartTime = corev1.PodRunning, &now
	pod.Status.PodIP, pod.Status.PodIPs, pod.Status.HostIP = ip, []corev1.PodIP{{IP: ip}}, "192.0.2.1"
	pod.Status.Conditions = nil
	for _, t := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: t, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
	pod.Status.ContainerStatuses = nil
	for _, c := range pod.Spec.Containers {
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, Ready: true, Started: ptr.To(true), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
		})
	}
	return pod
}

// Ended returns pod as its kubelet reports it when all containers have exited with code.
func Ended(pod *corev1.Pod, phase corev1.PodPhase, code int32, at time.Time) *corev1.Pod {
	pod = pod.DeepCopy()
	now := metav1.NewTime(at)
	pod.Status.Phase = phase
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodReady || c.Type == corev1.ContainersReady {
			c.Status, c.LastTransitionTime = corev1.ConditionFalse, now
		}
	}
	pod.Status.ContainerStatuses = nil
	for _, c := range pod.Spec.Containers {
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: now}},
		})
	}
	return pod
}

func (k *Kubelets) register(ctx context.Context, name string) error {
	if _, err := k.Client.CoreV1().Nodes().Create(ctx, Node(name), metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	_, err := k.Client.CoreV1().Nodes().UpdateStatus(ctx, Node(name), metav1.UpdateOptions{})
	return err
}

// Node is a ready node.
func Node(name string) *corev1.Node {
	now := metav1.Now()
	room := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("64Gi"), corev1.ResourcePods: resource.MustParse("110")}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name, corev1.LabelOSStable: "linux"}},
		Status: corev1.NodeStatus{
			Capacity: room, Allocatable: room,
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: now, LastTransitionTime: now}},
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}, {Type: corev1.NodeHostName, Address: name}},
		},
	}
}

// heartbeats renews every node's lease once per interval until ctx ends. Nodes take their turns spread over the interval, several at once: one slow answer of a
// busy API server delays no other node, as between real ones.
func (k *Kubelets) heartbeats(ctx context.Context) {
	const senders = 16
	had := make([]*coordinationv1.Lease, k.Nodes) // as last written, by node; used by one sender at a time
	var group sync.WaitGroup
	for sender := range senders {
		group.Go(func() {
			start := time.Now()
			for round := 0; ; round++ {
				for i := sender; i < k.Nodes; i += senders {
					turn := start.Add(time.Duration(round)*k.Heartbeat + k.Heartbeat*time.Duration(i)/time.Duration(k.Nodes))
					select {
					case <-ctx.Done():
						return
					case <-time.After(time.Until(turn)):
					}
					had[i] = k.renew(ctx, NodeName(i), had[i])
				}
				if k.Nodes <= sender {
					return
				}
			}
		})
	}
	group.Wait()
}

// renew writes name's lease, which was had when it was written last, and returns it; nil means that it has to be read before it is written again.
func (k *Kubelets) renew(ctx context.Context, name string, had *coordinationv1.Lease) *coordinationv1.Lease {
	leases := k.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	if had == nil {
		found, err := leases.Get(ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			found = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: name}}
		case err != nil:
			return nil
		}
		had = found
	}
	now := metav1.NowMicro()
	had.Spec = coordinationv1.LeaseSpec{HolderIdentity: &name, RenewTime: &now, LeaseDurationSeconds: ptr.To[int32](40)}
	write := func() (*coordinationv1.Lease, error) { return leases.Update(ctx, had, metav1.UpdateOptions{}) }
	if had.ResourceVersion == "" {
		write = func() (*coordinationv1.Lease, error) { return leases.Create(ctx, had, metav1.CreateOptions{}) }
	}
	lease, err := write()
	if err != nil {
		return nil
	}
	return lease
}
