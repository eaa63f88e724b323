// SPDX-License-Identifier: Apache-2.0

package job

import (
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// indexes is a set of completion indexes as sorted, disjoint, non-adjacent intervals: the form in which a Job's status keeps it ("1,3-5,7").
type indexes []interval

type interval struct{ first, last int }

// parseIndexes reads the text form. What is malformed or out of range ends the reading: the controller wrote the text itself, or validation passed it.
func parseIndexes(text string, completions int) indexes {
	var s indexes
	if text == "" {
		return nil
	}
	for _, part := range strings.Split(text, ",") {
		a, b, ranged := strings.Cut(part, "-")
		first, err := strconv.Atoi(a)
		last := first
		if err == nil && ranged {
			last, err = strconv.Atoi(b)
		}
		if err != nil || first >= completions || first < 0 || last < first || len(s) > 0 && first <= s[len(s)-1].last {
			break
		}
		last = min(last, completions-1)
		if n := len(s); n > 0 && s[n-1].last+1 == first {
			s[n-1].last = last
		} else {
			s = append(s, interval{first, last})
		}
	}
	return s
}

func (s indexes) String() string {
	var b strings.Builder
	for i, v := range s {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(v.first))
		switch v.last - v.first {
		case 0:
		case 1:
			b.WriteString("," + strconv.Itoa(v.last))
		default:
			b.WriteString("-" + strconv.Itoa(v.last))
		}
	}
	return b.String()
}

func (s indexes) len() int {
	n := 0
	for _, v := range s {
		n += v.last - v.first + 1
	}
	return n
}

func (s indexes) has(i int) bool {
	at, found := s.find(i)
	return found && s[at].first <= i
}

// find is the first interval that ends at or after i.
func (s indexes) find(i int) (int, bool) {
	at, _ := slices.BinarySearchFunc(s, i, func(v interval, i int) int { return v.last - i })
	return at, at < len(s)
}

// with returns s and i.
func (s indexes) with(i int) indexes {
	if s.has(i) {
		return s
	}
	at, _ := s.find(i)
	s = slices.Insert(slices.Clone(s), at, interval{i, i})
	if at+1 < len(s) && s[at+1].first == i+1 {
		s[at].last = s[at+1].last
		s = slices.Delete(s, at+1, at+2)
	}
	if at > 0 && s[at-1].last == i-1 {
		s[at-1].last = s[at].last
		s = slices.Delete(s, at, at+1)
	}
	return s
}

// common is the number of indexes that are in both.
func (s indexes) common(o indexes) int {
	n, j := 0, 0
	for _, v := range s {
		for j < len(o) && o[j].last < v.first {
			j++
		}
		for k := j; k < len(o) && o[k].first <= v.last; k++ {
			n += min(v.last, o[k].last) - max(v.first, o[k].first) + 1
		}
	}
	return n
}

// indexOf is a pod's completion index, -1 when it has none.
func indexOf(pod *corev1.Pod) int {
	n, err := strconv.Atoi(pod.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil || n < 0 {
		return -1
	}
	return n
}
