// SPDX-License-Identifier: Apache-2.0

package eviction

import (
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

const mi = 1 << 20

func pod(name string, request string, priority int32, memory uint64) Pod {
	p := &v1.Pod{}
	p.Name = name
	p.Spec.Priority = &priority
	c := v1.Container{Name: "a"}
	if request != "" {
		c.Resources.Requests = v1.ResourceList{v1.ResourceMemory: resource.MustParse(request)}
	}
	p.Spec.Containers = []v1.Container{c}
	return Pod{Pod: p, Memory: memory}
}

func TestRank(t *testing.T) {
	pods := []Pod{
		pod("within its request", "100Mi", 0, 90*mi),
		pod("over, important", "10Mi", 100, 500*mi),
		pod("over by little", "50Mi", 0, 60*mi),
		pod("over by much", "", 0, 300*mi),
		pod("critical", "", 2000001000, 900*mi),
	}
	var got []string
	for _, p := range Rank(Memory, pods, false) {
		got = append(got, p.Pod.Name)
	}
	if want := []string{"over by much", "over by little", "over, important", "within its request"}; !slices.Equal(got, want) {
		t.Errorf("order %q, want %q", got, want)
	}
}

func TestRankByDisk(t *testing.T) {
	with := func(name string, local, layers Usage) Pod {
		p := pod(name, "", 0, 0)
		p.Local, p.Layers = local, layers
		return p
	}
	pods := []Pod{with("logs", Usage{100, 900}, Usage{1, 1}), with("layers", Usage{2, 2}, Usage{300, 300}), with("small", Usage{1, 1}, Usage{1, 1})}
	for name, c := range map[string]struct {
		signal   Signal
		separate bool
		first    string
	}{
		"one filesystem":          {NodeDisk, false, "layers"},
		"node's own":              {NodeDisk, true, "logs"},
		"images' own":             {ImageDisk, true, "layers"},
		"inodes":                  {NodeInodes, false, "logs"},
		"inodes of images' own":   {ImageInodes, true, "layers"},
		"images on the node's":    {ImageDisk, false, "layers"},
		"processes: as they came": {Processes, false, "logs"},
	} {
		if got := Rank(c.signal, pods, c.separate)[0].Pod.Name; got != c.first {
			t.Errorf("%s: %s goes first, want %s", name, got, c.first)
		}
	}
}

func policy(t *testing.T, s Settings) *Pressure {
	t.Helper()
	p, err := NewPolicy(s)
	if err != nil {
		t.Fatal(err)
	}
	return p.Watch()
}

func signals(shorts []Short) (out []Signal) {
	for _, s := range shorts {
		out = append(out, s.Signal)
	}
	return out
}

func TestHardThresholds(t *testing.T) {
	settings := Settings{Hard: map[string]string{"memory.available": "100Mi", "nodefs.available": "10%", "pid.available": "0"}}
	for name, c := range map[string]struct {
		levels map[Signal]Level
		want   []Signal
	}{
		"enough":             {map[Signal]Level{Memory: {1000 * mi, 100 * mi}, NodeDisk: {1000, 100}}, nil},
		"memory":             {map[Signal]Level{Memory: {1000 * mi, 99 * mi}, NodeDisk: {1000, 100}}, []Signal{Memory}},
		"disk by percentage": {map[Signal]Level{Memory: {1000 * mi, 100 * mi}, NodeDisk: {1000, 99}}, []Signal{NodeDisk}},
		"both, memory first": {map[Signal]Level{Memory: {1000 * mi, 99 * mi}, NodeDisk: {1000, 99}}, []Signal{Memory, NodeDisk}},
		"memory of the pods": {map[Signal]Level{Memory: {1000 * mi, 900 * mi}, PodMemory: {500 * mi, 99 * mi}}, []Signal{PodMemory}},
		"not known":          {map[Signal]Level{}, nil},
		"zero is none":       {map[Signal]Level{Processes: {100, 0}}, nil},
	} {
		if got := signals(policy(t, settings).Observe(c.levels, time.Unix(0, 0))); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestPressureOverTime drives one signal through time: soft grace, minimum reclaim, and the hold of the condition.
func TestPressureOverTime(t *testing.T) {
	p := policy(t, Settings{
		Hard: map[string]string{"memory.available": "100"}, Soft: map[string]string{"memory.available": "200"},
		SoftGrace: map[string]time.Duration{"memory.available": time.Minute}, Reclaim: map[string]string{"memory.available": "50"},
		Hold: 5 * time.Minute, MaxGrace: 30 * time.Second,
	})
	start := time.Unix(1000, 0)
	for _, step := range []struct {
		second    int
		available uint64
		graces    []time.Duration // of what must be acted on
		pressure  bool
	}{
		{0, 300, nil, false},
		{10, 199, nil, true}, // soft, within its grace, and the node says so
		{40, 199, nil, true},
		{50, 260, nil, true}, // relieved by more than the minimum: the grace starts again, the condition is held
		{60, 199, nil, true},
		{119, 199, nil, true},
		{120, 199, []time.Duration{30 * time.Second}, true},
		{130, 99, []time.Duration{0, 30 * time.Second}, true},  // hard too: at once, and first
		{140, 149, []time.Duration{0, 30 * time.Second}, true}, // above the hard threshold, not yet by the minimum to reclaim
		{150, 150, []time.Duration{30 * time.Second}, true},
		{160, 249, []time.Duration{30 * time.Second}, true},
		{170, 250, nil, true},
		{459, 300, nil, true}, // held since 160
		{460, 300, nil, false},
	} {
		now := start.Add(time.Duration(step.second) * time.Second)
		var graces []time.Duration
		for _, short := range p.Observe(map[Signal]Level{Memory: {1000, step.available}}, now) {
			graces = append(graces, short.Grace)
		}
		if !slices.Equal(graces, step.graces) {
			t.Errorf("at %d s with %d left: act with graces %v, want %v", step.second, step.available, graces, step.graces)
		}
		if got := slices.Equal(p.Conditions(now), []v1.NodeConditionType{v1.NodeMemoryPressure}); got != step.pressure {
			t.Errorf("at %d s with %d left: pressure %v, want %v", step.second, step.available, got, step.pressure)
		}
	}
}

func TestPolicyRejects(t *testing.T) {
	for name, s := range map[string]Settings{
		"unknown signal":          {Hard: map[string]string{"memory.free": "1Gi"}},
		"no amount":               {Hard: map[string]string{"memory.available": "lots"}},
		"over 100 percent":        {Hard: map[string]string{"nodefs.available": "101%"}},
		"not a number":            {Hard: map[string]string{"nodefs.available": "NaN%"}},
		"soft without grace":      {Soft: map[string]string{"memory.available": "1Gi"}},
		"grace without threshold": {SoftGrace: map[string]time.Duration{"memory.available": time.Second}},
		"not to be configured":    {Hard: map[string]string{"allocatableMemory.available": "1Gi"}},
	} {
		if _, err := NewPolicy(s); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestOverLimit(t *testing.T) {
	limit := resource.MustParse("1Mi")
	p := pod("a", "", 0, 0)
	p.Pod.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{SizeLimit: &limit}}}}
	if got := OverLimit(p, map[string]uint64{"v": mi}, nil); got != "" {
		t.Errorf("at its limit: %q", got)
	}
	if got := OverLimit(p, map[string]uint64{"v": mi + 1}, nil); got == "" {
		t.Error("over its limit, and not noticed")
	}
	p.Pod.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceEphemeralStorage: limit}
	p.Pod.Spec.Containers = append(p.Pod.Spec.Containers, v1.Container{Name: "b"})
	if got := OverLimit(p, nil, map[string]uint64{"a": mi, "b": 9 * mi}); got != "" {
		t.Errorf("container at its limit: %q", got)
	}
	if got := OverLimit(p, nil, map[string]uint64{"a": mi + 1}); got == "" {
		t.Error("a container over its limit was not noticed")
	}
}
