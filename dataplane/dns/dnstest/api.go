// SPDX-License-Identifier: Apache-2.0

// Package dnstest serves fixed Kubernetes objects over HTTP as an API server lists and watches them, so that CoreDNS's own kubernetes plugin and ours
// can be given the same ones in tests and benchmarks.
package dnstest

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead/fairlead/dataplane/cluster"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// Objects are a cluster's.
type Objects struct {
	Namespaces []corev1.Namespace
	Services   []corev1.Service
	Slices     []discoveryv1.EndpointSlice
}

// Serve returns a server of the objects; watches deliver nothing. The caller closes it.
func (o *Objects) Serve() *httptest.Server {
	version := metav1.ListMeta{ResourceVersion: "1"}
	lists := map[string]any{
		"/api/v1/namespaces":                       &corev1.NamespaceList{TypeMeta: kind("NamespaceList", "v1"), ListMeta: version, Items: o.Namespaces},
		"/api/v1/services":                         &corev1.ServiceList{TypeMeta: kind("ServiceList", "v1"), ListMeta: version, Items: o.Services},
		"/api/v1/nodes":                            &corev1.NodeList{TypeMeta: kind("NodeList", "v1"), ListMeta: version},
		"/apis/discovery.k8s.io/v1/endpointslices": &discoveryv1.EndpointSliceList{TypeMeta: kind("EndpointSliceList", "discovery.k8s.io/v1"), ListMeta: version, Items: o.Slices},
	}
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		list, ok := lists[strings.TrimSuffix(r.URL.Path, "/")]
		w.Header().Set("Content-Type", "application/json")
		switch {
		case !ok:
			fail(w, http.StatusNotFound, metav1.StatusReasonNotFound)
		case r.FormValue("sendInitialEvents") == "true": // as an API server without streaming lists: clients then list
			fail(w, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid)
		case r.FormValue("watch") != "":
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		default:
			_ = json.NewEncoder(w).Encode(list) // a client that is gone
		}
	}))
}

func kind(k, version string) metav1.TypeMeta { return metav1.TypeMeta{Kind: k, APIVersion: version} }

func fail(w http.ResponseWriter, code int32, reason metav1.StatusReason) {
	w.WriteHeader(int(code))
	_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: kind("Status", "v1"), Status: metav1.StatusFailure, Code: code, Reason: reason})
}

// Tables returns the objects as rows, converted as the node's watch does.
func (o *Objects) Tables() (*tables.Tables, error) {
	t, err := tables.New()
	if err != nil {
		return nil, err
	}
	w := t.DB.WriteTxn(t.Services, t.EndpointSlices)
	defer w.Abort()
	for i := range o.Services {
		if row, ok := cluster.Service(&o.Services[i]); ok {
			if _, _, err := t.Services.Insert(w, row); err != nil {
				return nil, err
			}
		}
	}
	for i := range o.Slices {
		if row, ok := cluster.EndpointSlice(&o.Slices[i]); ok {
			if _, _, err := t.EndpointSlices.Insert(w, row); err != nil {
				return nil, err
			}
		}
	}
	w.Commit()
	return t, nil
}
