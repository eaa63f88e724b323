// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// ErrAgentDown wraps every failure to get an answer: nobody listens, or the agent went away before it answered.
var ErrAgentDown = errors.New("node agent does not answer")

// Call sends req to the agent behind socket, with the namespace netns unless it is negative, and waits for the answer until ctx ends.
// An error in the answer is part of the response; the error of Call wraps ErrAgentDown unless the request itself was unsendable.
func Call(ctx context.Context, socket string, req *Request, netns int) (*Response, error) {
	req.MinVersion, req.MaxVersion = MinVersion, MaxVersion
	frame, err := encode(req)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAgentDown, err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	conn := c.(*net.UnixConn)
	var oob []byte
	if netns >= 0 {
		oob = unix.UnixRights(netns)
	}
	// The descriptor travels with the first bytes; a unix socket may take fewer of them than asked when its buffer is full.
	n, _, err := conn.WriteMsgUnix(frame, oob, nil)
	if err == nil && n < len(frame) {
		_, err = conn.Write(frame[n:])
	}
	if err != nil {
		return nil, fmt.Errorf("%w: send request: %w", ErrAgentDown, err)
	}
	resp := new(Response)
	if err := decode(conn, resp); err != nil {
		return nil, fmt.Errorf("%w: read answer: %w", ErrAgentDown, err)
	}
	return resp, nil
}
