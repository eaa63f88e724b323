// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/fairlead/fairlead/controlplane/auth/discovery"
)

// joinOptions are the flags by which a host finds, trusts and convinces a cluster; servers and agents share them.
type joinOptions struct {
	server           string
	token, tokenFile string
	caCert, caHash   string
}

func (o *joinOptions) register(f *pflag.FlagSet, server string) {
	f.StringVar(&o.server, "server", "", server)
	f.StringVar(&o.token, "token", "", "join token, id.secret (visible to other processes: prefer --token-file)")
	f.StringVar(&o.tokenFile, "token-file", "", "file with the join token")
	f.StringVar(&o.caCert, "ca-cert", "", "file with the cluster's CA certificate")
	f.StringVar(&o.caHash, "ca-hash", "", "sha256:HEX of the cluster's CA key, by which its certificate is fetched instead of given (kubeadm knows the same hash)")
}

func (o *joinOptions) readToken() (string, error) {
	if o.tokenFile == "" {
		return o.token, nil
	}
	if o.token != "" {
		return "", errors.New("--token and --token-file exclude each other")
	}
	b, err := os.ReadFile(o.tokenFile)
	if err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// check returns what is wrong with the flags of a host that joins.
func (o *joinOptions) check() error {
	u, err := url.Parse(o.server)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("--server %q: want https://HOST:PORT", o.server)
	}
	o.server = "https://" + u.Host
	if o.caCert == "" && o.caHash == "" {
		return errors.New("how is the cluster to be recognized? give --ca-hash (`fairlead token create --print-join-command` on a server prints it) " +
			"or --ca-cert with the server's pki/ca.crt")
	}
	return nil
}

// authority returns the cluster's CA certificate: the file's, or the fetched one that fits the hash.
func (o *joinOptions) authority(ctx context.Context) ([]byte, error) {
	if o.caCert == "" {
		return discovery.Authority(ctx, o.server, o.caHash)
	}
	ca, err := os.ReadFile(o.caCert)
	if err != nil {
		return nil, fmt.Errorf("read the cluster's CA certificate: %w", err)
	}
	return ca, nil
}
