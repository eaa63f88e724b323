// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
)

func TestRowsJudgeWhatTheyCompare(t *testing.T) {
	ours, ref := []float64{100, 110, 90}, []float64{50, 100, 90}
	for name, tc := range map[string]struct {
		row   Row
		holds bool
	}{
		"a figure above its upper bound":        {Figure("start", "time", "ms", 1200, 1100, 1300).AtMost(1000), false},
		"a figure on its upper bound":           {Figure("start", "time", "ms", 1000).AtMost(1000), true},
		"a figure above its lower bound":        {Figure("rate", "pods", "1/s", 4000).AtLeast(3000), true},
		"a ratio is judged, not the figure":     {Figure("rate", "rr", "1/s", ours...).Against("bridge", ours, ref).AtLeast(2), false},
		"the median of the rounds' own ratios":  {Figure("rate", "rr", "1/s", ours...).Against("bridge", ours, ref).AtLeast(1.1), true}, // 2, 1.1, 1
		"a figure judged before it is compared": {Figure("ADD", "p50", "ms", 10).AtMost(15).Beside("bridge", 5, 2), true},
		"a ratio of the benchmark's own making": {Figure("rate", "rr", "1/s", 10).Beside("bridge", 9, 1.2).AtLeast(1.2), true},
	} {
		if *tc.row.Holds != tc.holds {
			t.Errorf("%s: holds is %t, want %t", name, *tc.row.Holds, tc.holds)
		}
	}
}

func TestMedianAndSpread(t *testing.T) {
	if m := Median([]float64{4, 1, 3, 2}); m != 2.5 {
		t.Errorf("median %g, want 2.5", m)
	}
	if s := Spread([]float64{90, 110, 100}); s != 0.2 {
		t.Errorf("spread %g, want 0.2", s)
	}
	if q := Quantile([]int{5, 1, 4, 2, 3}, 0.75); q != 4 {
		t.Errorf("upper quartile %d, want 4", q)
	}
	if s := Quartiles([]float64{9, 10, 11, 10, 1000}); s != 0.1 {
		t.Errorf("distance of the quartiles %g, want 0.1 whatever the outlier", s)
	}
	if Median(nil) != 0 || Spread(nil) != 0 {
		t.Error("no rounds, want 0")
	}
}

func TestReportIsReadableByPeopleAndPrograms(t *testing.T) {
	r := New("up")
	r.Add(Figure("three nodes", "Ready", "s", 4.4).AtMost(15), Figure("memory", "idle", "MB", 230))
	var out bytes.Buffer
	if err := r.Print(&out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "three nodes") || !strings.Contains(out.String(), "<= 15") || !strings.Contains(out.String(), "yes") {
		t.Errorf("table\n%s", out.String())
	}
	path, err := r.Write(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var back struct {
		Bench string
		Rows  []map[string]any
	}
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if back.Bench != "up" || len(back.Rows) != 2 || back.Rows[0]["holds"] != true || back.Rows[1]["target"] != nil {
		t.Errorf("JSON %s", b)
	}
}
