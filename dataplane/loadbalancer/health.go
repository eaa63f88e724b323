// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/dataplane/tables"
)

// healthServers answer a load balancer's question whether this node has an endpoint of a service (spec.healthCheckNodePort): 200 if it has a
// ready one, else 503, with the count in the body, as load balancers expect it of Kubernetes nodes.
type healthServers struct {
	log klog.Logger
	mu  sync.Mutex
	srv map[tables.Name]*healthServer
	wg  sync.WaitGroup
}

type healthServer struct {
	port  uint16
	count int // guarded by healthServers.mu
	http  *http.Server
}

func newHealthServers(log klog.Logger) *healthServers {
	return &healthServers{log: log, srv: map[tables.Name]*healthServer{}}
}

// set makes the service's health be answered on port (0: no longer) with count local endpoints.
func (h *healthServers) set(name tables.Name, port uint16, count int) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.srv[name]
	if s != nil && s.port == port {
		s.count = count
		return nil
	}
	if s != nil {
		_ = s.http.Close()
		delete(h.srv, name)
	}
	if port == 0 {
		return nil
	}
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return fmt.Errorf("health check node port: %w", err)
	}
	s = &healthServer{port: port, count: count}
	s.http = &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h.mu.Lock()
		n := s.count
		h.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", fmt.Sprint(n))
		if n == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{
			"service":             map[string]string{"namespace": name.Namespace, "name": name.Name},
			"localEndpoints":      n,
			"serviceProxyHealthy": true,
		})
	})}
	h.srv[name] = s
	h.wg.Go(func() {
		if err := s.http.Serve(l); err != nil && err != http.ErrServerClosed {
			h.log.Error(err, "serve health check node port", "service", name.String())
		}
	})
	return nil
}

func (h *healthServers) close() {
	h.mu.Lock()
	for _, s := range h.srv {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		if s.http.Shutdown(ctx) != nil {
			_ = s.http.Close()
		}
		cancel()
	}
	h.mu.Unlock()
	h.wg.Wait()
}
