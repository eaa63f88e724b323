// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"testing"

	"github.com/cilium/ebpf"
)

func TestPodnetProgramsLoad(t *testing.T) {
	for name, load := range map[string]func() (*ebpf.CollectionSpec, error){"pod": LoadPod, "net": LoadNet} {
		spec, err := load()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range spec.Maps {
			m.Pinning = ebpf.PinNone
		}
		coll, err := ebpf.NewCollection(spec)
		if err != nil {
			t.Fatalf("%s: %v", name, describe(err))
		}
		for n, p := range coll.Programs {
			info, err := p.Info()
			if err != nil {
				t.Fatal(err)
			}
			insns, _ := info.VerifiedInstructions()
			t.Logf("%s/%s: %d instructions processed by the verifier", name, n, insns)
		}
		coll.Close()
	}
}
