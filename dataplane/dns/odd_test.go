// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// oddities are packets of odd and hostile clients, each made from a plain question for an address of web.default.
var oddities = []struct {
	about  string
	change func(m *dns.Msg)
	bytes  func(p []byte) []byte // of the packet then; nil: as it is
}{
	{"plain", func(m *dns.Msg) {}, nil},
	{"letters of mixed case (draft-vixie-dnsext-dns0x20)", func(m *dns.Msg) { m.Question[0].Name = "wEb.DeFaUlT.sVc.ClUsTeR.lOcAl." }, nil},
	{"mixed case of a name that does not exist", func(m *dns.Msg) { m.Question[0].Name = "nOnE.default.svc.cluster.local." }, nil},
	{"no recursion desired", func(m *dns.Msg) { m.RecursionDesired = false }, nil},
	{"checking disabled", func(m *dns.Msg) { m.CheckingDisabled = true }, nil},
	{"authentic data wanted", func(m *dns.Msg) { m.AuthenticatedData = true }, nil},
	{"EDNS0", func(m *dns.Msg) { m.SetEdns0(1232, false) }, nil},
	{"EDNS0 with the DO bit", func(m *dns.Msg) { m.SetEdns0(1232, true) }, nil},
	{"DO bit, name that does not exist", func(m *dns.Msg) { m.SetEdns0(1232, true); m.Question[0].Name = "none.default.svc.cluster.local." }, nil},
	{"EDNS0 buffer of 0 bytes", func(m *dns.Msg) { m.SetEdns0(0, false) }, nil},
	{"EDNS0 buffer of 65535 bytes", func(m *dns.Msg) { m.SetEdns0(65535, false) }, nil},
	{"EDNS version 1", func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }, nil},
	{"EDNS version 255 with the DO bit", func(m *dns.Msg) { m.SetEdns0(1232, true); m.IsEdns0().SetVersion(255) }, nil},
	{"EDNS0 with reserved flags", func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().Hdr.Ttl |= 0x1234 }, nil},
	{"EDNS0 with an extended RCODE", func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().Hdr.Ttl |= 0x05000000 }, nil},
	{"cookie", option(&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}), nil},
	{"cookie of a wrong length", option(&dns.EDNS0_LOCAL{Code: dns.EDNS0COOKIE, Data: []byte{1, 2, 3}}), nil},
	{"client subnet", option(&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: net.IPv4(192, 0, 2, 0)}), nil},
	{"client subnet of a family that does not exist", option(&dns.EDNS0_LOCAL{Code: dns.EDNS0SUBNET, Data: []byte{0, 9, 24, 0, 1}}), nil},
	{"name server's identity wanted", option(&dns.EDNS0_NSID{Code: dns.EDNS0NSID}), nil},
	{"TCP keepalive over UDP", option(&dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE}), nil},
	{"padding", option(&dns.EDNS0_PADDING{Padding: make([]byte, 100)}), nil},
	{"an option that nobody knows", option(&dns.EDNS0_LOCAL{Code: 65001, Data: []byte("x")}), nil},
	{"two EDNS0 records (RFC 6891 section 6.1.1: FORMERR)", func(m *dns.Msg) { m.SetEdns0(1232, false); m.Extra = append(m.Extra, dns.Copy(m.Extra[0])) }, nil},
	{"EDNS0 record that is not of the root", func(m *dns.Msg) { m.SetEdns0(1232, false); m.Extra[0].Header().Name = "x." }, nil},
	{"an address record beside the question", func(m *dns.Msg) {
		m.Extra = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "x.", Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(192, 0, 2, 1)}}
	}, nil},
	{"an answer in the question's packet", func(m *dns.Msg) {
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "x.", Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(192, 0, 2, 1)}}
	}, nil},
	{"class CHAOS, version.bind", func(m *dns.Msg) {
		m.Question[0] = dns.Question{Name: "version.bind.", Qtype: dns.TypeTXT, Qclass: dns.ClassCHAOS}
	}, nil},
	{"class CHAOS, a service", func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, nil},
	{"class HESIOD", func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassHESIOD }, nil},
	{"class ANY", func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassANY }, nil},
	{"class NONE", func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassNONE }, nil},
	{"class 0", func(m *dns.Msg) { m.Question[0].Qclass = 0 }, nil},
	{"type ANY", func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeANY }, nil},
	{"type 0", func(m *dns.Msg) { m.Question[0].Qtype = 0 }, nil},
	{"type that nobody knows", func(m *dns.Msg) { m.Question[0].Qtype = 65280 }, nil},
	{"type OPT", func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeOPT }, nil},
	{"no question", nil, func(p []byte) []byte { return append(slices.Clone(p[:4]), 0, 0, 0, 0, 0, 0, 0, 0) }},
	{"a question is promised twice", nil, func(p []byte) []byte { p[5] = 2; return p }},
	{"two questions", nil, func(p []byte) []byte { p[5] = 2; return append(p, p[headerSize:]...) }},
	{"65535 questions", nil, func(p []byte) []byte { p[4], p[5] = 0xff, 0xff; return p }},
	{"three additional records are promised", nil, func(p []byte) []byte { p[11] = 3; return p }},
	{"bytes behind the question", nil, func(p []byte) []byte { return append(p, 0xde, 0xad) }},
	{"an answer instead of a question", nil, func(p []byte) []byte { p[2] |= bitQR; return p }},
	{"authoritative question", nil, func(p []byte) []byte { p[2] |= bitAA; return p }},
	{"truncated question", nil, func(p []byte) []byte { p[2] |= 2; return p }},
	{"recursion available in a question", nil, func(p []byte) []byte { p[3] |= 0x80; return p }},
	{"reserved bit", nil, func(p []byte) []byte { p[3] |= 0x40; return p }},
	{"RCODE in a question", nil, func(p []byte) []byte { p[3] |= 5; return p }},
	{"opcode IQUERY", nil, opcode(1)},
	{"opcode STATUS", nil, opcode(2)},
	{"opcode NOTIFY", nil, opcode(4)},
	{"opcode UPDATE", nil, opcode(5)},
	{"opcode 15", nil, opcode(15)},
	{"cut in the name", nil, func(p []byte) []byte { return p[:20] }},
	{"cut in the type", nil, func(p []byte) []byte { return p[:len(p)-3] }},
	{"name that points at itself", nil, name(0xc0, headerSize)},
	{"name that points into the header", nil, name(0xc0, 0)},
	{"label of a reserved kind", nil, name(0x40, 'a', 0)},
	{"a name of the root", nil, name(0)},
	{"a label with a dot", nil, name(7, 'w', 'e', 'b', '.', 'd', 'e', 'f', 3, 's', 'v', 'c', 7, 'c', 'l', 'u', 's', 't', 'e', 'r', 5, 'l', 'o', 'c', 'a', 'l', 0)},
	{"a label of binary data", nil, name(3, 0, 0xff, ' ', 7, 'd', 'e', 'f', 'a', 'u', 'l', 't', 3, 's', 'v', 'c', 7, 'c', 'l', 'u', 's', 't', 'e', 'r', 5, 'l', 'o', 'c', 'a', 'l', 0)},
}

