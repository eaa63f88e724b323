// SPDX-License-Identifier: Apache-2.0

package batch

import "testing"

func TestCountIndexes(t *testing.T) {
	ten := int32(10)
	for text, want := range map[string]int32{
		"": 0, "0": 1, "9": 1, "0,2": 2, "1-3": 3, "0,2-4,9": 5, "0-9": 10,
		"10": -1, "3-3": -1, "4-2": -1, "2,1": -1, "1,1": -1, "a": -1, "1-": -1, "-1": -1, "1,,2": -1, "0-10": -1, "99999999999": -1,
	} {
		got, err := countIndexes(text, &ten)
		if want < 0 && err == nil {
			t.Errorf("%q is accepted as %d indexes", text, got)
		} else if want >= 0 && (err != nil || got != want) {
			t.Errorf("%q gives %d (%v), want %d", text, got, err, want)
		}
	}
}

func FuzzCountIndexes(f *testing.F) {
	for _, s := range []string{"", "1", "1-3,5", "3-1", ",", "-"} {
		f.Add(s, int32(10))
	}
	f.Fuzz(func(t *testing.T, text string, completions int32) {
		if n, err := countIndexes(text, &completions); err == nil && (n < 0 || n > max(completions, 0)) {
			t.Errorf("%q of %d completions gives %d indexes", text, completions, n)
		}
	})
}

func FuzzSchedule(f *testing.F) {
	for _, s := range []string{"* * * * *", "@daily", "TZ=a", "@every 1s", "TZ=UTC", "*/0 * * * *"} {
		f.Add(s)
	}
	f.Fuzz(func(_ *testing.T, text string) { _ = parseSchedule(text) }) // never panics
}
