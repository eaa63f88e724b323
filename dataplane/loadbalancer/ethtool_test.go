// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"testing"
	"unsafe"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// noOffload turns off transmit checksum offload of a device, as a wire between hosts would have it: complete checksums in every packet. It turns on GRO, with which
// a veth device can receive what XDP redirects to its peer.
func noOffload(t *testing.T, ns netns.NsHandle, dev string) {
	t.Helper()
	inNS(t, ns, "", func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, value := range []struct{ cmd, data uint32 }{{0x17, 0}, {0x2c, 1}} { // ETHTOOL_STXCSUM, ETHTOOL_SGRO
			if err := ethtool(fd, dev, unsafe.Pointer(&value)); err != nil {
				return err
			}
		}
		return nil
	})
}

func ethtool(fd int, dev string, value unsafe.Pointer) error {
	var ifr struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(ifr.name[:], dev)
	ifr.data = value
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr))); errno != 0 {
		return errno
	}
	return nil
}
