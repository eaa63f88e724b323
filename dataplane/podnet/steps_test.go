// SPDX-License-Identifier: Apache-2.0

package podnet

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/fairlead/fairlead/dataplane/endpoint"
	"github.com/fairlead/fairlead/dataplane/podnet/nettest"
)

// The agent under test writes stepMark and each step's name to its log, and kills itself at the step that killAtFile in its directory names.
const (
	stepMark   = "step: "
	killAtFile = "kill-at"
)

// steps returns the steps that the agent has passed since its log was from bytes long.
func (n *node) steps(from int64) (out []endpoint.Step) {
	n.t.Helper()
	log, err := os.ReadFile(filepath.Join(n.cfg.Dir, "log"))
	if err != nil {
		n.t.Fatal(err)
	}
	for line := range bytes.Lines(log[from:]) {
		if s, ok := strings.CutPrefix(strings.TrimSpace(string(line)), stepMark); ok {
			out = append(out, endpoint.Step(s))
		}
	}
	return out
}

func (n *node) logSize() int64 {
	n.t.Helper()
	st, err := os.Stat(filepath.Join(n.cfg.Dir, "log"))
	if err != nil {
		n.t.Fatal(err)
	}
	return st.Size()
}

// killAt arms the agent: it dies at step. died waits for that and disarms.
func (n *node) killAt(step endpoint.Step) {
	n.t.Helper()
	if err := os.WriteFile(filepath.Join(n.cfg.Dir, killAtFile), []byte(step), 0o600); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) died(step endpoint.Step) {
	n.t.Helper()
	n.mu.Lock()
	state, err := n.cmd.Process.Wait()
	n.cmd = nil
	n.mu.Unlock()
	if err != nil || state.String() != "signal: killed" {
		n.t.Fatalf("agent at %q: %v %v", step, state, err)
	}
	if err := os.Remove(filepath.Join(n.cfg.Dir, killAtFile)); err != nil {
		n.t.Fatal(err)
	}
}

// The steps of one pod's ADD and DEL: the only plugin of its list, or one with another behind it.
var (
	addSole = []endpoint.Step{endpoint.AddAddresses, endpoint.AddFile, endpoint.AddPair, endpoint.AddFilters, endpoint.AddHostSide, endpoint.AddPodSide, endpoint.AddFinished,
		endpoint.AddEntry, endpoint.AddRoute, endpoint.AddAnswer, endpoint.AddLink, endpoint.AddLinks, endpoint.AddSettled}
	addChain = []endpoint.Step{endpoint.AddAddresses, endpoint.AddFile, endpoint.AddPair, endpoint.AddHostSide, endpoint.AddPodSide, endpoint.AddFinished,
		endpoint.AddEntry, endpoint.AddLink, endpoint.AddLinks, endpoint.AddRoute, endpoint.AddAnswer}
	delSteps = []endpoint.Step{endpoint.DelDevice, endpoint.DelLinks, endpoint.DelEntry, endpoint.DelLimits, endpoint.DelAddresses, endpoint.DelFile, endpoint.DelAnswer}
)

