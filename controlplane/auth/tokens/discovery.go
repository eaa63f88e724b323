// SPDX-License-Identifier: Apache-2.0

package tokens

import (
	"crypto"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/go-jose/go-jose/v4"
)

// The paths below which the API server publishes its issuer (OpenID Connect Discovery 1.0).
const (
	DiscoveryPath = "/.well-known/openid-configuration"
	KeysPath      = "/openid/v1/jwks"
)

// Discovery serves the two documents with which others check this cluster's service-account tokens.
type Discovery struct{ document, keys []byte }

// NewDiscovery describes the issuer and its keys. keysURL may be empty: then it is KeysPath at externalAddress (host:port).
func NewDiscovery(issuer, keysURL, externalAddress string, keys []crypto.PublicKey) (*Discovery, error) {
	u, err := url.Parse(issuer)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("service-account issuer %q cannot be discovered: it must be an https URL without query and fragment", issuer)
	}
	if keysURL == "" {
		keysURL = (&url.URL{Scheme: "https", Host: externalAddress, Path: KeysPath}).String()
	}
	if u, err := url.Parse(keysURL); err != nil || u.Scheme != "https" {
		return nil, fmt.Errorf("URL of the service-account keys %q must begin with https://", keysURL)
	}
	var set jose.JSONWebKeySet
	var algorithms []string
	for _, k := range keys {
		key, err := publicKey(k)
		if err != nil {
			return nil, err
		}
		set.Keys = append(set.Keys, key)
		algorithms = append(algorithms, key.Algorithm)
	}
	slices.Sort(algorithms)
	d := &Discovery{}
	if d.keys, err = json.Marshal(set); err != nil {
		return nil, err
	}
	d.document, err = json.Marshal(struct {
		Issuer        string   `json:"issuer"`
		KeysURI       string   `json:"jwks_uri"`
		ResponseTypes []string `json:"response_types_supported"`
		SubjectTypes  []string `json:"subject_types_supported"`
		Algorithms    []string `json:"id_token_signing_alg_values_supported"`
	}{issuer, keysURL, []string{"id_token"}, []string{"public"}, slices.Compact(algorithms)})
	return d, err
}

// Mux is where the documents are served: the API server's NonGoRestfulMux.
type Mux interface {
	Handle(path string, handler http.Handler)
}

// Install serves the documents. Who may read them is RBAC's matter (role system:service-account-issuer-discovery).
func (d *Discovery) Install(mux Mux) {
	mux.Handle(DiscoveryPath, serve("application/json", d.document))
	mux.Handle(KeysPath, serve("application/jwk-set+json", d.keys))
}

func serve(contentType string, body []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET is served here", http.StatusMethodNotAllowed)
			return
		}
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", "public, max-age=3600")
		if _, err := w.Write(body); err != nil {
			return // the client went away
		}
	})
}
