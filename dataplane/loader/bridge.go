// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// bridged are the tables of connections that programs of two layouts keep alike while both run: bpf/lib/bridge.h says why. A lost entry of the others of writtenByPrograms costs no connection.
var bridged = []string{"ct_tcp", "ct_any", "masquerade", "inbound"}

// bridgeFlag is the constant that makes programs use the bridges.
const bridgeFlag = "cfg_bridge"

// Where the room for one entry of either layout has what: the old key, the old value, the value as it is now.
const (
	roomKey, roomKeySize   = 0, 64
	roomOld, roomValueSize = roomKey + roomKeySize, 256
	roomNow                = roomOld + roomValueSize
	roomSize               = roomNow + roomValueSize
)

// bridge makes the programs of spec read and write the tables of another layout too, where its programs may still run. The old table is reached through a map of maps, pinned beside it,
// from which Settle takes it: nothing holds it longer than that. The returned maps must stay open until spec is loaded.
func (l *Loader) bridge(spec *ebpf.CollectionSpec) (open []*ebpf.Map, err error) {
	flag := spec.Variables[bridgeFlag]
	if flag == nil {
		return nil, nil
	}
	room, err := ebpf.NewMap(&ebpf.MapSpec{Name: "bridge_room", Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: roomSize, MaxEntries: 1})
	if err != nil {
		return nil, fmt.Errorf("create map bridge_room: %w", describe(err))
	}
	open = []*ebpf.Map{room}
	for _, name := range bridged {
		if spec.Maps[name] == nil {
			continue
		}
		slot, conv, err := l.bridgeTo(name, spec.Maps[name])
		if err != nil {
			return open, fmt.Errorf("keep map %s and that of an earlier layout alike: %w", name, err)
		}
		if slot == nil {
			continue
		}
		open = append(open, slot)
		for _, p := range spec.Programs {
			p.Instructions = replaceFunc(p.Instructions, name+"_recall", recallBody(name, room, slot, conv))
			p.Instructions = replaceFunc(p.Instructions, name+"_tell", tellBody(name, room, slot, conv))
		}
	}
	if len(open) == 1 {
		return open, nil
	}
	return open, flag.Set(uint8(1))
}

// bridgeTo returns the map of one map that leads to the table name of another layout, and how its entries are read; nil if there is none, or it is this layout's too.
func (l *Loader) bridgeTo(name string, spec *ebpf.MapSpec) (slot *ebpf.Map, conv *twoWay, err error) {
	old, dir, err := l.predecessorIn(name)
	if old == nil || err != nil {
		return nil, nil, err
	}
	defer old.Close()
	if now, err := ebpf.LoadPinnedMap(filepath.Join(l.maps, name), nil); err == nil {
		shared, err := sameMap(old, now)
		now.Close()
		if shared || err != nil {
			return nil, nil, err
		}
	}
	c, _, err := converter(old, spec)
	if c == nil || err != nil {
		return nil, nil, err
	}
	conv = &twoWay{conversion: c, oldKey: old.KeySize(), oldValue: old.ValueSize()}
	if max(conv.oldKey, conv.keyN) > roomKeySize || max(conv.oldValue, conv.valueN) > roomValueSize {
		return nil, nil, fmt.Errorf("entries of %d and %d bytes are larger than the room for one", conv.oldKey, conv.oldValue)
	}
	path := filepath.Join(dir, bridgePin(name))
	slot, err = ebpf.LoadPinnedMap(path, nil)
	made := errors.Is(err, os.ErrNotExist)
	if made {
		inner := &ebpf.MapSpec{Type: old.Type(), KeySize: old.KeySize(), ValueSize: old.ValueSize(), MaxEntries: old.MaxEntries(), Flags: old.Flags()}
		if h, err := old.Handle(); err == nil {
			h.Close()
			// Kernels from 5.15 to 6.1 tell maps whose values are structs from others.
			inner.Key, inner.Value = bytesType(inner.KeySize), bytesType(inner.ValueSize)
			if _, ok := spec.Value.(*btf.Struct); ok {
				inner.Value = &btf.Struct{Name: "entry", Size: inner.ValueSize, Members: []btf.Member{{Name: "bytes", Type: inner.Value}}}
			}
		}
		slot, err = ebpf.NewMap(&ebpf.MapSpec{Name: "bridge", Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: inner})
	}
	if err != nil {
		return nil, nil, err
	}
	if err = slot.Put(uint32(0), old); err == nil && made { // last: a pinned bridge leads somewhere
		err = slot.Pin(path)
	}
	if err != nil {
		slot.Close()
		return nil, nil, err
	}
	return slot, conv, nil
}

func bytesType(n uint32) btf.Type {
	return &btf.Array{Index: &btf.Int{Name: "index", Size: 4}, Type: &btf.Int{Name: "byte", Size: 1}, Nelems: n}
}

func bridgePin(name string) string { return "bridge_" + name }

