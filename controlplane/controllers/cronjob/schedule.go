// SPDX-License-Identifier: Apache-2.0

package cronjob

import (
	"fmt"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
)

type scheduleError struct{ reason, text string }

func (e *scheduleError) Error() string { return e.text }

// parse reads the schedule in its time zone.
func parse(spec *batchv1.CronJobSpec) (cron.Schedule, *scheduleError) {
	text := spec.Schedule
	if spec.TimeZone != nil {
		if _, err := time.LoadLocation(*spec.TimeZone); err != nil {
			return nil, &scheduleError{"UnknownTimeZone", fmt.Sprintf("invalid timeZone: %q: %v", *spec.TimeZone, err)}
		}
		text = "TZ=" + *spec.TimeZone + " " + text
	}
	schedule, err := cron.ParseStandard(text)
	if err != nil {
		return nil, &scheduleError{"UnparseableSchedule", fmt.Sprintf("unparseable schedule: %q : %v", spec.Schedule, err)}
	}
	if schedule.Next(time.Unix(0, 0)).IsZero() {
		return nil, &scheduleError{"UnparseableSchedule", fmt.Sprintf("schedule %q names no day that exists", spec.Schedule)}
	}
	return schedule, nil
}

// due is the latest scheduled time that has passed since the last start, zero when there is none, and about how many have.
func (s *state) due(schedule cron.Schedule) (latest time.Time, missed int) {
	since := s.cron.CreationTimestamp.Time
	if t := s.cron.Status.LastScheduleTime; t != nil {
		since = t.Time
	}
	if d := s.cron.Spec.StartingDeadlineSeconds; d != nil {
		if from := s.now.Add(-time.Duration(*d) * time.Second); from.After(since) {
			since = from
		}
	}
	first := schedule.Next(since)
	if first.After(s.now) || first.IsZero() {
		return time.Time{}, 0
	}
	missed = 1
	if second := schedule.Next(first); second.After(first) {
		missed += int(s.now.Sub(first) / second.Sub(first))
	}
	// The latest is looked for backwards in doubling steps: a schedule may have been missed for years.
	for window := time.Minute; ; window *= 2 {
		from := s.now.Add(-window)
		if !from.After(since) {
			from = since
		}
		if t := schedule.Next(from); !t.After(s.now) {
			for next := schedule.Next(t); !next.After(s.now); next = schedule.Next(next) {
				t = next
			}
			return t, missed
		}
	}
}
