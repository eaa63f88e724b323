// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/client-go/discovery"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

var pods = corev1.SchemeGroupVersion.WithResource("pods")

// outcome is what one attempt to empty a namespace found.
type outcome struct {
	discovery, parsing, deletion error
	remaining                    map[schema.GroupVersionResource]int // objects per type
	finalizers                   map[string]int                      // objects per finalizer
	retry                        time.Duration
}

func (o *outcome) left() bool {
	return len(o.remaining) > 0 || o.discovery != nil || o.parsing != nil || o.deletion != nil
}

func (o *outcome) err() error {
	return utilerrors.NewAggregate([]error{o.discovery, o.parsing, o.deletion})
}

// empty deletes what namespace holds and counts what is still there. A type whose discovery fails keeps the namespace alive: it may hold objects.
func (l *loop) empty(ctx context.Context, namespace string) (*outcome, error) {
	o := &outcome{remaining: map[schema.GroupVersionResource]int{}, finalizers: map[string]int{}, retry: time.Second}
	types, err := l.types(o)
	if err != nil {
		return nil, err
	}
	// Pods go first and alone: what they use (secrets, policies that fence them) stays until the last one has stopped.
	if verbs, ok := types[pods]; ok {
		if err := l.deleteAll(ctx, namespace, pods, verbs, o); err != nil {
			o.deletion = err
			return o, nil
		}
		if o.remaining[pods] > 0 {
			return o, nil
		}
		delete(types, pods)
	}
	order := make([]schema.GroupVersionResource, 0, len(types))
	for gvr := range types {
		order = append(order, gvr)
	}
	slices.SortFunc(order, func(a, b schema.GroupVersionResource) int { return strings.Compare(a.String(), b.String()) })
	var errs []error
	for _, gvr := range order {
		if err := l.deleteAll(ctx, namespace, gvr, types[gvr], o); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", gvr.GroupResource(), err))
		}
	}
	o.deletion = utilerrors.NewAggregate(errs)
	return o, nil
}

// types lists the namespaced types that can be deleted and their verbs.
func (l *loop) types(o *outcome) (map[schema.GroupVersionResource][]string, error) {
	lists, err := discovery.ServerPreferredNamespacedResources(l.c.Discovery)
	if failed := (*discovery.ErrGroupDiscoveryFailed)(nil); errors.As(err, &failed) {
		o.discovery = err
	} else if err != nil {
		return nil, fmt.Errorf("discover the types to delete: %w", err)
	}
	types := map[schema.GroupVersionResource][]string{}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			o.parsing = err
			continue
		}
		for _, r := range list.APIResources {
			if slices.Contains(r.Verbs, "delete") && slices.Contains(r.Verbs, "list") && !strings.Contains(r.Name, "/") {
				types[gv.WithResource(r.Name)] = r.Verbs
			}
		}
	}
	return types, nil
}

// deleteAll deletes the objects of one type and counts those that wait for something.
func (l *loop) deleteAll(ctx context.Context, namespace string, gvr schema.GroupVersionResource, verbs []string, o *outcome) error {
	client := l.c.Metadata.Resource(gvr).Namespace(namespace)
	background := metav1.DeletePropagationBackground
	list, err := client.List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
		return nil // the type went away
	} else if err != nil || len(list.Items) == 0 {
		return err
	}
	if slices.Contains(verbs, "deletecollection") {
		err = client.DeleteCollection(ctx, metav1.DeleteOptions{PropagationPolicy: &background}, metav1.ListOptions{})
	}
	if !slices.Contains(verbs, "deletecollection") || apierrors.IsMethodNotSupported(err) {
		err = nil
		for _, item := range list.Items {
			e := client.Delete(ctx, item.Name, metav1.DeleteOptions{PropagationPolicy: &background, Preconditions: &metav1.Preconditions{UID: &item.UID}})
			if e != nil && !apierrors.IsNotFound(e) && !apierrors.IsConflict(e) {
				err = e
			}
		}
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if list, err = client.List(ctx, metav1.ListOptions{}); err != nil || len(list.Items) == 0 {
		return controller.IgnoreNotFound(err)
	}
	o.remaining[gvr] = len(list.Items)
	for _, item := range list.Items {
		for _, f := range item.Finalizers {
			o.finalizers[f]++
		}
		if gvr == pods && item.DeletionGracePeriodSeconds != nil {
			// The pod's end is an event; this is for the case that it gets lost.
			o.retry = max(o.retry, time.Duration(*item.DeletionGracePeriodSeconds/2+1)*time.Second)
		}
	}
	return nil
}
