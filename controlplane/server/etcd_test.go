// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/fairlead/fairlead/controlplane/auth/discovery"
	"github.com/fairlead/fairlead/controlplane/auth/pki"
	"github.com/fairlead/fairlead/controlplane/store"
)

// etcdCluster is an etcd of three members that somebody else runs: TCP, mutual TLS, an authority of its own.
type etcdCluster struct {
	members []*embed.Etcd
	// config is what a server is given to reach it.
	config store.Config
}

func startEtcd(t *testing.T) *etcdCluster {
	t.Helper()
	dir := shortDir(t)
	keys, err := pki.Open(t.Context(), pki.Config{Dir: filepath.Join(dir, "pki"), Etcd: true})
	if err != nil {
		t.Fatal(err)
	}
	c := &etcdCluster{config: store.Config{CertFile: keys.EtcdClientFile(), KeyFile: keys.EtcdClientFile(), CAFile: keys.EtcdCAFile()}}
	local := func() url.URL { return url.URL{Scheme: "https", Host: fmt.Sprintf("127.0.0.1:%d", freePort(t))} }
	t.Cleanup(func() {
		for i := range c.members {
			c.stop(i)
		}
	})
	var configs []*embed.Config
	var initial []string
	for i := range 3 {
		m := embed.NewConfig()
		m.Name, m.Dir = fmt.Sprintf("etcd-%d", i), filepath.Join(dir, fmt.Sprint(i))
		m.LogLevel, m.LogOutputs = "error", []string{filepath.Join(dir, m.Name+".log")}
		client, peer := local(), local()
		m.ListenClientUrls, m.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
		m.ListenPeerUrls, m.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
		m.ClientTLSInfo = transport.TLSInfo{CertFile: keys.EtcdServerFile(), KeyFile: keys.EtcdServerFile(), TrustedCAFile: keys.EtcdCAFile(), ClientCertAuth: true}
		m.PeerTLSInfo = transport.TLSInfo{CertFile: keys.EtcdPeerFile(), KeyFile: keys.EtcdPeerFile(), TrustedCAFile: keys.EtcdCAFile(), ClientCertAuth: true}
		initial = append(initial, m.Name+"="+peer.String())
		c.config.Endpoints = append(c.config.Endpoints, client.String())
		configs = append(configs, m)
	}
	for _, m := range configs {
		m.InitialCluster = strings.Join(initial, ",")
		e, err := embed.StartEtcd(m)
		if err != nil {
			t.Fatal(err)
		}
		c.members = append(c.members, e)
	}
	for _, e := range c.members {
		select {
		case <-e.Server.ReadyNotify():
		case <-time.After(30 * time.Second):
			t.Fatal("the external etcd was not ready within 30 s")
		}
	}
	return c
}

// stop ends a member; its data stays. A member that has ended is left alone.
func (c *etcdCluster) stop(i int) {
	if c.members[i] != nil {
		c.members[i].Close()
		c.members[i] = nil
	}
}

func writeMap(t *testing.T, client kubernetes.Interface, name string) error {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}
	_, err := client.CoreV1().ConfigMaps("default").Create(ctx, obj, metav1.CreateOptions{})
	return err
}

// TestServersOnAnExternalEtcd puts two servers on an etcd of three members that is not theirs: the second gets the first's keys, each sees the
// other's writes, and the loss of an etcd member, of a server and of every server changes nothing that was acknowledged.
func TestServersOnAnExternalEtcd(t *testing.T) {
	etcd := startEtcd(t)
	config := func(name string) Config {
		return Config{Name: name, DataDir: shortDir(t), BindAddress: "127.0.0.1", Port: -1, AdvertiseAddresses: []string{"127.0.0.1"}, Store: etcd.config}
	}
	first := config("one")
	first.ServerToken = testServerToken
	one := spawnConfig(t, first)
	hash, err := discovery.HashPEM(one.config.CAData)
	if err != nil {
		t.Fatal(err)
	}
	second := config("two")
	second.Join = &Join{Server: one.config.Host, Token: testServerToken, CAHash: hash}
	two := spawnConfig(t, second)
	for _, cfg := range []Config{first, second} {
		if _, err := os.Stat(filepath.Join(cfg.DataDir, "etcd", "member")); !os.IsNotExist(err) {
			t.Errorf("server %s runs an etcd member besides the external ones: %v", cfg.Name, err)
		}
	}

	// A watch at one server sees what is written at the other; a token that one signed lets its bearer in at the other.
	w, err := two.client.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=seen"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if err := writeMap(t, one.client, "seen"); err != nil {
		t.Fatal(err)
	}
	select {
	case e := <-w.ResultChan():
		if e.Type != watch.Added {
			t.Errorf("the watch at the other server delivered %s, want ADDED", e.Type)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("a write at one server was not seen at the other within 20 s")
	}
	bearer := *two.config
	bearer.CertData, bearer.KeyData = nil, nil
	bearer.BearerToken = tokenOf(t, one.client)
	review, err := kubernetes.NewForConfigOrDie(&bearer).AuthenticationV1().SelfSubjectReviews().Create(t.Context(), selfReview(), metav1.CreateOptions{})
	if err != nil || review.Status.UserInfo.Username != "system:serviceaccount:default:default" {
		t.Errorf("a token of the first server's at the second: %v, %v", review, err)
	}

	etcd.stop(0)
	for _, p := range []*process{one, two} {
		until(t, "both servers write with one etcd member lost", func(try int) bool {
			return writeMap(t, p.client, fmt.Sprintf("member-%d-%d", p.cmd.Process.Pid, try)) == nil
		})
	}
	_ = one.cmd.Process.Kill()
	_ = one.cmd.Wait()
	if err := writeMap(t, two.client, "alone"); err != nil {
		t.Errorf("a write at the server that is left: %v", err)
	}
	_ = two.cmd.Process.Kill()
	_ = two.cmd.Wait()
	first.Store.Endpoints, second.Store.Endpoints = etcd.config.Endpoints[1:], etcd.config.Endpoints[1:]
	var again sync.WaitGroup
	for _, cfg := range []Config{first, second} { // neither needs the other; what Join says is not looked at any more
		again.Go(func() {
			p := spawnConfig(t, cfg)
			for _, name := range []string{"seen", "alone"} {
				if _, err := p.client.CoreV1().ConfigMaps("default").Get(t.Context(), name, metav1.GetOptions{}); err != nil {
					t.Errorf("server %s after the restart of all: %v", cfg.Name, err)
				}
			}
		})
	}
	again.Wait()
}

