// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"encoding/binary"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// recentFor is how long an answer is given again. It is short, so that CoreDNS's cache sees a name that is asked for often, often enough to prefetch it.
	recentFor = 2 * time.Second
	recentMax = 4096 // answers
)

// recent is what CoreDNS answered in the last moments for names of the world, ready to be sent again.
type recent struct {
	mu      sync.RWMutex
	answers map[recentKey]*remembered
}

// recentKey is everything of a question that an answer may depend on, but the asker.
type recentKey struct {
	name          string
	qtype         uint16
	flags, checks byte
	edns          bool
	size          uint16
	do            byte
}

// remembered is an answer on the wire. Its name was asked for, and is written, in lower case.
type remembered struct {
	wire  []byte
	plain int   // its length in CoreDNS's reckoning
	ttls  []int // where the times to live stand
	runs  []run
	at    time.Time
	until time.Time
	saved int // questions that the search list's walk spared
}

func newRecent() *recent { return &recent{answers: map[recentKey]*remembered{}} }

func (q *question) key() recentKey {
	return recentKey{q.name, q.qtype, q.flags, q.checks, q.edns, q.size, q.do}
}

// get returns the answer to q, nil when there is none any more.
func (c *recent) get(q question, now time.Time) *remembered {
	if !q.lower {
		return nil
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	if r := c.answers[q.key()]; r != nil && now.Before(r.until) {
		return r
	}
	return nil
}

func (c *recent) put(k recentKey, r *remembered) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.answers) >= recentMax {
		for k, r := range c.answers {
			if !r.at.Before(r.until) || time.Now().After(r.until) {
				delete(c.answers, k)
			}
		}
		if len(c.answers) >= recentMax {
			clear(c.answers)
		}
	}
	c.answers[k] = r
}

// write appends the answer to q.
func (r *remembered) write(dst []byte, q question, now time.Time, shuffle bool) []byte {
	out := append(dst, r.wire...)
	out[0], out[1] = q.packet[0], q.packet[1]
	if passed := uint32(now.Sub(r.at) / time.Second); passed > 0 {
		for _, at := range r.ttls {
			left := binary.BigEndian.Uint32(out[at:])
			binary.BigEndian.PutUint32(out[at:], left-min(passed, left))
		}
	}
	if shuffle {
		shuffleRuns(out, r.runs)
	}
	return out
}

// ednsDO is the one flag of an EDNS0 record's time to live field that has a meaning here (RFC 6891 section 6.1.3).
const ednsDO = 1 << 15

// remember returns a writer that keeps the answer to r, if it may be given again.
func (f *fastPath) remember(w dns.ResponseWriter, r *dns.Msg) dns.ResponseWriter {
	h := r.MsgHdr
	if f.recent == nil || h.Opcode != dns.OpcodeQuery || h.Rcode != 0 || h.Zero || h.Authoritative || h.Truncated || h.RecursionAvailable {
		return w
	}
	if len(r.Question) != 1 || len(r.Answer)+len(r.Ns) > 0 || len(r.Extra) > 1 {
		return w
	}
	asked := r.Question[0]
	if asked.Qclass != dns.ClassINET || asked.Qtype != dns.TypeA && asked.Qtype != dns.TypeAAAA || asked.Name != strings.ToLower(asked.Name) {
		return w
	}
	k := recentKey{name: asked.Name, qtype: asked.Qtype}
	if r.RecursionDesired {
		k.flags |= bitRD
	}
	if r.CheckingDisabled {
		k.checks |= bitCD
	}
	if r.AuthenticatedData {
		k.checks |= bitAD
	}
	if len(r.Extra) > 0 {
		o := r.IsEdns0()
		if o == nil || o.Hdr.Name != "." || len(o.Option) > 0 || o.Hdr.Ttl&^ednsDO != 0 { // answers repeat the flags, also those that nobody knows yet
			return w
		}
		k.edns, k.size = true, o.UDPSize()
		if f.plan.bufsize > 0 {
			k.size = min(k.size, uint16(f.plan.bufsize))
		}
		if o.Do() {
			k.do = 0x80
		}
	}
	return &recorder{ResponseWriter: w, path: f, key: k}
}

// recorder keeps the one answer that is written.
type recorder struct {
	dns.ResponseWriter
	path *fastPath
	key  recentKey
}

