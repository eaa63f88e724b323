// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead/fairlead/controlplane/scheduler"
	"github.com/fairlead/fairlead/controlplane/server"
)

// runServer measures the whole path: API server, store, scheduler and the load itself share this process.
//
// Throughput: all pods exist before the scheduler starts; from its start to the last binding that a watch sees, its own start included.
// Latency: then pods are created at a steady rate; from the creation call to the binding that the watch sees.
func runServer(ctx context.Context, w workload, nodes, pods, steady int) (result, error) {
	dir, err := os.MkdirTemp("", "bench-scheduler-")
	if err != nil {
		return result{}, err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	var r result
	done := errors.New("done")
	err = server.Run(ctx, server.Config{DataDir: dir, BindAddress: "127.0.0.1", Port: -1, AdvertiseAddresses: []string{"192.0.2.1"}, // an endpoint must not be a loopback address; nobody connects to it
		// There are no controllers and kubelets here, which would make service accounts and nodes ready.
		DisableAdmission: []string{"ServiceAccount", "TaintNodesByCondition"},
		Components: []server.Component{{Name: "bench", Run: func(ctx context.Context, env server.Env) error {
			b := &serverBench{workload: w, seen: map[string]chan time.Time{}}
			var err error
			if r, err = b.run(ctx, env, nodes, pods, steady); err != nil {
				return err
			}
			return done
		}}}})
	if errors.Is(err, done) {
		err = nil
	}
	return r, err
}

type serverBench struct {
	workload
	client kubernetes.Interface

	mu    sync.Mutex
	bound int
	seen  map[string]chan time.Time // by pod, for those that someone waits for
	more  chan struct{}
}

func (b *serverBench) run(ctx context.Context, env server.Env, nodes, pods, steady int) (result, error) {
	rc := rest.CopyConfig(env.Client)
	rc.QPS = -1
	rc.ContentType, rc.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf"
	var r result
	var err error
	if b.client, err = kubernetes.NewForConfig(rc); err != nil {
		return r, err
	}
	high := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "bench-high"}, Value: 1000}
	if _, err := b.client.SchedulingV1().PriorityClasses().Create(ctx, high, metav1.CreateOptions{}); err != nil {
		return r, err
	}
	if err := inParallel(nodes, func(i int) error {
		n := b.node(i)
		n.UID = ""
		_, err := b.client.CoreV1().Nodes().Create(ctx, n, metav1.CreateOptions{})
		return err
	}); err != nil {
		return r, fmt.Errorf("create nodes: %w", err)
	}
	if err := inParallel(b.existing(nodes), func(i int) error { return b.create(ctx, b.filler(i, nodes)) }); err != nil {
		return r, fmt.Errorf("create pods that run already: %w", err)
	}
	begin := time.Now()
	if err := inParallel(pods, func(i int) error { return b.create(ctx, b.pod(i, nodes)) }); err != nil {
		return r, fmt.Errorf("create pods: %w", err)
	}
	r.queued = time.Since(begin)

	stop := b.watch(ctx)
	defer stop()
	scheduling, end := context.WithCancel(ctx)
	ended := make(chan error, 1)
	begin, used := time.Now(), cpuTime()
	go func() { ended <- scheduler.Run(scheduling, scheduler.Config{RESTConfig: rc, Pods: env.Pods}) }()
	defer func() { end(); <-ended }()
	if err := profiled(func() error { return b.await(ctx, pods) }); err != nil {
		return r, err
	}
	r.took, r.placed, r.cpu = time.Since(begin), pods, cpuTime()-used

	var group sync.WaitGroup
	ticker := time.NewTicker(time.Second / time.Duration(max(1, b.rate())))
	defer ticker.Stop()
	for i := range steady {
		select {
		case <-ctx.Done():
			return r, ctx.Err()
		case <-ticker.C:
		}
		group.Go(func() {
			p := b.pod(pods+i, nodes)
			at := make(chan time.Time, 1)
			b.mu.Lock()
			b.seen[p.Name] = at
			b.mu.Unlock()
			start := time.Now()
			if b.create(ctx, p) != nil {
				return
			}
			select {
			case <-ctx.Done():
			case when := <-at:
				b.mu.Lock()
				r.latency = append(r.latency, when.Sub(start))
				b.mu.Unlock()
			}
		})
	}
	group.Wait()
	if len(r.latency) != steady {
		return r, fmt.Errorf("%s: %d of %d pods of the steady stream were bound", b.name, len(r.latency), steady)
	}
	return r, nil
}

// rate of the steady stream, in pods/s.
func (b *serverBench) rate() int { return 200 }

func (b *serverBench) create(ctx context.Context, p *v1.Pod) error {
	p.UID = ""
	if p.Spec.Priority != nil {
		if *p.Spec.Priority > 0 {
			p.Spec.PriorityClassName = "bench-high"
		}
		p.Spec.Priority = nil // the API server derives it
	}
	none := int64(0)
	p.Spec.TerminationGracePeriodSeconds = &none // no kubelet confirms the end of a pod
	_, err := b.client.CoreV1().Pods(p.Namespace).Create(ctx, p, metav1.CreateOptions{})
	return err
}

// watch counts pods that are bound and are not fillers. The returned function ends the watch.
func (b *serverBench) watch(ctx context.Context) func() {
	ctx, cancel := context.WithCancel(ctx)
	b.more = make(chan struct{}, 1)
	lw := cache.NewListWatchFromClient(b.client.CoreV1().RESTClient(), "pods", "default", fields.Everything())
	seen := map[string]bool{}
	note := func(obj any) {
		p, ok := obj.(*v1.Pod)
		if !ok || p.Spec.NodeName == "" || seen[p.Name] || p.Labels["filler"] != "" {
			return
		}
		seen[p.Name] = true
		b.mu.Lock()
		b.bound++
		if at := b.seen[p.Name]; at != nil {
			at <- time.Now()
			delete(b.seen, p.Name)
		}
		b.mu.Unlock()
		select {
		case b.more <- struct{}{}:
		default:
		}
	}
	_, controller := cache.NewInformerWithOptions(cache.InformerOptions{ListerWatcher: lw, ObjectType: &v1.Pod{}, Transform: name, Handler: cache.ResourceEventHandlerFuncs{
		AddFunc: note, UpdateFunc: func(_, obj any) { note(obj) }}})
	finished := make(chan struct{})
	go func() {
		controller.RunWithContext(ctx)
		close(finished)
	}()
	return func() { cancel(); <-finished }
}

// name keeps of a pod only its name: the benchmark's own cache is no part of what it measures.
func name(obj any) (any, error) {
	if p, ok := obj.(*v1.Pod); ok {
		return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, Labels: p.Labels}, Spec: v1.PodSpec{NodeName: p.Spec.NodeName}}, nil
	}
	return obj, nil
}

func (b *serverBench) await(ctx context.Context, count int) error {
	for {
		b.mu.Lock()
		bound := b.bound
		b.mu.Unlock()
		if bound >= count {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %d of %d pods were bound: %w", b.name, bound, count, ctx.Err())
		case <-b.more:
		}
	}
}

// inParallel calls f for 0 to count-1 from a few goroutines, and returns the first error.
func inParallel(count int, f func(i int) error) error {
	const workers = 16
	next := make(chan int)
	failed := make(chan error, workers)
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for i := range next {
				if err := f(i); err != nil {
					select {
					case failed <- err:
					default:
					}
				}
			}
		})
	}
	for i := range count {
		next <- i
	}
	close(next)
	group.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}
