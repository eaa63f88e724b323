// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// MinKernel is the oldest kernel the datapath is made for.
const MinKernel = "5.10"

// KernelError says that the kernel lacks a feature, and since which version kernels have it.
type KernelError struct {
	Feature   string
	MinKernel string
	Err       error
}

func (e *KernelError) Error() string {
	return fmt.Sprintf("the kernel lacks %s (present since Linux %s): %v", e.Feature, e.MinKernel, e.Err)
}

func (e *KernelError) Unwrap() error { return e.Err }

// ErrKernelTooOld is what Open returns on a kernel before MinKernel.
var ErrKernelTooOld = errors.New("kernel too old for the dataplane")

// checkKernel refuses a kernel release, as uname says it, that is older than MinKernel. One that cannot be read is let through: what it lacks will be said when it is missed.
func checkKernel(release string) error {
	major, minor, ok := parseRelease(release)
	if !ok || major > 5 || major == 5 && minor >= 10 {
		return nil
	}
	return fmt.Errorf("%w: this is Linux %s, at least %s is needed; nothing was loaded", ErrKernelTooOld, release, MinKernel)
}

func kernelRelease() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("read the kernel's release: %w", err)
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

// parseRelease reads the first two numbers of a kernel release such as "5.10.0-30-amd64".
func parseRelease(release string) (major, minor int, ok bool) {
	n, err := fmt.Sscanf(release, "%d.%d", &major, &minor)
	return major, minor, err == nil && n == 2
}

// Probe checks what the datapath cannot do without. A missing feature is a *KernelError; several are joined.
func Probe() error {
	type probe struct {
		feature, since string
		check          func() error
	}
	helper := func(t ebpf.ProgramType, f asm.BuiltinFunc) func() error {
		return func() error { return features.HaveProgramHelper(t, f) }
	}
	var errs []error
	for _, p := range []probe{
		{"socket address hooks on cgroups", "4.17", func() error { return features.HaveProgramType(ebpf.CGroupSockAddr) }},
		{"BPF ring buffers", "5.8", func() error { return features.HaveMapType(ebpf.RingBuf) }},
		{"socket storage in cgroup hooks", "5.8", helper(ebpf.CGroupSockAddr, asm.FnSkStorageGet)},
		{"bpf_redirect_neigh", "5.10", helper(ebpf.SchedCLS, asm.FnRedirectNeigh)},
		{"bpf_redirect_peer", "5.10", helper(ebpf.SchedCLS, asm.FnRedirectPeer)},
	} {
		switch err := p.check(); {
		case err == nil:
		case errors.Is(err, ebpf.ErrNotSupported):
			errs = append(errs, &KernelError{Feature: p.feature, MinKernel: p.since, Err: err})
		default:
			errs = append(errs, fmt.Errorf("probe for %s: %w", p.feature, err))
		}
	}
	return errors.Join(errs...)
}

// HaveSetRetval reports whether cgroup hooks can choose the errno of a refused call (Linux 5.18); without it a refusal is EPERM.
func HaveSetRetval() bool {
	return features.HaveProgramHelper(ebpf.CGroupSockAddr, asm.FnSetRetval) == nil
}

// csumIPv6Flag returns BPF_F_IPV6 where bpf_l4_csum_replace has it (Linux 6.16), else 0. The helper rejects unknown flags only when it runs, so the
// kernel's release is what there is to go by.
func csumIPv6Flag() uint64 {
	const flagIPv6 = 1 << 7
	release, err := kernelRelease()
	if err != nil {
		return 0
	}
	major, minor, _ := parseRelease(release)
	if major > 6 || major == 6 && minor >= 16 {
		return flagIPv6
	}
	return 0
}

// describe turns a verifier error into its last lines, which are the ones that say why.
func describe(err error) error {
	var ve *ebpf.VerifierError
	if errors.As(err, &ve) {
		return fmt.Errorf("%w\n%+12v", err, ve)
	}
	return err
}

func nativeUint64(b []byte) uint64 { return binary.NativeEndian.Uint64(b) }

// haveTCX says whether the kernel has tcx (Linux 6.6): one that lacks it does not know the command to ask what is attached there.
func haveTCX() bool {
	_, err := link.QueryPrograms(link.QueryOptions{Target: 1, Attach: ebpf.AttachTCXIngress}) // device 1 is a namespace's loopback
	return !errors.Is(err, unix.EINVAL)
}
