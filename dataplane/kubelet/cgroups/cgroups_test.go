// SPDX-License-Identifier: Apache-2.0

package cgroups

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func podWith(requests, limits v1.ResourceList) *v1.Pod {
	p := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "a", Resources: v1.ResourceRequirements{Requests: requests, Limits: limits}}}}}
	p.Name, p.UID = "p", "uid"
	return p
}

func list(cpu, memory string) v1.ResourceList {
	out := v1.ResourceList{}
	if cpu != "" {
		out[v1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		out[v1.ResourceMemory] = resource.MustParse(memory)
	}
	return out
}

func TestQOSClass(t *testing.T) {
	for name, c := range map[string]struct {
		pod  *v1.Pod
		want v1.PodQOSClass
	}{
		"nothing asked":                      {podWith(nil, nil), v1.PodQOSBestEffort},
		"limits alone":                       {podWith(nil, list("1", "1Gi")), v1.PodQOSGuaranteed},
		"requests equal limits":              {podWith(list("1", "1Gi"), list("1", "1Gi")), v1.PodQOSGuaranteed},
		"requests below limits":              {podWith(list("1", "1Gi"), list("2", "1Gi")), v1.PodQOSBurstable},
		"only memory is limited":             {podWith(nil, list("", "1Gi")), v1.PodQOSBurstable},
		"a request":                          {podWith(list("1m", ""), nil), v1.PodQOSBurstable},
		"a request of zero asks for nothing": {podWith(list("0", ""), nil), v1.PodQOSBestEffort},
	} {
		if got := ComputeQOSClass(c.pod); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestConversions(t *testing.T) {
	for milli, want := range map[int64]int64{0: 2, 1: 2, 1000: 1024, 250: 256, 1 << 40: 262144} {
		if got := Shares(milli); got != want {
			t.Errorf("%dm CPU: %d shares, want %d", milli, got, want)
		}
	}
	for milli, want := range map[int64]int64{0: 0, 1: 1000, 500: 50000, 2000: 200000} {
		if got := Quota(milli); got != want {
			t.Errorf("%dm CPU: quota %d, want %d", milli, got, want)
		}
	}
	if Weight(2) != 1 || Weight(262144) != 10000 || Weight(1024) != 39 {
		t.Errorf("weights %d %d %d", Weight(2), Weight(262144), Weight(1024))
	}
}

func TestParseMounts(t *testing.T) {
	v2 := parseMounts("30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
	if !v2.V2() || v2.CgroupDir("/a") != "/sys/fs/cgroup/a" {
		t.Errorf("v2: %+v", v2)
	}
	hybrid := parseMounts("30 24 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n31 24 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n")
	if hybrid.V2() || hybrid.Controllers["cpu"] != "/sys/fs/cgroup/cpu" || hybrid.CgroupDir("/a") != "/sys/fs/cgroup/unified/a" {
		t.Errorf("hybrid: %+v", hybrid)
	}
}

// The real hierarchies of this machine.
func TestManager(t *testing.T) {
	layout, err := Detect()
	if err != nil {
		t.Fatal(err)
	}
	m := &Manager{Layout: layout, Root: "/fairlead-cgroups-test", PodPids: 100}
	t.Cleanup(func() {
		for _, root := range append(m.allHierarchies(), m.hierarchies()...) {
			if err := removeTree(filepath.Join(root, m.Root)); err != nil {
				t.Error(err)
			}
		}
	})
	if err := m.SetUp(nil); err != nil {
		t.Fatalf("cgroups need root and writable hierarchies: %v", err)
	}
	pod := podWith(list("250m", "64Mi"), list("500m", "64Mi"))
	for range 2 {
		if err := m.Create(pod); err != nil {
			t.Fatal(err)
		}
	}
	path := Pod(m.Root, v1.PodQOSBurstable, "uid")
	file, want := filepath.Join(layout.Unified, path, "memory.max"), "67108864"
	if !layout.V2() {
		file = filepath.Join(layout.Controllers["memory"], path, "memory.limit_in_bytes")
	}
	if data, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(data)) != want {
		t.Errorf("%s: %q, %v", file, data, err)
	}
	for range 2 {
		if err := m.Remove(pod); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Dir(file)); !os.IsNotExist(err) {
		t.Errorf("left over: %v", err)
	}
}
