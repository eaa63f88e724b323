// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/fairlead/fairlead/controlplane/scheduler/placement"
)

// Explanation is what every node says to one pod.
type Explanation struct {
	Namespace, Pod string
	Profile        string
	Node           string // where the pod is already; it is judged as if it were not there
	Rows           []placement.Row
	Blocked        string // set if the pod can go nowhere whatever the nodes say
}

// Explain reads the cluster from the API server, as a scheduler that starts would, and asks every node about the pod. It changes nothing.
func Explain(ctx context.Context, cfg Config, namespace, name string) (*Explanation, error) {
	settings, err := LoadSettings(cfg.ConfigFile, cfg.Configuration)
	if err != nil {
		return nil, err
	}
	if cfg.Client == nil {
		rc := rest.CopyConfig(cfg.RESTConfig)
		settings.applyConnection(rc)
		if cfg.Client, err = kubernetes.NewForConfig(rc); err != nil {
			return nil, fmt.Errorf("scheduler: client: %w", err)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := newScheduler(cfg, settings)
	factory := informers.NewSharedInformerFactoryWithOptions(cfg.Client, 0, informers.WithTransform(trim))
	registrations, err := s.watch(factory, factory.Core().V1().Pods().Informer())
	if err != nil {
		return nil, err
	}
	factory.StartWithContext(ctx)
	defer factory.Shutdown()
	defer cancel()
	for _, r := range registrations {
		if err := waitFor(ctx, r.HasSynced); err != nil {
			return nil, fmt.Errorf("read the cluster: %w", err)
		}
	}
	pod, err := factory.Core().V1().Pods().Lister().Pods(namespace).Get(name)
	if err != nil {
		return nil, err
	}
	profile := s.profiles[pod.Spec.SchedulerName]
	if profile == nil {
		return nil, fmt.Errorf("pod %s/%s names scheduler %q, and no profile has that name", namespace, name, pod.Spec.SchedulerName)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.DeletePod(pod.UID)
	s.state.Denominate(pod.UID)
	x := &Explanation{Namespace: namespace, Pod: name, Profile: profile.SchedulerName, Node: pod.Spec.NodeName}
	x.Rows, x.Blocked = s.eval.Explain(s.eval.Classify(pod, profile))
	return x, nil
}

// Print writes a table: nodes that would do, the best first, with the weighted score of each plugin, then the nodes that refuse, and who and why.
func (x *Explanation) Print(w io.Writer) error {
	fmt.Fprintf(w, "Pod %s/%s, profile %s", x.Namespace, x.Pod, x.Profile)
	if x.Node != "" {
		fmt.Fprintf(w, ", is on node %s", x.Node)
	}
	fmt.Fprintln(w)
	if x.Blocked != "" {
		_, err := fmt.Fprintf(w, "No node is asked: %s\n", x.Blocked)
		return err
	}
	var plugins []placement.Plugin
	for _, r := range x.Rows {
		for p := range r.Scores {
			if !slices.Contains(plugins, p) {
				plugins = append(plugins, p)
			}
		}
	}
	slices.Sort(plugins)
	table := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprint(table, "NODE\tSCORE")
	for _, p := range plugins {
		fmt.Fprintf(table, "\t%s", p)
	}
	fmt.Fprintln(table, "\tREFUSED BY\tREASON")
	for _, r := range x.Rows {
		if r.Refused() {
			fmt.Fprintf(table, "%s\t-%s\t%s\t%s\n", r.Node, strings.Repeat("\t-", len(plugins)), r.Plugin, strings.Join(r.Reasons, ", "))
			continue
		}
		fmt.Fprintf(table, "%s\t%d", r.Node, r.Total)
		for _, p := range plugins {
			fmt.Fprintf(table, "\t%d", r.Scores[p])
		}
		fmt.Fprintln(table, "\t-\t-")
	}
	return table.Flush()
}
