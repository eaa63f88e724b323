// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead/fairlead/hack/vm/guest"
)

// Machine is a virtual machine to boot.
type Machine struct {
	Kernel Installed
	Image  *Image
	Memory int    // MiB
	CPUs   int    // virtual processors
	Init   string // arguments of the kernel's command line for the init, e.g. what to run
	Log    string // file of the console's output
}

// Boot runs the machine until it powers off and returns each program's exit status by name. It fails when the machine did not come to its end:
// it panicked, or ctx ended.
func (m Machine) Boot(ctx context.Context) (map[string]int, error) {
	if err := os.MkdirAll(filepath.Dir(m.Log), 0o755); err != nil {
		return nil, err
	}
	initrd, err := os.CreateTemp(filepath.Dir(m.Log), "initramfs-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(initrd.Name())
	defer initrd.Close()
	if _, err := m.Image.WriteTo(initrd); err != nil {
		return nil, err
	}
	log, err := os.Create(m.Log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	args := []string{"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio", "-nic", "none",
		"-m", strconv.Itoa(m.Memory), "-smp", strconv.Itoa(m.CPUs), "-kernel", m.Kernel.Image, "-initrd", initrd.Name(),
		"-append", kernelArgs + " " + m.Init}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", append(args, accelerator(os.Getenv(AccelEnv))...)...)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w (qemu is in Debian's package qemu-system-x86)", err)
	}
	status, done := parse(io.TeeReader(out, log))
	err = cmd.Wait()
	if ctx.Err() != nil {
		return status, fmt.Errorf("kernel %s did not end in time; its console is in %s", m.Kernel.Release, m.Log)
	}
	if !done {
		return status, fmt.Errorf("kernel %s ended before its programs did (qemu: %v); its console is in %s", m.Kernel.Release, err, m.Log)
	}
	return status, nil
}

// AccelEnv names the environment variable that replaces emulation, which works everywhere, by another accelerator of qemu such as kvm.
const AccelEnv = "FAIRLEAD_VM_ACCEL"

// kernelArgs is the kernel's command line: the serial port as console, no delay after a panic, cgroup version 2 only.
const kernelArgs = "console=ttyS0 quiet panic=-1 cgroup_no_v1=all"

func accelerator(name string) []string {
	if name != "" {
		return []string{"-accel", name, "-cpu", "max"}
	}
	return []string{"-accel", "tcg,thread=multi", "-cpu", "max,cx16=off"} // qemu 7.2 spoils the flags in cmpxchg16b
}

// parse reads the console until its end.
func parse(console io.Reader) (status map[string]int, done bool) {
	status = map[string]int{}
	s := bufio.NewScanner(console)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		line := strings.TrimSpace(s.Text())
		if line == guest.DoneLine {
			done = true
		}
		rest, ok := strings.CutPrefix(line, guest.ExitPrefix)
		if !ok {
			continue
		}
		if name, code, ok := strings.Cut(rest, " "); ok {
			if n, err := strconv.Atoi(code); err == nil {
				status[name] = n
			}
		}
	}
	_, _ = io.Copy(io.Discard, console) // a line too long must not stop the machine
	return status, done
}
