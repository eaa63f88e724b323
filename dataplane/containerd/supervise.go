// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

const (
	startTimeout  = 60 * time.Second
	stopTimeout   = 10 * time.Second
	minBackoff    = 200 * time.Millisecond
	maxBackoff    = 30 * time.Second
	stableAfter   = time.Minute // a daemon that lived this long restarts at once when it dies
	maxLogSize    = 16 << 20    // the daemon's log is turned over at a start beyond this
	readyInterval = 20 * time.Millisecond
)

// Run writes the configuration, starts the daemon or adopts the one an earlier agent started, imports the sandbox image and the archives of
// ImageDir, calls ready (when not nil) once each time CRI answers, and starts the daemon again whenever it dies. It returns when ctx ends;
// containers, and the daemon unless StopWithAgent is set, live on.
func Run(ctx context.Context, cfg Config, ready func(ctx context.Context) error) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	log := klog.FromContext(ctx).WithName("containerd")
	ctx = klog.NewContext(ctx, log)
	host := ProbeHost()
	if host.RestrictOOM {
		log.Info("This process may not lower oom_score_adj (no CAP_SYS_RESOURCE): all pods get at least the agent's own score")
	}
	if err := cfg.prepare(host); err != nil {
		return err
	}
	backoff := minBackoff
	for ctx.Err() == nil {
		started := time.Now()
		daemon, err := startOrAdopt(ctx, cfg)
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			log.Error(err, "Start of the container runtime failed; trying again", "after", backoff)
		} else {
			serve(ctx, cfg, daemon, ready)
			if ctx.Err() != nil {
				if cfg.StopWithAgent {
					daemon.stop(stopTimeout)
				}
				daemon.release()
				break
			}
			daemon.release()
			log.Info("The container runtime ended; starting it again", "pid", daemon.pid, "lived", time.Since(started).Round(time.Millisecond))
		}
		if time.Since(started) > stableAfter {
			backoff = minBackoff
			continue
		}
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
		}
		backoff = min(2*backoff, maxBackoff)
	}
	return nil
}

// serve does the work of one daemon's life: images, the caller's ready, then waiting for its end or ctx's.
func serve(ctx context.Context, cfg Config, daemon *process, ready func(context.Context) error) {
	log := klog.FromContext(ctx)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := importAll(ctx, cfg); err != nil && ctx.Err() == nil {
			log.Error(err, "Import of images failed")
		}
		if ready != nil {
			if err := ready(ctx); err != nil && ctx.Err() == nil {
				log.Error(err, "Container runtime is up, but its users could not be told")
			}
		}
		watchArchives(ctx, cfg)
	}()
	select {
	case <-daemon.exited:
	case <-ctx.Done():
	}
	cancel()
	<-done
}

// process is a daemon that this agent started or adopted, held by a pidfd so that a reused pid is never mistaken for it.
type process struct {
	pid    int
	fd     int
	exited chan struct{} // closed when it has ended
	wake   [2]int        // pipe that ends the waiting goroutine when the agent lets go
	gone   chan struct{} // closed when the waiting goroutine has ended
}

// hold opens pid and starts waiting for its end. reap is called once when it ended.
func hold(pid int, reap func()) (*process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	p := &process{pid: pid, fd: fd, exited: make(chan struct{}), gone: make(chan struct{})}
	if err := unix.Pipe2(p.wake[:], unix.O_CLOEXEC); err != nil {
		unix.Close(fd)
		return nil, err
	}
	go func() {
		defer close(p.gone)
		polled := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(p.wake[0]), Events: unix.POLLIN}}
		for {
			if _, err := unix.Poll(polled, -1); err != nil && !errors.Is(err, unix.EINTR) {
				return
			}
			if polled[0].Revents != 0 {
				reap()
				close(p.exited)
				return
			}
			if polled[1].Revents != 0 {
				return
			}
		}
	}()
	return p, nil
}

// release stops watching the process without touching it.
func (p *process) release() {
	unix.Close(p.wake[1])
	<-p.gone
	unix.Close(p.wake[0])
	unix.Close(p.fd)
}

// stop asks the process to end and kills it when it has not within timeout.
func (p *process) stop(timeout time.Duration) {
	_ = unix.PidfdSendSignal(p.fd, unix.SIGTERM, nil, 0)
	select {
	case <-p.exited:
		return
	case <-time.After(timeout):
	}
	_ = unix.PidfdSendSignal(p.fd, unix.SIGKILL, nil, 0)
	select {
	case <-p.exited:
	case <-time.After(timeout):
	}
}

