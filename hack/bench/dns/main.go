// SPDX-License-Identifier: Apache-2.0

// Command dns measures Fairlead's DNS server beside CoreDNS with its own kubernetes plugin: the same objects from the same API, one server at a time in a
// process of its own, the same load from this process. Load and server share the machine's cores, as on a node. It prints what it measured and nothing else.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/dataplane/dns/dnstest"
)

type options struct {
	services, endpoints, workers int
	duration                     time.Duration
	child, api, upstream         string
	port                         int
}

func main() {
	var o options
	flag.IntVar(&o.services, "services", 5000, "services")
	flag.IntVar(&o.endpoints, "endpoints", 50000, "endpoints of all services together")
	flag.IntVar(&o.workers, "workers", 16, "clients that ask at the same time")
	flag.DurationVar(&o.duration, "duration", 5*time.Second, "time of each measurement")
	flag.StringVar(&o.child, "child", "", "internal: the server to be")
	flag.StringVar(&o.api, "api", "", "internal: URL of the objects")
	flag.StringVar(&o.upstream, "upstream", "", "internal: server for other names")
	flag.IntVar(&o.port, "port", 0, "internal: port to answer on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if o.child != "" {
		err = serve(ctx, o)
	} else {
		err = o.run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench dns:", err)
		os.Exit(1)
	}
}

func (o options) run(ctx context.Context) error {
	api := objects(o.services, o.endpoints).Serve()
	defer api.Close()
	o.api = api.URL
	upstream, stop, err := world()
	if err != nil {
		return err
	}
	defer stop()
	o.upstream = upstream
	fmt.Printf("%d services, %d endpoints, %d clients, %s for each row; a look-up is what an application waits for\n", o.services, o.endpoints, o.workers, o.duration)
	fmt.Printf("%-10s %-34s %12s %10s %10s %8s %12s %10s\n", "server", "look-up", "look-ups/s", "p50", "p99", "failed", "CPU each", "resident")
	for _, server := range []string{"fairlead", "coredns"} {
		if err := o.measure(ctx, server); err != nil {
			return fmt.Errorf("%s: %w", server, err)
		}
	}
	return nil
}

// measure starts one server and puts each load on it.
func (o options) measure(ctx context.Context, server string) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "-child", server, "-api", o.api, "-upstream", o.upstream, "-port", strconv.Itoa(port))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		_ = cmd.Process.Signal(os.Interrupt) // it may have ended
		_ = cmd.Wait()                       // measured already
	}()
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	if err := answers(ctx, address, o.services); err != nil {
		return err
	}
	for _, l := range loads(o.services) {
		before := cpuTime(cmd.Process.Pid)
		r := o.load(ctx, address, l)
		each := time.Duration(0)
		if r.answered > 0 {
			each = ((cpuTime(cmd.Process.Pid) - before) / time.Duration(r.answered)).Round(100 * time.Nanosecond)
		}
		fmt.Printf("%-10s %-34s %12.0f %10s %10s %8d %12s %7d MB\n", server, l.about, r.rate, r.p50, r.p99, r.failed, each, resident(cmd.Process.Pid)>>20)
	}
	return ctx.Err()
}

// answers waits until the server knows the last service.
func answers(ctx context.Context, address string, services int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	c := &dns.Client{Timeout: time.Second}
	for {
		r, _, err := c.ExchangeContext(ctx, new(dns.Msg).SetQuestion(serviceName(services-1), dns.TypeA), address)
		if err == nil && len(r.Answer) > 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("does not answer: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// cpuTime is what a process has used of the cores, which other work on the machine does not change as much as it does rates.
func cpuTime(pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, _ := strconv.Atoi(f[11])   // fields 14 and 15 of proc(5), in ticks of 10 ms
	system, _ := strconv.Atoi(f[12]) // the kernel writes numbers
	return time.Duration(user+system) * 10 * time.Millisecond
}

func resident(pid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
			kb, _ := strconv.Atoi(f[1]) // the kernel writes a number
			return kb << 10
		}
	}
	return 0
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
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
