// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func open(t *testing.T, path string, c *clock, q time.Duration, cidrs ...string) *Pool {
	t.Helper()
	p, err := Open(Config{Path: path, Quarantine: q, Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	setCIDRs(t, p, cidrs...)
	return p
}

func setCIDRs(t *testing.T, p *Pool, cidrs ...string) {
	t.Helper()
	var ps []netip.Prefix
	for _, c := range cidrs {
		ps = append(ps, netip.MustParsePrefix(c))
	}
	if err := p.SetCIDRs(ps); err != nil {
		t.Fatal(err)
	}
}

func TestDualStackAndReservedAddresses(t *testing.T) {
	c := &clock{time.Unix(1000, 0)}
	p := open(t, filepath.Join(t.TempDir(), "log"), c, time.Second, "10.1.2.0/29", "fd00:1::/64")
	seen := map[netip.Addr]bool{}
	for i := range 5 { // 8 addresses, less network, node and broadcast
		got, err := p.Allocate(fmt.Sprint("o", i))
		if err != nil || len(got) != 2 || !got[0].Is4() || !got[1].Is6() {
			t.Fatalf("allocation %d: %v, %v", i, got, err)
		}
		for _, a := range got {
			if seen[a] {
				t.Fatalf("%s given twice", a)
			}
			seen[a] = true
		}
	}
	for _, bad := range []string{"10.1.2.0", "10.1.2.1", "10.1.2.7", "fd00:1::", "fd00:1::1"} {
		if seen[netip.MustParseAddr(bad)] {
			t.Errorf("reserved address %s was given", bad)
		}
	}
	if _, err := p.Allocate("one too many"); !errors.Is(err, ErrExhausted) {
		t.Fatalf("a full range answers %v", err)
	}
	if u := p.Usage(); !u[0].Exceeded || u[0].Taken != 5 || u[1].Exceeded {
		t.Errorf("usage %+v", u)
	}
	// The failed allocation must not have taken the IPv6 half.
	if n := len(p.Owners()); n != 5 {
		t.Errorf("%d owners, want 5", n)
	}
}

func TestQuarantineOutlivesTheAgent(t *testing.T) {
	c := &clock{time.Unix(1000, 0)}
	path := filepath.Join(t.TempDir(), "log")
	p := open(t, path, c, 10*time.Second, "10.1.2.0/29")
	first := map[string][]netip.Addr{}
	for i := range 5 {
		first[fmt.Sprint(i)], _ = p.Allocate(fmt.Sprint(i))
	}
	freed, err := p.Release("3")
	if err != nil || !slices.Equal(freed, first["3"]) {
		t.Fatal(freed, err)
	}
	if again, err := p.Release("3"); err != nil || again != nil {
		t.Fatal("a second release", again, err)
	}
	if _, err := p.Allocate("new"); !errors.Is(err, ErrExhausted) {
		t.Fatal("an address was reused inside its quarantine:", err)
	}
	p.Close()
	c.t = c.t.Add(9 * time.Second)
	p = open(t, path, c, 10*time.Second, "10.1.2.0/29")
	if _, err := p.Allocate("new"); !errors.Is(err, ErrExhausted) {
		t.Fatal("a restart ended the quarantine:", err)
	}
	p.Close()
	p = open(t, path, c, 10*time.Second, "10.1.2.0/29") // a second restart reads the rewritten log
	if _, err := p.Allocate("new"); !errors.Is(err, ErrExhausted) {
		t.Fatal("a second restart ended the quarantine:", err)
	}
	c.t = c.t.Add(time.Second)
	got, err := p.Allocate("new")
	if err != nil || !slices.Equal(got, first["3"]) {
		t.Fatal("after the quarantine:", got, err)
	}
	if same, err := p.Allocate("0"); err != nil || !slices.Equal(same, first["0"]) {
		t.Fatal("an owner asking again must get what it has:", same, err)
	}
}

func TestAskedForAddresses(t *testing.T) {
	c := &clock{time.Unix(1000, 0)}
	p := open(t, filepath.Join(t.TempDir(), "log"), c, -1, "10.1.2.0/24", "fd00:1::/64")
	want := netip.MustParseAddr("10.1.2.77")
	got, err := p.Allocate("a", want)
	if err != nil || got[0] != want || len(got) != 2 {
		t.Fatal(got, err)
	}
	for _, bad := range []string{"10.1.2.77", "10.1.2.1", "10.1.2.255", "10.9.9.9"} {
		if _, err := p.Allocate("b", netip.MustParseAddr(bad)); !errors.Is(err, ErrTaken) {
			t.Errorf("asking for %s: %v", bad, err)
		}
	}
	if _, err := p.Allocate("a", netip.MustParseAddr("10.1.2.78")); !errors.Is(err, ErrTaken) {
		t.Errorf("another address for the same owner: %v", err)
	}
}

func TestTornLogLine(t *testing.T) {
	c := &clock{time.Unix(1000, 0)}
	path := filepath.Join(t.TempDir(), "log")
	p := open(t, path, c, time.Second, "10.1.2.0/24")
	a, _ := p.Allocate("a")
	p.Close()
	f, _ := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	f.WriteString(`{"op":"take","owner":"b","addrs":["10.1.`)
	f.Close()
	p = open(t, path, c, time.Second, "10.1.2.0/24")
	if o := p.Owners(); len(o) != 1 || !slices.Equal(o["a"], a) {
		t.Fatalf("owners after a torn line: %v", o)
	}
	b, _ := p.Allocate("b")
	p.Close()
	p = open(t, path, c, time.Second, "10.1.2.0/24")
	if o := p.Owners(); !slices.Equal(o["b"], b) {
		t.Fatalf("what was written after a torn line is lost: %v", o)
	}
}

func TestSecondAgentIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	open(t, path, &clock{time.Unix(1, 0)}, time.Second)
	if p, err := Open(Config{Path: path}); err == nil {
		p.Close()
		t.Fatal("two agents hold one log")
	}
}

