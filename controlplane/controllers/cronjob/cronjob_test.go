// SPDX-License-Identifier: Apache-2.0

package cronjob

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
)

func newCron(schedule string, change func(*batchv1.CronJobSpec)) *batchv1.CronJob {
	c := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}, Spec: batchv1.CronJobSpec{
		Schedule: schedule, ConcurrencyPolicy: batchv1.AllowConcurrent, SuccessfulJobsHistoryLimit: ptr.To[int32](3), FailedJobsHistoryLimit: ptr.To[int32](1),
	}}
	if change != nil {
		change(&c.Spec)
	}
	return c
}

func jobs(w *controllertest.World) []batchv1.Job {
	list, err := w.Client.BatchV1().Jobs("ns").List(context.Background(), metav1.ListOptions{})
	w.Check(err)
	return list.Items
}

func finish(w *controllertest.World, j batchv1.Job) {
	now := metav1.Now()
	j.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}
	j.Status.CompletionTime = &now
	_, err := w.Client.BatchV1().Jobs("ns").UpdateStatus(context.Background(), &j, metav1.UpdateOptions{})
	w.Check(err)
	w.Wait()
}

func TestSchedule(t *testing.T) {
	for _, test := range []struct {
		name       string
		change     func(*batchv1.CronJobSpec)
		finishEach bool
		after      time.Duration
		jobs       int
		active     int
	}{
		{"every minute, jobs overlap", nil, false, 3*time.Minute + 30*time.Second, 3, 3},
		{"Forbid waits for the running job", func(s *batchv1.CronJobSpec) { s.ConcurrencyPolicy = batchv1.ForbidConcurrent }, false, 3*time.Minute + 30*time.Second, 1, 1},
		{"Replace ends the running job", func(s *batchv1.CronJobSpec) { s.ConcurrencyPolicy = batchv1.ReplaceConcurrent }, false, 3*time.Minute + 30*time.Second, 1, 1},
		{"suspended", func(s *batchv1.CronJobSpec) { s.Suspend = ptr.To(true) }, false, 3 * time.Minute, 0, 0},
		{"the history limit deletes the oldest", nil, true, 6*time.Minute + 30*time.Second, 3, 0},
		{"a time zone that does not exist", func(s *batchv1.CronJobSpec) { s.TimeZone = ptr.To("Europe/Atlantis") }, false, 3 * time.Minute, 0, 0},
		{"a day that does not exist", func(s *batchv1.CronJobSpec) { s.Schedule = "0 0 30 2 *" }, false, time.Hour, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := controllertest.NewWorld(t, []runtime.Object{newCron("* * * * *", test.change)}, New)
				defer w.Close()
				for end := time.Now().Add(test.after); time.Now().Before(end); {
					time.Sleep(5 * time.Second)
					w.Wait()
					for _, j := range jobs(w) {
						if test.finishEach && endCondition(&j) == "" {
							finish(w, j)
						}
					}
				}
				cron, err := w.Client.BatchV1().CronJobs("ns").Get(context.Background(), "c", metav1.GetOptions{})
				w.Check(err)
				if n := len(jobs(w)); n != test.jobs || len(cron.Status.Active) != test.active {
					t.Errorf("%d jobs, %d active, want %d and %d", n, len(cron.Status.Active), test.jobs, test.active)
				}
			})
		})
	}
}

func TestARestartInTheScheduledMinuteDoesNotStartTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controllertest.NewWorld(t, []runtime.Object{newCron("* * * * *", nil)}, New)
		defer w.Close()
		w.P.CrashAfter(1) // the job is created, the status is not written
		time.Sleep(61 * time.Second)
		w.Wait()
		w.Restart()
		if n := len(jobs(w)); n != 1 {
			t.Errorf("%d jobs were started for one minute", n)
		}
		cron, err := w.Client.BatchV1().CronJobs("ns").Get(context.Background(), "c", metav1.GetOptions{})
		w.Check(err)
		if cron.Status.LastScheduleTime == nil || len(cron.Status.Active) != 1 {
			t.Errorf("status after the restart: %+v", cron.Status)
		}
	})
}

func TestTheLatestMissedTime(t *testing.T) {
	at := func(s string) time.Time {
		x, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	for _, test := range []struct {
		name, schedule, since, now, want string
		missed                           int
	}{
		{"none yet", "0 * * * *", "2026-01-01T10:00:00Z", "2026-01-01T10:59:00Z", "", 0},
		{"exactly now", "0 * * * *", "2026-01-01T10:00:00Z", "2026-01-01T11:00:00Z", "2026-01-01T11:00:00Z", 1},
		{"three hours of downtime", "0 * * * *", "2026-01-01T10:00:00Z", "2026-01-01T13:30:00Z", "2026-01-01T13:00:00Z", 3},
		{"four years of leap days", "0 0 29 2 *", "2020-03-01T00:00:00Z", "2026-01-01T00:00:00Z", "2024-02-29T00:00:00Z", 1},
		{"a year of minutes", "* * * * *", "2025-01-01T00:00:00Z", "2026-01-01T00:00:30Z", "2026-01-01T00:00:00Z", 525600},
	} {
		schedule, perr := parse(&batchv1.CronJobSpec{Schedule: test.schedule, TimeZone: ptr.To("UTC")})
		if perr != nil {
			t.Fatal(perr)
		}
		s := &state{cron: &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(at(test.since))}}, now: at(test.now)}
		got, missed := s.due(schedule)
		if test.want == "" && !got.IsZero() || test.want != "" && !got.Equal(at(test.want)) || missed != test.missed {
			t.Errorf("%s: %v after %d missed, want %s after %d", test.name, got, missed, test.want, test.missed)
		}
	}
}

func TestTimeZoneDecidesTheHour(t *testing.T) {
	schedule, err := parse(&batchv1.CronJobSpec{Schedule: "0 9 * * *", TimeZone: ptr.To("America/New_York")})
	if err != nil {
		t.Fatal(err)
	}
	next := schedule.Next(time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC))
	if want := time.Date(2026, 7, 1, 13, 0, 0, 0, time.UTC); !next.Equal(want) {
		t.Errorf("next is %v, want %v: 9 o'clock in New York in summer", next.UTC(), want)
	}
}
