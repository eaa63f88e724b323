// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	hugePages   = "/proc/sys/vm/nr_hugepages"
	huge        = v1.ResourceName("hugepages-2Mi")
	pagesOfTest = 8
)

// number reads a file that holds one.
func number(t *testing.T, name string) int {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestHugePages: a node tells how many huge pages it has, a pod uses some by a volume of them, what is too much is refused, and all come back. The
// machine is given eight pages (16 MiB) for as long as the test runs.
func TestHugePages(t *testing.T) {
	const free = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"
	if _, err := os.Stat(free); err != nil {
		t.Skipf("this kernel has no huge pages of 2 MiB: %v", err)
	}
	before := number(t, hugePages)
	set := func(n int) error { return os.WriteFile(hugePages, fmt.Append(nil, n), 0o644) }
	if err := set(before + pagesOfTest); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := set(before); err != nil {
			t.Error(err)
		}
	})
	if got := number(t, hugePages); got != before+pagesOfTest {
		t.Skipf("the kernel gave %d of %d huge pages: its memory is in pieces", got-before, pagesOfTest)
	}
	n := Start(t, nil)
	node, err := n.Client.CoreV1().Nodes().Get(t.Context(), NodeName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if all, free := node.Status.Capacity[huge], node.Status.Allocatable[huge]; all.Value() != int64(before+pagesOfTest)<<21 || free.Cmp(all) != 0 {
		t.Errorf("capacity %s, allocatable %s, want both %d pages of 2 MiB", all.String(), free.String(), before+pagesOfTest)
	}
	withPages := func(name, size string, medium v1.StorageMedium, args ...string) *v1.Pod {
		pod := Pod(name, args...)
		limits := v1.ResourceList{huge: quantity(size), v1.ResourceMemory: quantity("64Mi")}
		pod.Spec.Containers[0].Resources = v1.ResourceRequirements{Limits: limits, Requests: limits}
		pod.Spec.Volumes = []v1.Volume{{Name: "h", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: medium}}}}
		pod.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "h", MountPath: "/h"}}
		return pod
	}
	unused := number(t, free)
	for name, medium := range map[string]v1.StorageMedium{"default-size": v1.StorageMediumHugePages, "named-size": v1.StorageMediumHugePagesPrefix + "2Mi"} {
		n.Create(withPages(name, "4Mi", medium, "map=/h/file:4", "forever"))
		pod := n.WaitReady(name)
		until(t, name+" has two pages", func() bool {
			return strings.HasSuffix(n.Log(pod, "app", 0), "mapped 4\n") && number(t, free) == unused-2
		})
		n.Create(withPages("too-much", fmt.Sprint((before+pagesOfTest)<<1, "Mi"), medium, "forever"))
		if refused := n.WaitPhase("too-much", v1.PodFailed); refused.Status.Reason != "OutOfhugepages-2Mi" {
			t.Errorf("%+v", refused.Status)
		}
		n.Delete("too-much")
		n.Delete(name)
		until(t, "the pages are free again", func() bool { return number(t, free) == unused })
	}
}