func option(o dns.EDNS0) func(*dns.Msg) {
	return func(m *dns.Msg) {
		m.SetEdns0(1232, false)
		m.IsEdns0().Option = []dns.EDNS0{o}
	}
}

func opcode(n byte) func([]byte) []byte {
	return func(p []byte) []byte { p[2] = p[2]&^0x78 | n<<3; return p }
}

// name puts other bytes in the question's name's place.
func name(wire ...byte) func([]byte) []byte {
	return func(p []byte) []byte {
		return append(append(slices.Clone(p[:headerSize]), wire...), p[len(p)-4:]...)
	}
}

// oddDifferences are the packets that CoreDNS with its kubernetes plugin answers otherwise, and why ours may.
var oddDifferences = map[string]string{
	"type ANY":           "RFC 1035 section 3.2.3: a request for all records; CoreDNS answers that there are none",
	"a name of the root": "RFC 1035 section 4.1.1: a server refuses what it is not there for; nothing has failed",
}

// TestOddClientsAgainstCoreDNS puts the packets to both servers as they are and compares what comes back, header, EDNS0 record and records.
func TestOddClientsAgainstCoreDNS(t *testing.T) {
	ours, theirs := bothServers(t)
	conns := [2]net.Conn{}
	for i, port := range []int{ours, theirs} {
		c, err := net.Dial("udp", fmt.Sprint("127.0.0.1:", port))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns[i] = c
	}
	for i, tc := range oddities {
		m := new(dns.Msg).SetQuestion("web.default.svc.cluster.local.", dns.TypeA)
		if tc.change != nil {
			tc.change(m)
		}
		p, err := m.Pack()
		if err != nil {
			t.Fatalf("%s: %v", tc.about, err)
		}
		if tc.bytes != nil {
			p = tc.bytes(p)
		}
		binary.BigEndian.PutUint16(p, uint16(0x4000+i))
		patience := 3 * time.Second
		if p[2]&bitQR != 0 { // never answered
			patience = 100 * time.Millisecond
		}
		our, their := readable(ask(t, conns[0], p, patience)), readable(ask(t, conns[1], p, patience))
		why, listed := oddDifferences[tc.about]
		if our != their && !listed {
			t.Errorf("%s (%x):\nours   %s\ntheirs %s", tc.about, p, our, their)
		}
		if our == their && listed {
			t.Errorf("%s: listed as a difference (%s), but the answers are the same: take it off the list", tc.about, why)
		}
	}
}

// readable writes an answer so that two of different times and serials compare.
func readable(wire []byte) string {
	if wire == nil {
		return "no answer"
	}
	var m dns.Msg
	if err := m.Unpack(wire); err != nil {
		return fmt.Sprintf("%x: %v", wire, err)
	}
	var b strings.Builder
	h := m.MsgHdr
	fmt.Fprintf(&b, "opcode %d rcode %s aa %t tc %t rd %t ra %t z %t ad %t cd %t question %v answer %q", h.Opcode, dns.RcodeToString[h.Rcode], h.Authoritative, h.Truncated, h.RecursionDesired,
		h.RecursionAvailable, h.Zero, h.AuthenticatedData, h.CheckingDisabled, m.Question, records(m.Answer))
	for _, rr := range m.Ns {
		fmt.Fprintf(&b, " authority %s %s", rr.Header().Name, dns.TypeToString[rr.Header().Rrtype])
	}
	for _, rr := range m.Extra {
		if o, ok := rr.(*dns.OPT); ok {
			fmt.Fprintf(&b, " EDNS version %d size %d do %t ttl %x %v", o.Version(), o.UDPSize(), o.Do(), o.Hdr.Ttl, o.Option)
		} else {
			fmt.Fprintf(&b, " additional %s", rr.Header().Name)
		}
	}
	return b.String()
}
