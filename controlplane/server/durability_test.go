// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	kubectlcmd "k8s.io/kubectl/pkg/cmd"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
)

// childConfig makes the test binary a control plane with that Config in JSON, to be killed.
const childConfig = "FAIRLEAD_TEST_SERVER_CONFIG"

func TestMain(m *testing.M) {
	if os.Getenv(childKubectl) != "" {
		cmdutil.CheckErr(kubectlcmd.NewKubectlCommand(kubectlcmd.KubectlOptions{IOStreams: genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr},
			ConfigFlags: genericclioptions.NewConfigFlags(true), Arguments: os.Args}).Execute())
		return
	}
	if os.Getenv(childProvider) != "" {
		fmt.Fprintln(os.Stderr, serveProvider())
		os.Exit(1)
	}
	if text := os.Getenv(childConfig); text != "" {
		var cfg Config
		if err := json.Unmarshal([]byte(text), &cfg); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		cfg.OnReady = func(e Env) { fmt.Println(e.AdminKubeconfig) }
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		if err := Run(ctx, cfg); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// spawn starts a control plane in dir as a process of its own and returns a client once it is ready.
func spawn(t *testing.T, dir string) (kubernetes.Interface, *exec.Cmd) {
	t.Helper()
	p := spawnConfig(t, Config{DataDir: dir, BindAddress: "127.0.0.1", Port: -1})
	return p.client, p.cmd
}

// process is a control plane in a process of its own.
type process struct {
	cmd        *exec.Cmd
	kubeconfig string
	config     *rest.Config
	client     kubernetes.Interface
	stderr     *strings.Builder // to be read when it has ended
}

func spawnConfig(t *testing.T, config Config) *process {
	t.Helper()
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childConfig+"="+string(text))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	path, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		_ = cmd.Wait()
		t.Fatalf("the control plane was never ready: %v\n%s", err, stderr.String())
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", strings.TrimSpace(path))
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS, cfg.Timeout = -1, 20*time.Second
	return &process{cmd: cmd, kubeconfig: strings.TrimSpace(path), config: cfg, client: kubernetes.NewForConfigOrDie(cfg), stderr: &stderr}
}

// TestKillNine kills the control plane in the middle of writes, again and again, and looks for every write that was acknowledged. The count of
// rounds is FAIRLEAD_TEST_KILLS, by default few enough for a test run; with 20 it is ten thousand writes.
func TestKillNine(t *testing.T) {
	const writers, perRound = 8, 500
	kills := 4
	if n, err := strconv.Atoi(os.Getenv("FAIRLEAD_TEST_KILLS")); err == nil {
		kills = n
	}
	dir := shortDir(t)
	acknowledged := map[string]string{} // name -> resource version
	var revision int64
	for round := range kills {
		client, cmd := spawn(t, dir)
		verify(t, client, acknowledged, &revision)
		var mu sync.Mutex
		var count atomic.Int64
		var group sync.WaitGroup
		dead := make(chan struct{})
		for w := range writers {
			group.Go(func() {
				for i := 0; ; i++ {
					name := fmt.Sprintf("r%d-w%d-%d", round, w, i)
					obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"name": name, "pad": strings.Repeat(name, 50)}}
					made, err := client.CoreV1().ConfigMaps("default").Create(context.Background(), obj, metav1.CreateOptions{})
					if err != nil {
						select {
						case <-dead:
						default:
							t.Errorf("create before the kill: %v", err)
						}
						return
					}
					mu.Lock()
					acknowledged[name] = made.ResourceVersion
					mu.Unlock()
					if count.Add(1) == perRound {
						close(dead)
						_ = cmd.Process.Kill()
					}
				}
			})
		}
		group.Wait()
		_ = cmd.Wait()
	}
	client, _ := spawn(t, dir)
	verify(t, client, acknowledged, &revision)
	t.Logf("%d acknowledged writes over %d kills, all there", len(acknowledged), kills)
}

// verify compares what is stored with what was acknowledged. An unacknowledged write may be there too, but whole.
func verify(t *testing.T, client kubernetes.Interface, acknowledged map[string]string, revision *int64) {
	t.Helper()
	list, err := client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	now, err := strconv.ParseInt(list.ResourceVersion, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if now < *revision {
		t.Errorf("the revision went back from %d to %d", *revision, now)
	}
	*revision = now
	stored := map[string]string{}
	for _, c := range list.Items {
		if c.Data["name"] != "" && (c.Data["name"] != c.Name || c.Data["pad"] != strings.Repeat(c.Name, 50) || c.UID == "") {
			t.Errorf("half an object: %s", c.Name)
		}
		stored[c.Name] = c.ResourceVersion
	}
	for name, version := range acknowledged {
		if stored[name] != version {
			t.Errorf("%s was acknowledged at resource version %s and is stored at %q", name, version, stored[name])
		}
	}
}

// TestFullDisk fills the file system of the store: writes are refused with an error, reads go on, and writes succeed again when space is back.
func TestFullDisk(t *testing.T) {
	dir := shortDir(t)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=512m"); err != nil {
		t.Fatalf("mount a small file system (the test needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	client, cmd := spawn(t, dir)
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}()
	maps := client.CoreV1().ConfigMaps("default")
	create := func(name string) error {
		_, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		return err
	}
	if err := create("before"); err != nil {
		t.Fatal(err)
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	free := int64(st.Bavail) * st.Bsize
	if err := os.WriteFile(dir+"/ballast", make([]byte, free-(32<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "a write is refused", func(i int) bool {
		err := create(fmt.Sprintf("full-%d", i))
		return err != nil && strings.Contains(err.Error(), "space")
	})
	if _, err := maps.Get(t.Context(), "before", metav1.GetOptions{}); err != nil {
		t.Errorf("a read with a full disk: %v", err)
	}
	if err := maps.Delete(t.Context(), "before", metav1.DeleteOptions{}); err != nil {
		t.Errorf("a deletion with a full disk: %v", err)
	}
	if err := os.Remove(dir + "/ballast"); err != nil {
		t.Fatal(err)
	}
	until(t, "a write succeeds", func(i int) bool {
		err := create(fmt.Sprintf("after-%d", i))
		return err == nil || apierrors.IsAlreadyExists(err)
	})
}

func until(t *testing.T, what string, f func(i int) bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for i := 0; !f(i); i++ {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
