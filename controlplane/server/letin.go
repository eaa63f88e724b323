// SPDX-License-Identifier: Apache-2.0

package server

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/controlplane/auth/pki"
	"github.com/fairlead/fairlead/controlplane/store"
)

// common is what all servers of a cluster must have alike.
type common struct {
	ServiceCIDRs  []string `json:"serviceCIDRs"`
	ClusterCIDRs  []string `json:"clusterCIDRs"`
	ClusterDomain string   `json:"clusterDomain"`
	NodePorts     string   `json:"nodePorts"`
	Issuer        string   `json:"issuer"`
	ExternalEtcd  bool     `json:"externalEtcd"`
	// Encryption is the hash of the EncryptionConfiguration; a server that cannot decrypt what another wrote would be worse than none.
	Encryption string `json:"encryption,omitempty"`
}

func (c *Config) common() common {
	out := common{
		ServiceCIDRs: c.ServiceCIDRs, ClusterCIDRs: c.ClusterCIDRs, ClusterDomain: c.ClusterDomain, NodePorts: c.NodePorts, Issuer: c.Issuer,
		ExternalEtcd: len(c.Store.Endpoints) > 0,
	}
	if c.EncryptionConfig != "" {
		data, err := os.ReadFile(c.EncryptionConfig)
		sum := sha256.Sum256(data)
		out.Encryption = hex.EncodeToString(sum[:])
		if err != nil {
			out.Encryption = "unreadable: " + err.Error()
		}
	}
	return out
}

// differs says what of other, a joining server's, is not as in c.
func (c common) differs(other common) error {
	var errs []error
	check := func(what, own, want string) {
		if own != want {
			errs = append(errs, fmt.Errorf("%s %q, the cluster has %q", what, own, want))
		}
	}
	check("--service-cidr is", strings.Join(other.ServiceCIDRs, ","), strings.Join(c.ServiceCIDRs, ","))
	check("--cluster-cidr is", strings.Join(other.ClusterCIDRs, ","), strings.Join(c.ClusterCIDRs, ","))
	check("--cluster-domain is", other.ClusterDomain, c.ClusterDomain)
	check("node ports are", other.NodePorts, c.NodePorts)
	check("the issuer of tokens is", other.Issuer, c.Issuer)
	if c.ExternalEtcd != other.ExternalEtcd {
		errs = append(errs, errors.New("--etcd-endpoints must be given to all servers or to none"))
	}
	if c.Encryption != other.Encryption {
		errs = append(errs, errors.New("--encryption-provider-config must name the same content on all servers"))
	}
	return errors.Join(errs...)
}

// doorkeeper lets further servers in: it hands out the cluster's keys and announces their etcd members. Everything before it (TLS, the token,
// RBAC, audit) is the API server's own filter chain.
type doorkeeper struct {
	common common
	keys   *pki.PKI
	store  *store.Store
}

func (d *doorkeeper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		refuse(w, http.StatusMethodNotAllowed, "only POST is served here")
		return
	}
	var request joinRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxJoin)).Decode(&request); err != nil {
		refuse(w, http.StatusBadRequest, "the request is not readable: "+err.Error())
		return
	}
	if err := d.common.differs(request.Common); err != nil {
		refuse(w, http.StatusUnprocessableEntity, "this server's settings are not the cluster's: "+strings.ReplaceAll(err.Error(), "\n", "; "))
		return
	}
	response, code, err := d.admit(r, request)
	if err != nil {
		refuse(w, code, err.Error())
		return
	}
	klog.FromContext(r.Context()).Info("Let a server in", "component", "join", "server", request.Name, "peer", request.PeerURL)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(response) // the client went away
}

// admit returns what the server that asks needs, or an error with its HTTP status.
func (d *doorkeeper) admit(r *http.Request, request joinRequest) (*joinResponse, int, error) {
	if request.Name == "" {
		return nil, http.StatusUnprocessableEntity, errors.New("the server has no name")
	}
	keys, err := d.keys.Shared()
	if err != nil {
		return nil, http.StatusInternalServerError, errors.New("the cluster's keys cannot be read on the server")
	}
	response := &joinResponse{Keys: keys}
	if d.common.ExternalEtcd {
		return response, http.StatusOK, nil
	}
	if _, ok := keys["etcd-ca.key"]; !ok {
		return nil, http.StatusConflict, errors.New("the server runs alone, its etcd speaks to nobody: restart it once with --cluster-init, its data stays")
	}
	if u, err := url.Parse(request.PeerURL); err != nil || u.Scheme != "https" || u.Port() == "" || slices.Contains([]string{"", "0.0.0.0", "::"}, u.Hostname()) {
		return nil, http.StatusUnprocessableEntity, fmt.Errorf("peer URL %q: want https://ADDRESS:PORT", request.PeerURL)
	}
	response.Members, err = store.AddLearner(r.Context(), d.store.Client(), request.Name, request.PeerURL)
	switch {
	case errors.Is(err, store.ErrMemberExists):
		return nil, http.StatusConflict, err
	case err != nil:
		return nil, http.StatusServiceUnavailable, err
	}
	return response, http.StatusOK, nil
}

func refuse(w http.ResponseWriter, code int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(metav1.Status{ // the client went away
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: int32(code), Message: message,
	})
}
