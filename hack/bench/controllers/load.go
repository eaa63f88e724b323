// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"

	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
)

const (
	namespace = "default"
	patience  = 5 * time.Minute // for one phase
)

// load is what a user does to the cluster. Every phase returns when the cluster has followed, with the number of pods that had to be made.
type load struct {
	client kubernetes.Interface
	o      options
}

func (l *load) name(i int) string { return fmt.Sprintf("web-%d", i) }

// waitForNodes waits until the controllers have given every node its block of addresses: then they run and have read everything.
func (l *load) waitForNodes(ctx context.Context) error {
	return l.until(ctx, func(ctx context.Context) (bool, error) {
		node, err := l.client.CoreV1().Nodes().Get(ctx, controllertest.NodeName(l.o.nodes-1), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return err == nil && node.Spec.PodCIDR != "", err
	})
}

func (l *load) rollOut(ctx context.Context) (int, error) {
	for i := range l.o.deployments {
		labels, replicas := map[string]string{"app": l.name(i)}, int32(l.o.replicas)
		_, err := l.client.AppsV1().Deployments(namespace).Create(ctx, &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Name: l.name(i)},
			Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app:1"}}},
			}},
		}, metav1.CreateOptions{})
		if err != nil {
			return 0, err
		}
	}
	return l.o.deployments * l.o.replicas, l.untilComplete(ctx)
}

// image gives all Deployments another image.
func (l *load) image(ctx context.Context, image string) (int, error) {
	patch := fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":"app","image":%q}]}}}}`, image)
	for i := range l.o.deployments {
		if _, err := l.client.AppsV1().Deployments(namespace).Patch(ctx, l.name(i), types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			return 0, err
		}
	}
	return l.o.deployments * l.o.replicas, l.untilComplete(ctx)
}

// drain cordons a tenth of the nodes and evicts their pods.
func (l *load) drain(ctx context.Context) (int, error) {
	drained := map[string]bool{}
	for i := range max(1, l.o.nodes/10) {
		name := controllertest.NodeName(i)
		drained[name] = true
		if _, err := l.client.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, []byte(`{"spec":{"unschedulable":true}}`), metav1.PatchOptions{}); err != nil {
			return 0, err
		}
	}
	pods, err := l.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	evicted := map[types.UID]bool{}
	errs := make(chan error, len(pods.Items))
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for _, pod := range pods.Items {
		if !drained[pod.Spec.NodeName] || pod.DeletionTimestamp != nil {
			continue
		}
		evicted[pod.UID] = true
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			errs <- l.client.CoreV1().Pods(namespace).EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: pod.Name}})
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return 0, fmt.Errorf("evict: %w", err)
		}
	}
	// What counts are pods: a Deployment's status may not have noticed the evictions yet.
	return len(evicted), l.until(ctx, func(ctx context.Context) (bool, error) {
		pods, err := l.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
		if err != nil {
			return false, err
		}
		running := 0
		for _, pod := range pods.Items {
			if evicted[pod.UID] {
				return false, nil
			}
			if pod.Status.Phase == corev1.PodRunning && pod.DeletionTimestamp == nil {
				running++
			}
		}
		return running == l.o.deployments*l.o.replicas, nil
	})
}

// untilComplete waits until every Deployment has all its pods, new and available, and no others. Its error says how far they got.
func (l *load) untilComplete(ctx context.Context) error {
	var last []string
	err := l.until(ctx, func(ctx context.Context) (bool, error) {
		list, err := l.client.AppsV1().Deployments(namespace).List(ctx, metav1.ListOptions{}) // a cached list may be older than what was asked for
		if err != nil || len(list.Items) < l.o.deployments {
			return false, err
		}
		last = nil
		for _, d := range list.Items {
			if s, want := d.Status, int32(l.o.replicas); s.ObservedGeneration < d.Generation || s.UpdatedReplicas != want || s.AvailableReplicas != want || s.Replicas != want {
				last = append(last, fmt.Sprintf("%s: %d pods, %d updated, %d available", d.Name, s.Replicas, s.UpdatedReplicas, s.AvailableReplicas))
			}
		}
		return len(last) == 0, nil
	})
	if err != nil && len(last) > 0 {
		err = fmt.Errorf("%w: not there yet: %s", err, strings.Join(last, "; "))
	}
	return err
}

func (l *load) until(ctx context.Context, done wait.ConditionWithContextFunc) error {
	return wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, patience, true, done)
}

// usage is what a process has used so far.
type usage struct {
	cpu time.Duration
	rss int64 // bytes, now
}

// usageOf reads /proc/PID/stat: fields 14 and 15 are user and system time in ticks of 10 ms, field 24 is the resident set in pages (proc_pid_stat(5)).
func usageOf(pid int) (usage, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return usage{}, fmt.Errorf("the controllers have ended: %w", err)
	}
	_, rest, _ := strings.Cut(string(data), ") ") // the name before may hold anything
	fields := strings.Fields(rest)                // from field 3 on
	if len(fields) < 22 {
		return usage{}, fmt.Errorf("/proc/%d/stat has %d fields after the name", pid, len(fields))
	}
	var n [3]int64
	for i, field := range []int{14, 15, 24} {
		if n[i], err = strconv.ParseInt(fields[field-3], 10, 64); err != nil {
			return usage{}, fmt.Errorf("/proc/%d/stat, field %d: %w", pid, field, err)
		}
	}
	return usage{cpu: time.Duration(n[0]+n[1]) * 10 * time.Millisecond, rss: n[2] * int64(os.Getpagesize())}, nil
}
