// SPDX-License-Identifier: Apache-2.0

package cgroups

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	podresource "k8s.io/component-helpers/resource"
)

// Layout is how the host mounts its cgroup hierarchies.
type Layout struct {
	// Unified is where cgroup2 with the controllers is mounted; empty on v1 and hybrid hosts.
	Unified string
	// Controllers are mount points by controller on v1 and hybrid hosts.
	Controllers map[string]string
	// Named are mount points of v1 hierarchies without controllers (systemd's): the runtime makes directories there too.
	Named []string
	// Hybrid is where cgroup2 without controllers is mounted beside v1; empty elsewhere.
	Hybrid string
}

// Detect reads the layout from this process's mounts.
func Detect() (Layout, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return Layout{}, err
	}
	return parseMounts(string(data)), nil
}

func parseMounts(mountinfo string) Layout {
	layout := Layout{Controllers: map[string]string{}}
	unified := ""
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(kind) < 3 {
			continue
		}
		switch kind[0] {
		case "cgroup2":
			if unified == "" || fields[4] == "/sys/fs/cgroup" {
				unified = fields[4]
			}
		case "cgroup":
			for _, option := range strings.Split(kind[2], ",") {
				if strings.HasPrefix(option, "name=") {
					layout.Named = append(layout.Named, fields[4])
				}
				switch option {
				case "cpu", "cpuacct", "cpuset", "memory", "pids", "hugetlb", "blkio", "devices", "freezer":
					if _, ok := layout.Controllers[option]; !ok {
						layout.Controllers[option] = fields[4]
					}
				}
			}
		}
	}
	if len(layout.Controllers) == 0 {
		layout.Unified = unified
	} else {
		layout.Hybrid = unified
	}
	return layout
}

// V2 tells whether controllers are cgroup2's.
func (l Layout) V2() bool { return l.Unified != "" }

// CgroupDir is the cgroup2 directory of a cgroup path: where BPF programs attach. Empty when the host has no cgroup2.
func (l Layout) CgroupDir(path string) string {
	switch {
	case l.Unified != "":
		return filepath.Join(l.Unified, path)
	case l.Hybrid != "":
		return filepath.Join(l.Hybrid, path)
	}
	return ""
}

// Manager makes pods' cgroups. Containers' own are the runtime's, below.
type Manager struct {
	Layout  Layout
	Root    string // Config.CgroupRoot
	PodPids int64  // limit of processes per pod; 0: none
}

// v2controllers are enabled for the children of every cgroup down to a pod's.
var v2controllers = []string{"cpuset", "cpu", "io", "memory", "pids", "hugetlb"}

// SetUp makes the node's cgroups, down to the classes. All pods together get at most what allocatable says of memory and processes, and weigh by
// its CPUs; what it does not say is not limited.
func (m *Manager) SetUp(allocatable v1.ResourceList) error {
	for _, class := range []v1.PodQOSClass{v1.PodQOSGuaranteed, v1.PodQOSBurstable, v1.PodQOSBestEffort} {
		if err := m.make(Parent(m.Root, class)); err != nil {
			return err
		}
	}
	all := settings{memory: allocatable.Memory().Value()}
	if cpu := allocatable.Cpu().MilliValue(); cpu > 0 {
		all.shares = Shares(cpu)
	}
	if err := m.set(Parent(m.Root, v1.PodQOSGuaranteed), all); err != nil {
		return fmt.Errorf("limits of all pods together: %w", err)
	}
	// Best effort gets the least CPU weight; burstable pods together weigh by their requests, see Weigh.
	return m.set(Parent(m.Root, v1.PodQOSBestEffort), settings{shares: minShares})
}

// Weigh gives burstable pods together the CPU weight of what they asked for, in thousandths of a CPU, against guaranteed pods beside them.
func (m *Manager) Weigh(burstable int64) error {
	return m.set(Parent(m.Root, v1.PodQOSBurstable), settings{shares: Shares(burstable)})
}

