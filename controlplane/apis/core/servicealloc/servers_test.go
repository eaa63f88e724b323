// SPDX-License-Identifier: Apache-2.0

package servicealloc_test

import (
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/fairlead/fairlead/controlplane/apiserver"
	"github.com/fairlead/fairlead/controlplane/apiserver/apitest"
	"github.com/fairlead/fairlead/controlplane/store"
)

// Two API servers on one store create Services at once; no address and no port may be given twice, and everything comes back on deletion.
func TestTwoServersNeverGiveOneThingTwice(t *testing.T) {
	ctx := t.Context()
	dir, err := os.MkdirTemp("", "alloc") // short: a unix socket lies in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	db, err := store.Start(ctx, store.Config{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	prefix := apitest.Config(t, db).Store.Prefix
	var clients []kubernetes.Interface
	for range 2 {
		cfg := apitest.Config(t, db)
		cfg.Store.Prefix = prefix
		cfg.ServiceCIDRs = []string{"10.96.0.0/24", "fd00:10:96::/112"}
		cfg.NodePorts = "30000-30099"
		server, err := apiserver.New(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- server.Run(ctx) }()
		t.Cleanup(func() { <-ended })
		select {
		case <-server.Ready():
		case err := <-ended:
			t.Fatalf("a server ended: %v", err)
		case <-time.After(time.Minute):
			t.Fatal("a server was not ready within a minute")
		}
		client, err := kubernetes.NewForConfig(server.Loopback())
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, client)
	}

	const services = 60
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]string{}
	for i := range services {
		wg.Go(func() {
			name := fmt.Sprint("s", i)
			s, err := clients[i%2].CoreV1().Services("default").Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeNodePort, IPFamilyPolicy: new(corev1.IPFamilyPolicyRequireDualStack), Ports: []corev1.ServicePort{{Port: 80}},
			}}, metav1.CreateOptions{})
			if err != nil {
				t.Errorf("create %s: %v", name, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, what := range append(s.Spec.ClusterIPs, fmt.Sprint("port ", s.Spec.Ports[0].NodePort)) {
				if other, ok := seen[what]; ok {
					t.Errorf("%s and %s both have %s", other, name, what)
				}
				seen[what] = name
			}
		})
	}
	wg.Wait()
	if want := 3 * services; len(seen) != want {
		t.Errorf("%d addresses and ports were given, want %d", len(seen), want)
	}
	for i := range services {
		if err := clients[(i+1)%2].CoreV1().Services("default").Delete(ctx, fmt.Sprint("s", i), metav1.DeleteOptions{}); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	left, err := clients[0].NetworkingV1().IPAddresses().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range left.Items {
		if a.Spec.ParentRef.Name != "kubernetes" {
			t.Errorf("%s is still claimed for %s", a.Name, a.Spec.ParentRef.Name)
		}
	}
}
