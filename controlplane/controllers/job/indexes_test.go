// SPDX-License-Identifier: Apache-2.0

package job

import (
	"math/rand"
	"testing"
)

func TestIndexesText(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "3": "3", "1,3-5,7": "1,3-5,7", "0,1": "0,1", "0,1,2": "0-2", "0-9,20": "0-9", "x": "", "5,4": "5", "-3": "",
	} {
		if got := parseIndexes(text, 10).String(); got != want {
			t.Errorf("%q is read as %q, want %q", text, got, want)
		}
	}
}

func TestIndexesAreASet(t *testing.T) {
	rnd := rand.New(rand.NewSource(1))
	for range 200 {
		var s indexes
		model := map[int]bool{}
		for range 40 {
			i := rnd.Intn(30)
			s, model[i] = s.with(i), true
			if s.len() != len(model) {
				t.Fatalf("%v has %d elements, want %d", s, s.len(), len(model))
			}
		}
		for i := range 30 {
			if s.has(i) != model[i] {
				t.Fatalf("%v has %d: %v, want %v", s, i, s.has(i), model[i])
			}
		}
		if back := parseIndexes(s.String(), 30); back.String() != s.String() || back.common(s) != s.len() {
			t.Fatalf("%v is read back as %v", s, back)
		}
	}
}

func FuzzParseIndexes(f *testing.F) {
	f.Add("1,3-5,7", 10)
	f.Add("0-99999999999", 5)
	f.Fuzz(func(t *testing.T, text string, completions int) {
		s := parseIndexes(text, completions)
		for i, v := range s {
			if v.first < 0 || v.last < v.first || v.last >= completions || i > 0 && v.first <= s[i-1].last {
				t.Fatalf("%q is read as %v", text, s)
			}
		}
	})
}