// Create makes the pod's cgroup and sets its limits: those of its containers together when each has one, or the pod's own.
func (m *Manager) Create(pod *v1.Pod) error {
	if pod.Name == "" {
		return nil // an orphan, about to end
	}
	path := Pod(m.Root, QOSClass(pod), pod.UID)
	if err := m.make(path); err != nil {
		return fmt.Errorf("cgroup of pod %s: %w", pod.Name, err)
	}
	requests := podresource.PodRequests(pod, podresource.PodResourcesOptions{})
	limits := podresource.PodLimits(pod, podresource.PodResourcesOptions{})
	s := settings{shares: Shares(requests.Cpu().MilliValue()), pids: m.PodPids}
	if everyContainerLimits(pod, v1.ResourceCPU) {
		s.quota = Quota(limits.Cpu().MilliValue())
	}
	if everyContainerLimits(pod, v1.ResourceMemory) {
		s.memory = limits.Memory().Value()
	}
	if err := m.set(path, s); err != nil {
		return fmt.Errorf("cgroup of pod %s: %w", pod.Name, err)
	}
	return nil
}

// everyContainerLimits tells whether the sum of limits limits the pod.
func everyContainerLimits(pod *v1.Pod, name v1.ResourceName) bool {
	if pod.Spec.Resources != nil {
		if q, ok := pod.Spec.Resources.Limits[name]; ok && q.Sign() > 0 {
			return true
		}
	}
	for _, list := range [][]v1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if q, ok := list[i].Resources.Limits[name]; !ok || q.Sign() <= 0 {
				return false
			}
		}
	}
	return true
}

type settings struct{ shares, quota, memory, pids int64 }

// hierarchies lists where a cgroup path has a directory.
func (m *Manager) hierarchies() []string {
	if m.Layout.V2() {
		return []string{m.Layout.Unified}
	}
	seen := map[string]bool{}
	var out []string
	for _, name := range []string{"cpu", "cpuacct", "cpuset", "memory", "pids", "hugetlb"} {
		if dir := m.Layout.Controllers[name]; dir != "" && !seen[dir] {
			seen[dir] = true
			out = append(out, dir)
		}
	}
	return out
}

func (m *Manager) make(path string) error {
	for _, root := range m.hierarchies() {
		dir := filepath.Join(root, path)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if m.Layout.V2() {
			if err := enable(root, path); err != nil {
				return err
			}
		} else if root == m.Layout.Controllers["cpuset"] {
			if err := inheritCpuset(root, path); err != nil {
				return err
			}
		}
	}
	return nil
}

// enable turns controllers on for all cgroups on the way to path, as far as the host has them.
func enable(root, path string) error {
	dir := root
	for _, part := range strings.Split(strings.Trim(path, "/"), "/") {
		available, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
		if err != nil {
			return err
		}
		for _, name := range v2controllers {
			if strings.Contains(" "+strings.TrimSpace(string(available))+" ", " "+name+" ") {
				if err := write(dir, "cgroup.subtree_control", "+"+name); err != nil {
					return err
				}
			}
		}
		dir = filepath.Join(dir, part)
	}
	return nil
}

// inheritCpuset copies CPUs and memory nodes from above: v1 lets no process into a cpuset without them.
func inheritCpuset(root, path string) error {
	dir := root
	for _, part := range strings.Split(strings.Trim(path, "/"), "/") {
		child := filepath.Join(dir, part)
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			have, err := os.ReadFile(filepath.Join(child, file))
			if err != nil {
				return err
			}
			if strings.TrimSpace(string(have)) != "" {
				continue
			}
			value, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				return err
			}
			if err := write(child, file, strings.TrimSpace(string(value))); err != nil {
				return err
			}
		}
		dir = child
	}
	return nil
}

