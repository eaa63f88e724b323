// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// The log is append-only JSON lines. One line is one write(2), in the page cache before an address is used: it survives kill -9 of the agent without costing
// an fsync per pod. After a power failure its tail may be missing, and then so are all containers that had the addresses. A torn last line is cut off. The log is rewritten through
// a temporary file and rename when most of its lines are history.

const (
	opTake = "take" // Owner has Addrs
	opFree = "free" // Owner's addresses rest from Time on
	opRest = "rest" // Addrs rest from Time on; only in a rewritten log
)

type record struct {
	Op    string       `json:"op"`
	Owner string       `json:"owner,omitempty"`
	Addrs []netip.Addr `json:"addrs,omitempty"`
	Time  int64        `json:"time,omitempty"` // unix milliseconds
}

type journal struct {
	path  string
	f     *os.File
	lines int
}

// maxLine bounds what a damaged log can make the reader hold.
const maxLine = 64 << 10

func openJournal(path string, replay func(record)) (*journal, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	// One agent per log: two would hand out the same address.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, &os.PathError{Op: "lock (is another agent running?)", Path: path, Err: err}
	}
	j := &journal{path: path, f: f}
	r := bufio.NewReaderSize(f, maxLine)
	for {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			for errors.Is(err, bufio.ErrBufferFull) { // no line of ours: skip it whole
				_, err = r.ReadSlice('\n')
			}
			if err == nil {
				continue
			}
		}
		if errors.Is(err, io.EOF) {
			return j, nil
		}
		if err != nil {
			f.Close()
			return nil, err
		}
		var rec record
		if json.Unmarshal(line, &rec) == nil {
			j.lines++
			replay(rec)
		}
	}
}

func (j *journal) append(r record) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	before, err := j.f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if _, err := j.f.Write(append(line, '\n')); err != nil {
		// A full disk may have taken half a line: the next one must not be glued to it.
		return errors.Join(err, j.f.Truncate(before))
	}
	j.lines++
	return nil
}

// rewrite replaces the log by records. The old file stays valid until the rename.
func (j *journal) rewrite(records []record) error {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	for _, r := range records {
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(j.path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(buf.Bytes())
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err == nil {
		err = os.Rename(f.Name(), j.path)
	}
	if err != nil {
		f.Close()
		os.Remove(j.path + ".new")
		return err
	}
	j.f.Close()
	j.f, j.lines = f, len(records)
	return nil
}

func (j *journal) close() error { return j.f.Close() }

// replay applies a line that an earlier agent wrote.
func (p *Pool) replay(r record) {
	switch r.Op {
	case opTake:
		if r.Owner == "" || len(r.Addrs) == 0 {
			return
		}
		p.free(record{Owner: r.Owner, Time: r.Time})
		p.take(r.Owner, r.Addrs)
	case opFree:
		p.free(r)
	case opRest:
		for _, a := range r.Addrs {
			p.quarantine(a, r.Time)
		}
	}
}

// compact rewrites the log to what is true now.
func (p *Pool) compact() error {
	now := p.cfg.Now()
	var out []record
	for _, owner := range slices.Sorted(maps.Keys(p.owners)) {
		out = append(out, record{Op: opTake, Owner: owner, Addrs: p.owners[owner]})
	}
	for a, until := range p.rest {
		if !now.Before(until) {
			delete(p.rest, a)
			continue
		}
		out = append(out, record{Op: opRest, Addrs: []netip.Addr{a}, Time: until.Add(-p.cfg.Quarantine).UnixMilli()})
	}
	return p.log.rewrite(out)
}
