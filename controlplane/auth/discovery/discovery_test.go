// SPDX-License-Identifier: Apache-2.0

package discovery

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/fairlead/fairlead/controlplane/auth/pki"
)

// authorities makes count authorities and returns their certificates.
func authorities(t *testing.T, count int) [][]byte {
	t.Helper()
	var out [][]byte
	for range count {
		p, err := pki.Open(t.Context(), pki.Config{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p.CA().CertPEM)
	}
	return out
}

func info(t testing.TB, ca []byte) []byte {
	t.Helper()
	config := clientcmdapi.NewConfig()
	config.Clusters[""] = &clientcmdapi.Cluster{Server: "https://192.0.2.1:6443", CertificateAuthorityData: ca}
	text, err := clientcmd.Write(*config)
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(corev1.ConfigMap{Data: map[string]string{"kubeconfig": string(text)}})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func TestAuthority(t *testing.T) {
	cas := authorities(t, 2)
	hash, err := HashPEM(cas[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, hash string
		code       int
		body       []byte
		want       []byte
		err        string
	}{
		{name: "the hash fits", hash: hash, body: info(t, cas[0]), want: cas[0]},
		{name: "only the fitting one of two is trusted", hash: hash, body: info(t, append(bytes.Clone(cas[1]), cas[0]...)), want: cas[0]},
		{name: "somebody else's authority", hash: hash, body: info(t, cas[1]), err: "another hash"},
		{name: "no hash", hash: "", err: "want sha256:"},
		{name: "half a hash", hash: hash[:30], err: "want sha256:"},
		{name: "anonymous requests are refused", hash: hash, code: http.StatusUnauthorized, err: "give the authority as a file"},
		{name: "an empty answer", hash: hash, body: []byte("{}"), err: "names no authority"},
		{name: "no JSON", hash: hash, body: []byte("<html>"), err: "no ConfigMap"},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/api/v1/namespaces/kube-public/configmaps/cluster-info" || r.Header.Get("Authorization") != "" {
					http.Error(w, "only an anonymous request for cluster-info is expected", http.StatusTeapot)
					return
				}
				if c.code != 0 {
					w.WriteHeader(c.code)
				}
				_, _ = w.Write(c.body)
			}))
			defer server.Close()
			got, err := Authority(t.Context(), server.URL, c.hash)
			if c.err == "" && (err != nil || !bytes.Equal(got, c.want)) {
				t.Errorf("got %q, %v", got, err)
			}
			if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("error %v, want %q", err, c.err)
			}
			if c.err == "another hash" && !errors.Is(err, ErrHash) {
				t.Errorf("%v is not ErrHash", err)
			}
		})
	}
}

// TestHash compares with what kubeadm documents: openssl x509 -pubkey | openssl rsa -pubin -outform der | openssl dgst -sha256, that is, the hash of
// the DER form of the public key.
func TestHash(t *testing.T) {
	ca := authorities(t, 1)[0]
	hash, err := HashPEM(ca)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(ca)
	// The subject public key info of a P-256 key is 91 bytes: a fixed head of 27 and the point.
	head, _ := hex.DecodeString("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
	at := bytes.Index(block.Bytes, head[:26])
	if at < 0 {
		t.Fatal("the certificate holds no P-256 key")
	}
	sum := sha256.Sum256(block.Bytes[at : at+91])
	if want := "sha256:" + hex.EncodeToString(sum[:]); hash != want {
		t.Errorf("hash %s, want %s", hash, want)
	}
}

func FuzzAuthorityOf(f *testing.F) {
	f.Add(info(f, []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")))
	f.Add([]byte("{}"))
	f.Add([]byte(`{"data":{"kubeconfig":"clusters: 1"}}`))
	zero := "sha256:" + strings.Repeat("0", 64)
	f.Fuzz(func(t *testing.T, body []byte) {
		data, err := authorityOf(body)
		if err != nil {
			return
		}
		if got, err := match(data, zero); err == nil {
			t.Errorf("a certificate fits a hash of zeros: %q", got)
		}
	})
}
