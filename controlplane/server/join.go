// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/controlplane/auth/discovery"
	"github.com/fairlead/fairlead/controlplane/auth/pki"
	"github.com/fairlead/fairlead/controlplane/store"
)

// Join says which cluster a further server joins.
type Join struct {
	// Server is the URL of a server that runs, or of a load balancer in front of several.
	Server string `json:"server"`
	// Token is a server token; those of nodes are refused.
	Token string `json:"token"`
	// CA is the cluster's authority as PEM. Without it CAHash is needed, by which it is fetched.
	CA     []byte `json:"ca,omitempty"`
	CAHash string `json:"caHash,omitempty"`
}

const (
	// joinPath is where servers let others in. POST with a joinRequest; who may is RBAC's matter (role fairlead:join-servers).
	joinPath = "/fairlead/v1/servers"
	// maxJoin bounds a request and its answer.
	maxJoin = 1 << 20
	// joinRetry is how often a server that cannot be let in yet asks again, joinTell how often it says so.
	joinRetry, joinTell = 500 * time.Millisecond, 10 * time.Second
)

// joinRequest is what a server tells of itself.
type joinRequest struct {
	Name string `json:"name"`
	// PeerURL is where its etcd member will listen; empty when the servers share an etcd elsewhere.
	PeerURL string `json:"peerURL,omitempty"`
	Common  common `json:"common"`
}

// joinResponse is what it needs.
type joinResponse struct {
	Keys    map[string][]byte `json:"keys"`
	Members []store.Member    `json:"members,omitempty"`
}

// joined reports whether this server's data directory belongs to a cluster already: then Join has nothing to do.
func (c *Config) joined() bool {
	if len(c.Store.Endpoints) > 0 {
		_, err := os.Stat(filepath.Join(c.pkiDir(), "sa.key"))
		return err == nil
	}
	wal, err := os.ReadDir(filepath.Join(c.Store.DataDir, "member", "wal"))
	return err == nil && len(wal) > 0
}

// join lets a running server take this one in: the keys come into the data directory, the etcd members are returned. It asks until it is let in,
// is refused for good, or ctx ends; a crash in between is mended by asking again.
func join(ctx context.Context, cfg Config) ([]store.Member, error) {
	log := klog.FromContext(ctx).WithValues("component", "join")
	tell := time.Now().Add(joinTell / 4)
	for {
		answer, err := askToJoin(ctx, cfg)
		if err == nil {
			if err := pki.Adopt(cfg.pkiDir(), answer.Keys); err != nil {
				return nil, err
			}
			log.Info("Joined the cluster", "server", cfg.Join.Server, "members", len(answer.Members))
			return answer.Members, nil
		}
		var refused *refusal
		if errors.As(err, &refused) && !refused.again || errors.Is(err, discovery.ErrHash) {
			return nil, err
		}
		if time.Now().After(tell) {
			log.Info("Not let in yet, will try again", "server", cfg.Join.Server, "reason", err.Error())
			tell = time.Now().Add(joinTell)
		}
		if !sleep(ctx, joinRetry) {
			return nil, context.Cause(ctx)
		}
	}
}

// refusal is a server's answer that is not the wanted one.
type refusal struct {
	message string
	again   bool
}

func (r *refusal) Error() string { return r.message }

func askToJoin(ctx context.Context, cfg Config) (*joinResponse, error) {
	ca := cfg.Join.CA
	if len(ca) == 0 {
		var err error
		if ca, err = discovery.Authority(ctx, cfg.Join.Server, cfg.Join.CAHash); err != nil {
			return nil, err
		}
	}
	client, err := rest.HTTPClientFor(&rest.Config{
		Host: cfg.Join.Server, BearerToken: cfg.Join.Token, TLSClientConfig: rest.TLSClientConfig{CAData: ca}, Timeout: 30 * time.Second, UserAgent: "fairlead-join",
	})
	if err != nil {
		return nil, &refusal{message: err.Error()}
	}
	defer client.CloseIdleConnections()
	request := joinRequest{Name: cfg.Name, Common: cfg.common()}
	if len(cfg.Store.Endpoints) == 0 {
		request.PeerURL = cfg.peerURL()
	}
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, cfg.Join.Server+joinPath, bytes.NewReader(body))
	if err != nil {
		return nil, &refusal{message: err.Error()}
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxJoin))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, refusedWith(resp, data)
	}
	var out joinResponse
	if err := json.Unmarshal(data, &out); err != nil {
		return nil, fmt.Errorf("answer of %s: %w", cfg.Join.Server, err)
	}
	return &out, nil
}

// refusedWith turns an answer into an error that says what to do.
func refusedWith(resp *http.Response, data []byte) error {
	var status metav1.Status
	message := resp.Status
	if json.Unmarshal(data, &status) == nil && status.Message != "" {
		message = status.Message
	}
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		message = "the token is unknown, expired or no token for servers; `fairlead token create --server` on a server makes one"
	case http.StatusForbidden:
		message = "this token lets nodes in, not servers; `fairlead token create --server` on a server makes one that does"
	}
	return &refusal{message: "join the cluster: " + message, again: resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests}
}
