// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"testing"
	"time"

	"github.com/fairlead/fairlead/cni/wire"
	"github.com/fairlead/fairlead/dataplane/tables"
)

func TestSandboxMustBeMissingForLong(t *testing.T) {
	start := time.Unix(100000, 0)
	s := &Server{absent: map[string]time.Time{}}
	pod := &tables.LocalPod{ID: "c/eth0", ContainerID: "c", Namespace: "default", Created: start}
	missing, there := map[string]bool{"other": true}, map[string]bool{"c": true}
	for _, step := range []struct {
		what      string
		after     time.Duration
		sandboxes map[string]bool
		gone      bool
	}{
		{"just made, not listed yet", time.Minute, missing, false},
		{"old enough, first time missing", 3 * time.Minute, missing, false},
		{"a minute later", 4 * time.Minute, missing, false},
		{"listed after all", 4*time.Minute + time.Second, there, false},
		{"missing again: the count starts over", 6 * time.Minute, missing, false},
		{"still missing", 7 * time.Minute, missing, false},
		{"missing for two minutes", 8 * time.Minute, missing, true},
	} {
		if got := s.unknown(pod, step.sandboxes, start.Add(step.after)); got != step.gone {
			t.Errorf("%s: gone is %v", step.what, got)
		}
	}
	foreign := &tables.LocalPod{ID: "d/eth0", ContainerID: "d", Name: "by-podman", Created: start}
	for _, after := range []time.Duration{3 * time.Minute, time.Hour} {
		if s.unknown(foreign, missing, start.Add(after)) {
			t.Error("a container that is no pod of the kubelet's is swept because its CRI runtime does not list it")
		}
	}
	if len(s.absent) != 0 {
		t.Error("a swept pod is still counted")
	}
}

// TestSweepSparesAPodConnectedAnew has the sweep come to its turn after the attachment that it saw without interface was connected again.
func TestSweepSparesAPodConnectedAnew(t *testing.T) {
	tb, err := tables.New()
	if err != nil {
		t.Fatal(err)
	}
	insert := func(ifindex int) *tables.LocalPod {
		pod := &tables.LocalPod{ID: "c/eth0", IfIndex: ifindex}
		w := tb.DB.WriteTxn(tb.LocalPods)
		defer w.Commit()
		if _, _, err := tb.LocalPods.Insert(w, pod); err != nil {
			t.Fatal(err)
		}
		return pod
	}
	s := &Server{cfg: Config{Tables: tb}, busy: map[string]*attachment{}}
	seen := insert(1)
	again := insert(2)
	if err := s.discard(t.Context(), seen, "interface"); err != nil {
		t.Fatal(err)
	}
	if pod, _, _ := tb.LocalPods.Get(tb.DB.ReadTxn(), tables.LocalPodByID.Query("c/eth0")); pod != again {
		t.Errorf("the pod connected anew is %v", pod)
	}
}

func TestBucket(t *testing.T) {
	for _, c := range []struct{ rate, burst, want uint64 }{
		{5_000_000, 0, 500_000},           // 100 ms by default
		{5_000_000, 512 << 20, 5_000_000}, // at most a second's worth
		{100_000, 1000, minBurst},         // a GSO packet must fit
		{1 << 30, 1 << 20, 1 << 20},       // as asked
	} {
		if b := bucket(c.rate, c.burst); b.Burst != c.want || b.Tokens != c.want || b.Rate != c.rate {
			t.Errorf("rate %d, burst %d: %+v, want a burst of %d", c.rate, c.burst, b, c.want)
		}
	}
}

// A runtime tries again while GC, or an abandoned ADD, is about to remove what the first try left.
func TestASuccessorStays(t *testing.T) {
	tab, err := tables.New()
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{cfg: Config{Tables: tab, DataDir: t.TempDir()}, busy: map[string]*attachment{}}
	before, after := &tables.LocalPod{ID: "c/eth0", HostIf: "fl000000000001"}, &tables.LocalPod{ID: "c/eth0", HostIf: "fl000000000002"}
	txn := tab.DB.WriteTxn(tab.LocalPods)
	if _, _, err := tab.LocalPods.Insert(txn, after); err != nil {
		t.Fatal(err)
	}
	txn.Commit()
	if err := s.delPod(t.Context(), before); err != nil {
		t.Error("delPod:", err)
	}
	s.Abandoned(t.Context(), &wire.Request{Attachment: wire.Attachment{ContainerID: "c", IfName: "eth0"}}, []byte(`{"cniVersion":"1.1.0","interfaces":[{"name":"fl000000000001"},{"name":"eth0"}]}`))
	if now, _, ok := tab.LocalPods.Get(tab.DB.ReadTxn(), tables.LocalPodByID.Query("c/eth0")); !ok || now != after {
		t.Errorf("the successor is gone: %v", now)
	}
}
