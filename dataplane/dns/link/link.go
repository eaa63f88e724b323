// SPDX-License-Identifier: Apache-2.0

// Package link is what a node's agent and its DNS server, two processes, say to each other over a unix socket.
//
//	server --Hello, its sockets--> agent
//	server <--Start, sockets------ agent
//	server <--Message, ...-------- agent
//	server --Report, ...---------> agent
//
// The server listens, since it outlives agents; a new agent's connection replaces the former's. Hello and Start are JSON with a length before them, so that any two versions
// understand each other's; what follows is gob, between processes of the same Protocol.
package link

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/dataplane/dns/directory"
)

// Protocol is the version of Message, Report and the directory's rows.
const Protocol = 2

// SocketName is the socket's name in a node's run directory.
const SocketName = "dns-feed.sock"

// Settings are what a server is started with and keeps for its life.
type Settings struct {
	Domain     string       `json:"domain"`
	Listen     []netip.Addr `json:"listen"`
	Port       int          `json:"port"`
	Service    []netip.Addr `json:"service,omitempty"` // the cluster DNS Service's addresses, to be answered at, too
	Upstreams  []string     `json:"upstreams"`
	Metrics    string       `json:"metrics,omitempty"`
	Control    string       `json:"control,omitempty"` // path of flctl's socket
	ResolvConf string       `json:"resolvConf,omitempty"`
}

// Hello is the server's first word.
type Hello struct {
	Protocol int       `json:"protocol"`
	Build    string    `json:"build"`    // as it was started with
	Settings *Settings `json:"settings"` // nil: not started yet
	Complete bool      `json:"complete"` // it knows the whole cluster
	PID      int       `json:"pid"`
}

// Start is the agent's answer. A server that was started before keeps its settings.
type Start struct {
	Settings Settings `json:"settings"`
	Corefile string   `json:"corefile"` // of the cluster; empty: the default
}

// Message is what the agent sends then.
type Message struct {
	Batch    *directory.Batch
	Corefile *Corefile
}

// Corefile is the cluster's; an empty one stands for the default. (It is no plain string because gob leaves out a pointer to an empty one.)
type Corefile struct{ Text string }

// Report is what the server sends then.
type Report struct {
	Serving bool // it answers
}

// most bounds Hello and Start, and maxFiles the sockets with them.
const (
	most     = 1 << 20
	maxFiles = 128
)

// Send sends Hello or Start and files with it.
func Send(conn *net.UnixConn, v any, files []*os.File) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = descriptor(f)
		}
		rights = unix.UnixRights(fds...)
	}
	_, _, err = conn.WriteMsgUnix(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...), rights, nil)
	return err
}

// Receive reads Hello or Start and the files with it, which the caller closes.
func Receive(conn *net.UnixConn, v any) (files []*os.File, err error) {
	var size [4]byte
	rights := make([]byte, unix.CmsgSpace(maxFiles*4))
	n, m, _, _, err := conn.ReadMsgUnix(size[:], rights)
	if err == nil && m > 0 {
		files, err = filesOf(rights[:m])
	}
	if err == nil && n < len(size) {
		if n == 0 {
			err = io.EOF
		} else {
			_, err = io.ReadFull(conn, size[n:])
		}
	}
	length := binary.BigEndian.Uint32(size[:])
	if err == nil && length > most {
		err = fmt.Errorf("a first message of %d bytes; at most %d", length, most)
	}
	if err == nil {
		body := make([]byte, length)
		if _, err = io.ReadFull(conn, body); err == nil {
			err = json.Unmarshal(body, v)
		}
	}
	if err != nil {
		Close(files)
		return nil, err
	}
	return files, nil
}

func filesOf(rights []byte) (files []*os.File, err error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			Close(files)
			return nil, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "dns"))
		}
	}
	return files, nil
}

// descriptor returns f's descriptor. (File.Fd would make the socket, which other processes share, a blocking one.)
func descriptor(f *os.File) (fd int) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1
	}
	_ = raw.Control(func(d uintptr) { fd = int(d) }) // fails only when f is closed, which is the caller's
	return fd
}

// Copy returns files of the same sockets.
func Copy(files []*os.File) (copies []*os.File, err error) {
	for _, f := range files {
		fd, err := unix.FcntlInt(uintptr(descriptor(f)), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			Close(copies)
			return nil, fmt.Errorf("copy a DNS socket: %w", err)
		}
		copies = append(copies, os.NewFile(uintptr(fd), f.Name()))
	}
	return copies, nil
}

// Close closes files.
func Close(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