// closeBridges takes the old tables from the programs that look into them: nothing writes to them any more.
func closeBridges(dir string) error {
	var errs []error
	for _, name := range bridged {
		slot, err := ebpf.LoadPinnedMap(filepath.Join(dir, bridgePin(name)), nil)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			if err = slot.Delete(uint32(0)); errors.Is(err, ebpf.ErrKeyNotExist) {
				err = nil
			}
			slot.Close()
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func sameMap(a, b *ebpf.Map) (bool, error) {
	var ids [2]ebpf.MapID
	for i, m := range []*ebpf.Map{a, b} {
		info, err := m.Info()
		if err != nil {
			return false, fmt.Errorf("tell one map from another: %w", err)
		}
		ids[i], _ = info.ID()
	}
	return ids[0] == ids[1], nil
}

// twoWay is a conversion that can also be read backwards.
type twoWay struct {
	*conversion
	oldKey, oldValue uint32
}

// recallBody is NAME_recall(r1 key): the entry of the old table becomes one of the map's own, whose address is returned.
func recallBody(name string, room, slot *ebpf.Map, c *twoWay) asm.Instructions {
	none := name + "_recall_none"
	ins := asm.Instructions{asm.Mov.Reg(asm.R7, asm.R1)}
	ins = append(ins, enter(room, none)...)
	ins = append(ins, clear(asm.R6, roomKey, c.oldKey)...)
	ins = append(ins, move(asm.R6, roomKey, asm.R7, 0, backwards(c.key))...)
	ins = append(ins, inner(slot, none)...)
	ins = append(ins,
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, none),
	)
	ins = append(ins, clear(asm.R6, roomNow, c.valueN)...)
	ins = append(ins, move(asm.R6, roomNow, asm.R0, 0, c.value)...)
	return append(ins,
		asm.LoadMapPtr(asm.R1, 0).WithReference(name),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.Mov.Reg(asm.R3, asm.R6),
		asm.Add.Imm(asm.R3, roomNow),
		asm.Mov.Imm(asm.R4, int32(ebpf.UpdateNoExist)),
		asm.FnMapUpdateElem.Call(),
		asm.LoadMapPtr(asm.R1, 0).WithReference(name),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.FnMapLookupElem.Call(),
		asm.Return(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol(none),
		asm.Return(),
	)
}

// tellBody is NAME_tell(r1 key, r2 value): the old table gets the entry.
func tellBody(name string, room, slot *ebpf.Map, c *twoWay) asm.Instructions {
	none := name + "_tell_none"
	ins := asm.Instructions{
		asm.Mov.Reg(asm.R7, asm.R1),
		asm.Mov.Reg(asm.R8, asm.R2),
	}
	ins = append(ins, enter(room, none)...)
	ins = append(ins, clear(asm.R6, roomKey, c.oldKey)...)
	ins = append(ins, move(asm.R6, roomKey, asm.R7, 0, backwards(c.key))...)
	ins = append(ins, clear(asm.R6, roomOld, c.oldValue)...)
	ins = append(ins, move(asm.R6, roomOld, asm.R8, 0, backwards(c.value))...)
	ins = append(ins, inner(slot, none)...)
	return append(ins,
		asm.Mov.Reg(asm.R3, asm.R6),
		asm.Add.Imm(asm.R3, roomOld),
		asm.Mov.Imm(asm.R4, int32(ebpf.UpdateAny)),
		asm.FnMapUpdateElem.Call(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol(none),
		asm.Return(),
	)
}

// enter loads the address of this CPU's room into r6, and makes the stack's last word the key of arrays of one. Goes to none if there is no room.
func enter(room *ebpf.Map, none string) asm.Instructions {
	return asm.Instructions{
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, room.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, none),
		asm.Mov.Reg(asm.R6, asm.R0),
	}
}

// inner loads the old table into r1 and the address of its key in the room into r2, or goes to none.
func inner(slot *ebpf.Map, none string) asm.Instructions {
	return asm.Instructions{
		asm.LoadMapPtr(asm.R1, slot.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, none),
		asm.Mov.Reg(asm.R1, asm.R0),
		asm.Mov.Reg(asm.R2, asm.R6),
		asm.Add.Imm(asm.R2, roomKey),
	}
}

// clear zeroes n bytes at reg+off, a multiple of four as the room behind it is.
func clear(reg asm.Register, off int16, n uint32) (ins asm.Instructions) {
	for at := uint32(0); at < n; at += 4 {
		ins = append(ins, asm.StoreImm(reg, off+int16(at), 0, asm.Word))
	}
	return ins
}

// move copies spans from src+from to dst+to by r5, in pieces as wide as the alignment of both allows: at most four bytes, as struct ct_key on a stack is aligned no better.
func move(dst asm.Register, to int16, src asm.Register, from int16, spans []span) (ins asm.Instructions) {
	for _, s := range spans {
		for done := uint32(0); done < s.n; {
			n, size := uint32(4), asm.Word
			if at := (s.from + done) | (s.to + done); at%2 != 0 || s.n-done < 2 {
				n, size = 1, asm.Byte
			} else if at%4 != 0 || s.n-done < 4 {
				n, size = 2, asm.Half
			}
			ins = append(ins,
				asm.LoadMem(asm.R5, src, from+int16(s.from+done), size),
				asm.StoreMem(dst, to+int16(s.to+done), asm.R5, size),
			)
			done += n
		}
	}
	return ins
}

func backwards(spans []span) []span {
	out := make([]span, len(spans))
	for i, s := range spans {
		out[i] = span{from: s.to, to: s.from, n: s.n}
	}
	return out
}

// replaceFunc gives the function name another body. Programs without it stay as they are.
func replaceFunc(ins asm.Instructions, name string, body asm.Instructions) asm.Instructions {
	start := -1
	for i := range ins {
		sym := ins[i].Symbol()
		if sym == "" || strings.HasPrefix(sym, "LBB") { // LBB: a basic block
			continue
		}
		if start >= 0 {
			return splice(ins, start, i, body)
		}
		if sym == name {
			start = i
		}
	}
	if start < 0 {
		return ins
	}
	return splice(ins, start, len(ins), body)
}

func splice(ins asm.Instructions, from, to int, body asm.Instructions) asm.Instructions {
	body[0] = body[0].WithMetadata(ins[from].Metadata) // its name and type
	out := make(asm.Instructions, 0, len(ins)+len(body))
	out = append(out, ins[:from]...)
	out = append(out, body...)
	return append(out, ins[to:]...)
}
