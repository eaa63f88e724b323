// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead/fairlead/hack/vm/guest"
	"github.com/fairlead/fairlead/hack/vm/remote"
)

// Modules are what a node needs that Debian's kernels do not have built in.
var Modules = []string{"veth", "dummy", "vxlan", "overlay", "cls_bpf", "sch_ingress", "act_bpf", "bridge", "inet_diag", "udp_diag", "tcp_diag", "sctp"}

// shareModules are what a guest needs besides to see the machine outside.
var shareModules = []string{"virtio_pci", "virtio_net", "virtiofs"}

// Guest is a machine that stays until it is ended, on this machine's own file system: it sees every file as it is here and keeps what it writes in its
// own memory. This machine reaches it at ports of 127.0.0.1; it reaches nothing.
type Guest struct {
	Kernel  Installed
	Memory  int      // MiB
	CPUs    int      // virtual processors
	KVM     bool     // instead of emulation
	Init    string   // executable that calls guest.Stay
	Args    []string // of Init
	Private []string // directories that the guest has for itself, on file systems in its memory
	Forward []int    // ports of 127.0.0.1, here and there the same
	Dir     string   // gets initramfs, sockets, logs and keys
}

// Files of a guest's directory.
const (
	contactFile = "machine.json"
	consoleFile = "console.log"
	shareLog    = "virtiofsd.log"
)

// virtiofsd lies outside PATH in Debian.
const virtiofsd = "/usr/lib/qemu/virtiofsd"

// Missing says what this machine lacks to run a Guest; nil when nothing.
func Missing() error {
	var problems []error
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		problems = append(problems, errors.New("qemu-system-x86_64 is not installed: apt-get install qemu-system-x86"))
	} else if _, err := os.Stat(virtiofsd); err != nil {
		problems = append(problems, errors.New(virtiofsd+" is not installed: apt-get install qemu-system-common"))
	}
	if _, err := exec.LookPath("/sbin/depmod"); err != nil {
		problems = append(problems, errors.New("depmod is not installed: apt-get install kmod"))
	}
	return errors.Join(problems...)
}

// Contact is how a guest that runs is reached.
type Contact struct {
	Addr   string              `json:"addr"`
	Client remote.ClientConfig `json:"client"`
}

// Start starts the guest's processes, each by start, and returns when the guest takes commands. Whoever gave start ends the processes.
func (g Guest) Start(ctx context.Context, start func(*exec.Cmd) error) error {
	server, client, err := remote.NewKeys()
	if err != nil {
		return err
	}
	initrd, err := g.initramfs(server)
	if err != nil {
		return err
	}
	defer os.Remove(initrd)
	socket := filepath.Join(g.Dir, "share.sock")
	if err := g.startShare(ctx, socket, start); err != nil {
		return err
	}
	control, err := freePort()
	if err != nil {
		return err
	}
	qemu := exec.Command("qemu-system-x86_64", g.qemuArgs(initrd, socket, control)...)
	log, err := os.Create(filepath.Join(g.Dir, "qemu.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	qemu.Stdout, qemu.Stderr = log, log
	if err := start(qemu); err != nil {
		return fmt.Errorf("start qemu: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- qemu.Wait() }()
	contact := Contact{Addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(control)), Client: client}
	for {
		c, err := remote.Dial(ctx, contact.Addr, client)
		if err == nil {
			c.Close()
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the machine takes no commands: %w\n%s", err, g.console())
		case err := <-ended:
			said, _ := os.ReadFile(log.Name())
			return fmt.Errorf("the machine ended: %v\n%s%s", err, said, g.console())
		case <-time.After(200 * time.Millisecond):
		}
	}
	b, err := json.Marshal(contact)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(g.Dir, contactFile), b, 0o600)
}

// ReadContact returns how the guest is reached that was started with the directory dir. The error is fs.ErrNotExist when none was.
func ReadContact(dir string) (Contact, error) {
	var c Contact
	b, err := os.ReadFile(filepath.Join(dir, contactFile))
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("%s is damaged: %w", filepath.Join(dir, contactFile), err)
	}
	return c, nil
}

func (g Guest) initramfs(server remote.ServerConfig) (string, error) {
	im := NewImage()
	if err := im.Copy("/init", g.Init); err != nil {
		return "", err
	}
	if err := im.Modules(g.Kernel, append(shareModules, Modules...)...); err != nil {
		return "", err
	}
	cfg, err := json.Marshal(guest.Config{Self: g.Init, Private: g.Private, Forward: g.Forward, Server: server})
	if err != nil {
		return "", err
	}
	im.Write(guest.ConfigFile, string(cfg))
	f, err := os.OpenFile(filepath.Join(g.Dir, "initramfs"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return "", err
	}
	defer f.Close()
	_, err = im.WriteTo(f)
	return f.Name(), err
}

// startShare starts the server of this machine's file system, over a read-only view of it.
func (g Guest) startShare(ctx context.Context, socket string, start func(*exec.Cmd) error) error {
	view := filepath.Join(g.Dir, "view")
	if err := os.MkdirAll(view, 0o700); err != nil {
		return err
	}
	const script = `set -e
mount --rbind / "$1"
mount -o remount,bind,ro "$1"
exec "$2" --socket-path="$3" -o source="$1" -o cache=auto -o sandbox=chroot --thread-pool-size=4`
	cmd := exec.Command("unshare", "--mount", "--propagation", "slave", "sh", "-c", script, "share", view, virtiofsd, socket)
	log, err := os.Create(filepath.Join(g.Dir, shareLog))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := start(cmd); err != nil {
		return fmt.Errorf("start virtiofsd: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		if _, err := os.Stat(socket); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("virtiofsd made no %s: %w", socket, ctx.Err())
		case err := <-ended:
			said, _ := os.ReadFile(log.Name())
			return fmt.Errorf("virtiofsd ended: %v\n%s", err, said)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (g Guest) qemuArgs(initrd, share string, control int) []string {
	network := "user,id=net,restrict=on,ipv6=off" + hostForward(control, guest.CommandPort)
	for _, p := range g.Forward {
		network += hostForward(p, p)
	}
	memory := strconv.Itoa(g.Memory) + "M"
	args := []string{"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "file:" + filepath.Join(g.Dir, consoleFile),
		"-object", "memory-backend-memfd,id=memory,share=on,size=" + memory, "-numa", "node,memdev=memory", "-m", memory,
		"-smp", strconv.Itoa(g.CPUs), "-kernel", g.Kernel.Image, "-initrd", initrd,
		"-chardev", "socket,id=share,path=" + share, "-device", "vhost-user-fs-pci,chardev=share,tag=" + guest.ShareTag,
		"-netdev", network, "-device", "virtio-net-pci,netdev=net,romfile=",
		"-append", kernelArgs + " -- " + strings.Join(g.Args, " ")}
	if g.KVM {
		return append(args, accelerator("kvm")...)
	}
	return append(args, accelerator(os.Getenv(AccelEnv))...)
}

func hostForward(outer, inner int) string {
	return fmt.Sprintf(",hostfwd=tcp:127.0.0.1:%d-%s:%d", outer, guest.Address, inner)
}

// console returns the last lines of the guest's console.
func (g Guest) console() string {
	b, _ := os.ReadFile(filepath.Join(g.Dir, consoleFile))
	return "its console:\n" + string(b[max(0, len(b)-4000):])
}

func freePort() (int, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
