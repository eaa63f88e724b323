// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// InitConfig is what an init process is told, as JSON in its only argument.
type InitConfig struct {
	Host   Host     `json:"host"`
	Cgroup string   `json:"cgroup"` // below every hierarchy's root
	Dir    string   `json:"dir"`    // the host's own directory
	Socket string   `json:"socket"` // control socket
	Main   []string `json:"main"`   // the main process's arguments; nil for a host without one
	Env    []string `json:"env"`
}

// listenFD is the descriptor of the first inherited API listener, as systemd's socket activation passes them (sd_listen_fds(3)).
const listenFD = 3

// systemCgroup holds, below the host's cgroup, all of its processes that are no pod's. In version 2 a cgroup with processes cannot pass controllers on,
// and the pods' cgroups beside this one need them.
const systemCgroup = "system"

// stageEnv tells the second stage of an init from the first.
const stageEnv = "FAIRLEAD_SANDBOX_STAGE"

// RunInit is PID 1 of a host. It makes the namespace's inside look like a plain host, says "ready" on standard output, serves the
// control socket and reaps orphans. It returns only on error; it ends by being killed.
func RunInit(arg string) error {
	var cfg InitConfig
	if err := json.Unmarshal([]byte(arg), &cfg); err != nil {
		return fmt.Errorf("init configuration: %w", err)
	}
	if os.Getenv(stageEnv) == "" {
		return enterCgroupNamespace(cfg, arg)
	}
	_ = os.Unsetenv(stageEnv)
	// The control socket lives on the host's file system: bind it before the mounts change.
	os.Remove(cfg.Socket)
	ctl, err := net.Listen("unix", cfg.Socket)
	if err != nil {
		return err
	}
	if err := os.Chmod(cfg.Socket, 0o600); err != nil {
		return err
	}
	if err := becomeHost(cfg); err != nil {
		return err
	}
	in := &initProcess{cfg: cfg}
	if count, err := strconv.Atoi(os.Getenv("LISTEN_FDS")); err == nil {
		for fd := listenFD; fd < listenFD+count; fd++ {
			in.listeners = append(in.listeners, os.NewFile(uintptr(fd), "api"))
			unix.CloseOnExec(fd)
		}
	}
	go in.serve(ctl)
	fmt.Println("ready")
	os.Stdout.Close()
	in.reap()
	return nil
}

// enterCgroupNamespace is the first stage: a cgroup namespace belongs to a thread, so the process takes it over by executing itself again from
// the thread that has it.
func enterCgroupNamespace(cfg InitConfig, arg string) error {
	hs, err := hierarchies()
	if err != nil {
		return err
	}
	if err := enterCgroup(hs, cfg.Cgroup); err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("cgroup namespace: %w", err)
	}
	for _, h := range hs {
		if h.Type != "cgroup2" {
			continue
		}
		own := filepath.Join(cfg.Cgroup, systemCgroup)
		if err := os.MkdirAll(filepath.Join(h.Mountpoint, own), 0o755); err != nil {
			return err
		}
		if err := enterCgroup([]hierarchy{h}, own); err != nil {
			return err
		}
	}
	return unix.Exec("/proc/self/exe", []string{os.Args[0], "sandbox", "init", arg}, append(os.Environ(), stageEnv+"=2"))
}

// becomeHost turns the fresh namespaces into a host: mounts, name, loopback.
func becomeHost(cfg InitConfig) error {
	hs, err := hierarchies()
	if err != nil {
		return err
	}
	if err := mountAll(cfg, hs); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(cfg.Host.Name)); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// initProcess supervises one main process.
type initProcess struct {
	cfg       InitConfig
	listeners []*os.File

	mu      sync.Mutex
	main    *exec.Cmd
	exited  chan struct{} // closed when main has ended
	started time.Time
	starts  int
	last    string // how main ended last
}

// start starts the main process; it is an error when one runs already.
func (in *initProcess) start() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.main != nil {
		return fmt.Errorf("%s runs already (pid %d)", in.cfg.Host.Name, in.main.Process.Pid)
	}
	if len(in.cfg.Main) == 0 {
		return fmt.Errorf("%s has no main process", in.cfg.Host.Name)
	}
	log, err := os.OpenFile("/var/log/fairlead.log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(in.cfg.Main[0], in.cfg.Main[1:]...)
	cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}, in.cfg.Env...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, "/"
	if n := len(in.listeners); n > 0 {
		cmd.ExtraFiles = in.listeners
		cmd.Env = append(cmd.Env, "LISTEN_FDS="+strconv.Itoa(n))
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	in.main, in.exited, in.started = cmd, make(chan struct{}), time.Now()
	in.starts++
	return nil
}

// signal sends sig to the main process and waits up to patience for its end.
func (in *initProcess) signal(sig syscall.Signal, patience time.Duration) error {
	in.mu.Lock()
	cmd, exited := in.main, in.exited
	in.mu.Unlock()
	if cmd == nil {
		return nil
	}
	if err := syscall.Kill(cmd.Process.Pid, sig); err != nil {
		return err
	}
	select {
	case <-exited:
		return nil
	case <-time.After(patience):
		return fmt.Errorf("%s did not end within %s of %s", in.cfg.Host.Name, patience, sig)
	}
}

// reap collects every child that ends, as PID 1 must, and notes the end of the main process.
func (in *initProcess) reap() {
	sigs := make(chan os.Signal, 16)
	signal.Notify(sigs, unix.SIGCHLD)
	for range sigs {
		for {
			var ws unix.WaitStatus
			pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil || pid <= 0 {
				break
			}
			in.ended(pid, ws)
		}
	}
}

func (in *initProcess) ended(pid int, ws unix.WaitStatus) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.main == nil || in.main.Process.Pid != pid {
		return
	}
	if ws.Signaled() {
		in.last = "killed by " + ws.Signal().String()
	} else {
		in.last = "exit status " + strconv.Itoa(ws.ExitStatus())
	}
	_ = in.main.Process.Release() // it is reaped already
	in.main = nil
	close(in.exited)
}

func (in *initProcess) status() Status {
	in.mu.Lock()
	defer in.mu.Unlock()
	st := Status{Host: in.cfg.Host.Name, Starts: in.starts, Last: in.last}
	if in.main != nil {
		st.Running, st.Pid, st.Since = true, in.main.Process.Pid, in.started
	}
	return st
}
