// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/fairlead/fairlead/cmd/fairlead/memory"
	"github.com/fairlead/fairlead/controlplane/server"
	"github.com/fairlead/fairlead/hack/bench/report"
)

// childDir is the environment variable that makes this program the server under test.
const childDir = "FAIRLEAD_BENCH_API_DIR"

// serve runs a control plane in dir and prints the kubeconfig's path when it is ready.
func serve(dir string) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := server.Run(ctx, server.Config{
		DataDir: dir, BindAddress: "127.0.0.1", Port: -1, AdvertiseAddresses: []string{"127.0.0.1"},
		OnReady: func(e server.Env) { fmt.Println(e.AdminKubeconfig) }, Idle: memory.GiveBack,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// child is a server under test.
type child struct {
	dir    string
	cmd    *exec.Cmd
	config *rest.Config
	ready  time.Duration // from exec to /readyz
}

// startChild starts a server in an empty directory and waits until it is ready.
func startChild(ctx context.Context) (*child, error) {
	dir, err := os.MkdirTemp("", "bench-api")
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{dir: dir, cmd: exec.CommandContext(ctx, self)}
	c.cmd.Env = append(os.Environ(), childDir+"="+dir)
	c.cmd.Stderr = os.Stderr
	c.cmd.Cancel = func() error { return c.cmd.Process.Signal(syscall.SIGTERM) }
	c.cmd.WaitDelay = 20 * time.Second
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	started := time.Now()
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	path, err := bufio.NewReader(stdout).ReadString('\n')
	c.ready = time.Since(started)
	if err != nil {
		c.stop()
		return nil, fmt.Errorf("the server under test was never ready: %w", err)
	}
	if c.config, err = clientcmd.BuildConfigFromFlags("", strings.TrimSpace(path)); err != nil {
		c.stop()
		return nil, err
	}
	c.config.QPS = -1
	c.config.ContentType = "application/vnd.kubernetes.protobuf"
	return c, nil
}

func (c *child) stop() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	_ = c.cmd.Wait()
	os.RemoveAll(c.dir)
}

// resident returns the child's resident memory in MB (10^6 bytes).
func (c *child) resident() (float64, error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(c.cmd.Process.Pid), "status"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			return kib * 1024 / 1e6, err
		}
	}
	return 0, fmt.Errorf("no VmRSS of process %d", c.cmd.Process.Pid)
}

// cpu returns how much processor time the child has used.
func (c *child) cpu() (time.Duration, error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(c.cmd.Process.Pid), "stat"))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(data), ") ") // the name of the program may hold anything
	fields := strings.Fields(rest)
	const utime, stime, perSecond = 11, 12, 100 // proc(5), from the third field on; USER_HZ
	if len(fields) <= stime {
		return 0, fmt.Errorf("/proc/%d/stat is too short", c.cmd.Process.Pid)
	}
	user, err := strconv.ParseInt(fields[utime], 10, 64)
	system, err2 := strconv.ParseInt(fields[stime], 10, 64)
	return time.Duration(user+system) * time.Second / perSecond, errors.Join(err, err2)
}

// profile starts to profile the child for a while if file is not empty. The returned function waits for it.
func (c *child) profile(ctx context.Context, client kubernetes.Interface, file string, d time.Duration) func() error {
	if file == "" {
		return func() error { return nil }
	}
	done := make(chan error, 1)
	go func() {
		data, err := client.CoreV1().RESTClient().Get().AbsPath("/debug/pprof/profile").Param("seconds", strconv.Itoa(int(d.Seconds()))).
			SetHeader("Accept", "*/*").Timeout(time.Minute).DoRaw(ctx)
		if err == nil {
			err = os.WriteFile(file, data, 0o644)
		}
		done <- err
	}()
	return func() error { return <-done }
}

func measureStart(ctx context.Context, rounds int) (report.Row, error) {
	var took []float64
	for range rounds {
		c, err := startChild(ctx)
		if err != nil {
			return report.Row{}, err
		}
		took = append(took, float64(c.ready.Milliseconds()))
		c.stop()
	}
	return report.Figure("start", "empty directory to /readyz", "ms", took...).AtMost(1000), nil
}
