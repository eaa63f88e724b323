// SPDX-License-Identifier: Apache-2.0

// Command dns measures Fairlead's DNS server beside CoreDNS with its own kubernetes plugin: the same objects, the same load, in turns. Each server is a process as it is
// in use, pinned to one core; the load comes from this process on the other cores.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/dataplane/dns/dnstest"
	"github.com/fairlead/fairlead/hack/bench/report"
)

type options struct {
	services, endpoints int
	sockets, window     int
	rounds, changes     int
	duration            time.Duration
	server, coredns     string
}

func main() {
	var o options
	flag.IntVar(&o.services, "services", 5000, "services")
	flag.IntVar(&o.endpoints, "endpoints", 50000, "endpoints of all services together")
	flag.IntVar(&o.sockets, "sockets", 4, "client sockets")
	flag.IntVar(&o.window, "window", 8, "look-ups in flight on each socket")
	flag.IntVar(&o.rounds, "rounds", 3, "times that each server takes each load")
	flag.IntVar(&o.changes, "changes", 1000, "changes of an endpoint, of each of which it is measured when it is answered")
	flag.DurationVar(&o.duration, "duration", 2*time.Second, "time of each measurement")
	flag.StringVar(&o.server, "server", "", "fairlead-dns (default: built)")
	flag.StringVar(&o.coredns, "coredns", "", "the program of hack/bench/dns/coredns (default: built)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := o.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench dns:", err)
		os.Exit(1)
	}
}

func (o options) run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "bench-dns")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if o.server, err = program(ctx, o.server, dir, "github.com/fairlead/fairlead/cmd/fairlead-dns"); err != nil {
		return err
	}
	if o.coredns, err = program(ctx, o.coredns, dir, "github.com/fairlead/fairlead/hack/bench/dns/coredns"); err != nil {
		return err
	}
	all := objects(o.services, o.endpoints)
	api := all.Serve()
	defer api.Close()
	upstream, stop, err := world()
	if err != nil {
		return err
	}
	defer stop()
	ours, err := startFairlead(ctx, o.server, dir, upstream, all)
	if err != nil {
		return err
	}
	defer ours.stop()
	theirs, err := startCoreDNS(ctx, o.coredns, api.URL, upstream, o.services)
	if err != nil {
		return err
	}
	defer theirs.stop()
	if runtime.NumCPU() > 1 {
		for pid, core := range map[int]int{ours.pid: 0, theirs.pid: 0, os.Getpid(): 1} {
			if err := pin(pid, core); err != nil {
				return err
			}
		}
	}
	fmt.Printf("%d services, %d endpoints; %d look-ups in flight on each of %d sockets; %d rounds of %s\n", o.services, o.endpoints, o.window, o.sockets, o.rounds, o.duration)
	rep := report.New("dns")
	idle := [2]float64{resident(ours.pid), resident(theirs.pid)}
	for _, l := range loads(o.services) {
		if err := o.compare(ctx, rep, l, ours, theirs); err != nil {
			return err
		}
	}
	busy := [2]float64{resident(ours.pid), resident(theirs.pid)}
	rep.Add(report.Figure("before the load", "resident", "MB", idle[0]).Against("coredns", idle[:1], idle[1:]).AtMost(0.5),
		report.Figure("after the load", "resident", "MB", busy[0]).Against("coredns", busy[:1], busy[1:]).AtMost(0.5))
	p50, p99, err := changes(ctx, ours, o.changes)
	if err != nil {
		return err
	}
	rep.Add(report.Figure("endpoint changed in the agent's tables to answer", "p50", "ms", p50), report.Figure("endpoint changed in the agent's tables to answer", "p99", "ms", p99).AtMost(10))
	return rep.Finish(os.Stdout, "out/bench")
}

// compare puts one load on both servers in turns.
func (o options) compare(ctx context.Context, rep *report.Report, l load, ours, theirs *running) error {
	var rate, p50, p99, cpu [2][]float64
	for range o.rounds {
		for i, s := range []*running{ours, theirs} {
			before := cpuTime(s.pid)
			r, err := o.load(ctx, s.address, l)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", s.name, l.about, err)
			}
			if r.failed > r.answered/1000 {
				return fmt.Errorf("%s, %s: %d of %d look-ups failed", s.name, l.about, r.failed, r.answered+r.failed)
			}
			rate[i] = append(rate[i], r.rate)
			p50[i], p99[i] = append(p50[i], r.p50.Seconds()*1e6), append(p99[i], r.p99.Seconds()*1e6)
			cpu[i] = append(cpu[i], (cpuTime(s.pid)-before).Seconds()*1e6/float64(max(r.answered, 1)))
		}
	}
	rep.Add(report.Figure(l.about, "look-ups", "1/s", rate[0]...).Against("coredns", rate[0], rate[1]).AtLeast(l.target),
		report.Figure(l.about, "p50", "us", p50[0]...).Against("coredns", p50[0], p50[1]),
		report.Figure(l.about, "p99", "us", p99[0]...).Against("coredns", p99[0], p99[1]),
		report.Figure(l.about, "server CPU each", "us", cpu[0]...).Against("coredns", cpu[0], cpu[1]))
	return ctx.Err()
}

func namespace(i int) string { return fmt.Sprintf("ns-%d", i%100) }

func clusterIP(i int) string { return fmt.Sprintf("10.96.%d.%d", i>>8, i&255) }

func serviceName(i int) string { return fmt.Sprintf("svc-%d.%s.svc.cluster.local.", i, namespace(i)) }

// objects makes the cluster: every tenth service is headless.
func objects(services, endpoints int) *dnstest.Objects {
	o := &dnstest.Objects{}
	for i := range 100 {
		o.Namespaces = append(o.Namespaces, corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace(i)}})
	}
	each := max(endpoints/services, 1)
	for i := range services {
		name, ip := fmt.Sprintf("svc-%d", i), clusterIP(i)
		if i%10 == 5 {
			ip = "None"
		}
		meta := metav1.ObjectMeta{Namespace: namespace(i), Name: name}
		o.Services = append(o.Services, corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip},
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}}}})
		meta.Name += "-a"
		meta.Labels = map[string]string{discoveryv1.LabelServiceName: name}
		s := discoveryv1.EndpointSlice{ObjectMeta: meta, AddressType: discoveryv1.AddressTypeIPv4,
			Ports: []discoveryv1.EndpointPort{{Name: ptr.To("http"), Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To[int32](8080)}}}
		for j := range each {
			n := i*each + j
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.%d.%d.%d", 128+n>>16, n>>8&255, n&255)},
				Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}, NodeName: ptr.To(fmt.Sprintf("node-%d", n%500)),
				TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: namespace(i), Name: fmt.Sprintf("pod-%d", n)}})
		}
		o.Slices = append(o.Slices, s)
	}
	return o
}
