// SPDX-License-Identifier: Apache-2.0

package servicealloc

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var (
	errPortTaken = errors.New("provided port is already allocated")
	errPortsFull = errors.New("no node port is left")
)

// Ranges keeps one RangeAllocation: the taken ports as a bitmap (math/big bytes, bit 0 is the first port of the range).
type Ranges interface {
	// Update reads the allocation (empty if there is none), lets change modify it, and writes it unless somebody else wrote in between: then it
	// starts over. An error of change is returned as it is and nothing is written.
	Update(ctx context.Context, change func(*corev1.RangeAllocation) error) error
	// Get reads the allocation, empty if there is none.
	Get(ctx context.Context) (*corev1.RangeAllocation, error)
}

// portRange is from first to last, both included.
type portRange struct{ first, last int32 }

func (r portRange) String() string        { return fmt.Sprintf("%d-%d", r.first, r.last) }
func (r portRange) contains(n int32) bool { return r.first <= n && n <= r.last }
func (r portRange) size() int             { return int(r.last-r.first) + 1 }

func parsePortRange(text string) (portRange, error) {
	from, to, ok := strings.Cut(text, "-")
	first, err1 := strconv.ParseUint(from, 10, 16)
	last, err2 := strconv.ParseUint(to, 10, 16)
	if !ok || err1 != nil || err2 != nil || first == 0 || first > last {
		return portRange{}, fmt.Errorf("node port range %q: want FROM-TO with 1 <= FROM <= TO <= 65535", text)
	}
	return portRange{int32(first), int32(last)}, nil
}

// bitmap reads the taken ports of r. An allocation that was written for another range is translated; what lies outside r is forgotten.
func (r portRange) bitmap(ra *corev1.RangeAllocation) *big.Int {
	bits := new(big.Int).SetBytes(ra.Data)
	was, err := parsePortRange(ra.Range)
	if err != nil || was == r {
		return bits
	}
	out := new(big.Int)
	for i := range was.size() {
		if n := was.first + int32(i); bits.Bit(i) == 1 && r.contains(n) {
			out.SetBit(out, int(n-r.first), 1)
		}
	}
	return out
}

func (r portRange) write(ra *corev1.RangeAllocation, bits *big.Int) {
	ra.Range, ra.Data = r.String(), bits.Bytes()
}

// takePort claims one certain port. One outside the range cannot be taken.
func (c *claim) takePort(ctx context.Context, n int32) (err error) {
	defer func() { c.countPort(static, err) }()
	r := c.a.ports
	if !r.contains(n) {
		return &portOutsideError{r}
	}
	return c.changePorts(ctx, func(bits *big.Int) (int32, error) {
		if bits.Bit(int(n-r.first)) == 1 || c.dryPorts[n] {
			return 0, errPortTaken
		}
		return n, nil
	}, nil)
}

// takeAnyPort claims some port, from the upper part of the range first: the lower part stays free for those who choose a port themselves.
func (c *claim) takeAnyPort(ctx context.Context) (int32, error) {
	r := c.a.ports
	var got int32
	err := c.changePorts(ctx, func(bits *big.Int) (int32, error) {
		size := uint64(r.size())
		offset := reserved(size, 32, 128)
		start := offset + random(size-offset)
		for _, band := range [][2]uint64{{start, size}, {offset, start}, {0, offset}} {
			for i := band[0]; i < band[1]; i++ {
				if n := r.first + int32(i); bits.Bit(int(i)) == 0 && !c.dryPorts[n] {
					return n, nil
				}
			}
		}
		return 0, fmt.Errorf("%w in %s", errPortsFull, r)
	}, &got)
	c.countPort(dynamic, err)
	return got, err
}

// changePorts sets the bit of the port that choose picks and notes the claim.
func (c *claim) changePorts(ctx context.Context, choose func(*big.Int) (int32, error), got *int32) error {
	r := c.a.ports
	var n int32
	pick := func(ra *corev1.RangeAllocation) error {
		bits := r.bitmap(ra)
		var err error
		if n, err = choose(bits); err != nil {
			return err
		}
		r.write(ra, bits.SetBit(bits, int(n-r.first), 1))
		return nil
	}
	if c.dryRun {
		ra, err := c.a.cfg.Ports.Get(ctx)
		if err == nil {
			err = pick(ra)
		}
		if err != nil {
			return err
		}
		if c.dryPorts == nil {
			c.dryPorts = map[int32]bool{}
		}
		c.dryPorts[n] = true
	} else {
		if err := c.a.cfg.Ports.Update(ctx, pick); err != nil {
			return err
		}
		c.newPorts = append(c.newPorts, n)
	}
	if got != nil {
		*got = n
	}
	return nil
}

// releasePorts clears the bits of ports. Ports outside the range, or free already, are fine.
func (a *Allocator) releasePorts(ctx context.Context, ports []int32) error {
	if len(ports) == 0 {
		return nil
	}
	return a.cfg.Ports.Update(ctx, func(ra *corev1.RangeAllocation) error {
		bits := a.ports.bitmap(ra)
		for _, n := range ports {
			if a.ports.contains(n) {
				bits.SetBit(bits, int(n-a.ports.first), 0)
			}
		}
		a.ports.write(ra, bits)
		return nil
	})
}

// portOutsideError says that a port is not in the range.
type portOutsideError struct{ r portRange }

func (e *portOutsideError) Error() string {
	return fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %s", e.r)
}

func portError(path *field.Path, n int32, err error) *field.Error {
	var outside *portOutsideError
	if errors.Is(err, errPortTaken) || errors.As(err, &outside) {
		return field.Invalid(path, n, err.Error())
	}
	return field.InternalError(path, err)
}
