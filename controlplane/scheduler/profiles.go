// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"errors"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	configv1 "k8s.io/kube-scheduler/config/v1"
	"sigs.k8s.io/yaml"

	"github.com/fairlead/fairlead/controlplane/scheduler/placement"
)

// profile turns one profile of the configuration into what placement reads.
func (s *Settings) profile(cfg *configv1.KubeSchedulerProfile) (*placement.Profile, error) {
	p := placement.DefaultProfile()
	if cfg.SchedulerName != nil && *cfg.SchedulerName != "" {
		p.SchedulerName = *cfg.SchedulerName
	}
	first := len(s.Profiles) == 0
	if cfg.Plugins != nil {
		if err := s.plugins(p, cfg.Plugins, first); err != nil {
			return nil, err
		}
	}
	for i := range cfg.PluginConfig {
		pc := &cfg.PluginConfig[i]
		if err := s.args(p, pc.Name, pc.Args.Raw); err != nil {
			return nil, fmt.Errorf("pluginConfig of %s: %w", pc.Name, err)
		}
	}
	return p, nil
}

// plugins turns plugins on and off. multiPoint concerns all extension points of a plugin, and what an extension point says itself comes after it.
// The points that Kubernetes splits a filter into (preFilter, reserve, preBind) are one here: filter decides.
func (s *Settings) plugins(p *placement.Profile, cfg *configv1.Plugins, first bool) error {
	each := func(set *configv1.PluginSet, f func(plugin placement.Plugin, on bool, weight int64)) error {
		for _, d := range set.Disabled {
			if d.Name == "*" {
				for _, plugin := range placement.Plugins() {
					f(plugin, false, 0)
				}
				continue
			}
			plugin, ok := placement.PluginByName(d.Name)
			if !ok {
				return fmt.Errorf("no plugin %q", d.Name)
			}
			f(plugin, false, 0)
		}
		for _, e := range set.Enabled {
			plugin, ok := placement.PluginByName(e.Name)
			if !ok {
				return fmt.Errorf("no plugin %q", e.Name)
			}
			weight := placement.DefaultWeights[plugin]
			if e.Weight != nil && *e.Weight != 0 {
				weight = int64(*e.Weight)
			}
			f(plugin, true, max(weight, 1))
		}
		return nil
	}
	filter := func(plugin placement.Plugin, on bool, _ int64) {
		if !placement.DefaultProfile().Filters.Has(plugin) {
			return
		}
		if on {
			p.Filters = p.Filters.With(plugin)
		} else {
			p.Filters = p.Filters.Without(plugin)
		}
	}
	score := func(plugin placement.Plugin, on bool, weight int64) {
		if placement.DefaultWeights[plugin] != 0 {
			p.Weights[plugin] = weight
		}
	}
	preempt := func(plugin placement.Plugin, on bool, _ int64) {
		if plugin == placement.DefaultPreemption {
			p.Preemption = on
		}
	}
	sort := func(plugin placement.Plugin, on bool, _ int64) {
		if plugin == placement.StartDeadline && first {
			s.Deadlines = on
		}
	}
	all := func(plugin placement.Plugin, on bool, weight int64) {
		filter(plugin, on, weight)
		score(plugin, on, weight)
		preempt(plugin, on, weight)
		sort(plugin, on, weight)
	}
	return errors.Join(each(&cfg.MultiPoint, all), each(&cfg.PreEnqueue, filter), each(&cfg.Filter, filter), each(&cfg.Score, score),
		each(&cfg.PostFilter, preempt), each(&cfg.QueueSort, sort))
}