func (m *Manager) set(path string, s settings) error {
	if m.Layout.V2() {
		dir := filepath.Join(m.Layout.Unified, path)
		return errors.Join(
			ifSet(s.shares, func() error { return write(dir, "cpu.weight", strconv.FormatInt(Weight(s.shares), 10)) }),
			writeLimit(dir, "cpu.max", s.quota, fmt.Sprintf("%d %d", s.quota, QuotaPeriod), "max"),
			writeLimit(dir, "memory.max", s.memory, strconv.FormatInt(s.memory, 10), "max"),
			writeLimit(dir, "pids.max", s.pids, strconv.FormatInt(s.pids, 10), "max"),
		)
	}
	cpu, memory, pids := m.dir("cpu", path), m.dir("memory", path), m.dir("pids", path)
	return errors.Join(
		ifSet(s.shares, func() error { return write(cpu, "cpu.shares", strconv.FormatInt(s.shares, 10)) }),
		writeLimit(cpu, "cpu.cfs_quota_us", s.quota, strconv.FormatInt(s.quota, 10), "-1"),
		writeLimit(memory, "memory.limit_in_bytes", s.memory, strconv.FormatInt(s.memory, 10), "-1"),
		writeLimit(pids, "pids.max", s.pids, strconv.FormatInt(s.pids, 10), "max"),
	)
}

func (m *Manager) dir(controller, path string) string {
	root := m.Layout.Controllers[controller]
	if root == "" {
		return ""
	}
	return filepath.Join(root, path)
}

func ifSet(value int64, f func() error) error {
	if value == 0 {
		return nil
	}
	return f()
}

func writeLimit(dir, file string, value int64, text, unlimited string) error {
	if value == 0 {
		text = unlimited
	}
	return write(dir, file, text)
}

// write sets a cgroup file. A controller the host does not have is no error: its limits are not kept, which Detect's user is told once.
func write(dir, file, value string) error {
	if dir == "" {
		return nil
	}
	err := overwrite(filepath.Join(dir, file), value)
	if errors.Is(err, os.ErrNotExist) && !strings.HasPrefix(file, "cgroup.") {
		if _, statErr := os.Stat(dir); statErr == nil {
			return nil
		}
	}
	if errors.Is(err, unix.EINVAL) && file == "cgroup.subtree_control" {
		return nil
	}
	return err
}

// overwrite writes a file that is there: to create one in a cgroup is refused as forbidden, which would hide that it is absent.
func overwrite(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// Weight turns cpu.shares into cgroup2's cpu.weight, as the OCI runtimes do.
func Weight(shares int64) int64 {
	if shares == 0 {
		return 0
	}
	return 1 + (min(max(shares, minShares), maxShares)-minShares)*9999/(maxShares-minShares)
}

// Remove removes the pod's cgroup with everything below. Processes still in it are an error.
func (m *Manager) Remove(pod *v1.Pod) error {
	var problems []error
	for _, class := range []v1.PodQOSClass{v1.PodQOSGuaranteed, v1.PodQOSBurstable, v1.PodQOSBestEffort} {
		for _, root := range m.allHierarchies() {
			problems = append(problems, removeTree(filepath.Join(root, Pod(m.Root, class, pod.UID))))
		}
	}
	return errors.Join(problems...)
}

// allHierarchies also lists those only the runtime makes directories in.
func (m *Manager) allHierarchies() []string {
	if m.Layout.V2() {
		return []string{m.Layout.Unified}
	}
	seen := map[string]bool{}
	var out []string
	for _, dir := range append(slices.Collect(maps.Values(m.Layout.Controllers)), m.Layout.Named...) {
		if !seen[dir] {
			seen[dir] = true
			out = append(out, dir)
		}
	}
	return out
}

func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeTree(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	for try := 0; ; try++ { // a process that just ended may still count for a moment
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || try >= 20 {
			return &os.PathError{Op: "rmdir", Path: dir, Err: err}
		}
		time.Sleep(5 * time.Millisecond)
	}
}
