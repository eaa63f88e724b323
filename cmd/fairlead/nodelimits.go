// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/fairlead/fairlead/dataplane/kubelet"
)

// nodeLimits are the flags for what a node keeps free, and how its pods end when it runs short or shuts down. Names and forms are the kubelet's.
type nodeLimits struct {
	reserved                   map[string]string
	hard, soft, grace, reclaim map[string]string
	transition, maxGrace       time.Duration
	shutdown, shutdownCritical time.Duration
	shutdownOnTerm             bool
	shutdownByPriority         map[string]string
	imageHigh, imageLow        int
	podPids                    int64
	maxPods                    int
}

func (l *nodeLimits) register(f *pflag.FlagSet) {
	f.StringToStringVar(&l.reserved, "system-reserved", nil, "resources kept from pods, such as cpu=200m,memory=512Mi")
	f.StringToStringVar(&l.hard, "eviction-hard", nil, "what must be left, such as memory.available=100Mi,nodefs.available=10%; pods are ended at once when it is not")
	f.StringToStringVar(&l.soft, "eviction-soft", nil, "what should be left; pods are ended when it is not for --eviction-soft-grace-period")
	f.StringToStringVar(&l.grace, "eviction-soft-grace-period", nil, "for each soft threshold how long it may be crossed, such as memory.available=1m30s")
	f.StringToStringVar(&l.reclaim, "eviction-minimum-reclaim", nil, "how much more than a threshold must be left before it counts as relieved")
	f.DurationVar(&l.transition, "eviction-pressure-transition-period", 5*time.Minute, "how long a pressure condition of the node stays at least")
	f.DurationVar(&l.maxGrace, "eviction-max-pod-grace-period", 0, "how long a pod ended for a soft threshold has at most")
	f.DurationVar(&l.shutdown, "shutdown-grace-period", 0, "how long pods have together when the machine shuts down (0: they are not ended by the agent)")
	f.DurationVar(&l.shutdownCritical, "shutdown-grace-period-critical-pods", 0, "the last part of --shutdown-grace-period, for critical pods alone")
	f.StringToStringVar(&l.shutdownByPriority, "shutdown-grace-period-by-pod-priority", nil, "instead of the two above, how long pods of at least a priority have, PRIORITY=DURATION")
	f.BoolVar(&l.shutdownOnTerm, "shutdown-on-term", false, "SIGTERM means that the machine shuts down (for hosts without systemd)")
	f.IntVar(&l.imageHigh, "image-gc-high-threshold", 85, "percent of the disk in use above which unused images are removed (100: never)")
	f.IntVar(&l.imageLow, "image-gc-low-threshold", 80, "percent of the disk in use down to which they are removed")
	f.Int64Var(&l.podPids, "pod-max-pids", 0, "processes a pod may have (0: no limit)")
	f.IntVar(&l.maxPods, "max-pods", 110, "pods this node takes")
}

func (l *nodeLimits) apply(c *kubelet.Config) error {
	c.Reserved = corev1.ResourceList{}
	for _, name := range slices.Sorted(maps.Keys(l.reserved)) {
		quantity, err := resource.ParseQuantity(l.reserved[name])
		if err != nil {
			return fmt.Errorf("--system-reserved %s=%s: %w", name, l.reserved[name], err)
		}
		c.Reserved[corev1.ResourceName(name)] = quantity
	}
	if len(l.hard) > 0 {
		c.EvictionHard = l.hard
	}
	c.EvictionSoft, c.EvictionMinimumReclaim, c.EvictionSoftGrace = l.soft, l.reclaim, map[string]time.Duration{}
	for name, text := range l.grace {
		period, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("--eviction-soft-grace-period %s=%s: %w", name, text, err)
		}
		c.EvictionSoftGrace[name] = period
	}
	c.EvictionPressureTransition, c.EvictionMaxPodGrace = l.transition, l.maxGrace
	if l.imageLow < 0 || l.imageLow >= l.imageHigh || l.imageHigh > 100 {
		return fmt.Errorf("--image-gc-low-threshold %d and --image-gc-high-threshold %d: want 0 <= low < high <= 100", l.imageLow, l.imageHigh)
	}
	c.ImageGCHigh, c.ImageGCLow = l.imageHigh, l.imageLow
	c.PodPidsLimit, c.MaxPods = l.podPids, l.maxPods
	s := &c.Shutdown
	s.Grace, s.GraceCritical, s.OnTerm = l.shutdown, l.shutdownCritical, l.shutdownOnTerm
	for text, period := range l.shutdownByPriority {
		if err := s.Add(text, period); err != nil {
			return fmt.Errorf("--shutdown-grace-period-by-pod-priority: %w", err)
		}
	}
	_, err := s.Periods()
	return err
}
