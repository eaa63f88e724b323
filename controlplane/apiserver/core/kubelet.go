// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/transport"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/fairlead/fairlead/controlplane/apiserver/registry"
)

// KubeletConfig says how the server reaches kubelets.
type KubeletConfig struct {
	// CertFile and KeyFile are the server's client certificate there; they are read again when they change.
	CertFile, KeyFile string
	// CAFile signed the kubelets' serving certificates. Without it no kubelet is believed, unless Insecure is set.
	CAFile   string
	Insecure bool
	// Port is where kubelets listen when their Node does not say; default 10250.
	Port int
}

// kubelet finds a node's kubelet and talks to it.
type kubelet struct {
	nodes  *registry.Main
	port   int
	secure http.RoundTripper
	// plain reaches pods and services without any credentials; their certificates are not checked, as the API documents.
	plain http.RoundTripper
}

func newKubelet(cfg KubeletConfig, nodes *registry.Main) (*kubelet, error) {
	dial := (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	secure, err := transport.New(&transport.Config{
		DialHolder: &transport.DialHolder{Dial: dial},
		TLS:        transport.TLSConfig{CertFile: cfg.CertFile, KeyFile: cfg.KeyFile, CAFile: cfg.CAFile, Insecure: cfg.Insecure, ReloadTLSFiles: true},
	})
	if err != nil {
		return nil, fmt.Errorf("kubelet client: %w", err)
	}
	plain, err := transport.New(&transport.Config{DialHolder: &transport.DialHolder{Dial: dial}, TLS: transport.TLSConfig{Insecure: true}})
	if err != nil {
		return nil, fmt.Errorf("proxy client: %w", err)
	}
	k := &kubelet{nodes: nodes, port: cfg.Port, secure: secure, plain: plain}
	if k.port == 0 {
		k.port = 10250
	}
	return k, nil
}

// address returns host:port of a node's kubelet.
func (k *kubelet) address(ctx context.Context, node string) (string, error) {
	obj, err := k.nodes.Get(ctx, node, &metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	n := obj.(*corev1.Node)
	port := k.port
	if p := n.Status.DaemonEndpoints.KubeletEndpoint.Port; p != 0 {
		port = int(p)
	}
	for _, want := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP, corev1.NodeHostName} {
		for _, a := range n.Status.Addresses {
			if a.Type == want && a.Address != "" {
				return net.JoinHostPort(a.Address, strconv.Itoa(port)), nil
			}
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("node %q has no address yet", node))
}

// summaryLimit bounds a kubelet's answer in bytes.
const summaryLimit = 16 << 20

// summary asks a node's kubelet what the node and its pods use.
func (k *kubelet) summary(ctx context.Context, node string) (*statsapi.Summary, error) {
	address, err := k.address(ctx, node)
	if err != nil {
		return nil, err
	}
	location := url.URL{Scheme: "https", Host: address, Path: "/stats/summary"}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, location.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := k.secure.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", &location, resp.Status)
	}
	out := &statsapi.Summary{}
	if err := json.NewDecoder(io.LimitReader(resp.Body, summaryLimit)).Decode(out); err != nil {
		return nil, fmt.Errorf("%s: %w", &location, err)
	}
	return out, nil
}

// passThrough returns a handler that hands the request to location, upgraded connections included.
func passThrough(location *url.URL, rt http.RoundTripper, wrap, upgradeRequired bool, responder rest.Responder) *proxy.UpgradeAwareHandler {
	return proxy.NewUpgradeAwareHandler(location, rt, wrap, upgradeRequired, proxy.NewErrorResponder(responder))
}

// proxyMethods are those that proxy subresources accept.
var proxyMethods = []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}

// nodeProxy is nodes/proxy: a node's kubelet, or another port of the node when the name says so ("name:port", "https:name:port").
type nodeProxy struct{ kubelet *kubelet }

var _ rest.Connecter = &nodeProxy{}

func (p *nodeProxy) New() runtime.Object      { return &corev1.NodeProxyOptions{} }
func (p *nodeProxy) Destroy()                 {}
func (p *nodeProxy) ConnectMethods() []string { return proxyMethods }
func (p *nodeProxy) NewConnectOptions() (runtime.Object, bool, string) {
	return &corev1.NodeProxyOptions{}, true, "path"
}

func (p *nodeProxy) Connect(ctx context.Context, id string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(id)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid node request %q", id))
	}
	address, err := p.kubelet.address(ctx, name)
	if err != nil {
		return nil, err
	}
	location, rt := &url.URL{Scheme: "https", Host: address}, p.kubelet.secure
	if host, own, err := net.SplitHostPort(address); err == nil && port != "" && port != own {
		if scheme == "" {
			scheme = "http"
		}
		location, rt = &url.URL{Scheme: scheme, Host: net.JoinHostPort(host, port)}, p.kubelet.plain
	}
	location.Path = utilnet.JoinPreservingTrailingSlash("", options.(*corev1.NodeProxyOptions).Path)
	return passThrough(location, rt, true, false, responder), nil
}
