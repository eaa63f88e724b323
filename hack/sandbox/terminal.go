// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"io"
	"os"

	"golang.org/x/term"

	"github.com/fairlead/fairlead/hack/vm/remote"
)

// terminal makes the terminal at both ends raw, so that the remote one does its work, and returns its size; nil when stdin or stdout is none.
// restore makes it what it was.
func terminal(stdin io.Reader, stdout io.Writer) (size *remote.Size, restore func(), err error) {
	nothing := func() {}
	in, ok := stdin.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return nil, nothing, nil
	}
	out, ok := stdout.(*os.File)
	if !ok || !term.IsTerminal(int(out.Fd())) {
		return nil, nothing, nil
	}
	columns, rows, err := term.GetSize(int(out.Fd()))
	if err != nil {
		return nil, nothing, err
	}
	state, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return nil, nothing, err
	}
	return &remote.Size{Columns: uint16(columns), Rows: uint16(rows)}, func() { _ = term.Restore(int(in.Fd()), state) }, nil
}
