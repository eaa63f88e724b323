// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/kubernetes"

	"github.com/fairlead/fairlead/controlplane/apiserver/registry"
)

// serviceProxy is services/proxy: some ready endpoint of the Service, "name", "name:port" or "https:name:port".
type serviceProxy struct {
	services  *registry.Main
	client    kubernetes.Interface
	transport http.RoundTripper
}

var _ rest.Connecter = &serviceProxy{}

func (p *serviceProxy) New() runtime.Object      { return &corev1.ServiceProxyOptions{} }
func (p *serviceProxy) Destroy()                 {}
func (p *serviceProxy) ConnectMethods() []string { return proxyMethods }
func (p *serviceProxy) NewConnectOptions() (runtime.Object, bool, string) {
	return &corev1.ServiceProxyOptions{}, true, "path"
}

func (p *serviceProxy) Connect(ctx context.Context, id string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	location, err := p.locate(ctx, id)
	if err != nil {
		return nil, err
	}
	location.Path = utilnet.JoinPreservingTrailingSlash("", options.(*corev1.ServiceProxyOptions).Path)
	return passThrough(location, p.transport, true, false, responder), nil
}

func (p *serviceProxy) locate(ctx context.Context, id string) (*url.URL, error) {
	scheme, name, portText, ok := utilnet.SplitSchemeNamePort(id)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid service request %q", id))
	}
	obj, err := p.services.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	port, err := servicePort(obj.(*corev1.Service), portText)
	if err != nil {
		return nil, err
	}
	list, err := p.client.DiscoveryV1().EndpointSlices(request.NamespaceValue(ctx)).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + name})
	if err != nil {
		return nil, err
	}
	var hosts []string
	for _, slice := range list.Items {
		for _, sp := range slice.Ports {
			if sp.Port == nil || sp.Name != nil && *sp.Name != port || sp.Name == nil && port != "" {
				continue
			}
			for _, e := range slice.Endpoints {
				if e.Conditions.Ready == nil || *e.Conditions.Ready {
					for _, a := range e.Addresses {
						hosts = append(hosts, net.JoinHostPort(a, strconv.Itoa(int(*sp.Port))))
					}
				}
			}
		}
	}
	if len(hosts) == 0 {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", id))
	}
	if scheme == "" {
		scheme = "http"
	}
	return &url.URL{Scheme: scheme, Host: hosts[rand.IntN(len(hosts))]}, nil
}

// servicePort returns the name of the port that text asks for by name or number; empty text is fine when there is only one.
func servicePort(s *corev1.Service, text string) (string, error) {
	if text == "" && len(s.Spec.Ports) == 1 {
		return s.Spec.Ports[0].Name, nil
	}
	number, _ := strconv.Atoi(text)
	for _, p := range s.Spec.Ports {
		if text == p.Name || int(p.Port) == number {
			return p.Name, nil
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %q found for service %q", text, s.Name))
}
