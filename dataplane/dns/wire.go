// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/miekg/dns"
)

const (
	headerSize = 12
	// Bits of a header's second and third bytes (RFC 1035 section 4.1.1, RFC 4035 section 3.1.6).
	bitRD = 0x01
	bitAA = 0x04
	bitQR = 0x80
	bitCD = 0x10
	bitAD = 0x20
)

// question is a packet with one plain question: opcode QUERY, class IN, type A, AAAA or PTR, a name of letters, digits, hyphens and underscores, and at most an
// EDNS0 record of version 0 without options.
type question struct {
	packet []byte
	end    int    // of the question section
	name   string // as text, in lower case
	lower  bool   // it was asked in lower case
	qtype  uint16
	flags  byte // RD
	checks byte // AD, CD
	edns   bool
	size   uint16 // the asker's buffer in its EDNS0 record, no more than bufsize
	do     byte   // the first byte of EDNS0's flags
	limit  int    // bytes that an answer may have, at most maxReply
	six    bool   // asked over IPv6
}

// parseQuestion reads packet; ok is false for what is not a plain question, be it malformed or unusual.
func parseQuestion(packet []byte, bufsize int) (q question, ok bool) {
	if len(packet) < headerSize+6 || packet[2]&^bitRD != 0 || packet[3]&^(bitAD|bitCD) != 0 {
		return q, false
	}
	counts := binary.BigEndian.Uint64(packet[4:])
	if counts != 1<<48 && counts != 1<<48|1 {
		return q, false
	}
	var text [256]byte
	n, at := 0, headerSize
	q.lower = true
	for {
		if at >= len(packet) {
			return q, false
		}
		label := int(packet[at])
		at++
		if label == 0 {
			break
		}
		if label > 63 || at+label > len(packet) || n+label+1 > 254 {
			return q, false
		}
		for _, c := range packet[at : at+label] {
			switch {
			case c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_':
			case c >= 'A' && c <= 'Z':
				c += 'a' - 'A'
				q.lower = false
			default:
				return q, false
			}
			text[n] = c
			n++
		}
		text[n] = '.'
		n++
		at += label
	}
	if n == 0 || at+4 > len(packet) || binary.BigEndian.Uint16(packet[at+2:]) != dns.ClassINET {
		return q, false
	}
	q.packet, q.qtype = packet, binary.BigEndian.Uint16(packet[at:])
	if q.qtype != dns.TypeA && q.qtype != dns.TypeAAAA && q.qtype != dns.TypePTR {
		return q, false
	}
	q.end, q.flags, q.checks, q.limit = at+4, packet[2], packet[3], dns.MinMsgSize
	rest := packet[q.end:]
	switch {
	case counts == 1<<48 && len(rest) == 0:
	case counts != 1<<48 && len(rest) == 11 && rest[0] == 0 && binary.BigEndian.Uint16(rest[1:]) == dns.TypeOPT &&
		rest[5] == 0 && rest[6] == 0 && rest[7]&0x7f == 0 && rest[8] == 0 && rest[9] == 0 && rest[10] == 0:
		q.edns, q.size, q.do = true, binary.BigEndian.Uint16(rest[3:]), rest[7]
		if bufsize > 0 && int(q.size) > bufsize {
			q.size = uint16(bufsize)
		}
		q.limit = min(max(int(q.size), dns.MinMsgSize), maxReply)
	default:
		return q, false
	}
	q.name = string(text[:n])
	return q, true
}

// writer writes an answer to q.
type writer struct {
	out      []byte
	q        question
	compress bool
}

func (w *writer) header(rcode, answers, authorities int) {
	h := [headerSize]byte{w.q.packet[0], w.q.packet[1], bitQR | bitAA | w.q.flags, w.q.checks&bitCD | byte(rcode), 0, 1}
	binary.BigEndian.PutUint16(h[6:], uint16(answers))
	binary.BigEndian.PutUint16(h[8:], uint16(authorities))
	if w.q.edns {
		h[11] = 1
	}
	w.out = append(w.out, h[:]...)
	w.out = append(w.out, w.q.packet[headerSize:w.q.end]...)
}

// opt appends the EDNS0 record, if the asker sent one.
func (w *writer) opt(out []byte) []byte {
	if !w.q.edns {
		return out
	}
	return append(out, 0, 0, byte(dns.TypeOPT), byte(w.q.size>>8), byte(w.q.size), 0, 0, w.q.do, 0, 0, 0)
}

// record appends a record; it returns false for one that CoreDNS must write.
func (w *writer) record(rr dns.RR) bool {
	h := rr.Header()
	switch {
	case w.compress: // the owner is the name asked for, or the record is not compressed here
		if h.Rrtype != dns.TypeA && h.Rrtype != dns.TypeAAAA || h.Name != w.q.name {
			return false
		}
		w.out = append(w.out, 0xc0, headerSize)
	case h.Name == w.q.name && h.Rrtype != dns.TypeSOA: // in the asker's case
		w.out = append(w.out, w.q.packet[headerSize:w.q.end-4]...)
	default:
		w.name(h.Name)
	}
	w.out = append(w.out, byte(h.Rrtype>>8), byte(h.Rrtype), byte(h.Class>>8), byte(h.Class))
	w.out = binary.BigEndian.AppendUint32(w.out, h.Ttl)
	at := len(w.out)
	w.out = append(w.out, 0, 0)
	switch rr := rr.(type) {
	case *dns.A:
		a := rr.A.To4()
		if a == nil {
			return false
		}
		w.out = append(w.out, a...)
	case *dns.AAAA:
		w.out = append(w.out, rr.AAAA...)
	case *dns.PTR:
		w.name(rr.Ptr)
	case *dns.SOA:
		w.name(rr.Ns)
		w.name(rr.Mbox)
		for _, v := range []uint32{rr.Serial, rr.Refresh, rr.Retry, rr.Expire, rr.Minttl} {
			w.out = binary.BigEndian.AppendUint32(w.out, v)
		}
	default:
		return false
	}
	binary.BigEndian.PutUint16(w.out[at:], uint16(len(w.out)-at-2))
	return true
}

// name appends a name of plain labels: what the API lets services, endpoints and zones be called.
func (w *writer) name(s string) {
	for start := 0; start < len(s); {
		end := start
		for end < len(s) && s[end] != '.' {
			end++
		}
		if end > start {
			w.out = append(w.out, byte(end-start))
			w.out = append(w.out, s[start:end]...)
		}
		start = end + 1
	}
	w.out = append(w.out, 0)
}

// shuffleRuns puts the records of each run of n-byte data into a random order, by exchanging their data.
func shuffleRuns(wire []byte, runs []run) {
	for _, r := range runs {
		rand.Shuffle(len(r.at), func(i, j int) {
			a, b := wire[r.at[i]:r.at[i]+r.size], wire[r.at[j]:r.at[j]+r.size]
			for k := range a {
				a[k], b[k] = b[k], a[k]
			}
		})
	}
}

// run is records that differ in their data only.
type run struct {
	at   []int // where each one's data starts
	size int
}
