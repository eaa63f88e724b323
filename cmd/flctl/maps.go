// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"sort"
	"strings"
	"unicode"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/spf13/cobra"

	"github.com/fairlead/fairlead/dataplane/loader"
)

// layouts are the generated types of maps by name; other maps are shown as bytes.
var layouts = map[string]struct{ key, value any }{
	loader.BPFMapServices:     {loader.BPFServiceKey{}, loader.BPFService{}},
	loader.BPFMapBackends:     {uint32(0), loader.BPFBackend{}},
	loader.BPFMapBackendLoads: {uint32(0), loader.BPFBackendLoad{}},
	loader.BPFMapSlots:        {uint32(0), loader.BPFSlotElem{}},
	loader.BPFMapCtTcp:        {loader.BPFCtKey{}, loader.BPFCt{}},
	loader.BPFMapCtAny:        {loader.BPFCtKey{}, loader.BPFCt{}},
	loader.BPFMapAffinities:   {loader.BPFAffinityKey{}, loader.BPFAffinity{}},
	loader.BPFMapSourceRanges: {loader.BPFSourceRangeKey{}, uint32(0)},
	loader.BPFMapFrags:        {loader.BPFFragKey{}, loader.BPFFrag{}},
	loader.BPFMapSockRevs:     {loader.BPFSockRevKey{}, loader.BPFSockRev{}},
	loader.BPFMapSockSkip:     {uint64(0), uint8(0)},
	"endpoints":               {loader.BPFAddr{}, loader.NetEndpoint{}},
	"ipcache":                 {loader.NetIpcacheKey{}, loader.NetIpcacheEntry{}},
	"masquerade":              {loader.NetMasqKey{}, loader.NetMasqEntry{}},
}

func (env *environment) mapCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List the pinned maps", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error { return env.listMaps() }}
	var all bool
	dump := &cobra.Command{
		Use: "dump NAME", Short: "Print a map's entries; rows of arrays that are all zero are left out", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return env.dumpMap(args[0], nil, all) },
	}
	dump.Flags().BoolVar(&all, "all", false, "zero rows too")
	lookup := &cobra.Command{
		Use: "lookup NAME KEY", Short: "Print one entry; KEY is hexadecimal, or a number for arrays", Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			m, err := env.openMap(args[0])
			if err != nil {
				return err
			}
			defer m.Close()
			key, err := parseKey(m, args[1])
			if err != nil {
				return err
			}
			return env.dumpMap(args[0], key, true)
		},
	}
	return group("map", "Pinned maps", list, dump, lookup)
}

func parseKey(m *ebpf.Map, s string) ([]byte, error) {
	if m.KeySize() == 4 {
		var n uint32
		if _, err := fmt.Sscan(s, &n); err == nil {
			return []byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}, nil
		}
	}
	key, err := hex.DecodeString(strings.NewReplacer(" ", "", ":", "").Replace(s))
	if err != nil || len(key) != int(m.KeySize()) {
		return nil, fmt.Errorf("key %q: want %d bytes in hexadecimal", s, m.KeySize())
	}
	return key, nil
}

type mapView struct {
	Name       string `json:"name"`
	Type       string `json:"type"`
	ID         uint32 `json:"id"`
	KeySize    uint32 `json:"keySize"`
	ValueSize  uint32 `json:"valueSize"`
	MaxEntries uint32 `json:"maxEntries"`
	Memory     uint64 `json:"memoryBytes"`
}

func (env *environment) listMaps() error {
	dir := loader.MapDir(env.pinDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list pinned maps: %w", err)
	}
	l := listing{header: []string{"NAME", "TYPE", "MAX", "MEMORY", "ID", "KEY", "VALUE"}, wide: 3}
	views := []mapView{}
	for _, e := range entries {
		m, err := env.openMap(e.Name())
		if err != nil {
			return err
		}
		v := mapView{Name: e.Name(), Type: m.Type().String(), KeySize: m.KeySize(), ValueSize: m.ValueSize(), MaxEntries: m.MaxEntries()}
		if info, err := m.Info(); err == nil {
			id, _ := info.ID()
			v.ID = uint32(id)
			v.Memory, _ = info.Memlock()
		}
		m.Close()
		views = append(views, v)
		l.rows = append(l.rows, []string{v.Name, v.Type, fmt.Sprint(v.MaxEntries), sizeText(v.Memory), fmt.Sprint(v.ID), fmt.Sprint(v.KeySize), fmt.Sprint(v.ValueSize)})
	}
	l.value = views
	return env.print(l)
}

