// SPDX-License-Identifier: Apache-2.0

// Package pods measures how long pods take to run on one real node: API server and store in this process, agent, containerd and containers in
// their own, pods bound to the node (no scheduler), the CNI plugins bridge and host-local. `make bench-pods` runs it in full; as a test it runs
// a few pods to stay working, and then holds no target.
package pods

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/fairlead/fairlead/controlplane/apiserver"
	"github.com/fairlead/fairlead/hack/bench/report"
	"github.com/fairlead/fairlead/hack/nodetest"
)

var (
	full   = flag.Bool("full", false, "all pods, and targets are checked")
	output = flag.String("out", "", "folder of the JSON report")
)

func TestMain(m *testing.M) { nodetest.Main(m) }

func TestPods(t *testing.T) {
	single, many := 5, 10
	if *full {
		single, many = 50, 100
	}
	identity := nodetest.NewIdentity(t)
	n := nodetest.StartWith(t, func(c *apiserver.Config) {
		c.Kubelet.CertFile, c.Kubelet.KeyFile, c.Kubelet.Insecure = identity.Cert, identity.Key, true
	}, func(c *nodetest.Config) { c.Kubelet.Address, c.Kubelet.ClientCAFile = "", identity.CA })
	n.Down()
	n.Spawn()
	bench := &bench{n: n, t: t, seen: map[string]time.Time{}}
	stop := bench.watch()
	defer stop()

	bench.one("warm-up")
	before := bench.stages()
	var took, created []float64 // ms
	for i := range single {
		api, all := bench.one(fmt.Sprintf("single-%d", i))
		took, created = append(took, ms(all)), append(created, ms(api))
	}
	after := bench.stages()

	out := report.New("pods")
	out.About = fmt.Sprintf("%d single pods, then %d at once; spread of the p50: distance of the quartiles", single, many)
	add := func(name, metric, unit string, rounds ...float64) {
		out.Add(report.Figure(name, metric, unit, rounds...))
	}
	atMost := func(limit float64, name, metric, unit string, value float64) {
		out.Add(report.Figure(name, metric, unit, value).AtMost(limit))
	}
	const one = "single pod, create to Running"
	out.Add(report.Figure(one, "p50", "ms", report.Quantile(took, .5)).WithSpread(report.Quartiles(took)).AtMost(500))
	atMost(1000, one, "p99", "ms", report.Quantile(took, .99))
	add(one, "API create request, p50", "ms", report.Quantile(created, .5))
	for _, stage := range []string{"sandbox", "image", "container", "running"} {
		if count := after[stage].count - before[stage].count; count > 0 {
			label := map[string]string{"sandbox": "sandbox with network", "image": "image lookup", "container": "make and start container",
				"running": "kubelet, seen to Running"}[stage]
			add(one, label+", mean", "ms", 1000*(after[stage].sum-before[stage].sum)/count)
		}
	}

	idle := rss(t, n.AgentPID())
	began := time.Now()
	for i := range many {
		n.Create(nodetest.Pod(fmt.Sprintf("many-%d", i), "forever"))
	}
	for i := range many {
		bench.wait(fmt.Sprintf("many-%d", i))
	}
	crowd := fmt.Sprintf("%d pods", many)
	atMost(40*float64(many)/100, crowd, "all Running", "s", time.Since(began).Seconds())
	add("no pods", "agent, resident", "MB", idle)
	atMost(120, crowd, "agent, resident", "MB", rss(t, n.AgentPID()))
	add(crowd, "of it not shared with the executable's file", "MB", memory(t, n.AgentPID(), "RssAnon:"))
	add(crowd, "containerd, resident", "MB", rss(t, n.RuntimePID()))
	add(crowd, "one shim, resident", "MB", shimRSS(t, n))
	if err := out.Print(os.Stdout); err != nil {
		t.Fatal(err)
	}
	if *output != "" {
		if _, err := out.Write(*output); err != nil {
			t.Fatal(err)
		}
	}
	if *full {
		for _, r := range out.Rows {
			if r.Holds != nil && !*r.Holds {
				t.Errorf("%s, %s: %.1f %s, target at most %g", r.Case, r.Metric, r.Ours, r.Unit, *r.Target)
			}
		}
	}
}

type bench struct {
	n    *nodetest.Node
	t    *testing.T
	seen map[string]time.Time
	news chan string
}

// watch notes when each pod is first seen Running.
func (b *bench) watch() (stop func()) {
	watcher, err := b.n.Client.CoreV1().Pods("default").Watch(context.Background(), metav1.ListOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	b.news = make(chan string, 4096)
	go func() {
		running := map[string]bool{}
		for event := range watcher.ResultChan() {
			if pod, ok := event.Object.(*v1.Pod); ok && event.Type != watch.Deleted && pod.Status.Phase == v1.PodRunning && !running[pod.Name] {
				running[pod.Name] = true
				b.news <- pod.Name
			}
		}
	}()
	return watcher.Stop
}

// wait waits until the pod has been seen Running and returns when that was noticed.
func (b *bench) wait(name string) time.Time {
	deadline := time.After(2 * time.Minute)
	for {
		if at, ok := b.seen[name]; ok {
			return at
		}
		select {
		case running := <-b.news:
			b.seen[running] = time.Now()
		case <-deadline:
			b.t.Fatalf("%s does not run: %v", name, b.n.Events(name))
		}
	}
}

// one runs a single pod and removes it.
func (b *bench) one(name string) (api, all time.Duration) {
	began := time.Now()
	b.n.Create(nodetest.Pod(name, "forever"))
	api = time.Since(began)
	all = b.wait(name).Sub(began)
	b.n.Delete(name)
	return api, all
}

type stage struct{ sum, count float64 }

var stageLine = regexp.MustCompile(`fairlead_kubelet_pod_start_stage_seconds_(sum|count)\{stage="(\w+)"\} (\S+)`)

// stages reads the kubelet's own measurements.
func (b *bench) stages() map[string]stage {
	data, err := b.n.Client.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes/" + nodetest.NodeName + "/proxy/metrics").DoRaw(context.Background())
	if err != nil {
		b.t.Fatal(err)
	}
	out := map[string]stage{}
	for _, match := range stageLine.FindAllStringSubmatch(string(data), -1) {
		value, err := strconv.ParseFloat(match[3], 64)
		if err != nil {
			b.t.Fatal(err)
		}
		s := out[match[2]]
		if match[1] == "sum" {
			s.sum = value
		} else {
			s.count = value
		}
		out[match[2]] = s
	}
	return out
}

// rss is a process's resident memory in MB (10^6 bytes).
func rss(t *testing.T, pid int) float64 { return memory(t, pid, "VmRSS:") }

// memory is a field of /proc/pid/status in MB.
func memory(t *testing.T, pid int, field string) float64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == field {
			kib, err := strconv.ParseFloat(fields[1], 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib * 1024 / 1e6
		}
	}
	t.Fatal("no " + field)
	return 0
}

// shimRSS is the mean over this node's shims.
func shimRSS(t *testing.T, n *nodetest.Node) float64 {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	total, count := 0.0, 0.0
	for _, file := range files {
		data, err := os.ReadFile(file)
		var pid int
		if _, scan := fmt.Sscanf(file, "/proc/%d/", &pid); err != nil || scan != nil || !strings.Contains(string(data), n.Config.Containerd.RunDir) ||
			!strings.Contains(string(data), "-namespace") {
			continue
		}
		total, count = total+rss(t, pid), count+1
	}
	return total / max(count, 1)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
