// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// How a node comes from one map layout to another with its connections:
//
//	Load    a pinned map that this layout's directory lacks and another layout's has is taken over:
//	        equal in shape -> the very same map is pinned here too, so that programs of both releases share it;
//	        different, or smaller than Config.MapSizes asks for -> a new map is made and filled from the old one, field by field by their names in BTF.
//	attach  programs are replaced one by one. Until the last one is, a connection may begin in one of the old and be answered in one of the new, or the other way:
//	        the new ones look into the old tables for what their own lack, and write what they begin into both (bridge.go).
//	Settle  what old programs wrote meanwhile is copied too, where the new map has no entry yet; then the old directory goes.
//
// A field that only the new layout has is zero. Per-CPU counters of another shape begin anew, and so does what cannot be listed (socket storage, ring buffers).

// writtenByPrograms are the maps that old programs may add to while they are being replaced. The others are the agent's alone.
var writtenByPrograms = []string{"ct_tcp", "ct_any", "affinities", "frags", "sock_revs", "masquerade", "inbound"}

// inherit takes over the map name from another layout, if one has it and this one does not.
func (l *Loader) inherit(name string, spec *ebpf.MapSpec) error {
	if _, err := os.Stat(filepath.Join(l.maps, name)); err == nil {
		return nil
	}
	old, err := l.predecessor(name)
	if old == nil || err != nil {
		return err
	}
	defer old.Close()
	convert, same, err := converter(old, spec)
	if err != nil {
		return fmt.Errorf("take over map %s from an earlier layout: %w", name, err)
	}
	size := max(old.MaxEntries(), l.cfg.MapSizes[name])
	if same && size == old.MaxEntries() {
		twin, err := old.Clone() // the old pin stays for the old programs' release
		if err != nil {
			return err
		}
		defer twin.Close()
		if err := twin.Pin(filepath.Join(l.maps, name)); err != nil {
			return fmt.Errorf("pin map %s of an earlier layout: %w", name, err)
		}
		return nil
	}
	if convert == nil {
		return nil
	}
	spec.MaxEntries = max(spec.MaxEntries, size) // never smaller: what is there must fit
	unpinned := spec.Copy()
	unpinned.Pinning = ebpf.PinNone
	fresh, err := ebpf.NewMap(unpinned)
	if err != nil {
		return fmt.Errorf("create map %s: %w", name, describe(err))
	}
	defer fresh.Close()
	if err := copyEntries(fresh, old, convert, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("fill map %s from an earlier layout: %w", name, err)
	}
	if err := fresh.Pin(filepath.Join(l.maps, name)); err != nil { // last: a pinned map is a filled one
		return fmt.Errorf("pin map %s: %w", name, err)
	}
	return nil
}

// Settle ends the change from another layout, once every program is replaced: what old programs wrote after Load is carried over, and the old maps are given up.
// Without another layout it does nothing.
func (l *Loader) Settle() error {
	l.loading.Lock()
	defer l.loading.Unlock()
	dirs, err := l.otherLayouts()
	if err != nil || len(dirs) == 0 {
		return err
	}
	var errs []error
	for _, name := range writtenByPrograms {
		errs = append(errs, l.catchUp(name))
	}
	for _, dir := range dirs {
		errs = append(errs, closeBridges(dir), os.RemoveAll(dir))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("give up the maps of an earlier layout: %w", err)
	}
	return nil
}

func (l *Loader) catchUp(name string) error {
	old, err := l.predecessor(name)
	if old == nil || err != nil {
		return err
	}
	defer old.Close()
	now, err := ebpf.LoadPinnedMap(filepath.Join(l.maps, name), nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open pinned map %s: %w", name, err)
	}
	defer now.Close()
	spec, err := ownSpec(name)
	if spec == nil || err != nil {
		return err
	}
	convert, same, err := converter(old, spec)
	if convert == nil || err != nil {
		return err
	}
	if same && now.MaxEntries() == old.MaxEntries() {
		return nil
	}
	if err := copyEntries(now, old, convert, ebpf.UpdateNoExist); err != nil {
		return fmt.Errorf("carry over what was added to map %s: %w", name, err)
	}
	return nil
}

// ownSpec returns the map as this release makes it, nil if it has no such map.
func ownSpec(name string) (*ebpf.MapSpec, error) {
	for _, load := range []func() (*ebpf.CollectionSpec, error){LoadBPF, LoadNet} {
		spec, err := load()
		if err != nil {
			return nil, err
		}
		if m := spec.Maps[name]; m != nil {
			return m, nil
		}
	}
	return nil, nil
}

// otherLayouts lists the map directories of other layouts, the highest version first.
func (l *Loader) otherLayouts() ([]string, error) {
	dirs, err := filepath.Glob(filepath.Join(l.cfg.PinDir, "maps-v*"))
	if err != nil {
		return nil, fmt.Errorf("list pinned maps: %w", err)
	}
	dirs = slices.DeleteFunc(dirs, func(dir string) bool { return dir == l.maps })
	version := func(dir string) int { n, _ := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), "maps-v")); return n }
	slices.SortFunc(dirs, func(a, b string) int { return version(b) - version(a) })
	return dirs, nil
}

