// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"bytes"
	"encoding/gob"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func addr(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}) }

// TestAgainstPlainMaps applies random batches, as they arrive from the wire, and compares every way of reading with maps that are searched from end to end.
func TestAgainstPlainMaps(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	d := New()
	services, sliceRows, pods := map[Name]*Service{}, map[Name]*Slice{}, map[string]*Pod{}
	name := func() Name { return Name{fmt.Sprint("ns", r.IntN(3)), fmt.Sprint("n", r.IntN(6))} }
	for range 2000 {
		b := &Batch{Whole: r.IntN(50) == 0, WholePods: r.IntN(50) == 0}
		if b.Whole {
			clear(services)
			clear(sliceRows)
		}
		if b.WholePods {
			clear(pods)
		}
		for range r.IntN(3) {
			n := name()
			b.DeletedServices = append(b.DeletedServices, n)
			delete(services, n)
			n = name()
			b.DeletedSlices = append(b.DeletedSlices, n)
			delete(sliceRows, n)
			id := fmt.Sprint(r.IntN(8))
			b.DeletedPods = append(b.DeletedPods, id)
			delete(pods, id)
		}
		for range r.IntN(3) {
			s := &Service{Name: name(), ClusterIPs: []netip.Addr{addr(r.IntN(6))}}
			b.Services, services[s.Name] = append(b.Services, s), s
			l := &Slice{Name: name(), Service: []string{"", "n1", "n2"}[r.IntN(3)]}
			for range r.IntN(4) {
				l.Endpoints = append(l.Endpoints, Endpoint{Addr: addr(100 + r.IntN(5)), Ready: true})
			}
			b.Slices, sliceRows[l.Name] = append(b.Slices, l), l
			p := &Pod{ID: fmt.Sprint(r.IntN(8)), Namespace: "ns1", IPs: []netip.Addr{addr(200 + r.IntN(4))}}
			b.Pods, pods[p.ID] = append(b.Pods, p), p
		}
		d.Apply(sent(t, b))

		v := d.Read()
		for n := range 6 {
			want := []string{}
			for _, s := range services {
				if slices.Contains(s.ClusterIPs, addr(n)) {
					want = append(want, s.Name.String())
				}
			}
			same(t, "services at an address", names(v.ServicesAt(addr(n)), func(s *Service) string { return s.Name.String() }), want)
		}
		for n := range 5 {
			want := []string{}
			for _, s := range sliceRows {
				if s.Service != "" && slices.ContainsFunc(s.Endpoints, func(e Endpoint) bool { return e.Addr == addr(100+n) }) {
					want = append(want, s.Name.String())
				}
			}
			same(t, "slices at an address", names(slices.Collect(v.SlicesAt(addr(100+n))), func(s *Slice) string { return s.Name.String() }), want)
		}
		for n := range 4 {
			want := []string{}
			for _, p := range pods {
				if slices.Contains(p.IPs, addr(200+n)) {
					want = append(want, p.ID)
				}
			}
			same(t, "pods at an address", names(v.PodsAt(addr(200+n)), func(p *Pod) string { return p.ID }), want)
		}
		for ns := range 3 {
			space := fmt.Sprint("ns", ns)
			if want := slices.ContainsFunc(slices.Collect(maps.Keys(services)), func(n Name) bool { return n.Namespace == space }); v.HasNamespace(space) != want {
				t.Fatalf("namespace %s: %t, want %t", space, !want, want)
			}
			want := []string{}
			for _, s := range sliceRows {
				if s.ServiceName() == (Name{space, "n1"}) {
					want = append(want, s.Name.String())
				}
			}
			got := names(v.Slices(Name{space, "n1"}), func(s *Slice) string { return s.Name.String() })
			if !slices.IsSorted(got) {
				t.Fatalf("slices of a service are not in the order of their names: %v", got)
			}
			same(t, "slices of a service", got, want)
		}
		if len(v.Services()) != len(services) {
			t.Fatalf("%d services, want %d", len(v.Services()), len(services))
		}
		v.Done()
	}
}

// sent is b as it arrives at the other end of the wire.
func sent(t *testing.T, b *Batch) *Batch {
	t.Helper()
	var buf bytes.Buffer
	if err := gob.NewEncoder(&buf).Encode(b); err != nil {
		t.Fatal(err)
	}
	out := new(Batch)
	if err := gob.NewDecoder(&buf).Decode(out); err != nil {
		t.Fatal(err)
	}
	return out
}

func names[T any](rows []T, name func(T) string) []string {
	out := []string{}
	for _, r := range rows {
		out = append(out, name(r))
	}
	return out
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	got = slices.Sorted(slices.Values(got))
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("%s: %v, want %v", what, got, want)
	}
}

func TestCompleteStays(t *testing.T) {
	d := New()
	if d.Complete() {
		t.Error("an empty directory is complete")
	}
	d.Apply(&Batch{Complete: true})
	serial := d.Read()
	before := serial.Serial()
	serial.Done()
	d.Apply(&Batch{Services: []*Service{{Name: Name{"a", "b"}}}})
	v := d.Read()
	defer v.Done()
	if !v.Complete() || v.Serial() != before+1 {
		t.Errorf("complete %t, serial %d; want true, %d", v.Complete(), v.Serial(), before+1)
	}
}
