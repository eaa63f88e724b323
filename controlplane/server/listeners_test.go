// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"net"
	"testing"
)

func TestJoinedListenersAcceptFromEach(t *testing.T) {
	var all []net.Listener
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	j := joinListeners(all[0], all[1:])
	if j.Addr().String() != all[0].Addr().String() {
		t.Errorf("address %s, want the first one's %s", j.Addr(), all[0].Addr())
	}
	for _, l := range all {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		got, err := j.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got.RemoteAddr().String() != c.LocalAddr().String() {
			t.Errorf("accepted %s, want %s", got.RemoteAddr(), c.LocalAddr())
		}
		got.Close()
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v, want net.ErrClosed", err)
	}
	for _, l := range all {
		if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
			c.Close()
			t.Errorf("%s still accepts after Close", l.Addr())
		}
	}
}
