// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"
)

// Command is one program to run.
type Command struct {
	Args []string `json:"args"` // the program's path first
	Dir  string   `json:"dir"`
	// Terminal has the program run on a terminal of its own; its error output then comes with the other.
	Terminal *Size `json:"terminal,omitempty"`
}

// Size is that of a terminal, in characters.
type Size struct {
	Columns uint16 `json:"columns"`
	Rows    uint16 `json:"rows"`
}

// ExitError is the exit status of a command that failed.
type ExitError int

func (e ExitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// notRun is the status of a program that could not be started, as shells have it.
const notRun = 127

// The types of SSH requests used here (RFC 4254, sections 6.5 and 6.10).
const (
	requestExec   = "exec"
	requestStatus = "exit-status"
)

type execPayload struct{ Command string } // a Command in JSON

type statusPayload struct{ Status uint32 }

func parseExec(payload []byte) (Command, error) {
	var p execPayload
	if err := ssh.Unmarshal(payload, &p); err != nil {
		return Command{}, err
	}
	var c Command
	if err := json.Unmarshal([]byte(p.Command), &c); err != nil {
		return Command{}, fmt.Errorf("command: %w", err)
	}
	if len(c.Args) == 0 {
		return Command{}, errors.New("command: no program")
	}
	return c, nil
}
