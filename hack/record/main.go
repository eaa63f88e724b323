// SPDX-License-Identifier: Apache-2.0

// Command record runs a command and draws what it printed, with its timing, as an animated SVG for the documentation.
//
//	go run ./hack/record -o docs/up.svg -title "make up" -- make up
//
// Pauses longer than -pause are shortened to it, and said in the picture; nothing else is changed.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"html"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
	"unicode/utf8"
)

// line is one line of output and when it came.
type line struct {
	at   time.Duration
	text string
}

const (
	charWidth, lineHeight = 7.25, 17.0 // pixels of a 12 px monospace font
	margin, titleHeight   = 14.0, 30.0
	hold                  = 6 * time.Second // the finished picture stays for so long
)

func main() {
	out := flag.String("o", "", "SVG file to write")
	title := flag.String("title", "", "what stands above")
	pause := flag.Duration("pause", 2*time.Second, "longest pause between two lines")
	width := flag.Int("width", 120, "columns; longer lines are cut")
	flag.Parse()
	if *out == "" || flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: record -o FILE.svg [-title TEXT] -- COMMAND...")
		os.Exit(2)
	}
	lines, err := capture(flag.Args(), os.Stdout)
	if err == nil {
		err = os.WriteFile(*out, []byte(draw(*title, shorten(lines, *pause), *width)), 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

// capture runs command and returns its lines; they are copied to echo as they come.
func capture(command []string, echo io.Writer) ([]line, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = w, w
	start := time.Now()
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, err
	}
	w.Close()
	lines := []line{{0, "$ " + strings.Join(command, " ")}}
	for s := bufio.NewScanner(r); s.Scan(); {
		lines = append(lines, line{time.Since(start), s.Text()})
		fmt.Fprintln(echo, s.Text())
	}
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("%s: %w", strings.Join(command, " "), err)
	}
	return lines, nil
}

// shorten cuts pauses to at most limit; a line that tells of it takes the pause's place.
func shorten(lines []line, limit time.Duration) []line {
	var out []line
	var cut, before time.Duration
	for _, l := range lines {
		if gap := l.at - before; gap > limit {
			cut += gap - limit
			out = append(out, line{before - (cut - (gap - limit)), fmt.Sprintf("  … %.0f s …", gap.Seconds())})
		}
		before = l.at
		out = append(out, line{l.at - cut, l.text})
	}
	return out
}

// draw returns the animation: each line appears at its time, all disappear together when it begins anew.
func draw(title string, lines []line, width int) string {
	total := lines[len(lines)-1].at + hold
	w := 2*margin + float64(width)*charWidth
	h := titleHeight + 2*margin + float64(len(lines))*lineHeight
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" width="%.0f" height="%.0f" role="img" aria-label="%s">`+"\n", w, h, w, h, html.EscapeString(title))
	fmt.Fprintf(&b, "<style>text{font:12px ui-monospace,Menlo,Consolas,monospace;fill:#d6deeb;white-space:pre}.t{fill:#7f8ea3}.l{animation:%.1fs step-end infinite}\n", total.Seconds())
	for i, l := range lines {
		fmt.Fprintf(&b, "@keyframes k%d{0%%{opacity:0}%.3f%%{opacity:1}100%%{opacity:1}}", i, 100*max(l.at.Seconds(), 0.001)/total.Seconds())
	}
	b.WriteString("\n@media (prefers-reduced-motion:reduce){.l{animation:none}}</style>\n")
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" rx="8" fill="#0f1720"/><text class="t" x="%.0f" y="20">%s</text>`+"\n", margin, html.EscapeString(title))
	for i, l := range lines {
		text := strings.TrimRight(strings.ReplaceAll(l.text, "\t", "    "), " ")
		if utf8.RuneCountInString(text) > width {
			text = string([]rune(text)[:width-1]) + "…"
		}
		if text == "" {
			continue
		}
		fmt.Fprintf(&b, `<text class="l" style="animation-name:k%d" x="%.0f" y="%.1f">%s</text>`+"\n", i, margin, titleHeight+margin+float64(i)*lineHeight, html.EscapeString(text))
	}
	b.WriteString("</svg>\n")
	return b.String()
}
