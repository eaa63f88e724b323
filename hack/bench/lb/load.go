// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Client and server make blocking system calls on one thread each, so that what is measured is the network and no event loop.

// envCPU names the CPU that client and server run on.
const envCPU = "BENCH_LB_CPU"

// pin keeps this goroutine on its thread, and that thread on the CPU of envCPU, if that is set. On one CPU nothing depends on where the scheduler puts the two and how
// long another CPU takes to wake up: what is left is the work per request, which is what is to be compared.
func pin() {
	runtime.LockOSThread()
	cpu, err := strconv.Atoi(os.Getenv(envCPU))
	if err != nil || cpu < 0 {
		return
	}
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		fmt.Fprintln(os.Stderr, "lb: pin to CPU", cpu, err)
		os.Exit(1)
	}
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

// serve answers every byte with a byte, one client at a time, until it is killed.
func serve(addr string) error {
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return err
	}
	pin()
	l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	_ = unix.SetsockoptInt(l, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err := unix.Bind(l, sockaddr(a)); err != nil {
		return err
	}
	if err := unix.Listen(l, 128); err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		c, _, err := unix.Accept(l)
		if err != nil {
			continue
		}
		_ = unix.SetsockoptInt(c, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		var b [1]byte
		for {
			n, err := unix.Read(c, b[:])
			if err == unix.EINTR {
				continue
			}
			if err != nil || n == 0 {
				break
			}
			if _, err := unix.Write(c, b[:]); err != nil {
				break
			}
		}
		unix.Close(c)
	}
}

// warmUp is how long a client works before it begins to count.
const warmUp = 20 * time.Millisecond

// ask prints how many one-byte requests per second are answered: on one connection ("rr"), or on a connection each ("crr").
func ask(kind, addr, each string) error {
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return err
	}
	d, err := time.ParseDuration(each)
	if err != nil {
		return err
	}
	pin()
	open := func() (int, error) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return fd, err
		}
		_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 3})
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		// Ended by a reset: no port waits in TIME_WAIT, so that runs do not slow each other down.
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		return fd, unix.Connect(fd, sockaddr(a))
	}
	once := func(fd int) error {
		b := [1]byte{'x'}
		if _, err := unix.Write(fd, b[:]); err != nil {
			return err
		}
		for {
			n, err := unix.Read(fd, b[:])
			if err == unix.EINTR {
				continue
			}
			if err == nil && n != 1 {
				err = fmt.Errorf("connection ended")
			}
			return err
		}
	}
	fd := -1
	if kind == "rr" {
		if fd, err = open(); err != nil {
			return fmt.Errorf("connect: %w", err)
		}
	}
	n, began, warm := 0, time.Now(), false
	for time.Since(began) < d {
		if !warm && time.Since(began) > warmUp {
			n, began, warm = 0, time.Now(), true
		}
		if kind == "crr" {
			if fd, err = open(); err != nil {
				return fmt.Errorf("connect, after %d: %w", n, err)
			}
		}
		if err := once(fd); err != nil {
			return fmt.Errorf("request, after %d: %w", n, err)
		}
		if kind == "crr" {
			unix.Close(fd)
		}
		n++
	}
	fmt.Printf("%.0f\n", float64(n)/time.Since(began).Seconds())
	return nil
}