// TestSnapshotIntoThreeServers loses all three servers' etcd data and brings the cluster back from a snapshot as docs/install.md says: restored on
// one, joined anew by the others.
func TestSnapshotIntoThreeServers(t *testing.T) {
	configs, servers := threeServers(t)
	if t.Failed() {
		return
	}
	for i, s := range servers {
		if err := writeMap(t, s.client, fmt.Sprintf("before-%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	w, err := servers[0].client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	old := w.ResourceVersion
	file := filepath.Join(shortDir(t), "cluster.db")
	if _, err := store.SaveSnapshot(t.Context(), store.Config{DataDir: filepath.Join(configs[1].DataDir, "etcd")}, file); err != nil {
		t.Fatal(err)
	}
	if err := writeMap(t, servers[2].client, "later"); err != nil {
		t.Fatal(err)
	}
	for i, s := range servers {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		if err := os.Rename(filepath.Join(configs[i].DataDir, "etcd", "member"), filepath.Join(configs[i].DataDir, "lost")); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.RestoreSnapshot(store.Config{DataDir: filepath.Join(configs[0].DataDir, "etcd")}, file); err != nil {
		t.Fatal(err)
	}
	servers[0] = spawnConfig(t, configs[0])
	var group sync.WaitGroup
	for i := 1; i < 3; i++ {
		configs[i].Join.Server = servers[0].config.Host // its port is another one after the restart
		group.Go(func() { servers[i] = spawnConfig(t, configs[i]) })
	}
	group.Wait()
	if t.Failed() {
		return
	}
	members := membersOf(t, configs[0])
	if len(members) != 3 {
		t.Errorf("members after the restore: %+v, want three", members)
	}
	for i, s := range servers {
		for j := range servers {
			if _, err := s.client.CoreV1().ConfigMaps("default").Get(t.Context(), fmt.Sprintf("before-%d", j), metav1.GetOptions{}); err != nil {
				t.Errorf("server %s: %v", configs[i].Name, err)
			}
		}
		if _, err := s.client.CoreV1().ConfigMaps("default").Get(t.Context(), "later", metav1.GetOptions{}); err == nil {
			t.Errorf("server %s has a write that came after the snapshot", configs[i].Name)
		}
		if err := writeMap(t, s.client, fmt.Sprintf("after-%d", i)); err != nil {
			t.Errorf("server %s takes no write after the restore: %v", configs[i].Name, err)
		}
	}
	// A client that goes on with a resource version of before must be told to list again, not be given silence.
	late, err := servers[1].client.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{ResourceVersion: old})
	if err == nil {
		defer late.Stop()
		select {
		case e := <-late.ResultChan():
			if status, ok := e.Object.(*metav1.Status); !ok || status.Code != 410 {
				t.Errorf("a watch from before the restore got %s %v, want 410 Gone", e.Type, e.Object)
			}
		case <-time.After(20 * time.Second):
			t.Error("a watch from before the restore got nothing within 20 s, want 410 Gone")
		}
	} else if !strings.Contains(err.Error(), "too old") {
		t.Errorf("a watch from before the restore: %v, want 410 Gone", err)
	}
	// With a majority the cluster goes on without the server that was restored.
	_ = servers[0].cmd.Process.Kill()
	_ = servers[0].cmd.Wait()
	until(t, "the joined servers write without the restored one", func(try int) bool { return writeMap(t, servers[2].client, fmt.Sprintf("rest-%d", try)) == nil })
}

// tokenOf returns a token of the service account default/default.
func tokenOf(t *testing.T, client kubernetes.Interface) string {
	t.Helper()
	var token string
	until(t, "a token of the default service account", func(int) bool {
		_, _ = client.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
		r, err := client.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
		if err == nil {
			token = r.Status.Token
		}
		return err == nil
	})
	return token
}

func selfReview() *authenticationv1.SelfSubjectReview { return &authenticationv1.SelfSubjectReview{} }
