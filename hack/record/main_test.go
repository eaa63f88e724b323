// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func TestRecordDrawsWhatWasPrinted(t *testing.T) {
	lines, err := capture([]string{"sh", "-c", "echo one; echo '<two> & more'"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	svg := draw("a title", shorten(lines, time.Second), 20)
	for _, want := range []string{">one<", "&lt;two&gt; &amp; more", "a title"} {
		if !strings.Contains(svg, want) {
			t.Errorf("the picture lacks %q:\n%s", want, svg)
		}
	}
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("not XML: %v", err)
		}
	}
}

func TestLongPausesAreShortenedAndSaid(t *testing.T) {
	got := shorten([]line{{0, "a"}, {time.Second, "b"}, {31 * time.Second, "c"}, {32 * time.Second, "d"}}, 2*time.Second)
	if len(got) != 5 || got[2].text != "  … 30 s …" || got[3].at != 3*time.Second || got[4].at != 4*time.Second {
		t.Errorf("got %v", got)
	}
}

func TestAFailedCommandDrawsNothing(t *testing.T) {
	if _, err := capture([]string{"sh", "-c", "exit 3"}, io.Discard); err == nil {
		t.Error("want an error")
	}
}
