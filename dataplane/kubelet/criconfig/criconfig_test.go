// SPDX-License-Identifier: Apache-2.0

package criconfig

import (
	"errors"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"
)

func TestExpand(t *testing.T) {
	vars := map[string]string{"A": "1", "B": "$(A)"}
	for in, want := range map[string]string{
		"plain": "plain", "$(A)": "1", "x$(A)y$(A)": "x1y1", "$$(A)": "$(A)", "$$$(A)": "$1", "$(NONE)": "$(NONE)", "$(A": "$(A", "$A": "$A", "$": "$", "$(B)": "$(A)", "$$": "$",
	} {
		if got := Expand(in, vars); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

func FuzzExpand(f *testing.F) {
	f.Add("$(A)$$($(", "value")
	f.Fuzz(func(t *testing.T, text, value string) {
		got := Expand(text, map[string]string{"A": value})
		if len(got) > len(text)*(len(value)+1) {
			t.Errorf("%q grew to %d bytes", text, len(got))
		}
	})
}

func TestHostname(t *testing.T) {
	long := "a-name-that-is-longer-than-the-sixty-three-characters-a-label-may--have"
	for name, c := range map[string]struct {
		pod          v1.Pod
		host, domain string
	}{
		"its own name":    {v1.Pod{}, "pod", ""},
		"hostname":        {v1.Pod{Spec: v1.PodSpec{Hostname: "h", Subdomain: "s"}}, "h", "s.ns.svc.example"},
		"override":        {v1.Pod{Spec: v1.PodSpec{Hostname: "h", Subdomain: "s", HostnameOverride: ptr.To("o")}}, "o", ""},
		"too long a name": {v1.Pod{Spec: v1.PodSpec{Hostname: long}}, "a-name-that-is-longer-than-the-sixty-three-characters-a-label-m", ""},
	} {
		c.pod.Name, c.pod.Namespace = "pod", "ns"
		if host, domain := Hostname(&c.pod, "example"); host != c.host || domain != c.domain {
			t.Errorf("%s: %q %q", name, host, domain)
		}
	}
}

func TestNonRoot(t *testing.T) {
	root, plain := &runtimeapi.Image{Uid: &runtimeapi.Int64Value{Value: 0}}, &runtimeapi.Image{Uid: &runtimeapi.Int64Value{Value: 7}}
	for name, c := range map[string]struct {
		user  *int64
		image *runtimeapi.Image
		root  bool
		other bool
	}{
		"image runs as root":      {nil, root, true, false},
		"image says nothing":      {nil, &runtimeapi.Image{}, true, false},
		"image runs as a number":  {nil, plain, false, false},
		"image names a user":      {nil, &runtimeapi.Image{Username: "app"}, false, true},
		"the spec overrides root": {ptr.To[int64](5), root, false, false},
		"the spec asks for root":  {ptr.To[int64](0), plain, true, false},
	} {
		err := checkNonRoot("c", c.user, c.image)
		if errors.Is(err, ErrRunAsRoot) != c.root || (err != nil) != (c.root || c.other) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestResources(t *testing.T) {
	container := &v1.Container{Resources: v1.ResourceRequirements{
		Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("250m"), v1.ResourceMemory: resource.MustParse("1Gi")},
		Limits:   v1.ResourceList{v1.ResourceCPU: resource.MustParse("1500m"), v1.ResourceMemory: resource.MustParse("2Gi"), "hugepages-2Mi": resource.MustParse("4Mi")},
	}}
	pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{*container}}}
	got := Resources(pod, container, Node{MemoryBytes: 4 << 30})
	if got.CpuShares != 256 || got.CpuQuota != 150000 || got.CpuPeriod != 100000 || got.MemoryLimitInBytes != 2<<30 || got.OomScoreAdj != 750 {
		t.Errorf("%+v", got)
	}
	if len(got.HugepageLimits) != 1 || got.HugepageLimits[0].PageSize != "2MB" || got.HugepageLimits[0].Limit != 4<<20 {
		t.Errorf("huge pages %+v", got.HugepageLimits)
	}
}

func TestStopSignal(t *testing.T) {
	for name, want := range map[v1.Signal]runtimeapi.Signal{
		v1.SIGUSR1: runtimeapi.Signal_SIGNAL_SIGUSR1, v1.SIGRTMINPLUS1: runtimeapi.Signal_SIGNAL_SIGRTMINPLUS1,
		v1.SIGRTMAXMINUS14: runtimeapi.Signal_SIGNAL_SIGRTMAXMINUS14, "SIGNONE": runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT,
	} {
		if got := stopSignal(name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}
