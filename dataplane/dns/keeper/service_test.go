// SPDX-License-Identifier: Apache-2.0

package keeper

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/dataplane/dns"
)

// serviceAddress is an address for one test's Service.
func serviceAddress() netip.Addr {
	return netip.AddrFrom4([4]byte{127, byte(1 + rand.IntN(250)), byte(rand.IntN(250)), byte(1 + rand.IntN(250))})
}

// askAt asks at the Service's address for the address of default/web, from a socket that takes answers from there only.
func askAt(service netip.Addr, network string) error {
	conn, err := net.DialTimeout(network, netip.AddrPortFrom(service, dns.ServicePort).String(), 5*time.Second)
	if err != nil {
		return err
	}
	c := &mdns.Conn{Conn: conn}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if err := c.WriteMsg(new(mdns.Msg).SetQuestion("web.default.svc.cluster.local.", mdns.TypeA)); err != nil {
		return err
	}
	r, err := c.ReadMsg()
	if err != nil {
		return err
	}
	if len(r.Answer) != 1 || r.Answer[0].(*mdns.A).A.String() != "10.96.0.20" {
		return errors.New("answered " + r.String())
	}
	return nil
}

// told keeps what Health said last.
func told(cfg *Config) <-chan []netip.Addr {
	service := make(chan []netip.Addr, 16)
	cfg.Health = func(answers bool, at []netip.Addr) {
		if answers {
			service <- at
		}
	}
	return service
}

// waitFor receives what Health says when the server answers.
func waitFor(t *testing.T, service <-chan []netip.Addr) []netip.Addr {
	t.Helper()
	select {
	case at := <-service:
		return at
	case <-time.After(30 * time.Second):
		t.Fatal("nobody was told that the server answers")
		return nil
	}
}

// TestServiceAddressIsAnswered asks at the cluster DNS Service's own address, over UDP and TCP, before and after the server is killed; a question that comes while there is none waits for the next.
func TestServiceAddressIsAnswered(t *testing.T) {
	n := newNode(t)
	service := serviceAddress()
	n.cfg.Settings.Service = []netip.Addr{service}
	at := told(&n.cfg)
	n.keep(n.cfg)
	n.answers("web", "10.96.0.20")
	if got := waitFor(t, at); len(got) != 1 || got[0] != service {
		t.Errorf("the server is said to answer at %v, want %s", got, service)
	}
	slow, err := net.Dial("tcp", netip.AddrPortFrom(service, dns.ServicePort).String())
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	if _, err := slow.Write([]byte{0xff}); err != nil {
		t.Fatal(err)
	}
	_ = slow.SetReadDeadline(time.Now().Add(30 * time.Second)) // a TCP socket has deadlines
	if _, err := slow.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a client that sends a byte and waits is kept: %v", err)
	}
	for range 3 {
		for _, network := range []string{"udp", "tcp"} {
			if err := askAt(service, network); err != nil {
				t.Errorf("%s: %v", network, err)
			}
		}
		pids := n.pids()
		if len(pids) != 1 {
			t.Fatalf("servers %v, want one", pids)
		}
		if err := unix.Kill(pids[0], unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for _, network := range []string{"tcp", "udp"} {
			if err := askAt(service, network); err != nil {
				if err = askAt(service, network); err != nil { // the client's one repetition
					t.Errorf("%s, server killed: %v", network, err)
				}
			}
		}
		n.answers("web", "10.96.0.20")
	}
}

// TestServerGainsTheServiceAddress replaces a server that an earlier version started without the Service's address.
func TestServerGainsTheServiceAddress(t *testing.T) {
	n := newNode(t)
	stop := n.keep(n.cfg)
	n.answers("web", "10.96.0.20")
	stop()
	stopLoad := n.load(2, 5*time.Second)
	service := serviceAddress()
	n.cfg.Settings.Service = []netip.Addr{service}
	at := told(&n.cfg)
	n.keep(n.cfg)
	if got := waitFor(t, at); len(got) != 1 || got[0] != service {
		t.Errorf("the server is said to answer at %v, want %s", got, service)
	}
	for _, network := range []string{"udp", "tcp"} {
		if err := askAt(service, network); err != nil {
			t.Errorf("%s: %v", network, err)
		}
	}
	if asked, repeated, _ := stopLoad(); repeated > 0 {
		t.Errorf("%d of %d questions had to be repeated meanwhile", repeated, asked)
	}
}

// TestServiceAddressTaken has somebody else hold the Service's port 53: the node's own addresses are answered, and nobody is told that the Service's is.
func TestServiceAddressTaken(t *testing.T) {
	n := newNode(t)
	service := serviceAddress()
	other, err := net.ListenPacket("udp", netip.AddrPortFrom(service, dns.ServicePort).String())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	n.cfg.Settings.Service = []netip.Addr{service}
	at := told(&n.cfg)
	n.keep(n.cfg)
	n.answers("web", "10.96.0.20")
	if got := waitFor(t, at); len(got) != 0 {
		t.Errorf("the server is said to answer at %v", got)
	}
}
