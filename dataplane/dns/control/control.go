// SPDX-License-Identifier: Apache-2.0

// Package control is the way to ask a node's DNS server about itself: the client of its unix socket, and what both sides say to each other. It is
// small and knows no CoreDNS, so that the debugging command stays small, too.
package control

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// SocketName is the control socket's name in a node's run directory.
const SocketName = "dns.sock"

// Info is what the control socket says of the server (GET /info).
type Info struct {
	Domain  string   `json:"domain"`
	Servers []string `json:"servers"` // ADDR:PORT where it answers
	Ready   bool     `json:"ready"`
}

// Count is how often a service's names were asked for since the server started.
type Count struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Questions int64  `json:"questions"`
}

// Client asks a running server on its control socket.
type Client struct {
	Socket string
}

// Info returns where and whether the server answers.
func (c Client) Info(ctx context.Context) (i Info, err error) {
	err = c.get(ctx, "/info", nil, &i)
	return i, err
}

// Top returns the n services most asked for since the server started.
func (c Client) Top(ctx context.Context, n int) (top []Count, err error) {
	err = c.get(ctx, "/top", url.Values{"n": {strconv.Itoa(n)}}, &top)
	return top, err
}

// Trace returns what the server would do with a question, step by step; from is the asker's address or empty.
func (c Client) Trace(ctx context.Context, name, qtype, from string) (steps []string, err error) {
	err = c.get(ctx, "/trace", url.Values{"name": {name}, "type": {qtype}, "from": {from}}, &steps)
	return steps, err
}

func (c Client) get(ctx context.Context, path string, query url.Values, into any) error {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", c.Socket)
	}
	transport := &http.Transport{DialContext: dial, DisableKeepAlives: true}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://dns"+path+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	reply, err := transport.RoundTrip(r)
	if err != nil {
		return fmt.Errorf("ask the node's DNS server (is the agent running with cluster DNS?): %w", err)
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(reply.Body, 512)) // what there is of the reason
		return fmt.Errorf("the node's DNS server refused: %s", strings.TrimSpace(string(text)))
	}
	return json.NewDecoder(reply.Body).Decode(into)
}
