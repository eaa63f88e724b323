// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Directory is safe for concurrent use. The zero value is not; use New.
type Directory struct {
	mu       sync.RWMutex
	cluster  clusterRows
	pods     map[string]*Pod
	podsByIP map[netip.Addr][]*Pod
	complete bool
	serial   uint32
}

// clusterRows are the rows that come from the Kubernetes API.
type clusterRows struct {
	services   map[Name]*Service
	namespaces map[string]int // services in each
	byIP       map[netip.Addr][]*Service
	slices     map[Name]*Slice
	ofService  map[Name][]*Slice // in the order of their names
	byEndpoint map[netip.Addr]*Slice
	shared     map[netip.Addr][]*Slice // the further slices of an address that several have
}

func newClusterRows(services, slices int) clusterRows {
	return clusterRows{
		services: make(map[Name]*Service, services), namespaces: map[string]int{}, byIP: make(map[netip.Addr][]*Service, services),
		slices: make(map[Name]*Slice, slices), ofService: make(map[Name][]*Slice, services), byEndpoint: map[netip.Addr]*Slice{}, shared: map[netip.Addr][]*Slice{},
	}
}

// New returns an empty directory. Its serial counts on from the clock, so that it grows over restarts as long as the cluster changes less than once a second
// on the long average.
func New() *Directory {
	return &Directory{cluster: newClusterRows(0, 0), pods: map[string]*Pod{}, podsByIP: map[netip.Addr][]*Pod{}, serial: uint32(time.Now().Unix())}
}

// Apply makes the change b. Deleting what is absent does nothing. The directory keeps b's rows: the caller must not change them afterwards.
func (d *Directory) Apply(b *Batch) {
	if b.Whole { // built before readers are stopped: it takes its time
		fresh := newClusterRows(len(b.Services), len(b.Slices))
		fresh.apply(b)
		d.mu.Lock()
		defer d.mu.Unlock()
		d.cluster = fresh
	} else {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.cluster.apply(b)
	}
	if b.WholePods {
		d.pods, d.podsByIP = map[string]*Pod{}, map[netip.Addr][]*Pod{}
	}
	for _, id := range b.DeletedPods {
		d.removePod(id)
	}
	for _, p := range b.Pods {
		d.removePod(p.ID)
		d.pods[p.ID] = p
		for _, a := range p.IPs {
			d.podsByIP[a] = append(d.podsByIP[a], p)
		}
	}
	d.complete = d.complete || b.Complete
	if b.Whole || len(b.Services)+len(b.Slices)+len(b.DeletedServices)+len(b.DeletedSlices) > 0 {
		d.serial++
	}
}

func (d *Directory) removePod(id string) {
	p := d.pods[id]
	if p == nil {
		return
	}
	delete(d.pods, id)
	for _, a := range p.IPs {
		remove(d.podsByIP, a, p)
	}
}

func (c *clusterRows) apply(b *Batch) {
	for _, n := range b.DeletedServices {
		c.removeService(n)
	}
	for _, n := range b.DeletedSlices {
		c.removeSlice(n)
	}
	for _, s := range b.Services {
		c.removeService(s.Name)
		c.services[s.Name] = s
		c.namespaces[s.Name.Namespace]++
		for _, a := range s.ClusterIPs {
			c.byIP[a] = append(c.byIP[a], s)
		}
	}
	for _, s := range b.Slices {
		c.removeSlice(s.Name)
		c.addSlice(s)
	}
}

func (c *clusterRows) removeService(n Name) {
	s := c.services[n]
	if s == nil {
		return
	}
	delete(c.services, n)
	if c.namespaces[n.Namespace]--; c.namespaces[n.Namespace] == 0 {
		delete(c.namespaces, n.Namespace)
	}
	for _, a := range s.ClusterIPs {
		remove(c.byIP, a, s)
	}
}

