// SPDX-License-Identifier: Apache-2.0

package userns

import (
	"os"
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func pod(uid types.UID) *v1.Pod {
	p := &v1.Pod{}
	p.UID, p.Spec.HostUsers = uid, ptr.To(false)
	return p
}

func TestRanges(t *testing.T) {
	root := t.TempDir()
	dir := func(uid types.UID) string { return filepath.Join(root, string(uid)) }
	first := func(r *Ranges, uid types.UID) uint32 {
		t.Helper()
		m, err := r.For(pod(uid))
		if err != nil {
			t.Fatal(err)
		}
		return m.Uids[0].HostId
	}
	r, err := New(dir, nil, 2)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := r.For(&v1.Pod{}); m != nil || err != nil {
		t.Errorf("a pod of the host's user namespace: %v %v", m, err)
	}
	a, b := first(r, "a"), first(r, "b")
	if a != 65536 || b != 131072 || first(r, "a") != a {
		t.Errorf("ranges %d %d", a, b)
	}
	if _, err := r.For(pod("c")); err == nil {
		t.Error("more ranges than there are")
	}
	r.Release("a")
	if err := os.RemoveAll(dir("a")); err != nil {
		t.Fatal(err)
	}
	again, err := New(dir, []types.UID{"a", "b"}, 2) // an agent that starts again
	if err != nil {
		t.Fatal(err)
	}
	if got := first(again, "b"); got != b {
		t.Errorf("b had %d, has %d", b, got)
	}
	if got := first(again, "c"); got != a {
		t.Errorf("c has %d, want what a had", got)
	}
	if err := os.WriteFile(filepath.Join(dir("c"), file), []byte(`{"uidMappings":[{"hostId":0,"containerId":0,"length":65536}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(dir, []types.UID{"c"}, 2); err == nil {
		t.Error("the host's own ids were taken for a pod's")
	}
}
