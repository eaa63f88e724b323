// SPDX-License-Identifier: Apache-2.0

package keeper

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/dataplane/dns/link"
)

// process is held by a pidfd, so that a reused number is never mistaken for it.
type process struct {
	pid int
	fd  int
}

func open(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("process %d of the DNS server: %w", pid, err)
	}
	return &process{pid: pid, fd: fd}, nil
}

// signal does nothing to a process that has ended.
func (p *process) signal(s unix.Signal) { _ = unix.PidfdSendSignal(p.fd, s, nil, 0) }

func (p *process) close() { unix.Close(p.fd) }

// fingerprint changes when the executable does.
func fingerprint(executable string) string {
	info, err := os.Stat(executable)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d", executable, info.Size(), info.ModTime().UnixNano()))
	return hex.EncodeToString(sum[:8])
}

// equal compares settings as they are sent.
func equal(a, b link.Settings) bool {
	x, _ := json.Marshal(a) // plain values
	y, _ := json.Marshal(b)
	return string(x) == string(y)
}

func isExecutable(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

func openLog(name string) (*os.File, error) {
	if info, err := os.Stat(name); err == nil && info.Size() > maxLogSize {
		if err := os.Rename(name, name+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
}
