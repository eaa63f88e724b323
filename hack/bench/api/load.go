// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/fairlead/fairlead/hack/bench/report"
)

// writes creates ConfigMaps of 1 KiB with several clients for a while.
func writes(ctx context.Context, client kubernetes.Interface, _ *child, s sizes) ([]report.Row, error) {
	data := map[string]string{"k": string(make([]byte, 1024))}
	ctx, cancel := context.WithTimeout(ctx, s.writing+time.Minute)
	defer cancel()
	until := time.Now().Add(s.writing)
	var mu sync.Mutex
	var latency []float64
	var failed atomic.Pointer[error]
	var group sync.WaitGroup
	for range s.writers {
		group.Go(func() {
			var own []float64
			for time.Now().Before(until) {
				at := time.Now()
				_, err := client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "bench-"}, Data: data}, metav1.CreateOptions{})
				if err != nil {
					failed.Store(&err)
					return
				}
				own = append(own, float64(time.Since(at).Microseconds())/1000)
			}
			mu.Lock()
			latency = append(latency, own...)
			mu.Unlock()
		})
	}
	group.Wait()
	if err := failed.Load(); err != nil {
		return nil, fmt.Errorf("create: %w", *err)
	}
	name := fmt.Sprintf("create ConfigMaps, %d clients", s.writers)
	return []report.Row{
		report.Figure(name, "throughput", "1/s", float64(len(latency))/s.writing.Seconds()),
		report.Figure(name, "latency p50", "ms", report.Quantile(latency, 0.5)),
		report.Figure(name, "latency p99", "ms", report.Quantile(latency, 0.99)),
	}, nil
}

// lists reads many pods at once.
func lists(ctx context.Context, client kubernetes.Interface, c *child, s sizes) ([]report.Row, error) {
	_, err := client.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return nil, err
	}
	started := time.Now()
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var group sync.WaitGroup
	for range s.writers {
		group.Go(func() {
			for {
				i := next.Add(1)
				if i > int64(s.pods) {
					return
				}
				pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "bench-" + strconv.FormatInt(i, 10), Labels: map[string]string{"app": "bench"}},
					Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "example.com/main:1"}}}}
				if _, err := client.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
					failed.Store(&err)
					return
				}
			}
		})
	}
	group.Wait()
	if err := failed.Load(); err != nil {
		return nil, fmt.Errorf("create pods: %w", *err)
	}
	rows := []report.Row{report.Figure(fmt.Sprintf("create %d pods, %d clients", s.pods, s.writers), "throughput", "1/s", float64(s.pods)/time.Since(started).Seconds())}
	for _, encoding := range []string{"application/vnd.kubernetes.protobuf", "application/json"} {
		cfg := rest.CopyConfig(c.config)
		cfg.AcceptContentTypes = encoding
		other, err := kubernetes.NewForConfig(cfg)
		if err != nil {
			return nil, err
		}
		var took []float64
		for range s.lists {
			at := time.Now()
			list, err := other.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
			if err != nil {
				return nil, err
			}
			if len(list.Items) != s.pods {
				return nil, fmt.Errorf("list returned %d pods of %d", len(list.Items), s.pods)
			}
			took = append(took, float64(time.Since(at).Microseconds())/1000)
		}
		rows = append(rows, report.Figure(fmt.Sprintf("list %d pods, %s", s.pods, encoding), "request to last object decoded", "ms", took...))
	}
	return rows, nil
}

// fanOut opens many watches of one kind and measures from the start of a write until each has its event.
func fanOut(ctx context.Context, client kubernetes.Interface, c *child, s sizes) ([]report.Row, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	const perConnection = 100 // HTTP/2 streams
	sent := make([]atomic.Int64, s.events)
	delays := make(chan float64, s.watchers*s.events)
	var watcher kubernetes.Interface
	for i := range s.watchers {
		if i%perConnection == 0 {
			cfg := rest.CopyConfig(c.config)
			cfg.UserAgent = "watcher-" + strconv.Itoa(i) // another transport
			cfg.Timeout = 0
			// A transport of its own: the cache of transports would share one connection.
			cfg.Dial = newDialer()
			var err error
			if watcher, err = kubernetes.NewForConfig(cfg); err != nil {
				return nil, err
			}
		}
		w, err := watcher.CoreV1().Secrets("default").Watch(ctx, metav1.ListOptions{ResourceVersion: "0"})
		if err != nil {
			return nil, fmt.Errorf("watch %d: %w", i, err)
		}
		defer w.Stop()
		go func() {
			for e := range w.ResultChan() {
				now := time.Now().UnixNano()
				secret, ok := e.Object.(*corev1.Secret)
				if !ok {
					continue
				}
				if n, err := strconv.Atoi(string(secret.Data["n"])); err == nil {
					delays <- float64(now-sent[n].Load()) / 1e6
				}
			}
		}()
	}
	stopProfile := c.profile(ctx, client, s.profile, time.Duration(s.events)*50*time.Millisecond)
	used, err := c.cpu()
	if err != nil {
		return nil, err
	}
	for n := range s.events {
		sent[n].Store(time.Now().UnixNano())
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{GenerateName: "bench-"}, Data: map[string][]byte{"n": []byte(strconv.Itoa(n))}}
		if _, err := client.CoreV1().Secrets("default").Create(ctx, secret, metav1.CreateOptions{}); err != nil {
			return nil, err
		}
		time.Sleep(50 * time.Millisecond) // 20 writes/s: the delay of one event, not of a queue of them
	}
	var got []float64
	for len(got) < s.watchers*s.events {
		select {
		case d := <-delays:
			got = append(got, d)
		case <-ctx.Done():
			return nil, fmt.Errorf("only %d of %d events arrived", len(got), s.watchers*s.events)
		}
	}
	after, err := c.cpu()
	if err := errors.Join(err, stopProfile()); err != nil {
		return nil, err
	}
	name := fmt.Sprintf("watch fan-out to %d watchers, 20 writes/s", s.watchers)
	return []report.Row{
		report.Figure(name, "write to event p50", "ms", report.Quantile(got, 0.5)),
		report.Figure(name, "write to event p99", "ms", report.Quantile(got, 0.99)),
		report.Figure(name, "CPU of the server per event and watcher", "us", float64((after-used).Microseconds())/float64(len(got))),
	}, nil
}

// newDialer returns a dial function that no other client has.
func newDialer() func(ctx context.Context, network, address string) (net.Conn, error) {
	d := &net.Dialer{Timeout: 10 * time.Second}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		return d.DialContext(ctx, network, address)
	}
}
