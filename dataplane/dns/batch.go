// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

type syscallConn = syscall.RawConn

const (
	batchSize   = 32  // packets in one system call
	maxQuestion = 512 // bytes of a packet that are read, as many as CoreDNS's own reader takes
	maxReply    = 1232
)

// batch receives and sends many packets with one system call (recvmmsg(2), sendmmsg(2)). One goroutine uses it.
type batch struct {
	raw     syscall.RawConn
	in, out [batchSize]mmsghdr
	inVec   [batchSize]unix.Iovec
	outVec  [batchSize]unix.Iovec
	names   [batchSize]unix.RawSockaddrAny
	packets [batchSize][maxQuestion]byte
	replies [batchSize][maxReply]byte

	received, next int // packets of the last call, and the first not looked at yet
	queued         int // replies to be sent
}

// mmsghdr is the kernel's struct mmsghdr.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

func newFrontConn(u *net.UDPConn) (*frontConn, error) {
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, err
	}
	c := &frontConn{UDPConn: u, batch: &batch{raw: raw}}
	var stat unix.Stat_t
	var statErr error
	if err := raw.Control(func(fd uintptr) { statErr = unix.Fstat(int(fd), &stat) }); err != nil || statErr != nil {
		return nil, fmt.Errorf("DNS socket: %w", errors.Join(err, statErr))
	}
	c.inode = stat.Ino
	b := c.batch
	for i := range batchSize {
		b.inVec[i].Base, b.outVec[i].Base = &b.packets[i][0], &b.replies[i][0]
		b.inVec[i].SetLen(maxQuestion)
		b.in[i].hdr.Iov, b.out[i].hdr.Iov = &b.inVec[i], &b.outVec[i]
		b.in[i].hdr.SetIovlen(1)
		b.out[i].hdr.SetIovlen(1)
		b.in[i].hdr.Name = (*byte)(unsafe.Pointer(&b.names[i]))
	}
	return c, nil
}

// ReadFrom implements net.PacketConn: it returns the next packet that the fast path does not answer.
func (c *frontConn) ReadFrom(p []byte) (int, net.Addr, error) {
	b := c.batch
	for {
		to := c.to.Load()
		for b.next < b.received {
			i := b.next
			b.next++
			packet := b.packets[i][:b.in[i].len]
			if to.fast != nil {
				if n := to.fast.answer(b.replies[b.queued][:0], packet, b.from(i)); n > 0 {
					b.queue(i, n)
					continue
				}
			}
			b.send() // what is ready does not wait for what takes longer
			from := b.from(i)
			return copy(p, packet), net.UDPAddrFromAddrPort(from), nil
		}
		b.send()
		if err := b.receive(); err != nil {
			return 0, nil, err
		}
	}
}

// receive waits for packets.
func (b *batch) receive() error {
	b.next, b.received = 0, 0
	var n uintptr
	var errno syscall.Errno
	err := b.raw.Read(func(fd uintptr) bool {
		for i := range batchSize {
			b.in[i].hdr.Namelen = unix.SizeofSockaddrAny
		}
		for {
			n, _, errno = syscall.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.in[0])), batchSize, unix.MSG_DONTWAIT, 0, 0)
			if errno != unix.EINTR {
				return errno != unix.EAGAIN
			}
		}
	})
	switch {
	case err != nil:
		return err
	case errno == unix.ECONNREFUSED || errno == unix.EHOSTUNREACH || errno == unix.ENETUNREACH: // about an answer sent before
		return nil
	case errno != 0:
		return &net.OpError{Op: "read", Net: "udp", Err: errno}
	}
	b.received = int(n)
	return nil
}

// queue makes the first n bytes of the next reply buffer the answer to packet i.
func (b *batch) queue(i, n int) {
	h := &b.out[b.queued].hdr
	h.Name, h.Namelen = b.in[i].hdr.Name, b.in[i].hdr.Namelen
	b.outVec[b.queued].SetLen(n)
	b.queued++
}

// send sends what is queued. An answer that cannot be sent is dropped, as on any network.
func (b *batch) send() {
	for first := 0; first < b.queued; {
		var n uintptr
		var errno syscall.Errno
		err := b.raw.Write(func(fd uintptr) bool {
			n, _, errno = syscall.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&b.out[first])), uintptr(b.queued-first), unix.MSG_DONTWAIT, 0, 0)
			return errno != unix.EAGAIN
		})
		switch {
		case err != nil: // closed
			first = b.queued
		case errno == unix.EINTR:
		case errno != 0:
			first++
		default:
			first += int(n)
		}
	}
	b.queued = 0
}

// from is the sender of packet i.
func (b *batch) from(i int) netip.AddrPort {
	switch name := &b.names[i]; name.Addr.Family {
	case unix.AF_INET:
		s := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		return netip.AddrPortFrom(netip.AddrFrom4(s.Addr), networkOrder(&s.Port))
	case unix.AF_INET6:
		s := (*unix.RawSockaddrInet6)(unsafe.Pointer(name))
		return netip.AddrPortFrom(netip.AddrFrom16(s.Addr), networkOrder(&s.Port))
	}
	return netip.AddrPort{}
}

func networkOrder(p *uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(p))
	return uint16(b[0])<<8 | uint16(b[1])
}
