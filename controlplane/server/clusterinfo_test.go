// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"net/url"
	"os"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"k8s.io/cluster-bootstrap/token/jws"

	"github.com/fairlead/fairlead/controlplane/auth/discovery"
	"github.com/fairlead/fairlead/controlplane/controllers"
	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

// TestDiscoveryAsKubeadm does what kubeadm join does before it trusts a cluster: reads cluster-info without a credential and without verifying the
// server, checks the token's signature on it, pins the authority's hash, and joins with the kubeconfig inside.
func TestDiscoveryAsKubeadm(t *testing.T) {
	env, stop := start(t, shortDir(t))
	defer stop()
	ctx, cancel := context.WithCancel(t.Context())
	signing := make(chan error, 1)
	go func() {
		signing <- controllers.Run(ctx, controllers.Config{
			RESTConfig: env.ClientAs(user.KubeControllerManager), Controllers: []string{"bootstrapsigner"}, Settings: controller.Settings{},
			Account: func(account string) (*rest.Config, error) {
				return env.ClientAs(serviceaccount.MakeUsername(metav1.NamespaceSystem, account)), nil
			},
		})
	}()
	defer func() {
		cancel()
		if err := <-signing; err != nil {
			t.Error(err)
		}
	}()

	stranger := kubernetes.NewForConfigOrDie(&rest.Config{Host: env.URL, TLSClientConfig: rest.TLSClientConfig{Insecure: true}})
	const id, secret = "abcdef", "0123456789abcdef" // the token that start gives the server
	var info *corev1.ConfigMap
	until(t, "cluster-info is signed", func(int) bool {
		var err error
		info, err = stranger.CoreV1().ConfigMaps("kube-public").Get(t.Context(), bootstrapapi.ConfigMapClusterInfo, metav1.GetOptions{})
		if err != nil {
			t.Fatalf("an anonymous read of cluster-info: %v", err)
		}
		return info.Data[bootstrapapi.JWSSignatureKeyPrefix+id] != ""
	})
	text := info.Data[bootstrapapi.KubeConfigKey]
	if !jws.DetachedTokenIsValid(info.Data[bootstrapapi.JWSSignatureKeyPrefix+id], text, id, secret) {
		t.Error("the signature is not the token's")
	}
	if jws.DetachedTokenIsValid(info.Data[bootstrapapi.JWSSignatureKeyPrefix+id], text, id, "another000000000") {
		t.Error("the signature is valid for every token")
	}
	kubeconfig, err := clientcmd.Load([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	cluster := kubeconfig.Clusters[""]
	if u, err := url.Parse(env.URL); err != nil || cluster == nil || cluster.Server != "https://192.0.2.1:"+u.Port() {
		t.Fatalf("the cluster is %v, want the advertised address", cluster)
	}
	ca, err := os.ReadFile(env.Keys.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	want, err := discovery.HashPEM(ca)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := discovery.HashPEM(cluster.CertificateAuthorityData); err != nil || got != want {
		t.Errorf("the authority's hash is %s (%v), want %s", got, err, want)
	}
	// The same authority and the token are a way in.
	node := kubernetes.NewForConfigOrDie(&rest.Config{Host: env.URL, BearerToken: id + "." + secret, TLSClientConfig: rest.TLSClientConfig{CAData: cluster.CertificateAuthorityData}})
	if _, err := node.CoreV1().Secrets("kube-system").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a node's token lists secrets: %v, want Forbidden", err)
	}
	if _, err := node.CertificatesV1().CertificateSigningRequests().List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("a node's token cannot follow its certificate request: %v", err)
	}
	if _, err := node.Discovery().ServerVersion(); err != nil {
		t.Errorf("with the token and the authority: %v", err)
	}
	if _, err := stranger.CoreV1().ConfigMaps("kube-public").List(t.Context(), metav1.ListOptions{}); err == nil {
		t.Error("anonymous may list kube-public, want only cluster-info to be readable")
	}
}
