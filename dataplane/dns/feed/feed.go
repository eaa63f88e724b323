// SPDX-License-Identifier: Apache-2.0

// Package feed follows a node's tables for its DNS server: it turns their changes into batches of directory rows.
//
//	dataplane/tables --Follow--> directory.Batch --> a server in this process, or over a socket in another
package feed

import (
	"context"
	"net/netip"
	"strings"

	"github.com/cilium/statedb"

	"github.com/fairlead/fairlead/dataplane/dns/directory"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// Follow calls apply with the pods of the tables at once, with the whole of services and slices as soon as the tables are complete or, with early set, at
// once, and from then on with every change, until ctx ends or apply fails. Whoever has an older state keeps it until there is a whole new one.
func Follow(ctx context.Context, t *tables.Tables, early bool, apply func(*directory.Batch) error) error {
	w := t.DB.WriteTxn(t.Services, t.EndpointSlices, t.LocalPods)
	services, err1 := t.Services.Changes(w)
	slices, err2 := t.EndpointSlices.Changes(w)
	pods, err3 := t.LocalPods.Changes(w)
	w.Commit()
	for _, err := range []error{err1, err2, err3} {
		if err != nil {
			return err
		}
	}
	defer services.Close()
	defer slices.Close()
	defer pods.Close()

	whole, wholePods, told := true, true, false
	for {
		txn := t.DB.ReadTxn()
		servicesComplete, servicesInit := t.Services.Initialized(txn)
		slicesComplete, slicesInit := t.EndpointSlices.Initialized(txn)
		complete := servicesComplete && slicesComplete
		b := &directory.Batch{WholePods: wholePods}
		podsChanged := collect(pods, txn, &b.Pods, pod, &b.DeletedPods, podID)
		var servicesChanged, slicesChanged <-chan struct{}
		if complete || early {
			servicesChanged = collect(services, txn, &b.Services, service, &b.DeletedServices, serviceName)
			slicesChanged = collect(slices, txn, &b.Slices, slice, &b.DeletedSlices, sliceName)
			b.Whole, whole = whole, false
			if b.Complete = complete && !told; b.Complete {
				told = true
			}
		}
		wholePods = false
		if !b.Empty() {
			if err := apply(b); err != nil {
				return err
			}
		}
		if servicesComplete {
			servicesInit = nil
		}
		if slicesComplete {
			slicesInit = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-servicesChanged:
		case <-slicesChanged:
		case <-podsChanged:
		case <-servicesInit:
		case <-slicesInit:
		}
	}
}

// Load returns a directory of the tables as they are.
func Load(t *tables.Tables) *directory.Directory {
	d := directory.New()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = Follow(ctx, t, true, func(b *directory.Batch) error { d.Apply(b); return nil }) // fails only when apply does
	return d
}

// collect appends the changes of a table to rows and deleted, and returns the channel that says that there are more.
func collect[Row, Out, Key any](changes statedb.ChangeIterator[Row], txn statedb.ReadTxn, rows *[]Out, row func(Row) Out, deleted *[]Key, key func(Row) Key) <-chan struct{} {
	seq, more := changes.Next(txn)
	for c := range seq {
		if c.Deleted {
			*deleted = append(*deleted, key(c.Object))
		} else {
			*rows = append(*rows, row(c.Object))
		}
	}
	return more
}

func name(n tables.Name) directory.Name { return directory.Name(n) }

func serviceName(s *tables.Service) directory.Name { return name(s.Name) }

func sliceName(s *tables.EndpointSlice) directory.Name { return name(s.Name) }

func podID(p *tables.LocalPod) string { return p.ID }

func service(s *tables.Service) *directory.Service {
	out := &directory.Service{Name: name(s.Name), External: s.Type == tables.ExternalName, Headless: s.Headless, PublishNotReady: s.PublishNotReady}
	if out.External {
		out.Target = s.ExternalName
		return out
	}
	out.ClusterIPs = s.ClusterIPs
	for _, p := range s.Ports {
		if p.Name != "" {
			out.Ports = append(out.Ports, port(p.Name, p.Protocol, p.Port))
		}
	}
	return out
}

func slice(s *tables.EndpointSlice) *directory.Slice {
	out := &directory.Slice{Name: name(s.Name), Service: s.Service, Endpoints: make([]directory.Endpoint, len(s.Endpoints))}
	for _, p := range s.Ports {
		if p.Name != "" {
			out.Ports = append(out.Ports, port(p.Name, p.Protocol, p.Port))
		}
	}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		out.Endpoints[i] = directory.Endpoint{
			Addr: e.Addr, Hostname: strings.ToLower(e.Hostname), Ready: e.Conditions&tables.Ready != 0, Pod: e.Target.Kind == "Pod" && e.Target.Namespace == s.Name.Namespace,
		}
	}
	return out
}

func port(name string, protocol tables.Protocol, number uint16) directory.Port {
	return directory.Port{Name: strings.ToLower(name), Protocol: strings.ToLower(protocol.String()), Port: number}
}

func pod(p *tables.LocalPod) *directory.Pod {
	ips := make([]netip.Addr, len(p.IPs))
	for i, a := range p.IPs {
		ips[i] = a.WithZone("").Unmap()
	}
	return &directory.Pod{ID: p.ID, Namespace: p.Namespace, IPs: ips}
}