// TestStepsAreAllThere: what the next test kills the agent at is what an ADD and a DEL pass.
func TestStepsAreAllThere(t *testing.T) {
	n := single(t)
	first := func(steps []endpoint.Step) (out []endpoint.Step) { // each step when it is passed first
		for _, s := range steps {
			if !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
		return out
	}
	ns := nettest.NewNS(t, "pod")
	rt := n.runtimeConf("steps", ns)
	for name, c := range map[string]struct {
		plugins []string
		add     []endpoint.Step
	}{"sole": {nil, addSole}, "in a chain": {[]string{`{"type":"tuning"}`}, addChain}} {
		list := n.list("1.0.0", c.plugins...)
		from := n.logSize()
		var err error
		n.ns.Do(func() { _, err = n.cni.AddNetworkList(t.Context(), list, rt) })
		if err != nil {
			t.Fatal(err)
		}
		// An ADD begins with what a DEL does to an attachment that nobody knows.
		nothing := []endpoint.Step{endpoint.DelAddresses, endpoint.DelFile}
		var got []endpoint.Step
		n.eventually("every step is passed", func() error {
			got = first(n.steps(from))
			if want := append(nothing, c.add...); !slices.Equal(got, want) {
				return fmt.Errorf("ADD, %s: steps\n%q, want\n%q", name, got, want)
			}
			return nil
		})
		from = n.logSize()
		n.ns.Do(func() { err = n.cni.DelNetworkList(t.Context(), list, rt) })
		if err != nil {
			t.Fatal(err)
		}
		n.eventually("every step is passed", func() error {
			if got := first(n.steps(from)); !slices.Equal(got, delSteps) {
				return fmt.Errorf("DEL, %s: steps\n%q, want\n%q", name, got, delSteps)
			}
			return nil
		})
	}
}

// TestAgentKilledAtEveryStep kills the agent between every two steps of an ADD and of a DEL. A runtime that tries again gets its pod; where none does, nothing stays.
func TestAgentKilledAtEveryStep(t *testing.T) {
	n := single(t, func(c *agentConfig) { c.Sweep = 100 * time.Millisecond })
	try := func(verb string, plugins []string, step endpoint.Step) {
		t.Run(verb+" "+string(step), func(t *testing.T) {
			list := n.list("1.0.0", plugins...)
			ns := nettest.NewNS(t, "pod")
			rt := n.runtimeConf("killed", ns)
			add := func() (err error) {
				n.ns.Do(func() { _, err = n.cni.AddNetworkList(t.Context(), list, rt) })
				return err
			}
			del := func() (err error) {
				n.ns.Do(func() { err = n.cni.DelNetworkList(t.Context(), list, rt) })
				return err
			}
			// again is what a runtime does next: the same attachment, which must work and go without remains.
			again := func() {
				t.Helper()
				if err := add(); err != nil {
					t.Error("ADD after the kill:", err)
					return
				}
				r, err := n.cni.GetNetworkListCachedResult(list, rt)
				if err != nil {
					t.Fatal(err)
				}
				for _, ip := range addresses(t, r) {
					serve(t, ns, ip)
					if _, err := ask(n.ns, "tcp", ip, 1000); err != nil {
						t.Errorf("pod %s after the kill: %v", ip, err)
					}
				}
				if err := del(); err != nil {
					t.Error("DEL after the kill:", err)
				}
				n.clean("ADD again and DEL")
			}
			// addKilled makes an ADD during which, or soon after which, the agent dies.
			addKilled := func() {
				t.Helper()
				n.killAt(step)
				err := add()
				n.died(step)
				if answered := len(plugins) == 0 && slices.Index(addSole, step) > slices.Index(addSole, endpoint.AddAnswer); answered != (err == nil) {
					t.Errorf("ADD with the agent killed: %v", err)
				} else if err != nil && !isTryAgain(err) {
					t.Errorf("ADD with the agent killed: %v, want code %d", err, types.ErrTryAgainLater)
				}
				n.start()
			}
			switch verb {
			case "ADD":
				addKilled()
				again()
			case "ADD, nobody comes back":
				addKilled()
				ns.Delete()
				n.eventually("the sweep removes what is left", func() error {
					if left := n.residue(); len(left) > 0 {
						return fmt.Errorf("left: %v", left)
					}
					return nil
				})
			case "DEL":
				if err := add(); err != nil {
					t.Fatal(err)
				}
				n.killAt(step)
				err := del()
				n.died(step)
				if err != nil {
					t.Error("DEL with the agent killed:", err) // it is queued
				}
				n.start()
				n.clean("DEL that was cut off and queued")
				again()
			}
		})
	}
	chain := []string{`{"type":"tuning"}`}
	for _, step := range addSole {
		try("ADD", nil, step)
		try("ADD, nobody comes back", nil, step)
	}
	for _, step := range addChain {
		try("ADD", chain, step)
	}
	for _, step := range delSteps {
		try("DEL", nil, step)
	}
}

func isTryAgain(err error) bool {
	var ce *types.Error
	return errors.As(err, &ce) && ce.Code == types.ErrTryAgainLater
}
