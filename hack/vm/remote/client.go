// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/crypto/ssh"
)

// handshakePatience is long because an emulated processor is slow at it.
const handshakePatience = 30 * time.Second

// Client gives commands to one machine.
type Client struct{ conn *ssh.Client }

// Dial connects to the machine at the TCP address addr and proves both identities.
func Dial(ctx context.Context, addr string, cfg ClientConfig) (*Client, error) {
	key, err := signer(cfg.Seed)
	if err != nil {
		return nil, err
	}
	server, err := ssh.ParsePublicKey(cfg.Server)
	if err != nil {
		return nil, err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(handshakePatience))
	c, channels, requests, err := ssh.NewClientConn(conn, addr, &ssh.ClientConfig{
		User:            "root",
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(key)},
		HostKeyCallback: ssh.FixedHostKey(server),
	})
	if err != nil {
		conn.Close()
		return nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	return &Client{conn: ssh.NewClient(c, channels, requests)}, nil
}

// Close ends the connection, and with it the commands that still run.
func (c *Client) Close() error { return c.conn.Close() }

// Run runs command and waits for it. A command that fails gives an ExitError. When ctx ends, the command gets SIGTERM.
func (c *Client) Run(ctx context.Context, command Command, stdin io.Reader, stdout, stderr io.Writer) error {
	b, err := json.Marshal(command)
	if err != nil {
		return err
	}
	s, err := c.conn.NewSession()
	if err != nil {
		return err
	}
	defer s.Close()
	s.Stdout, s.Stderr = stdout, stderr
	if stdin != nil {
		in, err := s.StdinPipe() // given as s.Stdin, Wait would wait for its end
		if err != nil {
			return err
		}
		go func() {
			_, _ = io.Copy(in, stdin)
			in.Close()
		}()
	}
	if err := s.Start(string(b)); err != nil {
		return fmt.Errorf("start %v: %w", command.Args, err)
	}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	err = s.Wait()
	var exit *ssh.ExitError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &exit):
		return ExitError(exit.ExitStatus())
	}
	return err
}
