// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"
)

// Status is what an init says of its main process.
type Status struct {
	Host    string    `json:"host"`
	Running bool      `json:"running"`
	Pid     int       `json:"pid,omitempty"` // in the host's own pid namespace
	Since   time.Time `json:"since,omitzero"`
	Starts  int       `json:"starts"`
	Last    string    `json:"last,omitempty"` // how it ended last
}

// Verb is a request to an init.
type Verb string

const (
	VerbStatus  Verb = "status"
	VerbStart   Verb = "start"
	VerbStop    Verb = "stop"    // SIGTERM, then wait
	VerbKill    Verb = "kill"    // SIGKILL, then wait
	VerbRestart Verb = "restart" // kill and start
	VerbCrash   Verb = "crash"   // end every process of the host and what the kernel keeps for them, as a power cut does
)

type request struct {
	Verb Verb `json:"verb"`
	// Binary replaces the executable at the next start; empty keeps it.
	Binary string `json:"binary,omitempty"`
}

type reply struct {
	Status Status `json:"status"`
	Error  string `json:"error,omitempty"`
}

const (
	stopPatience = 30 * time.Second
	killPatience = 5 * time.Second
)

// serve answers one request a connection.
func (in *initProcess) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(stopPatience + killPatience))
			var req request
			if err := json.NewDecoder(conn).Decode(&req); err != nil {
				return
			}
			var rep reply
			if err := in.do(req); err != nil {
				rep.Error = err.Error()
			}
			rep.Status = in.status()
			json.NewEncoder(conn).Encode(rep)
		}()
	}
}

func (in *initProcess) do(req request) error {
	if req.Binary != "" {
		in.mu.Lock()
		in.cfg.Main[0] = req.Binary
		in.mu.Unlock()
	}
	switch req.Verb {
	case VerbStatus:
		return nil
	case VerbStart:
		return in.start()
	case VerbStop:
		return in.signal(syscall.SIGTERM, stopPatience)
	case VerbKill:
		return in.signal(syscall.SIGKILL, killPatience)
	case VerbRestart:
		if err := in.signal(syscall.SIGKILL, killPatience); err != nil {
			return err
		}
		return in.start()
	case VerbCrash:
		return in.crash()
	}
	return fmt.Errorf("unknown verb %q", req.Verb)
}

// control sends one request to the init of host.
func (s *Sandbox) control(host string, req request) (Status, error) {
	conn, err := net.DialTimeout("unix", s.socket(host), time.Second)
	if err != nil {
		return Status{Host: host}, fmt.Errorf("%s does not run: %w", host, err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(stopPatience + killPatience))
	if err := json.NewEncoder(conn).Encode(req); err != nil {
		return Status{Host: host}, err
	}
	var rep reply
	if err := json.NewDecoder(conn).Decode(&rep); err != nil {
		return Status{Host: host}, err
	}
	if rep.Error != "" {
		return rep.Status, errors.New(rep.Error)
	}
	return rep.Status, nil
}
