// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"

	"github.com/fairlead/fairlead/dataplane/tables"
)

// changes gives a headless service another endpoint, count times, and measures from each change of the agent's tables to the first answer that shows it.
func changes(ctx context.Context, s *running, count int) (p50, p99 float64, err error) {
	conn, err := net.Dial("udp", s.address)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	question, err := new(dns.Msg).SetQuestion("moving.default.svc.cluster.local.", dns.TypeA).Pack()
	if err != nil {
		return 0, 0, err
	}
	name := tables.Name{Namespace: "default", Name: "moving"}
	var took []float64
	buf := make([]byte, 1232)
	for i := range count {
		addr := netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)})
		start := time.Now()
		w := s.tables.DB.WriteTxn(s.tables.Services, s.tables.EndpointSlices)
		_, _, err1 := s.tables.Services.Insert(w, &tables.Service{Name: name, Headless: true})
		_, _, err2 := s.tables.EndpointSlices.Insert(w, &tables.EndpointSlice{Name: name, Service: name.Name, Endpoints: []tables.Endpoint{{Addr: addr, Conditions: tables.Ready}}})
		w.Commit()
		if err1 != nil || err2 != nil {
			return 0, 0, fmt.Errorf("change a row: %v %v", err1, err2)
		}
		for ok := false; !ok; {
			if ctx.Err() != nil {
				return 0, 0, ctx.Err()
			}
			if _, err := conn.Write(question); err != nil {
				return 0, 0, err
			}
			_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second)) // a UDP socket has deadlines
			n, err := conn.Read(buf)
			if err != nil {
				return 0, 0, fmt.Errorf("change %d: %w", i, err)
			}
			a := addr.As4()
			ok = n > 4 && [4]byte(buf[n-4:n]) == a
		}
		took = append(took, time.Since(start).Seconds()*1e3)
		time.Sleep(5 * time.Millisecond) // changes come one by one
	}
	slices.Sort(took)
	return took[len(took)/2], took[len(took)*99/100], nil
}
