// SPDX-License-Identifier: Apache-2.0

package apitest

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	certutil "k8s.io/client-go/util/cert"
)

// BehindService serves handler over TLS on this host as Service default/NAME, and returns the port and the authority of its certificate.
func BehindService(t testing.TB, client kubernetes.Interface, name string, handler http.HandlerFunc) (port int32, ca []byte) {
	t.Helper()
	cert, key, err := certutil.GenerateSelfSignedCertKey(name+".default.svc", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	server.StartTLS()
	t.Cleanup(server.Close)
	_, text, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	// Endpoints on loopback are refused, for good reason; a Service that is another name for this host is the way here.
	_, err = client.CoreV1().Services("default").Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost", Ports: []corev1.ServicePort{{Port: int32(number)}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return int32(number), cert
}