func (c *clusterRows) addSlice(s *Slice) {
	c.slices[s.Name] = s
	if s.Service == "" {
		return
	}
	of := c.ofService[s.ServiceName()]
	at, _ := slices.BinarySearchFunc(of, s, func(a, b *Slice) int { return cmp.Compare(a.Name.Name, b.Name.Name) })
	c.ofService[s.ServiceName()] = slices.Insert(slices.Clone(of), at, s) // a copy: views hand the slice out
	for i := range s.Endpoints {
		a := s.Endpoints[i].Addr
		switch first, taken := c.byEndpoint[a]; {
		case !taken:
			c.byEndpoint[a] = s
		case first != s && !slices.Contains(c.shared[a], s):
			c.shared[a] = append(c.shared[a], s)
		}
	}
}

func (c *clusterRows) removeSlice(n Name) {
	s := c.slices[n]
	if s == nil {
		return
	}
	delete(c.slices, n)
	if s.Service == "" {
		return
	}
	remove(c.ofService, s.ServiceName(), s)
	for i := range s.Endpoints {
		a := s.Endpoints[i].Addr
		if c.byEndpoint[a] != s {
			remove(c.shared, a, s)
			continue
		}
		if more := c.shared[a]; len(more) > 0 {
			c.byEndpoint[a] = more[0]
			remove(c.shared, a, more[0])
		} else {
			delete(c.byEndpoint, a)
		}
	}
}

// remove takes v out of m[k], in a copy, since readers may hold the list.
func remove[K comparable, V comparable](m map[K][]V, k K, v V) {
	rest := slices.DeleteFunc(slices.Clone(m[k]), func(have V) bool { return have == v })
	if len(rest) == 0 {
		delete(m, k)
	} else {
		m[k] = rest
	}
}

// Read returns the directory as it is. The caller must call View.Done soon, and must not call Read again before: changes wait for it.
func (d *Directory) Read() View {
	d.mu.RLock()
	return View{d}
}

// Snapshot returns a directory of the same services and their slices that does not change, for a reader who takes long. It finds nothing by address.
func (d *Directory) Snapshot() *Directory {
	d.mu.RLock()
	defer d.mu.RUnlock()
	rows := clusterRows{services: maps.Clone(d.cluster.services), ofService: maps.Clone(d.cluster.ofService)}
	return &Directory{cluster: rows, complete: d.complete, serial: d.serial}
}

// Complete reports whether the directory holds the whole cluster.
func (d *Directory) Complete() bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.complete
}

// Len returns how many services and slices there are.
func (d *Directory) Len() (services, slices int) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return len(d.cluster.services), len(d.cluster.slices)
}

// View is a directory at one moment. What its methods return stays valid after Done and must not be changed.
type View struct{ d *Directory }

// Done ends the view.
func (v View) Done() { v.d.mu.RUnlock() }

// Complete reports whether the directory holds the whole cluster.
func (v View) Complete() bool { return v.d.complete }

// Serial grows with every change of a service or slice.
func (v View) Serial() uint32 { return v.d.serial }

// Service returns the service of that name, nil if there is none.
func (v View) Service(n Name) *Service { return v.d.cluster.services[n] }

// HasNamespace reports whether there is a service in a namespace.
func (v View) HasNamespace(ns string) bool { return v.d.cluster.namespaces[ns] > 0 }

// Slices returns the slices of a service in the order of their names.
func (v View) Slices(service Name) []*Slice { return v.d.cluster.ofService[service] }

// ServicesAt returns the services that have a cluster address.
func (v View) ServicesAt(a netip.Addr) []*Service { return v.d.cluster.byIP[a] }

// SlicesAt yields the slices that hold an endpoint address.
func (v View) SlicesAt(a netip.Addr) iter.Seq[*Slice] {
	return func(yield func(*Slice) bool) {
		first := v.d.cluster.byEndpoint[a]
		if first == nil || !yield(first) {
			return
		}
		for _, s := range v.d.cluster.shared[a] {
			if !yield(s) {
				return
			}
		}
	}
}

// PodsAt returns this node's pods that have an address.
func (v View) PodsAt(a netip.Addr) []*Pod { return v.d.podsByIP[a] }

// Services returns all services in the order of their names.
func (v View) Services() []*Service {
	return slices.SortedFunc(maps.Values(v.d.cluster.services), func(a, b *Service) int {
		return cmp.Or(cmp.Compare(a.Name.Namespace, b.Name.Namespace), cmp.Compare(a.Name.Name, b.Name.Name))
	})
}