// predecessor opens the map name of the highest other layout that has it; nil if none has.
func (l *Loader) predecessor(name string) (*ebpf.Map, error) {
	m, _, err := l.predecessorIn(name)
	return m, err
}

// predecessorIn is predecessor, and says in which directory the map is pinned.
func (l *Loader) predecessorIn(name string) (*ebpf.Map, string, error) {
	dirs, err := l.otherLayouts()
	if err != nil {
		return nil, "", err
	}
	for _, dir := range dirs {
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, name), nil)
		if err == nil {
			return m, dir, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return nil, "", fmt.Errorf("open map %s of an earlier layout: %w", name, err)
		}
	}
	return nil, "", nil
}

// conversion turns an entry of the old map into one of the new.
type conversion struct {
	key, value   []span
	keyN, valueN uint32
}

// span says which bytes of the old go where.
type span struct{ from, to, n uint32 }

func (c *conversion) entry(key, value []byte) (k, v []byte) {
	k, v = make([]byte, c.keyN), make([]byte, c.valueN)
	for _, s := range c.key {
		copy(k[s.to:s.to+s.n], key[s.from:])
	}
	for _, s := range c.value {
		copy(v[s.to:s.to+s.n], value[s.from:])
	}
	return k, v
}

// converter compares a map with what it should be now. same: nothing differs that a program could notice. A nil conversion: its entries cannot be carried over.
func converter(old *ebpf.Map, now *ebpf.MapSpec) (c *conversion, same bool, err error) {
	types := &btf.Spec{}
	known := false
	h, err := old.Handle()
	switch {
	case err == nil:
		defer h.Close()
		if types, err = h.Spec(nil); err != nil {
			return nil, false, fmt.Errorf("read its types: %w", err)
		}
		known = true
	case !errors.Is(err, ebpf.ErrNotSupported):
		return nil, false, fmt.Errorf("read its types: %w", err)
	}
	key, keySame, kerr := spans(types, known, now.Key, old.KeySize(), now.KeySize)
	value, valueSame, verr := spans(types, known, now.Value, old.ValueSize(), now.ValueSize)
	flags := now.Flags
	if now.Type == ebpf.DevMap || now.Type == ebpf.DevMapHash {
		flags |= old.Flags() & unix.BPF_F_RDONLY_PROG // which the kernel sets by itself
	}
	same = keySame && valueSame && old.Type() == now.Type && old.Flags() == flags
	switch now.Type {
	case ebpf.PerCPUArray, ebpf.PerCPUHash, ebpf.LRUCPUHash, ebpf.SkStorage, ebpf.RingBuf:
		return nil, same, nil
	}
	if err := errors.Join(kerr, verr); err != nil {
		return nil, false, err
	}
	return &conversion{key: key, value: value, keyN: now.KeySize, valueN: now.ValueSize}, same, nil
}

// spans maps the fields of a type to those of the old type of the same name.
func spans(old *btf.Spec, known bool, now btf.Type, oldSize, size uint32) (out []span, same bool, err error) {
	whole := []span{{0, 0, size}}
	st, isStruct := now.(*btf.Struct)
	if !isStruct || !known {
		if oldSize != size {
			return nil, false, fmt.Errorf("%v was %d bytes, is %d, and has no fields to go by", now, oldSize, size)
		}
		return whole, true, nil
	}
	var was *btf.Struct
	if err := old.TypeByName(st.Name, &was); err != nil {
		if oldSize != size {
			return nil, false, fmt.Errorf("the old map has no type %s: %w", st.Name, err)
		}
		return whole, false, nil
	}
	before, after := map[string]span{}, map[string]span{}
	fields(before, "", was.Members, 0)
	fields(after, "", st.Members, 0)
	same = was.Size == st.Size && len(before) == len(after)
	for name, a := range after {
		b, ok := before[name]
		same = same && ok && a == b
		if ok {
			out = append(out, span{from: b.from, to: a.from, n: min(a.n, b.n)}) // little endian: the low bytes of a number stand first
		}
	}
	return out, same, nil
}

// fields lists the leaves of a struct by their path. Unions and arrays are leaves.
func fields(out map[string]span, prefix string, members []btf.Member, base uint32) {
	for _, m := range members {
		at := base + m.Offset.Bytes()
		if inner, ok := btf.UnderlyingType(m.Type).(*btf.Struct); ok {
			fields(out, prefix+m.Name+".", inner.Members, at)
			continue
		}
		n, err := btf.Sizeof(m.Type)
		if err != nil {
			continue // a type without a size is no field of a map
		}
		out[prefix+m.Name] = span{from: at, n: uint32(n)}
	}
}

// copyEntries writes every entry of old to now. Entries that come and go meanwhile may be missed; the caller knows when nobody writes any more.
func copyEntries(now, old *ebpf.Map, c *conversion, how ebpf.MapUpdateFlags) error {
	const tries = 10
	var key, value []byte
	for try := 1; ; try++ {
		it := old.Iterate()
		for it.Next(&key, &value) {
			k, v := c.entry(key, value)
			if err := now.Update(k, v, how); err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
				return err
			}
		}
		err := it.Err()
		if err == nil || !errors.Is(err, ebpf.ErrIterationAborted) || try == tries {
			return err
		}
	}
}
