// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
)

const (
	stackLimit = 512 // bytes that the frames of a chain of calls may take together (MAX_BPF_STACK)
	stackRound = 32  // to which a frame is rounded up; kernels since 6.9 round to 16 where they compile the program
)

// TestStackFitsEveryKernel adds up the frames of every chain of calls as kernels before 6.9 do. This machine's own is more generous, and would not say.
func TestStackFitsEveryKernel(t *testing.T) {
	for name, load := range map[string]func() (*ebpf.CollectionSpec, error){
		"sock": LoadSock, "pod": LoadPod, "net": LoadNet, "uplink": LoadUplink, "xdp": LoadXDP,
	} {
		spec, err := load()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range spec.Maps {
			m.Pinning = ebpf.PinNone
		}
		for _, flag := range []string{bridgeFlag, "cfg_dsr"} { // all that there ever is to call; what the loader puts in for bridges needs no stack
			if v := spec.Variables[flag]; v != nil {
				if err := v.Set(uint8(1)); err != nil {
					t.Fatal(err)
				}
			}
		}
		coll, err := ebpf.NewCollectionWithOptions(spec.Copy(), ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats}})
		if err != nil {
			t.Fatal(err)
		}
		defer coll.Close()
		for prog, p := range coll.Programs {
			main, calls := callGraph(spec.Programs[prog])
			frames := frameSizes(t, p.VerifierLog)
			if len(frames) != len(calls) {
				t.Fatalf("%s/%s: the verifier names %d frames, the program has %d functions", name, prog, len(frames), len(calls))
			}
			size := map[string]int{}
			for i, f := range main {
				size[f] = (max(frames[i], 1) + stackRound - 1) / stackRound * stackRound
			}
			if os.Getenv("SHOW") != "" {
				for i, f := range main {
					t.Logf("%s/%s: %s %d (%d)", name, prog, f, size[f], frames[i])
				}
			}
			if deep, chain := deepest(prog, size, calls); deep > stackLimit {
				t.Errorf("%s/%s: %s take %d bytes of stack, the limit is %d", name, prog, strings.Join(chain, " > "), deep, stackLimit)
			}
		}
	}
}

// callGraph returns the functions of a program in their order, and what each calls.
func callGraph(p *ebpf.ProgramSpec) (order []string, calls map[string][]string) {
	calls = map[string][]string{}
	current := ""
	for i := range p.Instructions {
		ins := &p.Instructions[i]
		if f := ins.Symbol(); f != "" && !strings.HasPrefix(f, "LBB") { // LBB: a basic block
			current = f
			order = append(order, f)
			calls[f] = nil
		}
		if ins.IsFunctionCall() {
			calls[current] = append(calls[current], ins.Reference())
		}
	}
	return order, calls
}

// frameSizes reads "stack depth 232+40+88": bytes a function, in the program's order.
func frameSizes(t *testing.T, log string) []int {
	t.Helper()
	_, rest, ok := strings.Cut(log, "stack depth ")
	if !ok {
		t.Fatalf("the verifier's statistics name no stack depth: %q", log)
	}
	line, _, _ := strings.Cut(rest, "\n")
	var sizes []int
	for s := range strings.SplitSeq(strings.Fields(line)[0], "+") {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, n)
	}
	return sizes
}

// deepest returns the bytes of the chain of calls that begins with f and takes most.
func deepest(f string, size map[string]int, calls map[string][]string) (int, []string) {
	most, chain := 0, []string(nil)
	for _, c := range calls[f] {
		if n, deep := deepest(c, size, calls); n > most {
			most, chain = n, deep
		}
	}
	return size[f] + most, append([]string{f}, chain...)
}
