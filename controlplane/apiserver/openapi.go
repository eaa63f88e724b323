// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"

	"github.com/emicklei/go-restful/v3"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/apiserver/pkg/server/routes"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/cached"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/common/restfuladapter"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/spec3"
)

// documents are the OpenAPI documents of the built-in kinds. The generic server would build all of them before it runs and keep them twice, as objects and
// as JSON.
type documents struct {
	v3     *handler3.OpenAPIService
	root   http.Handler // serves v3
	groups []*spec3.OpenAPI
}

// v3Version is the version by which v3's caches know a document. They are never changed.
const v3Version = "built-in"

// installOpenAPI makes server publish its documents. The v3 ones are built at once, because the aggregator lists them before the server runs; that of v2
// takes a tenth of the start and is made when it is asked for and the server is ready.
func installOpenAPI(ctx context.Context, server *genericapiserver.GenericAPIServer, v2 *common.Config, v3 *common.OpenAPIV3Config, ready <-chan struct{}) (*documents, error) {
	container, paths := server.Handler.GoRestfulContainer, server.Handler.NonGoRestfulMux
	d := &documents{v3: handler3.NewOpenAPIService(), root: paths}
	if err := d.v3.RegisterOpenAPIV3VersionedService("/openapi/v3", paths); err != nil {
		return nil, err
	}
	for _, ws := range container.RegisteredWebServices() {
		path := strings.TrimPrefix(ws.RootPath(), "/")
		spec, err := builder3.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices([]*restful.WebService{ws}), v3)
		if err != nil {
			return nil, fmt.Errorf("OpenAPI of %s: %w", path, err)
		}
		scope(spec, path)
		d.v3.UpdateGroupVersionLazy(path, cached.Static(spec, v3Version))
		d.groups = append(d.groups, spec)
	}
	paths.Handle("/openapi/v2", &lateOpenAPI{after: ready, ended: ctx.Done(), build: sync.OnceValue(func() http.Handler {
		m := mux.NewPathRecorderMux("openapi-v2")
		routes.OpenAPI{Config: v2}.InstallV2(container, m)
		return m
	})})
	return d, nil
}

// slim empties the objects of the v3 documents. Their JSON is there by then, and the caches keep it because the version stays the same.
func (d *documents) slim() {
	// The list has a hash of each document's JSON.
	d.root.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/openapi/v3", nil))
	for _, spec := range d.groups {
		*spec = spec3.OpenAPI{}
	}
	d.groups = nil
}

// scope leaves of the kinds under which every group knows DeleteOptions and WatchEvent only path's own and the core group's, as Kubernetes publishes it.
func scope(spec *spec3.OpenAPI, path string) {
	parts := strings.Split(path, "/")
	group, version := "", ""
	switch {
	case len(parts) == 2 && parts[0] == "api":
		version = parts[1]
	case len(parts) == 3 && parts[0] == "apis":
		group, version = parts[1], parts[2]
	default:
		return
	}
	if spec == nil || spec.Components == nil {
		return
	}
	const extension = "x-kubernetes-group-version-kind"
	for _, schema := range spec.Components.Schemas {
		if schema == nil {
			continue
		}
		kinds, _ := schema.Extensions[extension].([]any)
		if len(kinds) < 2 {
			continue
		}
		if kind := field(kinds[0], "kind"); kind != "WatchEvent" && kind != "DeleteOptions" {
			continue
		}
		schema.Extensions[extension] = slices.DeleteFunc(slices.Clone(kinds), func(k any) bool {
			g, v := field(k, "group"), field(k, "version")
			return (g != group || v != version) && (g != "" || v != "v1")
		})
	}
}

func field(kind any, name string) string {
	m, _ := kind.(map[string]any)
	s, _ := m[name].(string)
	return s
}

// lateOpenAPI builds its handler at the first request after the server is ready; earlier requests, such as the aggregator's, wait.
type lateOpenAPI struct {
	after <-chan struct{} // ready
	ended <-chan struct{}
	build func() http.Handler
}

func (l *lateOpenAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case <-l.after: // also while the server drains requests
	default:
		select {
		case <-l.after:
		case <-l.ended:
			http.Error(w, "the server stops before it was ready", http.StatusServiceUnavailable)
			return
		case <-r.Context().Done():
			return
		}
	}
	l.build().ServeHTTP(w, r)
}
