// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Kernels before 6.6 have no tcx: programs are direct-action filters of a clsact qdisc there. A filter belongs to its device, so it outlives the agent as a pinned link does, and is
// replaced atomically under its priority and handle. What is attached where is told by a pin of the program, filters/NAME@IFINDEX-in or -out.
// TCX_NEXT is what tc calls TC_ACT_UNSPEC: the next filter is asked.

// Priorities, of which the lower runs first. A hook has at most one program of ours at each; filters of others, as a rule, stand at 1 or from 49152 downwards.
const (
	filterFirst uint16 = 11
	filterLater uint16 = 12
)

func filterDir(pinDir string) string { return filepath.Join(pinDir, "filters") }

// HaveTCX says whether programs are attached by tcx links. Without, they are filters of clsact.
func (l *Loader) HaveTCX() bool { return !l.cfg.NoTCX }

// Filter is a program attached as a filter, as its pin tells.
type Filter struct {
	Name    string
	Ifindex int
	Egress  bool
	Pin     string // path of the program's pin
}

func (f Filter) direction() string {
	if f.Egress {
		return "out"
	}
	return "in"
}

// parent returns the hook of the clsact qdisc.
func (f Filter) parent() uint32 {
	if f.Egress {
		return netlink.HANDLE_MIN_EGRESS
	}
	return netlink.HANDLE_MIN_INGRESS
}

// attachFilter makes prog the filter name of a device, in place of an earlier one of that name.
func (l *Loader) attachFilter(prog *ebpf.Program, ifindex int, at ebpf.AttachType, name string, priority uint16) error {
	pin := Filter{Name: name, Ifindex: ifindex, Egress: at == ebpf.AttachTCXEgress}
	pin.Pin = filepath.Join(l.filters, fmt.Sprintf("%s@%d-%s", escape(name), ifindex, pin.direction()))
	pins, err := l.pinnedFilters()
	if err != nil {
		return err
	}
	for _, old := range pins {
		if old.Name == name && old.Pin != pin.Pin { // the device is another one now
			if err := l.removeFilter(old); err != nil {
				return err
			}
		}
	}
	if err := netlink.QdiscAdd(clsact(ifindex)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("attach %s: add a clsact qdisc to device %d: %w", name, ifindex, err)
	}
	err = netlink.FilterReplace(&netlink.BpfFilter{
		FilterAttrs:  netlink.FilterAttrs{LinkIndex: ifindex, Parent: pin.parent(), Handle: 1, Priority: priority, Protocol: unix.ETH_P_ALL},
		Fd:           prog.FD(),
		Name:         name,
		DirectAction: true,
	})
	if err != nil {
		return fmt.Errorf("attach %s as filter to device %d: %w", name, ifindex, err)
	}
	if err := os.Remove(pin.Pin); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("replace pin %s: %w", pin.Pin, err)
	}
	twin, err := prog.Clone() // a program remembers one pin only, and this one may be a filter of several devices
	if err != nil {
		return fmt.Errorf("attach %s: %w", name, err)
	}
	defer twin.Close()
	if err := twin.Pin(pin.Pin); err != nil {
		return fmt.Errorf("pin filter %s: %w", name, err)
	}
	return nil
}

func (l *Loader) pinnedFilters() ([]Filter, error) { return Filters(l.cfg.PinDir) }

// Filters lists what is attached by filters that are pinned below pinDir.
func Filters(pinDir string) ([]Filter, error) {
	dir := filterDir(pinDir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list filters: %w", err)
	}
	var out []Filter
	for _, e := range entries {
		at := strings.LastIndexByte(e.Name(), '@')
		if at < 0 {
			continue
		}
		index, direction, _ := strings.Cut(e.Name()[at+1:], "-")
		n, err := strconv.Atoi(index)
		if err != nil {
			continue
		}
		out = append(out, Filter{Name: unescape(e.Name()[:at]), Ifindex: n, Egress: direction == "out", Pin: filepath.Join(dir, e.Name())})
	}
	return out, nil
}

// removeFilters removes the filter name, or all if name is empty.
func (l *Loader) removeFilters(name string) error {
	pins, err := l.pinnedFilters()
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range pins {
		if name == "" || p.Name == name {
			errs = append(errs, l.removeFilter(p))
		}
	}
	return errors.Join(errs...)
}

// removeFilter takes a filter off its device, and the device's clsact qdisc with the last filter. Nothing is done where the device is gone, or is another namespace's.
func (l *Loader) removeFilter(p Filter) error {
	dev, err := netlink.LinkByIndex(p.Ifindex)
	if err == nil {
		if err := removeNamed(dev, p); err != nil {
			return fmt.Errorf("detach %s from %s: %w", p.Name, dev.Attrs().Name, err)
		}
	}
	if err := os.Remove(p.Pin); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("unpin filter %s: %w", p.Name, err)
	}
	return nil
}

func removeNamed(dev netlink.Link, p Filter) error {
	left, removed := 0, false
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := netlink.FilterList(dev, parent)
		if err != nil {
			return fmt.Errorf("list filters: %w", err)
		}
		for _, f := range filters {
			b, ok := f.(*netlink.BpfFilter)
			if !ok || b.Name != p.Name || parent != p.parent() {
				left++
				continue
			}
			if err := netlink.FilterDel(&netlink.GenericFilter{FilterAttrs: b.FilterAttrs, FilterType: "bpf"}); err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
			removed = true
		}
	}
	if left > 0 || !removed {
		return nil
	}
	return DetachClassic(dev.Attrs().Index)
}