func TestNoRangeYet(t *testing.T) {
	p := open(t, filepath.Join(t.TempDir(), "log"), &clock{time.Unix(1, 0)}, time.Second)
	if _, err := p.Allocate("a"); !errors.Is(err, ErrNoRange) {
		t.Fatal(err)
	}
	if err := p.SetCIDRs([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/30")}); err == nil {
		t.Fatal("a /30 was accepted")
	}
}

func TestChurnKeepsLogSmallAndAddressesApart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	p, err := Open(Config{Path: path, Quarantine: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	setCIDRs(t, p, "10.1.2.0/24", "fd00:1::/64")
	var wg sync.WaitGroup
	var held sync.Map
	for w := range 8 {
		wg.Go(func() {
			for i := range 500 {
				owner := fmt.Sprintf("%d/%d", w, i)
				got, err := p.Allocate(owner)
				if err != nil {
					t.Error(err)
					return
				}
				for _, a := range got {
					if other, dup := held.LoadOrStore(a, owner); dup {
						t.Errorf("%s given to %s and %s", a, other, owner)
					}
				}
				for _, a := range got {
					held.Delete(a)
				}
				if _, err := p.Release(owner); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if st, _ := os.Stat(path); st.Size() > 200<<10 {
		t.Errorf("log grew to %d bytes", st.Size())
	}
	if n := len(p.Owners()); n != 0 {
		t.Errorf("%d owners left", n)
	}
}

func FuzzLog(f *testing.F) {
	f.Add([]byte("{\"op\":\"take\",\"owner\":\"a\",\"addrs\":[\"10.1.2.3\"]}\n{\"op\":\"free\",\"owner\":\"a\",\"time\":5}\n"))
	f.Add([]byte("{\"op\":\"take\",\"owner\":\"a\",\"addrs\":[\"10.1.2.3\"]}\n{\"op\":\"take\",\"owner\":\"b\",\"addrs\":[\"10.1.2.3\"]}\n"))
	f.Add([]byte("\n\n{\"op\":\"rest\",\"addrs\":[\"::1\"],\"time\":-1}"))
	f.Fuzz(func(t *testing.T, log []byte) {
		path := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(path, log, 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := Open(Config{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		setCIDRs(t, p, "10.1.2.0/24")
		before := p.Owners()
		got, err := p.Allocate("fresh owner")
		if err != nil {
			return
		}
		for owner, addrs := range before {
			if owner != "fresh owner" && slices.Contains(addrs, got[0]) {
				t.Fatalf("%s belongs to %s already", got[0], owner)
			}
		}
	})
}