// args sets what one plugin's arguments say.
func (s *Settings) args(p *placement.Profile, name string, raw []byte) error {
	switch name {
	case "NodeResourcesFit":
		var a configv1.NodeResourcesFitArgs
		if err := yaml.UnmarshalStrict(raw, &a); err != nil {
			return err
		}
		p.IgnoredResources, p.IgnoredResourceGroups = set(a.IgnoredResources), set(a.IgnoredResourceGroups)
		return strategy(p, a.ScoringStrategy)
	case "NodeResourcesBalancedAllocation":
		var a configv1.NodeResourcesBalancedAllocationArgs
		if err := yaml.UnmarshalStrict(raw, &a); err != nil {
			return err
		}
		p.BalancedResources = resourceWeights(a.Resources, p.BalancedResources)
	case "InterPodAffinity":
		var a configv1.InterPodAffinityArgs
		if err := yaml.UnmarshalStrict(raw, &a); err != nil {
			return err
		}
		if w := a.HardPodAffinityWeight; w != nil {
			if *w < 0 || *w > 100 {
				return errors.New("hardPodAffinityWeight must be 0 to 100")
			}
			p.HardPodAffinityWeight = int64(*w)
		}
		p.IgnorePreferredOfOther = a.IgnorePreferredTermsOfExistingPods
	case "NodeAffinity":
		var a configv1.NodeAffinityArgs
		if err := yaml.UnmarshalStrict(raw, &a); err != nil {
			return err
		}
		p.AddedAffinity = a.AddedAffinity
	case "PodTopologySpread":
		var a configv1.PodTopologySpreadArgs
		if err := yaml.UnmarshalStrict(raw, &a); err != nil {
			return err
		}
		if len(a.DefaultConstraints) > 0 && a.DefaultingType != configv1.ListDefaulting {
			return errors.New("defaultConstraints need defaultingType List")
		}
		if a.DefaultingType == configv1.ListDefaulting {
			p.DefaultConstraints, p.SystemDefaults = a.DefaultConstraints, false
		}
	case "DefaultPreemption":
		var a configv1.DefaultPreemptionArgs
		if err := yaml.UnmarshalStrict(raw, &a); err != nil {
			return err
		}
		if v := a.MinCandidateNodesPercentage; v != nil {
			p.MinCandidatePercentage = int(*v)
		}
		if v := a.MinCandidateNodesAbsolute; v != nil {
			p.MinCandidateAbsolute = int(*v)
		}
	case "VolumeBinding":
		var a configv1.VolumeBindingArgs
		if err := yaml.UnmarshalStrict(raw, &a); err != nil {
			return err
		}
		if v := a.BindTimeoutSeconds; v != nil {
			s.BindTimeout = time.Duration(*v) * time.Second
		}
	case "DynamicResources":
		var a configv1.DynamicResourcesArgs
		return yaml.UnmarshalStrict(raw, &a)
	default:
		return errors.New("takes no arguments")
	}
	return nil
}

func set(names []string) map[string]bool {
	m := map[string]bool{}
	for _, n := range names {
		m[n] = true
	}
	return m
}

func resourceWeights(specs []configv1.ResourceSpec, fallback []placement.ResourceWeight) []placement.ResourceWeight {
	if len(specs) == 0 {
		return fallback
	}
	var out []placement.ResourceWeight
	for _, spec := range specs {
		out = append(out, placement.ResourceWeight{Name: v1.ResourceName(spec.Name), Weight: max(1, spec.Weight)})
	}
	return out
}

func strategy(p *placement.Profile, cfg *configv1.ScoringStrategy) error {
	if cfg == nil {
		return nil
	}
	p.StrategyResources = resourceWeights(cfg.Resources, p.StrategyResources)
	switch cfg.Type {
	case "", configv1.LeastAllocated:
	case configv1.MostAllocated:
		p.Strategy = placement.MostAllocated
	case configv1.RequestedToCapacityRatio:
		p.Strategy = placement.RequestedToCapacityRatio
		if cfg.RequestedToCapacityRatio == nil || len(cfg.RequestedToCapacityRatio.Shape) == 0 {
			return errors.New("RequestedToCapacityRatio needs a shape")
		}
		last := int32(-1)
		for _, point := range cfg.RequestedToCapacityRatio.Shape {
			if point.Utilization <= last || point.Utilization > 100 || point.Score < 0 || point.Score > 10 {
				return errors.New("shape: utilization must grow from 0 to 100, score be 0 to 10")
			}
			last = point.Utilization
			p.Shape = append(p.Shape, placement.ShapePoint{Utilization: int64(point.Utilization), Score: int64(point.Score) * placement.MaxScore / 10})
		}
	default:
		return fmt.Errorf("no scoring strategy %q", cfg.Type)
	}
	return nil
}
