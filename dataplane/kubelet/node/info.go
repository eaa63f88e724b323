// SPDX-License-Identifier: Apache-2.0

// Package node keeps this machine's Node object: registration, capacity, addresses, conditions, images, and the lease that says
// the node lives.
package node

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Machine is what the hardware and the kernel say.
type Machine struct {
	CPUs        int
	MemoryBytes int64
	SwapBytes   int64
	HugePages   map[string]int64 // bytes by page size as Kubernetes writes it: 2Mi
	MachineID   string
	SystemUUID  string
	BootID      string
	Kernel      string
	OSImage     string
}

// ReadMachine reads /proc and /etc.
func ReadMachine() (Machine, error) {
	m := Machine{CPUs: runtime.NumCPU(), HugePages: map[string]int64{}}
	meminfo, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return m, err
	}
	m.MemoryBytes, m.SwapBytes = memField(string(meminfo), "MemTotal")*1024, memField(string(meminfo), "SwapTotal")*1024
	m.MachineID = firstLine("/etc/machine-id")
	m.SystemUUID = firstLine("/sys/class/dmi/id/product_uuid")
	if m.SystemUUID == "" {
		m.SystemUUID = m.MachineID
	}
	m.BootID = firstLine("/proc/sys/kernel/random/boot_id")
	m.Kernel = firstLine("/proc/sys/kernel/osrelease")
	m.OSImage = osRelease()
	pools, err := filepath.Glob("/sys/kernel/mm/hugepages/hugepages-*kB")
	if err != nil {
		return m, err
	}
	for _, pool := range pools {
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(pool), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		count, err := strconv.ParseInt(firstLine(filepath.Join(pool, "nr_hugepages")), 10, 64)
		if err != nil {
			continue
		}
		m.HugePages[resource.NewQuantity(kib*1024, resource.BinarySI).String()] = count * kib * 1024
	}
	return m, nil
}

// memField is a field of /proc/meminfo in KiB.
func memField(meminfo, name string) int64 {
	for line := range strings.Lines(meminfo) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err == nil {
				return n
			}
		}
	}
	return 0
}

func firstLine(name string) string {
	data, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSpace(line)
}

func osRelease() string {
	file, err := os.Open("/etc/os-release")
	if err != nil {
		return "Linux"
	}
	defer file.Close()
	for scanner := bufio.NewScanner(file); scanner.Scan(); {
		if value, ok := strings.CutPrefix(scanner.Text(), "PRETTY_NAME="); ok {
			return strings.Trim(value, `"`)
		}
	}
	return "Linux"
}

// Capacity is what the machine has.
func (m Machine) Capacity(maxPods int, dataDir string) v1.ResourceList {
	out := v1.ResourceList{
		v1.ResourceCPU:    *resource.NewQuantity(int64(m.CPUs), resource.DecimalSI),
		v1.ResourceMemory: *resource.NewQuantity(m.MemoryBytes, resource.BinarySI),
		v1.ResourcePods:   *resource.NewQuantity(int64(maxPods), resource.DecimalSI),
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(dataDir, &stat); err == nil {
		out[v1.ResourceEphemeralStorage] = *resource.NewQuantity(int64(stat.Blocks)*stat.Bsize, resource.BinarySI)
	}
	for size, bytes := range m.HugePages {
		out[v1.ResourceName(v1.ResourceHugePagesPrefix+size)] = *resource.NewQuantity(bytes, resource.BinarySI)
	}
	return out
}

// Allocatable is what pods may ask for: capacity without what is reserved; nothing below zero.
func Allocatable(capacity v1.ResourceList, reserved ...v1.ResourceList) v1.ResourceList {
	out := capacity.DeepCopy()
	for name, quantity := range out {
		for _, list := range reserved {
			if r, ok := list[name]; ok {
				quantity.Sub(r)
			}
		}
		if quantity.Sign() < 0 {
			quantity = *resource.NewQuantity(0, quantity.Format)
		}
		out[name] = quantity
	}
	// Huge pages are taken from memory and cannot be used otherwise.
	memory := out[v1.ResourceMemory]
	for name, quantity := range capacity {
		if strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix) {
			memory.Sub(quantity)
		}
	}
	out[v1.ResourceMemory] = memory
	return out
}

// DetectIPs returns the node's addresses: of each family the source address of the default route, else the first global address.
func DetectIPs() ([]string, error) {
	var out []string
	for _, probe := range []struct{ network, address string }{{"udp4", "198.51.100.1:9"}, {"udp6", "[2001:db8::1]:9"}} { // no packet is sent
		connection, err := net.Dial(probe.network, probe.address)
		if err != nil {
			continue
		}
		if ip := connection.LocalAddr().(*net.UDPAddr).IP; ip.IsGlobalUnicast() {
			out = append(out, ip.String())
		}
		connection.Close()
	}
	if len(out) > 0 {
		return out, nil
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	for _, address := range addresses {
		if ipnet, ok := address.(*net.IPNet); ok && ipnet.IP.IsGlobalUnicast() {
			return []string{ipnet.IP.String()}, nil
		}
	}
	return nil, fmt.Errorf("this machine has no address; name one with --node-ip")
}
