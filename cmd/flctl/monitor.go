// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/dataplane/loader"
)

// dropView is a dropped packet. The JSON names are stable.
type dropView struct {
	Time     string `json:"time"`
	Reason   string `json:"reason"`
	Device   string `json:"device"`
	Length   uint32 `json:"length"`
	From     string `json:"from,omitempty"`
	To       string `json:"to,omitempty"`
	Protocol string `json:"protocol,omitempty"`
}

func (env *environment) monitorCommand() *cobra.Command {
	var count int
	c := &cobra.Command{
		Use: "monitor", Short: "Tell each packet that the datapath drops, and why", Args: cobra.NoArgs,
		Long: "monitor has the programs tell each dropped packet while it runs, one line per packet (-o json: one object per line). What comes faster than it is read is counted\n" +
			"by `flctl metrics`, but not told. One monitor at a time.",
		RunE: func(cmd *cobra.Command, _ []string) error { return env.monitor(cmd.Context(), count) },
	}
	c.Flags().IntVar(&count, "count", 0, "end after this many packets; 0: go on until interrupted")
	return c
}

func (env *environment) monitor(ctx context.Context, count int) error {
	reasons, err := loader.DropReasons()
	if err != nil {
		return err
	}
	release, err := env.listen()
	if err != nil {
		return err
	}
	defer release()
	events, err := env.openMap(loader.BPFMapDropEvents)
	if err != nil {
		return err
	}
	defer events.Close()
	r, err := ringbuf.NewReader(events)
	if err != nil {
		return fmt.Errorf("read dropped packets: %w", err)
	}
	defer r.Close()
	stop := context.AfterFunc(ctx, func() { r.Close() })
	defer stop()
	boot := monotonicZero()
	for n := 0; count == 0 || n < count; n++ {
		rec, err := r.Read()
		if errors.Is(err, ringbuf.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read dropped packets: %w", err)
		}
		v, ok := describeDrop(rec.RawSample, reasons, boot)
		if !ok {
			return fmt.Errorf("the programs tell %d bytes per packet: flctl is of another release than the dataplane", len(rec.RawSample))
		}
		if env.output == "json" {
			if err := json.NewEncoder(env.out).Encode(v); err != nil {
				return err
			}
			continue
		}
		if _, err := fmt.Fprintf(env.out, "%s  %-16s %-10s %-5s %s -> %s  %d bytes\n", v.Time, v.Reason, v.Device, v.Protocol, v.From, v.To, v.Length); err != nil {
			return err
		}
	}
	return nil
}

// listen makes this process the one that dropped packets are told to, unless another is; release ends that.
func (env *environment) listen() (release func(), err error) {
	m, err := env.openMap(loader.BPFMapDropListener)
	if err != nil {
		return nil, err
	}
	var pid uint32
	if err := m.Lookup(uint32(0), &pid); err != nil {
		m.Close()
		return nil, fmt.Errorf("who listens to dropped packets: %w", err)
	}
	if pid != 0 && pid != uint32(os.Getpid()) {
		if exe, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(int(pid)), "exe")); err == nil && filepath.Base(exe) == "flctl" {
			m.Close()
			return nil, fmt.Errorf("process %d is monitoring already", pid)
		}
	}
	if err := m.Update(uint32(0), uint32(os.Getpid()), ebpf.UpdateAny); err != nil {
		m.Close()
		return nil, fmt.Errorf("listen to dropped packets: %w", err)
	}
	return func() {
		_ = m.Update(uint32(0), uint32(0), ebpf.UpdateAny)
		m.Close()
	}, nil
}

// monotonicZero is the wall clock's time when CLOCK_MONOTONIC was zero.
func monotonicZero() time.Time {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return time.Time{} // it cannot fail
	}
	return time.Now().Add(-time.Duration(ts.Nano()))
}

// describeDrop reads what a program told. ok is false if it is not a drop_event.
func describeDrop(raw []byte, reasons map[uint64]string, boot time.Time) (v dropView, ok bool) {
	if len(raw) < int(unsafe.Sizeof(loader.BPFDropEvent{})) {
		return v, false
	}
	e := (*loader.BPFDropEvent)(unsafe.Pointer(&raw[0]))
	v = dropView{Time: boot.Add(time.Duration(e.Time)).Format("15:04:05.000000"), Reason: reasons[uint64(e.Reason)], Device: strconv.Itoa(int(e.Ifindex)), Length: e.Len}
	if d, err := net.InterfaceByIndex(int(e.Ifindex)); err == nil {
		v.Device = d.Name
	}
	p := gopacket.NewPacket(e.Head[:min(int(e.HeadLen), len(e.Head))], layers.LayerTypeEthernet, gopacket.DecodeOptions{NoCopy: true})
	nl := p.NetworkLayer()
	if nl == nil {
		return v, true
	}
	from, _ := netip.AddrFromSlice(nl.NetworkFlow().Src().Raw())
	to, _ := netip.AddrFromSlice(nl.NetworkFlow().Dst().Raw())
	v.From, v.To = from.String(), to.String()
	for _, l := range p.Layers() {
		switch l := l.(type) {
		case *layers.TCP:
			v.Protocol, v.From, v.To = "TCP", addrPortString(from, uint16(l.SrcPort)), addrPortString(to, uint16(l.DstPort))
		case *layers.UDP:
			v.Protocol, v.From, v.To = "UDP", addrPortString(from, uint16(l.SrcPort)), addrPortString(to, uint16(l.DstPort))
		case *layers.SCTP:
			v.Protocol, v.From, v.To = "SCTP", addrPortString(from, uint16(l.SrcPort)), addrPortString(to, uint16(l.DstPort))
		case *layers.ICMPv4:
			v.Protocol = "ICMP"
		case *layers.ICMPv6:
			v.Protocol = "ICMP6"
		}
	}
	return v, true
}

func addrPortString(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }
