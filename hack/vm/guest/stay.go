// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/hack/vm/remote"
)

// Config is what a guest that stays is told by its image.
type Config struct {
	// Self is the init's path on the outer machine.
	Self string `json:"self"`
	// Private directories have a file system of their own in the guest's memory: an overlay cannot be the upper layer of another.
	Private []string `json:"private"`
	// Forward lists TCP ports of the guest's 127.0.0.1 that are reached at the same port of Address.
	Forward []int `json:"forward"`
	// Server is the identity under which the guest takes commands, and whose it takes.
	Server remote.ServerConfig `json:"server"`
}

// ConfigFile is where the image has the Config, in JSON.
const ConfigFile = "/machine.json"

// The guest's interface: the addresses that qemu's user network expects. They exist only inside qemu and the guest.
const (
	Address     = "10.0.2.15"
	addressBits = "/24"
	CommandPort = 22
	uplink      = "eth0"
)

// StayingLine on the console says that the guest takes commands.
const StayingLine = "vm-ready"

// Stay makes the outer machine's file system the guest's own and runs the commands that come by CommandPort, until the machine is ended. It
// returns only when it could not begin.
func Stay() error {
	err := stay()
	fmt.Println("init:", err)
	powerOff()
	return err
}

func stay() error {
	b, err := os.ReadFile(ConfigFile)
	if err != nil {
		return err
	}
	var cfg Config
	if err := json.Unmarshal(b, &cfg); err != nil {
		return fmt.Errorf("%s: %w", ConfigFile, err)
	}
	if err := loadModules(); err != nil {
		return err
	}
	if err := shareRoot(cfg.Self); err != nil {
		return err
	}
	if err := becomeHost(); err != nil {
		return err
	}
	for _, d := range cfg.Private {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("private", d, "tmpfs", 0, "mode=755,size=80%"); err != nil {
			return fmt.Errorf("mount %s: %w", d, err)
		}
		if err := unix.Mount("", d, "", unix.MS_SHARED, ""); err != nil {
			return err
		}
	}
	if err := setUplink(); err != nil {
		return err
	}
	for _, env := range environment {
		name, value, _ := strings.Cut(env, "=")
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	for _, port := range cfg.Forward {
		if err := forward(port); err != nil {
			return err
		}
	}
	l, err := net.Listen("tcp", net.JoinHostPort(Address, strconv.Itoa(CommandPort)))
	if err != nil {
		return err
	}
	fmt.Println(StayingLine)
	return remote.Serve(l, cfg.Server)
}

func setUplink() error {
	link, err := netlink.LinkByName(uplink)
	if err != nil {
		return fmt.Errorf("%s: %w (the kernel needs virtio_net)", uplink, err)
	}
	addr, err := netlink.ParseAddr(Address + addressBits)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// forward copies between port of Address and the same port of 127.0.0.1.
func forward(port int) error {
	l, err := net.Listen("tcp", net.JoinHostPort(Address, strconv.Itoa(port)))
	if err != nil {
		return err
	}
	go func() {
		for {
			outer, err := l.Accept()
			if err != nil {
				return
			}
			go join(outer, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		}
	}()
	return nil
}

func join(outer net.Conn, to string) {
	defer outer.Close()
	inner, err := net.Dial("tcp", to)
	if err != nil {
		return // the caller sees the connection end, as when nobody listens
	}
	defer inner.Close()
	go func() {
		_, _ = io.Copy(inner, outer)
		_ = inner.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(outer, inner)
}
