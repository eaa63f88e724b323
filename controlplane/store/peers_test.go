// SPDX-License-Identifier: Apache-2.0

package store

import (
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead/fairlead/controlplane/auth/pki"
)

// TestAMemberFollowsItsHostsAddress changes the address of a running member: the cluster learns it, once it stays.
func TestAMemberFollowsItsHostsAddress(t *testing.T) {
	dir := shortDir(t)
	keys, err := pki.Open(t.Context(), pki.Config{Dir: filepath.Join(dir, "pki"), Etcd: true})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	at := func(host string) string { return "https://" + net.JoinHostPort(host, port) }
	var present atomic.Pointer[string]
	move := func(u string) { present.Store(&u) }
	move(at("127.0.0.1"))
	cfg := Config{DataDir: filepath.Join(dir, "etcd"), Name: "moving", Peer: &Peer{
		ListenURL: at("0.0.0.0"), AdvertiseURL: at("127.0.0.1"), Advertised: func() string { return *present.Load() },
		CertFile: keys.EtcdPeerFile(), KeyFile: keys.EtcdPeerFile(), CAFile: keys.EtcdCAFile(),
	}}
	s, ctx := startHere(t, cfg)
	defer s.Close()
	urls := func() []string {
		members, err := Members(ctx, s.Client())
		if err != nil || len(members) != 1 {
			t.Fatalf("members %v, %v", members, err)
		}
		return members[0].PeerURLs
	}
	move(at("127.0.0.2"))
	for deadline := time.Now().Add(30 * time.Second); !slices.Equal(urls(), []string{at("127.0.0.2")}); {
		if time.Now().After(deadline) {
			t.Fatalf("30 s after the move the member is at %v", urls())
		}
		time.Sleep(100 * time.Millisecond)
	}
	if _, err := s.Client().Put(ctx, "/after", "the move"); err != nil {
		t.Error(err)
	}
}

// TestAnAddressThatComesAndGoesIsNotAnnounced looks at the decision alone.
func TestAnAddressThatComesAndGoesIsNotAnnounced(t *testing.T) {
	now := "https://a:1"
	p := &peers{announced: "https://a:1", present: func() string { return now }}
	for range 5 {
		for _, u := range []string{"https://b:1", "", "https://a:1"} {
			now = u
			for range settled - 1 {
				p.look()
			}
			if p.announced != "https://a:1" {
				t.Fatalf("%q was announced after %d looks", p.announced, settled-1)
			}
		}
	}
	now = "https://b:1"
	for range settled {
		p.look()
	}
	if p.announced != now {
		t.Errorf("%q is announced, want %q: it stays", p.announced, now)
	}
}
