// SPDX-License-Identifier: Apache-2.0

package server

import (
	"net"
	"sync"
)

// joined accepts from several listeners. Its address is the first one's.
type joined struct {
	net.Listener
	others []net.Listener

	accepting sync.Once
	accepted  chan accepted
	closed    chan struct{}
	closing   sync.Once
}

type accepted struct {
	conn net.Conn
	err  error
}

// joinListeners returns first when there is no other.
func joinListeners(first net.Listener, others []net.Listener) net.Listener {
	if len(others) == 0 {
		return first
	}
	return &joined{Listener: first, others: others, accepted: make(chan accepted), closed: make(chan struct{})}
}

// Accept returns the next connection of any of the listeners. After Close it returns net.ErrClosed.
func (j *joined) Accept() (net.Conn, error) {
	j.accepting.Do(func() {
		for _, l := range append([]net.Listener{j.Listener}, j.others...) {
			go j.acceptFrom(l)
		}
	})
	select {
	case a := <-j.accepted:
		return a.conn, a.err
	case <-j.closed:
		return nil, net.ErrClosed
	}
}

func (j *joined) acceptFrom(l net.Listener) {
	for {
		conn, err := l.Accept()
		select {
		case j.accepted <- accepted{conn, err}:
		case <-j.closed:
			if err == nil {
				conn.Close()
			}
			return
		}
		if err != nil {
			return
		}
	}
}

// Close closes all of the listeners.
func (j *joined) Close() error {
	j.closing.Do(func() { close(j.closed) })
	err := j.Listener.Close()
	for _, l := range j.others {
		l.Close()
	}
	return err
}
