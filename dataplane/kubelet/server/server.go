// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	internalapi "k8s.io/cri-api/pkg/apis"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/dataplane/kubelet/podworker"
)

const (
	readHeaderTimeout = 30 * time.Second
	shutdownTimeout   = 2 * time.Second
)

// Config is what the server works with.
type Config struct {
	NodeName      string
	Authenticator authenticator.Request
	Authorizer    authorizer.Authorizer
	Certificate   func() (*tls.Certificate, error)
	ClientCAs     func() *tls.Config // verification of client certificates; nil: none are asked for
	Runtime       internalapi.RuntimeService
	Views         func() []podworker.View
	LogDir        string // node logs (/logs/), empty: not served

	Metrics          http.Handler
	ResourceMetrics  http.Handler
	ContainerMetrics http.Handler
	ProbeMetrics     http.Handler
	Summary          func(ctx context.Context, onlyCPUAndMemory bool) (any, error)
	Healthy          func() error
	Configz          func() any
}

type server struct{ Config }

// Handler returns the server's handler, with authentication and authorisation.
func Handler(cfg Config) http.Handler {
	s := &server{cfg}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /healthz/{check}", s.healthz)
	mux.HandleFunc("GET /livez", s.healthz)
	mux.HandleFunc("GET /readyz", s.healthz)
	mux.HandleFunc("GET /pods", s.pods)
	mux.HandleFunc("GET /pods/{$}", s.pods)
	mux.HandleFunc("GET /runningpods/", s.pods)
	mux.HandleFunc("GET /configz", s.configz)
	mux.HandleFunc("GET /stats/summary", s.summary)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.logs)
	for _, verb := range []string{"exec", "attach"} {
		for _, path := range []string{"/{namespace}/{pod}/{container}", "/{namespace}/{pod}/{uid}/{container}"} {
			mux.HandleFunc("GET /"+verb+path, s.stream(verb))
			mux.HandleFunc("POST /"+verb+path, s.stream(verb))
		}
	}
	for _, path := range []string{"/{namespace}/{pod}", "/{namespace}/{pod}/{uid}"} {
		mux.HandleFunc("GET /portForward"+path, s.stream("portForward"))
		mux.HandleFunc("POST /portForward"+path, s.stream("portForward"))
	}
	mux.HandleFunc("POST /run/{namespace}/{pod}/{container}", s.run)
	mux.HandleFunc("POST /run/{namespace}/{pod}/{uid}/{container}", s.run)
	for path, handler := range map[string]http.Handler{
		"/metrics": cfg.Metrics, "/metrics/resource": cfg.ResourceMetrics, "/metrics/cadvisor": cfg.ContainerMetrics,
		"/metrics/probes": cfg.ProbeMetrics,
	} {
		if handler != nil {
			mux.Handle("GET "+path, handler)
		}
	}
	if cfg.LogDir != "" {
		mux.Handle("GET /logs/", http.StripPrefix("/logs/", http.FileServer(http.Dir(cfg.LogDir))))
	}
	return s.guard(mux)
}

// Serve answers on listener until ctx ends.
func Serve(ctx context.Context, listener net.Listener, cfg Config) error {
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cfg.Certificate() }}
	if cfg.ClientCAs != nil {
		tlsConfig.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
			own := tlsConfig.Clone()
			own.GetConfigForClient = nil
			verify := cfg.ClientCAs()
			own.ClientAuth, own.ClientCAs = verify.ClientAuth, verify.ClientCAs
			return own, nil
		}
	}
	// Streams last as long as their user wants; they end with the server's context.
	h := &http.Server{Handler: Handler(cfg), TLSConfig: tlsConfig, ReadHeaderTimeout: readHeaderTimeout, BaseContext: func(net.Listener) context.Context { return ctx }}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if err := h.Shutdown(grace); err != nil {
			h.Close()
		}
	})
	err := h.ServeTLS(listener, "", "")
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// guard lets only those in who may.
func (s *server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		log := klog.FromContext(r.Context())
		response, ok, err := s.Authenticator.AuthenticateRequest(r)
		if err != nil || !ok {
			log.V(2).Info("Request without a valid credential", "path", r.URL.Path, "err", err)
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		allowed := false
		for _, attributes := range s.attributes(response.User, r) {
			decision, _, err := s.Authorizer.Authorize(r.Context(), attributes)
			if err != nil {
				log.Error(err, "Authorization failed", "path", r.URL.Path, "user", response.User.GetName())
				http.Error(w, "Authorization error", http.StatusInternalServerError)
				return
			}
			if decision == authorizer.DecisionAllow {
				allowed = true
				break
			}
		}
		if !allowed {
			a := s.attributes(response.User, r)[0]
			http.Error(w, "Forbidden (user="+response.User.GetName()+", verb="+a.GetVerb()+", resource=nodes, subresource="+a.GetSubresource()+")", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// attributes are what a request has to be allowed: one of them suffices. The fine-grained subresource comes before nodes/proxy.
func (s *server) attributes(u user.Info, r *http.Request) []authorizer.Attributes {
	verb := map[string]string{http.MethodGet: "get", http.MethodHead: "get", http.MethodPost: "create", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete"}[r.Method]
	path, subresources := r.URL.Path, []string{"proxy"}
	under := func(prefix string) bool { return path == prefix || strings.HasPrefix(path, prefix+"/") }
	switch {
	case under("/stats"):
		subresources = []string{"stats"}
	case under("/metrics"):
		subresources = []string{"metrics"}
	case under("/logs"):
		subresources = []string{"log"}
	case under("/healthz"):
		subresources = []string{"healthz", "proxy"}
	case under("/configz"):
		subresources = []string{"configz", "proxy"}
	case under("/pods"), under("/runningpods"):
		subresources = []string{"pods", "proxy"}
	}
	out := make([]authorizer.Attributes, 0, len(subresources))
	for _, subresource := range subresources {
		out = append(out, authorizer.AttributesRecord{
			User: u, Verb: verb, APIVersion: "v1", Resource: "nodes", Subresource: subresource, Name: s.NodeName, ResourceRequest: true, Path: path,
		})
	}
	return out
}

func (s *server) healthz(w http.ResponseWriter, _ *http.Request) {
	if s.Healthy != nil {
		if err := s.Healthy(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	w.Write([]byte("ok"))
}

func (s *server) pods(w http.ResponseWriter, _ *http.Request) {
	list := &v1.PodList{}
	list.Kind, list.APIVersion = "PodList", "v1"
	for _, view := range s.Views() {
		pod := view.Pod.DeepCopy()
		pod.Status = view.Status
		list.Items = append(list.Items, *pod)
	}
	writeJSON(w, list)
}

func (s *server) configz(w http.ResponseWriter, _ *http.Request) {
	if s.Configz == nil {
		http.NotFound(w, nil)
		return
	}
	writeJSON(w, map[string]any{"kubeletconfig": s.Configz()})
}

func (s *server) summary(w http.ResponseWriter, r *http.Request) {
	if s.Summary == nil {
		http.Error(w, "no statistics", http.StatusNotFound)
		return
	}
	summary, err := s.Summary(r.Context(), r.URL.Query().Get("only_cpu_and_memory") == "true")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, summary)
}

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(value); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}