func sizeText(n uint64) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%.1fMi", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1fKi", float64(n)/(1<<10))
	}
	return fmt.Sprint(n)
}

type entryView struct {
	Key   any `json:"key"`
	Value any `json:"value"`
}

// dumpMap prints all entries of a map, or the one with the given key.
func (env *environment) dumpMap(name string, only []byte, zero bool) error {
	m, err := env.openMap(name)
	if err != nil {
		return err
	}
	defer m.Close()
	layout := layouts[name]
	l := listing{header: []string{"KEY", "VALUE"}}
	views := []entryView{}
	add := func(k, v []byte) {
		if !zero && m.Type() == ebpf.Array && allZero(v) {
			return
		}
		e := entryView{decode(layout.key, k), decode(layout.value, v)}
		views = append(views, e)
	}
	switch {
	case m.Type() == ebpf.SkStorage:
		return errors.New("entries of socket storage are found by socket, not by listing")
	case only != nil:
		v, err := m.LookupBytes(only)
		if err != nil {
			return fmt.Errorf("look up in %s: %w", name, err)
		}
		if v == nil {
			return fmt.Errorf("map %s has no such entry", name)
		}
		add(only, v)
	case m.Type() == ebpf.PerCPUArray || m.Type() == ebpf.PerCPUHash || m.Type() == ebpf.LRUCPUHash:
		return fmt.Errorf("map %s holds per-CPU counters: see flctl metrics", name)
	default:
		k, v := make([]byte, m.KeySize()), make([]byte, m.ValueSize())
		it := m.Iterate()
		for it.Next(&k, &v) {
			add(append([]byte(nil), k...), append([]byte(nil), v...))
		}
		if err := it.Err(); err != nil {
			return fmt.Errorf("dump %s: %w", name, err)
		}
	}
	l.value = views
	for _, e := range views {
		l.rows = append(l.rows, []string{text(e.Key), text(e.Value)})
	}
	return env.print(l)
}

func allZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// decode reads raw bytes as the given type, if there is one and the size fits, and makes it readable.
func decode(as any, raw []byte) any {
	if as != nil {
		v := reflect.New(reflect.TypeOf(as))
		if v.Elem().Type().Size() == uintptr(len(raw)) {
			copy(unsafe.Slice((*byte)(v.UnsafePointer()), len(raw)), raw)
			return readable("", v.Elem())
		}
	}
	return hex.EncodeToString(raw)
}

// readable turns generated structs into maps with C's field names, addresses into their text, ports into host order.
func readable(name string, v reflect.Value) any {
	switch v.Kind() {
	case reflect.Struct:
		if b := v.FieldByName("B"); b.IsValid() && b.Kind() == reflect.Array && b.Len() == 16 {
			var a [16]byte
			reflect.Copy(reflect.ValueOf(&a).Elem(), b)
			return netip.AddrFrom16(a).Unmap().String()
		}
		out := map[string]any{}
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if f.Name == "_" || strings.HasPrefix(f.Name, "Pad") {
				continue
			}
			out[snake(f.Name)] = readable(f.Name, v.Field(i))
		}
		return out
	case reflect.Uint16:
		if strings.HasSuffix(strings.ToLower(name), "port") {
			return loader.Ntohs(uint16(v.Uint()))
		}
	case reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			b := make([]byte, v.Len())
			reflect.Copy(reflect.ValueOf(b), v)
			return hex.EncodeToString(b)
		}
		out := make([]any, v.Len())
		for i := range out {
			out[i] = readable(name, v.Index(i))
		}
		return out
	}
	return v.Interface()
}

func snake(s string) string {
	var b strings.Builder
	for i, r := range s {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// text writes a decoded value on one line, fields sorted.
func text(v any) string {
	m, ok := v.(map[string]any)
	if !ok {
		return fmt.Sprint(v)
	}
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	parts := make([]string, len(keys))
	for i, k := range keys {
		parts[i] = k + "=" + text(m[k])
	}
	return "{" + strings.Join(parts, " ") + "}"
}

func linkDir(pinDir string) string { return filepath.Join(pinDir, "links") }
