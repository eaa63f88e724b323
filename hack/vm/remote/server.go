// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/containerd/console"
	"golang.org/x/crypto/ssh"
)

// endPatience is how long a program has after SIGTERM when its client went away.
const endPatience = 10 * time.Second

// Serve takes commands from l until it is closed, and returns that error.
func Serve(l net.Listener, cfg ServerConfig) error {
	key, err := signer(cfg.Seed)
	if err != nil {
		return err
	}
	config := &ssh.ServerConfig{
		PublicKeyCallback: func(_ ssh.ConnMetadata, offered ssh.PublicKey) (*ssh.Permissions, error) {
			if !bytes.Equal(offered.Marshal(), cfg.Client) {
				return nil, errors.New("not the client's key")
			}
			return nil, nil
		},
	}
	config.AddHostKey(key)
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go serveConn(conn, config)
	}
}

func serveConn(conn net.Conn, config *ssh.ServerConfig) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(handshakePatience))
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	_ = conn.SetDeadline(time.Time{})
	go ssh.DiscardRequests(requests)
	for offered := range channels {
		if offered.ChannelType() != "session" {
			_ = offered.Reject(ssh.UnknownChannelType, "only sessions are served")
			continue
		}
		ch, requests, err := offered.Accept()
		if err != nil {
			return
		}
		go serveSession(ch, requests)
	}
}

// serveSession runs the one command of a session. The end of the session ends the command.
func serveSession(ch ssh.Channel, requests <-chan *ssh.Request) {
	defer ch.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var command *Command
	for req := range requests {
		if req.Type != requestExec {
			_ = req.Reply(false, nil)
			continue
		}
		c, err := parseExec(req.Payload)
		if err != nil {
			fmt.Fprintln(ch.Stderr(), err)
			_ = req.Reply(false, nil)
			return
		}
		command = &c
		_ = req.Reply(true, nil)
		break
	}
	if command == nil {
		return
	}
	go func() {
		ssh.DiscardRequests(requests) // until the client goes away
		cancel()
	}()
	status := execute(ctx, *command, ch)
	_, _ = ch.SendRequest(requestStatus, false, ssh.Marshal(statusPayload{uint32(status)}))
}

// execute runs c and returns its exit status.
func execute(ctx context.Context, c Command, ch ssh.Channel) int {
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Dir = c.Dir
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = endPatience
	var err error
	if c.Terminal != nil {
		err = runOnTerminal(cmd, *c.Terminal, ch)
	} else {
		err = runPiped(cmd, ch)
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.Exited():
		return exit.ExitCode()
	case errors.As(err, &exit):
		return 128 + int(exit.Sys().(syscall.WaitStatus).Signal())
	}
	fmt.Fprintln(ch.Stderr(), err)
	return notRun
}

func runPiped(cmd *exec.Cmd, ch ssh.Channel) error {
	in, err := cmd.StdinPipe() // given as cmd.Stdin, the client's input would have to end before the command does
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = ch, ch.Stderr()
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(in, ch)
		in.Close()
	}()
	return cmd.Wait()
}

func runOnTerminal(cmd *exec.Cmd, size Size, ch ssh.Channel) error {
	terminal, name, err := console.NewPty()
	if err != nil {
		return err
	}
	defer terminal.Close()
	if err := terminal.Resize(console.WinSize{Width: size.Columns, Height: size.Rows}); err != nil {
		return err
	}
	end, err := os.OpenFile(name, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = end, end, end
	cmd.Env = append(os.Environ(), "TERM=xterm")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = cmd.Start()
	end.Close()
	if err != nil {
		return err
	}
	go func() { _, _ = io.Copy(terminal, ch) }()
	_, _ = io.Copy(ch, terminal) // ends, with EIO, when the last program closes the terminal
	return cmd.Wait()
}
