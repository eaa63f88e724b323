// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// UpOptions say which sandbox to start.
type UpOptions struct {
	Servers, Agents int
	Families        Families
	Routed          bool
	APIPort         int           // of 127.0.0.1 on the host
	Binary          string        // the fairlead executable the nodes run
	Images          []string      // image archives imported by every node
	ExtraArgs       []string      // for every server and agent
	ServerOnlyTaint bool          // keep ordinary pods off the servers
	NoNetwork       bool          // the nodes' network is installed later, as on somebody else's cluster: Up waits only until the nodes are registered
	Timeout         time.Duration // of each wait for the cluster; 0 means readyPatience
	Machine         MachineOptions
	Out             io.Writer
}

// Up starts the sandbox and returns when all its nodes are Ready. What was started stays for inspection when it fails; Down removes it.
func (s *Sandbox) Up(ctx context.Context, o UpOptions) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	topo, err := Plan(o.Servers, o.Agents, o.Families, o.Routed)
	if err != nil {
		return err
	}
	progress := newProgress(o.Out)
	if o.Machine.Kernel != "" {
		return s.upMachine(ctx, o, progress)
	}
	if o.Timeout == 0 {
		o.Timeout = readyPatience
	}
	if st, err := s.Load(); err == nil && s.alive(st) {
		return fmt.Errorf("sandbox %q is up already since %s; use it (export KUBECONFIG=%s) or end it with `fairlead sandbox down`",
			s.Name, st.Created.Format(time.TimeOnly), s.Kubeconfig())
	}
	listeners, err := s.preflight(thisMachine, topo, o)
	if err != nil {
		return err
	}
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	progress.done("checked this machine")

	// Leftovers of a sandbox that died; Down is idempotent.
	if err := s.remove(); err != nil {
		return err
	}
	st := State{Topology: topo, APIPort: o.APIPort, Created: time.Now(), Inits: map[string]int{}}
	for _, dir := range []string{s.Dir, filepath.Join(s.Dir, "ctl")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	token, err := newToken()
	if err != nil {
		return err
	}
	serverToken, err := newToken()
	if err != nil {
		return err
	}
	for _, h := range topo.Hosts {
		if err := s.writeToken(h, tokenFile, token); err != nil {
			return err
		}
		if h.Role == RoleServer {
			if err := s.writeToken(h, serverTokenFile, serverToken); err != nil {
				return err
			}
		}
		var own []*os.File
		if i := serverIndex(topo, h); i >= 0 {
			own = append(own, listeners[0])
			if o.Servers > 1 {
				own = append(own, listeners[1+i])
			}
		}
		pid, err := s.startInit(h, topo, o, s.mainArgs(h, topo, o), own)
		if err != nil {
			return fmt.Errorf("start host %s: %w", h.Name, err)
		}
		st.Inits[h.Name] = pid
		if err := s.save(st); err != nil {
			return err
		}
	}
	if err := wire(topo, st.Inits); err != nil {
		return err
	}
	if err := routePools(topo, st.Inits); err != nil {
		return err
	}
	progress.done(fmt.Sprintf("made %d hosts on a link of their own", len(topo.Hosts)))

	first := topo.Nodes()[0]
	if _, err := s.control(first.Name, request{Verb: VerbStart}); err != nil {
		return err
	}
	if err := s.adoptKubeconfig(ctx, first, st, o.Timeout); err != nil {
		return s.explain(first.Name, err)
	}
	c, err := s.Client()
	if err != nil {
		return err
	}
	if err := waitReadyz(ctx, c, o.Timeout); err != nil {
		return s.explain(first.Name, err)
	}
	progress.done("API server answers at https://127.0.0.1:" + fmt.Sprint(o.APIPort))

	ca, err := os.ReadFile(filepath.Join(s.nodeDir(first.Name), "data", caFile))
	if err != nil {
		return err
	}
	for _, h := range topo.Nodes()[1:] {
		if err := writeAtomic(filepath.Join(s.nodeDir(h.Name), "data", "join-ca.crt"), ca, 0o644); err != nil {
			return err
		}
		if _, err := s.control(h.Name, request{Verb: VerbStart}); err != nil {
			return err
		}
	}
	if err := waitNodes(ctx, c, topo, progress, !o.NoNetwork, o.Timeout); err != nil {
		return s.explain("", err)
	}
	fmt.Fprintf(o.Out, "\nexport KUBECONFIG=%s\n", s.Kubeconfig())
	return nil
}

// caFile is the cluster's CA certificate below a server's data directory.
const caFile = "server/pki/ca.crt"

// tokenFile holds the token by which nodes join, inside every node, serverTokenFile that for servers: arguments are visible to all processes, these
// files are not.
const (
	tokenFile       = "/var/lib/fairlead/join-token"
	serverTokenFile = "/var/lib/fairlead/server-token"
)

// diskArgs count in bytes, not shares: the nodes have this machine's one disk together, and that may well be 85% full. Images are not removed for it either:
// there is no registry to get them from again.
var diskArgs = []string{"--eviction-hard=memory.available=100Mi,nodefs.available=500Mi,imagefs.available=500Mi", "--image-gc-high-threshold=100"}

