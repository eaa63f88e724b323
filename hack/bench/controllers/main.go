// SPDX-License-Identifier: Apache-2.0

// Command controllers measures the controllers against the real API server and simulated nodes: Deployments are rolled out, updated, rolled back, and a tenth of the nodes
// is drained through evictions. The API server and the simulated kubelets (package controllertest) run in this process, the controllers in a child,
// so that their CPU time and memory can be told apart. Containers, networks and the scheduler are not part of it: the simulated kubelets bind pods themselves.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/controlplane/controllers"
	"github.com/fairlead/fairlead/controlplane/controllers/controller"
	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/server"
	"github.com/fairlead/fairlead/hack/bench/report"
)

const (
	clusterCIDR = "10.128.0.0/12"
	port        = 7169
	// childEnv makes the process the child: it names the kubeconfig.
	childEnv = "FAIRLEAD_BENCH_CONTROLLERS"
	// profileEnv names the file into which the child writes a CPU profile of its life.
	profileEnv = "FAIRLEAD_BENCH_PROFILE"
)

type options struct {
	nodes, deployments, replicas int
	out, profile                 string
}

func main() {
	o := options{}
	flag.IntVar(&o.nodes, "nodes", 1000, "simulated nodes")
	flag.IntVar(&o.deployments, "deployments", 10, "Deployments")
	flag.IntVar(&o.replicas, "replicas", 1000, "pods of each Deployment")
	flag.StringVar(&o.out, "out", "out/bench", "folder of the JSON report")
	flag.StringVar(&o.profile, "cpuprofile", "", "write a CPU profile of the controllers here, and one of API server and nodes beside it, with the suffix .server")
	quick := flag.Bool("quick", false, "20 nodes, 2 Deployments of 20 pods: to keep the benchmark working")
	flag.Parse()
	if *quick {
		o.nodes, o.deployments, o.replicas = 20, 2, 20
	}
	klog.SetLogger(klog.New(nil))
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	work := func() error { return run(ctx, o, os.Stdout) }
	if kubeconfig := os.Getenv(childEnv); kubeconfig != "" {
		work = func() error { return child(ctx, kubeconfig) }
	}
	if err := work(); err != nil {
		fmt.Fprintln(os.Stderr, "bench controllers:", err)
		os.Exit(1)
	}
}

// profile writes a CPU profile of this process to a file until stop is called; an empty name means none.
func profile(name string) (stop func(), err error) {
	if name == "" {
		return func() {}, nil
	}
	file, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	return func() { pprof.StopCPUProfile(); file.Close() }, pprof.StartCPUProfile(file)
}

// child runs the controllers until ctx ends.
func child(ctx context.Context, kubeconfig string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	stop, err := profile(os.Getenv(profileEnv))
	if err != nil {
		return err
	}
	defer stop()
	return controllers.Run(ctx, controllers.Config{RESTConfig: config, Settings: controller.Settings{
		ClusterCIDRs: []string{clusterCIDR}, ServiceCIDRs: []string{"10.96.0.0/16"}, ClusterDomain: "cluster.local", RootCA: config.CAData,
	}})
}

func run(ctx context.Context, o options, w io.Writer) error {
	dir, err := os.MkdirTemp("", "bench-controllers")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, stop := context.WithCancel(ctx)
	kubeconfig := filepath.Join(dir, "kubeconfig")
	config := make(chan *rest.Config, 1)
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, dir, kubeconfig, o.nodes, config) }()
	defer func() { stop(); <-ended }()
	select {
	case err := <-ended:
		ended <- nil // for the deferred wait
		return errors.Join(errors.New("the API server ended before it was ready"), err)
	case c := <-config:
		c = rest.CopyConfig(c)
		c.QPS, c.ContentType = -1, "application/vnd.kubernetes.protobuf"
		client, err := kubernetes.NewForConfig(c)
		if err != nil {
			return err
		}
		return measure(ctx, o, client, kubeconfig, w)
	}
}

// serve runs the API server and the simulated nodes.
func serve(ctx context.Context, dir, kubeconfig string, nodes int, config chan<- *rest.Config) error {
	cfg := server.Config{
		DataDir: filepath.Join(dir, "data"), BindAddress: "127.0.0.1", Port: port, AdvertiseAddresses: []string{"192.0.2.1"}, Kubeconfig: kubeconfig,
		ClusterCIDRs: []string{clusterCIDR},
	}
	cfg.Components = []server.Component{{Name: "kubelets", Run: func(ctx context.Context, env server.Env) error {
		c := rest.CopyConfig(env.Client)
		c.QPS, c.ContentType = -1, "application/vnd.kubernetes.protobuf" // as kubelets speak
		client, err := kubernetes.NewForConfig(c)
		if err != nil {
			return err
		}
		config <- env.Client
		return (&controllertest.Kubelets{Client: client, Nodes: nodes, Heartbeat: 10 * time.Second}).Run(ctx)
	}}}
	return server.Run(ctx, cfg)
}

func measure(ctx context.Context, o options, client kubernetes.Interface, kubeconfig string, w io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env, cmd.Stderr = append(os.Environ(), childEnv+"="+kubeconfig), os.Stderr
	if o.profile != "" {
		cmd.Env = append(cmd.Env, profileEnv+"="+o.profile)
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the controllers: %w", err)
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}()
	load := &load{client: client, o: o}
	if err := load.waitForNodes(ctx); err != nil {
		return err
	}
	own := ""
	if o.profile != "" {
		own = o.profile + ".server"
	}
	stop, err := profile(own)
	if err != nil {
		return err
	}
	defer stop()
	rep := report.New("controllers")
	for _, phase := range []struct {
		name string
		run  func(context.Context) (pods int, err error)
	}{
		{"roll out", load.rollOut}, {"update", func(ctx context.Context) (int, error) { return load.image(ctx, "app:2") }},
		{"roll back", func(ctx context.Context) (int, error) { return load.image(ctx, "app:1") }}, {"drain a tenth of the nodes", load.drain},
	} {
		before, err := usageOf(cmd.Process.Pid)
		if err != nil {
			return err
		}
		start := time.Now()
		pods, err := phase.run(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", phase.name, err)
		}
		took := time.Since(start)
		after, err := usageOf(cmd.Process.Pid)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s: %d pods in %v\n", phase.name, pods, took.Round(100*time.Millisecond))
		rep.Add(
			report.Figure(phase.name, "time", "s", took.Seconds()),
			report.Figure(phase.name, "new pods available", "pods/s", float64(pods)/took.Seconds()),
			report.Figure(phase.name, "CPU of the controllers", "s", (after.cpu-before.cpu).Seconds()),
			report.Figure(phase.name, "resident memory of the controllers", "MB", float64(after.rss)/1e6),
		)
	}
	return rep.Finish(w, o.out)
}
