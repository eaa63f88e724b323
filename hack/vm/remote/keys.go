// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"

	"golang.org/x/crypto/ssh"
)

// ServerConfig is what the serving end knows.
type ServerConfig struct {
	Seed   []byte `json:"seed"`   // of its own Ed25519 key (RFC 8032)
	Client []byte `json:"client"` // public key of the one client it takes commands of, in the wire format of RFC 8709
}

// ClientConfig is what the other end knows.
type ClientConfig struct {
	Seed   []byte `json:"seed"`
	Server []byte `json:"server"`
}

// NewKeys makes an identity for each end.
func NewKeys() (ServerConfig, ClientConfig, error) {
	serverSeed, serverPublic, err := newKey()
	if err != nil {
		return ServerConfig{}, ClientConfig{}, err
	}
	clientSeed, clientPublic, err := newKey()
	if err != nil {
		return ServerConfig{}, ClientConfig{}, err
	}
	return ServerConfig{Seed: serverSeed, Client: clientPublic}, ClientConfig{Seed: clientSeed, Server: serverPublic}, nil
}

func newKey() (seed, public []byte, err error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	p, err := ssh.NewPublicKey(pub)
	if err != nil {
		return nil, nil, err
	}
	return key.Seed(), p.Marshal(), nil
}

func signer(seed []byte) (ssh.Signer, error) {
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("seed of a key has %d bytes, want %d", len(seed), ed25519.SeedSize)
	}
	return ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed))
}