// WriteMsg implements dns.ResponseWriter.
func (c *recorder) WriteMsg(m *dns.Msg) error {
	saved, ok := c.path.again(m, c.key.name)
	if !ok {
		return c.ResponseWriter.WriteMsg(m)
	}
	wire, err := m.Pack()
	if err != nil {
		return c.ResponseWriter.WriteMsg(m)
	}
	if r := dissect(wire); r != nil && len(wire) <= maxReply {
		least := uint32(recentFor / time.Second)
		for _, at := range r.ttls {
			least = min(least, binary.BigEndian.Uint32(wire[at:]))
		}
		r.saved, r.at = saved, time.Now()
		r.until = r.at.Add(time.Duration(least) * time.Second)
		extra := m.Extra
		m.Extra, m.Compress = nil, false
		r.plain = m.Len()
		m.Extra = extra
		if least > 0 {
			c.path.recent.put(c.key, r)
		}
	}
	_, err = c.ResponseWriter.Write(wire)
	return err
}

// again reports whether m, the answer for name, may be given again: a positive answer of addresses from outside the cluster. saved is not 0 when the plugin search
// found it under another name.
func (f *fastPath) again(m *dns.Msg, name string) (saved int, ok bool) {
	if m.Rcode != dns.RcodeSuccess || m.Truncated || len(m.Answer) == 0 || len(m.Ns) > 0 || len(m.Extra) > 1 {
		return 0, false
	}
	if len(m.Extra) == 1 {
		if o := m.IsEdns0(); o == nil || len(o.Option) > 0 {
			return 0, false
		}
	}
	for _, rr := range m.Answer {
		if t := rr.Header().Rrtype; t != dns.TypeA && t != dns.TypeAAAA && t != dns.TypeCNAME {
			return 0, false
		}
	}
	if !dns.IsSubDomain(f.handler.Zone.Domain, name) {
		return 0, true
	}
	if f.search == nil {
		return 0, false
	}
	base, _, found := f.search.split(name)
	alias, isAlias := m.Answer[0].(*dns.CNAME)
	if !found || !isAlias || !strings.Contains(base, ".") && len(f.search.Host) == 0 {
		return 0, false
	}
	for i, suffix := range f.search.Host {
		if alias.Target == base+"."+suffix {
			return 3 + i, true
		}
	}
	if alias.Target == base+"." {
		return 3 + len(f.search.Host), true
	}
	return 0, false
}

// dissect finds times to live and runs of addresses in an answer that was just packed; nil when it is none.
func dissect(wire []byte) *remembered {
	r := &remembered{wire: wire}
	if len(wire) < headerSize {
		return nil
	}
	at := headerSize
	if binary.BigEndian.Uint16(wire[4:]) == 1 {
		at = skipName(wire, at) + 4
	}
	answers, others := int(binary.BigEndian.Uint16(wire[6:])), int(binary.BigEndian.Uint16(wire[8:]))+int(binary.BigEndian.Uint16(wire[10:]))
	var last []byte // owner, type and size of the record before
	for i := range answers + others {
		start := at
		if at = skipName(wire, at); at < 0 || at+10 > len(wire) {
			return nil
		}
		kind, size := binary.BigEndian.Uint16(wire[at:]), int(binary.BigEndian.Uint16(wire[at+8:]))
		if at+10+size > len(wire) {
			return nil
		}
		if kind != dns.TypeOPT {
			r.ttls = append(r.ttls, at+4)
		}
		if i < answers && (kind == dns.TypeA || kind == dns.TypeAAAA) {
			owner := append(fullName(wire, start), wire[at:at+2]...)
			if string(owner) != string(last) {
				r.runs = append(r.runs, run{size: size})
			}
			last = owner
			group := &r.runs[len(r.runs)-1]
			group.at = append(group.at, at+10)
		} else {
			last = nil
		}
		at += 10 + size
	}
	if at != len(wire) {
		return nil
	}
	return r
}

// skipName returns where the name at ends, -1 when it does not.
func skipName(wire []byte, at int) int {
	for at >= 0 && at < len(wire) {
		switch n := int(wire[at]); {
		case n == 0:
			return at + 1
		case n >= 0xc0:
			return at + 2
		default:
			at += 1 + n
		}
	}
	return -1
}

// fullName returns the labels of the name at, pointers followed.
func fullName(wire []byte, at int) (name []byte) {
	for hops := 0; at < len(wire) && hops < 128; hops++ {
		switch n := int(wire[at]); {
		case n == 0:
			return name
		case n >= 0xc0:
			if at+2 > len(wire) {
				return name
			}
			at = n&0x3f<<8 | int(wire[at+1])
		default:
			if at+1+n > len(wire) {
				return name
			}
			name = append(name, wire[at:at+1+n]...)
			at += 1 + n
		}
	}
	return name
}
