// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fairlead/fairlead/hack/vm"
	"github.com/fairlead/fairlead/hack/vm/remote"
)

// MachineOptions say in which virtual machine a sandbox runs.
type MachineOptions struct {
	Kernel string   // a kernel's file, or a series of Debian's kernels; empty means no machine: the sandbox runs on this machine's own kernel
	KVM    bool     // instead of emulation
	Memory int      // MiB; 0 means by the number of nodes
	Up     []string // arguments by which Binary starts the sandbox inside the machine
}

// What a machine has unless it is told otherwise.
const (
	machineMemory  = 1536 // MiB, besides that of the nodes
	memoryPerGuest = 1024 // MiB a node
	machineCPUs    = 2
	bootPatience   = 3 * time.Minute
)

// upMachine starts a virtual machine and the sandbox in it.
func (s *Sandbox) upMachine(ctx context.Context, o UpOptions, p *progress) error {
	nodes := o.Servers + o.Agents
	memory := o.Machine.Memory
	if memory == 0 {
		memory = machineMemory + nodes*memoryPerGuest
	}
	if m, there, err := s.Machine(); err == nil && there && m.reachable(ctx) {
		return fmt.Errorf("sandbox %q is up already; use it (export KUBECONFIG=%s) or end it with `fairlead sandbox down`", s.Name, s.Kubeconfig())
	}
	if err := s.preflightMachine(o, memory); err != nil {
		return err
	}
	p.done("checked this machine")
	kernel, err := vm.Locate(ctx, o.Machine.Kernel, filepath.Join(filepath.Dir(s.Dir), ".kernels"))
	if err != nil {
		return err
	}
	p.done("found Linux " + kernel.Release)
	if err := s.remove(); err != nil {
		return err
	}
	if err := os.MkdirAll(s.machineDir(), 0o700); err != nil {
		return err
	}
	if err := makeCgroup(s.cgroup()); err != nil {
		return err
	}
	group, err := openCgroup(s.cgroup()) // Down ends what is in it
	if err != nil {
		return err
	}
	defer group.Close()
	guest := vm.Guest{
		Kernel: kernel, Memory: memory, CPUs: machineCPUs, KVM: o.Machine.KVM,
		Init: o.Binary, Args: []string{"sandbox", "guest"},
		Private: []string{filepath.Dir(s.Dir)}, Dir: s.machineDir(),
	}
	for i := range apiPorts(o.Servers) {
		guest.Forward = append(guest.Forward, o.APIPort+i)
	}
	boot, cancel := context.WithTimeout(ctx, bootPatience)
	defer cancel()
	err = guest.Start(boot, func(cmd *exec.Cmd) error {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		placeInCgroup(cmd, group)
		return cmd.Start()
	})
	if err != nil {
		return errors.Join(err, s.remove())
	}
	p.done("booted the machine; what follows happens in it")
	m, _, err := s.Machine()
	if err != nil {
		return err
	}
	if err := m.Run(ctx, append([]string{o.Binary}, o.Machine.Up...), nil, o.Out, o.Out); err != nil {
		return fmt.Errorf("start the sandbox in the machine: %w\nthe machine goes on: `fairlead sandbox shell`, `fairlead sandbox down`", err)
	}
	var kubeconfig bytes.Buffer
	if err := m.Run(ctx, []string{"/bin/cat", s.Kubeconfig()}, nil, &kubeconfig, io.Discard); err != nil {
		return fmt.Errorf("read the kubeconfig: %w", err)
	}
	return writeAtomic(s.Kubeconfig(), kubeconfig.Bytes(), 0o600)
}

// preflightMachine looks whether this machine can run the virtual one, before anything is changed.
func (s *Sandbox) preflightMachine(o UpOptions, memory int) error {
	if os.Geteuid() != 0 {
		return errors.New("root is needed: run it with sudo")
	}
	problems := []error{vm.Missing()}
	if have, err := memAvailable(); err == nil && have>>20 < uint64(memory) {
		problems = append(problems, fmt.Errorf("%d MiB of memory are available, the machine needs %d MiB; --memory changes that", have>>20, memory))
	}
	listeners, err := listen(o.APIPort, apiPorts(o.Servers))
	for _, l := range listeners {
		l.Close()
	}
	if err := errors.Join(append(problems, err)...); err != nil {
		return fmt.Errorf("this machine cannot run the sandbox as it is (nothing was changed):\n%w", err)
	}
	return nil
}

func (s *Sandbox) machineDir() string { return filepath.Join(s.Dir, "machine") }

// Machine is the virtual machine in which a sandbox runs.
type Machine struct{ contact vm.Contact }

// Machine returns the machine in which the sandbox runs, if it runs in one.
func (s *Sandbox) Machine() (m Machine, there bool, err error) {
	m.contact, err = vm.ReadContact(s.machineDir())
	if errors.Is(err, fs.ErrNotExist) {
		return m, false, nil
	}
	return m, err == nil, err
}

// Run runs command in the machine, in the directory of the same name as the caller's. A command that fails gives an ExitError.
func (m Machine) Run(ctx context.Context, command []string, stdin io.Reader, stdout, stderr io.Writer) error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	c, err := remote.Dial(ctx, m.contact.Addr, m.contact.Client)
	if err != nil {
		return fmt.Errorf("the sandbox's machine does not answer: %w; `fairlead sandbox down` removes it", err)
	}
	defer c.Close()
	size, restore, err := terminal(stdin, stdout)
	if err != nil {
		return err
	}
	defer restore()
	err = c.Run(ctx, remote.Command{Args: command, Dir: dir, Terminal: size}, stdin, stdout, stderr)
	var exit remote.ExitError
	if errors.As(err, &exit) {
		return ExitError(exit)
	}
	return err
}

func (m Machine) reachable(ctx context.Context) bool {
	c, err := remote.Dial(ctx, m.contact.Addr, m.contact.Client)
	if err != nil {
		return false
	}
	c.Close()
	return true
}
