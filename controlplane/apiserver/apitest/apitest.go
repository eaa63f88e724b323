// SPDX-License-Identifier: Apache-2.0

// Package apitest runs a real store and API server inside a test, on 127.0.0.1 with a port of the kernel's choice. Whoever comes with the
// loopback credentials may do everything; authentication, authorization and admission are Options.Guards' business.
package apitest

import (
	"context"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/rest"
	certutil "k8s.io/client-go/util/cert"

	"github.com/fairlead/fairlead/controlplane/apiserver"
	"github.com/fairlead/fairlead/controlplane/store"
)

// Options vary the server.
type Options struct {
	// Configure changes the configuration before the server is made.
	Configure func(*apiserver.Config)
	// Local returns the configuration for clients in the server's process, without a socket.
	Local bool
	// Dir is where the store lives; empty means a temporary directory.
	Dir string
}

// Start runs a store and an API server until the test ends and returns a client configuration with all rights once /readyz is healthy.
func Start(t testing.TB, o Options) *rest.Config {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	if o.Dir == "" {
		// Not t.TempDir: its path can be longer than a unix socket's may be.
		dir, err := os.MkdirTemp("", "api")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		o.Dir = dir
	}
	db, err := store.Start(ctx, store.Config{DataDir: o.Dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	cfg := Config(t, db)
	if o.Configure != nil {
		o.Configure(&cfg)
	}
	server, err := apiserver.New(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Logf("API server ended: %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("the API server did not stop within 30 s")
		}
	})
	select {
	case <-server.Ready():
	case err := <-done:
		done <- err
		t.Fatalf("the API server ended before it was ready: %v", err)
	case <-time.After(60 * time.Second):
		t.Fatal("the API server was not ready within 60 s")
	}
	if o.Local {
		return server.Local()
	}
	return server.Loopback()
}

// Config returns the configuration that Start begins with.
func Config(t testing.TB, db *store.Store) apiserver.Config {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := certutil.GenerateSelfSignedCertKey("127.0.0.1", []net.IP{net.IPv4(127, 0, 0, 1)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	serving, err := dynamiccertificates.NewStaticCertKeyContent("test", cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return apiserver.Config{
		Listener:      l,
		ServingCert:   serving,
		Advertise:     func() []net.IP { return []net.IP{net.IPv4(192, 0, 2, 1)} },
		AdvertisePort: 6443,
		Store:         apiserver.Store{Endpoints: db.Endpoints, Client: db.Direct(), Prefix: "/" + string(uuid.NewUUID())},
		ServiceCIDRs:  []string{"10.96.0.0/16"},
		NodePorts:     "30000-32767",
		Guards:        Guards,
	}
}

// Guards lets members of system:masters, such as the loopback client, do everything and everybody else nothing.
func Guards(context.Context, apiserver.Env) (apiserver.Guards, error) {
	return apiserver.Guards{
		Authenticator: anonymous.NewAuthenticator(nil),
		Authorizer: authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
			if slices.Contains(a.GetUser().GetGroups(), user.SystemPrivilegedGroup) {
				return authorizer.DecisionAllow, "", nil
			}
			return authorizer.DecisionNoOpinion, "", nil
		}),
	}, nil
}
