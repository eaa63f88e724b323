// SPDX-License-Identifier: Apache-2.0

package eviction

import (
	"slices"
	"testing"

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
	for _, p := range Rank(Memory, pods) {
		got = append(got, p.Pod.Name)
	}
	if want := []string{"over by much", "over by little", "over, important", "within its request"}; !slices.Equal(got, want) {
		t.Errorf("order %q, want %q", got, want)
	}
}

func TestDecide(t *testing.T) {
	thresholds, err := Parse(map[string]string{"memory.available": "100Mi", "nodefs.available": "10%"})
	if err != nil {
		t.Fatal(err)
	}
	pods := []Pod{pod("a", "", 0, 10*mi)}
	for name, c := range map[string]struct {
		levels map[Signal]Level
		short  []Signal
		victim bool
	}{
		"enough":             {map[Signal]Level{Memory: {1000 * mi, 100 * mi}, NodeDisk: {1000, 100}}, nil, false},
		"memory":             {map[Signal]Level{Memory: {1000 * mi, 99 * mi}, NodeDisk: {1000, 100}}, []Signal{Memory}, true},
		"disk by percentage": {map[Signal]Level{Memory: {1000 * mi, 100 * mi}, NodeDisk: {1000, 99}}, []Signal{NodeDisk}, true},
		"not known":          {map[Signal]Level{}, nil, false},
	} {
		if got := Decide(thresholds, c.levels, pods); !slices.Equal(got.Short, c.short) || (got.Victim != nil) != c.victim {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestParseRejects(t *testing.T) {
	for signal, text := range map[string]string{"memory.free": "1Gi", "memory.available": "lots", "nodefs.available": "101%"} {
		if _, err := Parse(map[string]string{signal: text}); err == nil {
			t.Errorf("%s=%s was accepted", signal, text)
		}
	}
}

func TestOverLimit(t *testing.T) {
	limit := resource.MustParse("1Mi")
	p := pod("a", "", 0, 0)
	p.Pod.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{SizeLimit: &limit}}}}
	if got := OverLimit(p, map[string]uint64{"v": mi}); got != "" {
		t.Errorf("at its limit: %q", got)
	}
	if got := OverLimit(p, map[string]uint64{"v": mi + 1}); got == "" {
		t.Error("over its limit, and not noticed")
	}
}