// startOrAdopt returns a daemon that answers on its socket.
func startOrAdopt(ctx context.Context, cfg Config) (*process, error) {
	if daemon := adopt(ctx, cfg); daemon != nil {
		return daemon, nil
	}
	daemon, err := start(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := waitReady(ctx, cfg, daemon); err != nil {
		daemon.stop(stopTimeout)
		daemon.release()
		return nil, err
	}
	return daemon, nil
}

// adopt returns the daemon named by the pid file if it still runs, from the same executable, with the same configuration; one that runs but
// differs is stopped (its containers live on) and nil is returned.
func adopt(ctx context.Context, cfg Config) *process {
	log := klog.FromContext(ctx)
	data, err := os.ReadFile(cfg.pidFile())
	if err != nil {
		return nil
	}
	fields := strings.Fields(string(data))
	if len(fields) != 3 {
		return nil
	}
	pid, err := strconv.Atoi(fields[0])
	if err != nil || pid <= 1 {
		return nil
	}
	daemon, err := hold(pid, func() {})
	if err != nil {
		return nil
	}
	if startTicks(pid) != fields[1] { // another process got the number
		daemon.release()
		return nil
	}
	if fields[2] == cfg.fingerprint() {
		if err := waitReady(ctx, cfg, daemon); err == nil {
			log.Info("Adopted the running container runtime", "pid", pid)
			return daemon
		}
	}
	if ctx.Err() == nil {
		log.Info("Replacing the container runtime that was running: another version or configuration, or it does not answer", "pid", pid)
		daemon.stop(stopTimeout)
	}
	daemon.release()
	return nil
}

// start runs the daemon in its own session and cgroup with its output in the log file, and writes the pid file.
func start(ctx context.Context, cfg Config) (*process, error) {
	output, err := openLog(cfg.logFile())
	if err != nil {
		return nil, fmt.Errorf("container runtime: %w", err)
	}
	defer output.Close()
	cmd := exec.Command(cfg.Executable)
	cmd.Args = []string{DaemonName, "--config", cfg.configFile()}
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(cfg.shimLink())+":"+pathOr("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"))
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if cfg.CgroupDir != "" {
		if err := os.MkdirAll(cfg.CgroupDir, 0o755); err != nil {
			return nil, fmt.Errorf("container runtime: cgroup: %w", err)
		}
		dir, err := os.Open(cfg.CgroupDir)
		if err != nil {
			return nil, fmt.Errorf("container runtime: cgroup: %w", err)
		}
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	if err := os.Remove(cfg.Socket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("container runtime: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("container runtime: start %s: %w", cfg.Executable, err)
	}
	daemon, err := hold(cmd.Process.Pid, func() { _ = cmd.Wait() })
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, err
	}
	record := fmt.Sprintf("%d %s %s\n", daemon.pid, startTicks(daemon.pid), cfg.fingerprint())
	if err := writeFile(cfg.pidFile(), []byte(record), 0o644); err != nil {
		daemon.stop(stopTimeout)
		daemon.release()
		return nil, fmt.Errorf("container runtime: %w", err)
	}
	klog.FromContext(ctx).Info("Started the container runtime", "pid", daemon.pid, "socket", cfg.Socket(), "log", cfg.logFile())
	return daemon, nil
}

// waitReady returns nil when the daemon accepts connections on its socket.
func waitReady(ctx context.Context, cfg Config, daemon *process) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(readyInterval)
	defer tick.Stop()
	for {
		conn, err := net.DialTimeout("unix", cfg.Socket(), time.Second)
		if err == nil {
			conn.Close()
			return nil
		}
		select {
		case <-daemon.exited:
			return fmt.Errorf("container runtime ended at its start: %s", lastLines(cfg.logFile()))
		case <-ctx.Done():
			return fmt.Errorf("container runtime does not answer on %s: %w", cfg.Socket(), err)
		case <-tick.C:
		}
	}
}

// fingerprint changes when the executable or the configuration does.
func (c Config) fingerprint() string {
	sum := sha256.New()
	if info, err := os.Stat(c.Executable); err == nil {
		fmt.Fprintf(sum, "%s %d %d\n", c.Executable, info.Size(), info.ModTime().UnixNano())
	}
	config, _ := os.ReadFile(c.configFile())
	sum.Write(config)
	return hex.EncodeToString(sum.Sum(nil)[:8])
}

// startTicks is the process's start time in clock ticks since boot (field 22 of /proc/pid/stat), empty when it does not exist or has
// ended and only waits to be reaped.
func startTicks(pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := cutLast(string(data), ") ") // the command name before it may hold anything
	fields := strings.Fields(rest)
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return ""
	}
	return fields[19]
}

func openLog(name string) (*os.File, error) {
	if info, err := os.Stat(name); err == nil && info.Size() > maxLogSize {
		if err := os.Rename(name, name+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
}

// lastLines is the end of a log file, for an error a person reads.
func lastLines(name string) string {
	file, err := os.Open(name)
	if err != nil {
		return "no log"
	}
	defer file.Close()
	buffer := make([]byte, 600)
	info, err := file.Stat()
	if err != nil {
		return "no log"
	}
	n, _ := file.ReadAt(buffer, max(0, info.Size()-int64(len(buffer))))
	return strings.TrimSpace(string(buffer[:n]))
}

func pathOr(fallback string) string {
	if path := os.Getenv("PATH"); path != "" {
		return path
	}
	return fallback
}

func shortHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:4])
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