// mainArgs returns the command of a node's main process; the paths are those inside the host.
func (s *Sandbox) mainArgs(h Host, t Topology, o UpOptions) []string {
	if !h.Role.IsNode() {
		return nil
	}
	var ips []string
	for _, a := range h.Addrs() {
		ips = append(ips, a.String())
	}
	args := []string{o.Binary, string(h.Role), "--node-name=" + h.Name, "--node-ip=" + strings.Join(ips, ","),
		"--cluster-cidr=" + strings.Join(t.Families.keep(PodCIDRs), ","),
		"--service-cidr=" + strings.Join(t.Families.keep(ServiceCIDRs), ",")}
	first := t.Nodes()[0]
	switch h.Role {
	case RoleServer:
		args = append(args,
			"--advertise-address="+h.Addr().String(),
			"--load-balancer-pool="+strings.Join(t.Families.keep(LoadBalancerPools), ","),
			"--bootstrap-token-file="+tokenFile)
		if o.Servers > 1 {
			args = append(args, "--token-file="+serverTokenFile)
		}
		if o.Servers > 1 && h.Name == first.Name {
			args = append(args, "--cluster-init")
		}
		if h.Name != first.Name {
			args = append(args, "--server=https://"+net.JoinHostPort(first.Addr().String(), "6443"), "--ca-cert=/var/lib/fairlead/join-ca.crt")
		}
	case RoleAgent:
		args = append(args, "--server=https://"+net.JoinHostPort(first.Addr().String(), "6443"),
			"--ca-cert=/var/lib/fairlead/join-ca.crt", "--token-file="+tokenFile)
	}
	if t.Routed {
		args = append(args, "--overlay=vxlan")
	}
	args = append(args, diskArgs...)
	if o.NoNetwork {
		args = append(args, "--no-network")
	}
	return append(args, o.ExtraArgs...)
}

// keep returns the CIDRs of the families in use.
func (f Families) keep(cidrs []string) []string {
	var out []string
	for _, c := range cidrs {
		if v6 := strings.Contains(c, ":"); v6 && f.IPv6 || !v6 && f.IPv4 {
			out = append(out, c)
		}
	}
	return out
}

func serverIndex(t Topology, h Host) int {
	if h.Role != RoleServer {
		return -1
	}
	for i, n := range t.Nodes() {
		if n.Name == h.Name {
			return i
		}
	}
	return -1
}

// startInit starts the init of h in fresh namespaces and waits until the host is set up. It returns the init's pid.
func (s *Sandbox) startInit(h Host, t Topology, o UpOptions, main []string, listeners []*os.File) (int, error) {
	dir := s.nodeDir(h.Name)
	if err := writeEtc(dir, h, t); err != nil {
		return 0, err
	}
	if err := s.linkImages(dir, o.Images); err != nil {
		return 0, err
	}
	if err := makeCgroup(s.hostCgroup(h.Name)); err != nil {
		return 0, err
	}
	cgroup, err := openCgroup(s.hostCgroup(h.Name))
	if err != nil {
		return 0, err
	}
	defer cgroup.Close()
	cfg, err := json.Marshal(InitConfig{Host: h, Cgroup: s.hostCgroup(h.Name), Dir: dir, Socket: s.socket(h.Name), Main: main})
	if err != nil {
		return 0, err
	}
	log, err := os.OpenFile(filepath.Join(dir, "init.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	ready, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer ready.Close()
	cmd := exec.Command(o.Binary, "sandbox", "init", string(cfg))
	cmd.Stdout, cmd.Stderr, cmd.Env = w, log, os.Environ()
	if len(listeners) > 0 {
		cmd.ExtraFiles = listeners
		cmd.Env = append(cmd.Env, "LISTEN_FDS="+strconv.Itoa(len(listeners)))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET,
		Setsid:     true,
	}
	placeInCgroup(cmd, cgroup)
	err = cmd.Start()
	w.Close()
	if err != nil {
		return 0, err
	}
	line, err := bufio.NewReader(ready).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "ready" {
		_ = cmd.Wait() // its log says why
		why, _ := os.ReadFile(log.Name())
		return 0, fmt.Errorf("it did not become ready: %s", strings.TrimSpace(string(why)))
	}
	pid := cmd.Process.Pid
	return pid, cmd.Process.Release()
}

// writeToken puts token where h has path.
func (s *Sandbox) writeToken(h Host, path, token string) error {
	dir := filepath.Join(s.nodeDir(h.Name), "data")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return writeAtomic(filepath.Join(dir, filepath.Base(path)), []byte(token), 0o600)
}

// linkImages puts the archives where the node imports images from.
func (s *Sandbox) linkImages(dir string, images []string) error {
	into := filepath.Join(dir, "data", "images")
	if err := os.MkdirAll(into, 0o755); err != nil {
		return err
	}
	for _, img := range images {
		to := filepath.Join(into, filepath.Base(img))
		if err := os.Link(img, to); err == nil || errors.Is(err, os.ErrExist) {
			continue
		}
		if err := copyFile(img, to); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, r); err != nil {
		w.Close()
		return err
	}
	return w.Close()
}

// explain adds to err where to look.
func (s *Sandbox) explain(host string, err error) error {
	if host == "" {
		return fmt.Errorf("%w\nlogs: %s/nodes/*/log/fairlead.log", err, s.Dir)
	}
	tail := lastLines(s.LogFile(host), 15)
	return fmt.Errorf("%w\nlast lines of %s:\n%s", err, s.LogFile(host), tail)
}

func lastLines(path string, n int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return "  " + strings.Join(lines, "\n  ")
}
