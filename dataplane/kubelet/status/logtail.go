// SPDX-License-Identifier: Apache-2.0

package status

import (
	"bytes"
	"strings"
)

const (
	logTailLines = 80
	logTailBytes = 2048
)

// LogTail returns the last lines of a CRI log file without their time, stream and tag: at most 80 lines and 2048 bytes.
func LogTail(name string) string {
	data := tail(name, 64<<10)
	var out []string
	for line := range bytes.Lines(data) {
		fields := bytes.SplitN(line, []byte(" "), 4)
		if len(fields) == 4 {
			text := string(fields[3])
			if string(fields[2]) == "P" {
				text = strings.TrimSuffix(text, "\n")
			}
			out = append(out, text)
		}
	}
	if len(out) > logTailLines {
		out = out[len(out)-logTailLines:]
	}
	text := strings.Join(out, "")
	if len(text) > logTailBytes {
		text = text[len(text)-logTailBytes:]
	}
	return text
}
