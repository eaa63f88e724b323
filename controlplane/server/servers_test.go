// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/fairlead/fairlead/controlplane/auth/discovery"
	"github.com/fairlead/fairlead/controlplane/auth/tokens"
	"github.com/fairlead/fairlead/controlplane/store"
)

const testServerToken = "server.0123456789abcdef"

// freePort returns a port of 127.0.0.1 that nobody listens on now.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// threeServers starts a cluster of three servers, each a process of its own.
func threeServers(t *testing.T) (configs []Config, servers []*process) {
	t.Helper()
	config := func(name string) Config {
		return Config{Name: name, DataDir: shortDir(t), BindAddress: "127.0.0.1", Port: -1, AdvertiseAddresses: []string{"127.0.0.1"}, PeerPort: freePort(t)}
	}
	configs = []Config{config("one"), config("two"), config("three")}
	servers = make([]*process, len(configs))
	configs[0].ClusterInit, configs[0].ServerToken = true, testServerToken
	servers[0] = spawnConfig(t, configs[0])
	ca := servers[0].config.CAData
	hash, err := discovery.HashPEM(ca)
	if err != nil {
		t.Fatal(err)
	}
	// One by hash, one by file; both at once, so that the second has to wait for the first.
	configs[1].Join = &Join{Server: servers[0].config.Host, Token: testServerToken, CAHash: hash}
	configs[2].Join = &Join{Server: servers[0].config.Host, Token: testServerToken, CA: ca}
	var group sync.WaitGroup
	for i := 1; i < len(configs); i++ {
		group.Go(func() { servers[i] = spawnConfig(t, configs[i]) })
	}
	group.Wait()
	return configs, servers
}

// TestThreeServers kills each of three servers in turn while all are written to: the others go on, no acknowledged write is lost, and the killed
// one comes back. Then one is removed from the cluster for good, and ends.
func TestThreeServers(t *testing.T) {
	configs, servers := threeServers(t)
	if t.Failed() {
		return
	}
	members := membersOf(t, configs[0])
	voting := slices.DeleteFunc(slices.Clone(members), func(m store.Member) bool { return m.Learner })
	if len(voting) != 3 {
		t.Fatalf("voting members are %v, want three", voting)
	}
	var mu sync.Mutex
	acknowledged := map[string]string{}
	for victim := range servers {
		var alive []kubernetes.Interface
		for i, s := range servers {
			if i != victim {
				alive = append(alive, s.client)
			}
		}
		stop := make(chan struct{})
		var group sync.WaitGroup
		var written atomic.Int64
		for w, client := range append(slices.Clone(alive), servers[victim].client) {
			group.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					name := fmt.Sprintf("v%d-w%d-%d", victim, w, i)
					obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"name": name, "pad": strings.Repeat(name, 50)}}
					made, err := client.CoreV1().ConfigMaps("default").Create(context.Background(), obj, metav1.CreateOptions{})
					if err != nil && w == len(alive) {
						return // the victim is dead
					}
					if err != nil {
						time.Sleep(10 * time.Millisecond) // while the cluster elects a leader
						continue
					}
					mu.Lock()
					acknowledged[name] = made.ResourceVersion
					mu.Unlock()
					written.Add(1)
				}
			})
		}
		until(t, "300 writes are acknowledged", func(int) bool { return written.Load() >= 300 })
		killed := time.Now()
		_ = servers[victim].cmd.Process.Kill()
		_ = servers[victim].cmd.Wait()
		for i, client := range alive {
			until(t, "the surviving servers take writes", func(try int) bool {
				obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("after-%d-%d-%d", victim, i, try)}}
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				_, err := client.CoreV1().ConfigMaps("default").Create(ctx, obj, metav1.CreateOptions{})
				return err == nil
			})
		}
		t.Logf("server %s killed: both others took a write after %s", configs[victim].Name, since(killed))
		before := written.Load()
		until(t, "300 more writes are acknowledged", func(int) bool { return written.Load() >= before+300 })
		close(stop)
		group.Wait()
		servers[victim] = spawnConfig(t, configs[victim])
		for i, s := range servers {
			var revision int64
			mu.Lock()
			known := maps.Clone(acknowledged)
			mu.Unlock()
			t.Logf("server %s: %d acknowledged writes", configs[i].Name, len(known))
			verify(t, s.client, known, &revision)
		}
	}
	removeMember(t, configs, servers)
}

func membersOf(t *testing.T, cfg Config) []store.Member {
	t.Helper()
	client, err := store.Dial(t.Context(), store.Config{DataDir: filepath.Join(cfg.DataDir, "etcd")})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	members, err := store.Members(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	return members
}

// removeMember takes the third server out and in again.
func removeMember(t *testing.T, configs []Config, servers []*process) {
	client, err := store.Dial(t.Context(), store.Config{DataDir: filepath.Join(configs[0].DataDir, "etcd")})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, m := range membersOf(t, configs[0]) {
		if m.Name != "three" {
			continue
		}
		until(t, "the member is removed", func(int) bool { // not before all were connected for five seconds
			_, err := store.RemoveMember(t.Context(), client, m.ID)
			return err == nil
		})
	}
	if err := servers[2].cmd.Wait(); err == nil || !strings.Contains(servers[2].stderr.String(), "removed from the etcd cluster") {
		t.Errorf("the removed server ended with %v and said %q; want it to fail and say that it was removed", err, servers[2].stderr)
	}
	if n := len(membersOf(t, configs[0])); n != 2 {
		t.Errorf("%d members are left, want 2", n)
	}
	if err := os.RemoveAll(filepath.Join(configs[2].DataDir, "etcd")); err != nil {
		t.Fatal(err)
	}
	configs[2].Join.Server = servers[0].config.Host // its port is another one after the restart
	spawnConfig(t, configs[2])
	if n := len(membersOf(t, configs[0])); n != 3 {
		t.Errorf("%d members after the removed server joined anew, want 3", n)
	}
}

// TestWhoMayJoin asks a server that runs alone, and one that may have company, with everything that is wrong.
func TestWhoMayJoin(t *testing.T) {
	dir := shortDir(t)
	env, stop := start(t, dir)
	defer stop()
	ca := env.Keys.CA().CertPEM
	hash, err := discovery.HashPEM(ca)
	if err != nil {
		t.Fatal(err)
	}
	made, err := tokens.CreateBootstrap(t.Context(), client(t, env.AdminKubeconfig), tokens.Bootstrap{Usages: []string{"authentication"}, Groups: []string{tokens.ServerGroup}})
	if err != nil {
		t.Fatal(err)
	}
	base := Config{Name: "second", DataDir: shortDir(t), AdvertiseAddresses: []string{"127.0.0.1"}}
	if err := base.complete(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"a server that runs alone", func(*Config) {}, "restart it once with --cluster-init"},
		{"a node's token", func(c *Config) { c.Join.Token = "abcdef.0123456789abcdef" }, "lets nodes in, not servers"},
		{"an unknown token", func(c *Config) { c.Join.Token = "abcdee.0123456789abcdef" }, "unknown, expired or no token"},
		{"another service range", func(c *Config) { c.ServiceCIDRs = []string{"10.1.0.0/16"} }, "--service-cidr is"},
		{"another authority's hash", func(c *Config) { c.Join.CAHash = "sha256:" + strings.Repeat("0", 64) }, "another hash"},
		{"no name", func(c *Config) { c.Name = "" }, "has no name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := base
			cfg.Join = &Join{Server: env.URL, Token: made.String(), CAHash: hash}
			c.change(&cfg)
			_, err := join(t.Context(), cfg)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if _, err := os.Stat(filepath.Join(cfg.DataDir, "pki")); !os.IsNotExist(err) {
				t.Errorf("keys were written although the server was refused: %v", err)
			}
		})
	}
}
