// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
)

// untilJob waits until a job has the condition.
func (b trial) untilJob(name string, kind batchv1.JobConditionType) *batchv1.Job {
	b.Helper()
	var job *batchv1.Job
	b.eventually(func() (err error) {
		if job, err = env.client.BatchV1().Jobs(b.ns).Get(b.Context(), name, metav1.GetOptions{}); err != nil {
			return err
		}
		if !slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool { return c.Type == kind && c.Status == corev1.ConditionTrue }) {
			return fmt.Errorf("job %s is not %s: %+v", name, kind, job.Status)
		}
		return nil
	})
	return job
}

func indexedJob(b trial) {
	b.create(`
apiVersion: batch/v1
kind: Job
metadata: {name: i}
spec:
  completions: 4
  parallelism: 2
  completionMode: Indexed
  template:
    spec:
      restartPolicy: OnFailure
      volumes: [{name: v, emptyDir: {}}]
      containers:
      - name: app
        image: IMAGE
        command: [sh, -c, 'test -f /v/again || { touch /v/again; exit 1; }; echo $JOB_COMPLETION_INDEX $(hostname)']
        volumeMounts: [{name: v, mountPath: /v}]`)
	job := b.untilJob("i", batchv1.JobComplete)
	if s := job.Status; s.CompletedIndexes != "0-3" || s.Succeeded != 4 || s.Failed != 0 || s.CompletionTime == nil {
		b.Errorf("%+v", s)
	}
	pods, err := env.client.CoreV1().Pods(b.ns).List(b.Context(), metav1.ListOptions{LabelSelector: batchv1.JobNameLabel + "=i"})
	b.must(err)
	seen := map[string]bool{}
	for _, pod := range pods.Items {
		index := pod.Annotations[batchv1.JobCompletionIndexAnnotation]
		seen[index] = true
		if log, want := b.log(pod.Name, "app"), index+" i-"+index+"\n"; log != want || pod.Labels[batchv1.JobCompletionIndexAnnotation] != index || !strings.HasPrefix(pod.Name, "i-"+index+"-") {
			b.Errorf("pod %s of index %s says %q, want %q", pod.Name, index, log, want)
		}
	}
	if len(seen) != 4 {
		b.Errorf("indexes %v", seen)
	}
	background := metav1.DeletePropagationBackground
	b.must(env.client.BatchV1().Jobs(b.ns).Delete(b.Context(), "i", metav1.DeleteOptions{PropagationPolicy: &background}))
	b.eventually(func() error {
		pods, err := env.client.CoreV1().Pods(b.ns).List(b.Context(), metav1.ListOptions{})
		if err != nil || len(pods.Items) != 0 {
			return fmt.Errorf("%d pods of a deleted job: %v", len(pods.Items), err)
		}
		return nil
	})
}

func evictedJobPods(b trial) {
	marks := fmt.Sprintf("/tmp/%s-%d", b.ns, time.Now().UnixNano()) // on the node; what an earlier run left there would end the pods at once
	b.create(strings.ReplaceAll(`
apiVersion: batch/v1
kind: Job
metadata: {name: e}
spec:
  completions: 2
  parallelism: 2
  completionMode: Indexed
  backoffLimit: 0
  podFailurePolicy: {rules: [{action: Ignore, onPodConditions: [{type: DisruptionTarget}]}]}
  template:
    spec:
      restartPolicy: Never
      nodeName: agent-1
      terminationGracePeriodSeconds: 1
      volumes: [{name: v, hostPath: {path: MARKS, type: DirectoryOrCreate}}]
      containers:
      - name: app
        image: IMAGE
        command: [sh, -c, 'test -f /v/$JOB_COMPLETION_INDEX && exit 0; touch /v/$JOB_COMPLETION_INDEX; trap "exit 9" TERM; while :; do sleep 0.1; done']
        volumeMounts: [{name: v, mountPath: /v}]`, "MARKS", marks))
	var running []corev1.Pod
	b.eventually(func() error {
		pods, err := env.client.CoreV1().Pods(b.ns).List(b.Context(), metav1.ListOptions{FieldSelector: "status.phase=Running"})
		if err != nil || len(pods.Items) != 2 {
			return fmt.Errorf("%d running pods, want 2: %v", len(pods.Items), err)
		}
		running = pods.Items
		return nil
	})
	for _, pod := range running {
		b.eventually(func() error {
			_, err := b.exec(pod.Name, "", "test -f /v/$JOB_COMPLETION_INDEX")
			return err
		})
		b.must(env.client.CoreV1().Pods(b.ns).EvictV1(b.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod.Name}}))
	}
	job := b.untilJob("e", batchv1.JobComplete)
	if job.Status.CompletedIndexes != "0,1" {
		b.Errorf("%+v", job.Status)
	}
}

func jobPolicies(b trial) {
	b.create(`
apiVersion: batch/v1
kind: Job
metadata: {name: early}
spec:
  completions: 2
  parallelism: 2
  completionMode: Indexed
  podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {containerName: app, operator: In, values: [3]}}]}
  template: {spec: {restartPolicy: Never, terminationGracePeriodSeconds: 1, containers: [{name: app, image: IMAGE, command: [sh, -c, 'test $JOB_COMPLETION_INDEX = 0 && exit 3; exec /testapp forever']}]}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: enough}
spec:
  completions: 3
  parallelism: 3
  completionMode: Indexed
  successPolicy: {rules: [{succeededIndexes: "1"}]}
  template: {spec: {restartPolicy: Never, terminationGracePeriodSeconds: 1, containers: [{name: app, image: IMAGE, command: [sh, -c, 'test $JOB_COMPLETION_INDEX = 1 || exec /testapp forever']}]}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: each}
spec:
  completions: 3
  parallelism: 3
  completionMode: Indexed
  backoffLimitPerIndex: 0
  template: {spec: {restartPolicy: Never, terminationGracePeriodSeconds: 1, containers: [{name: app, image: IMAGE, command: [sh, -c, 'test $JOB_COMPLETION_INDEX != 1']}]}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: foreign}
spec:
  managedBy: example.com/other
  template: {spec: {restartPolicy: Never, containers: [{name: app, image: IMAGE, command: ["true"]}]}}`)
	reason := func(name string, kind batchv1.JobConditionType, want string) *batchv1.Job {
		b.Helper()
		job := b.untilJob(name, kind)
		for _, c := range job.Status.Conditions {
			if c.Type == kind && c.Reason != want {
				b.Errorf("%s is %s because of %s, want %s", name, kind, c.Reason, want)
			}
		}
		return job
	}
	reason("early", batchv1.JobFailed, batchv1.JobReasonPodFailurePolicy)
	reason("enough", batchv1.JobSuccessCriteriaMet, batchv1.JobReasonSuccessPolicy)
	if job := reason("enough", batchv1.JobComplete, batchv1.JobReasonSuccessPolicy); job.Status.CompletedIndexes != "1" {
		b.Errorf("%+v", job.Status)
	}
	if job := reason("each", batchv1.JobFailed, batchv1.JobReasonFailedIndexes); job.Status.CompletedIndexes != "0,2" || job.Status.FailedIndexes == nil || *job.Status.FailedIndexes != "1" {
		b.Errorf("%+v", job.Status)
	}
	job, err := env.client.BatchV1().Jobs(b.ns).Get(b.Context(), "foreign", metav1.GetOptions{})
	if err != nil || job.Status.StartTime != nil || job.Status.Active != 0 {
		b.Errorf("a job that another manages: %+v %v", job.Status, err)
	}
}

func jobStatus(b trial) {
	b.create(`
apiVersion: batch/v1
kind: Job
metadata: {name: j, labels: {a: b}}
spec: {parallelism: 2, completions: 4, template: {spec: {restartPolicy: Never, terminationGracePeriodSeconds: 0, containers: [{name: app, image: IMAGE, command: [/testapp, forever]}]}}}`)
	jobs := env.client.BatchV1().Jobs(b.ns)
	b.eventually(func() error {
		job, err := jobs.Get(b.Context(), "j", metav1.GetOptions{})
		if err != nil || job.Status.Active != 2 || job.Status.Ready == nil || *job.Status.Ready != 2 {
			return fmt.Errorf("%+v %v, want two ready pods", job.Status, err)
		}
		return nil
	})
	condition := batchv1.JobCondition{Type: "Patched", Status: corev1.ConditionTrue, Reason: "ByHand", LastTransitionTime: metav1.Now()}
	status, err := json.Marshal([]batchv1.JobCondition{condition})
	b.must(err)
	job, err := jobs.Patch(b.Context(), "j", types.MergePatchType, []byte(`{"metadata":{"annotations":{"patched":"yes"}},"status":{"conditions":`+string(status)+`}}`), metav1.PatchOptions{}, "status")
	if err != nil || job.Annotations["patched"] != "yes" || len(job.Status.Conditions) != 1 || job.Status.Conditions[0].Type != "Patched" {
		b.Errorf("patched: %v %v", job, err)
	}
	b.must(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		job, err := jobs.Get(b.Context(), "j", metav1.GetOptions{})
		b.must(err)
		condition.Type = "Updated"
		job.Status.Conditions = append(job.Status.Conditions, condition)
		job, err = jobs.UpdateStatus(b.Context(), job, metav1.UpdateOptions{})
		if err == nil && !slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool { return c.Type == "Updated" }) {
			b.Errorf("replaced: %v", job.Status)
		}
		return err
	}))
	read, err := b.resource("batch/v1", "Job").Get(b.Context(), "j", metav1.GetOptions{}, "status")
	if err != nil || read.GetUID() != job.UID {
		b.Errorf("%v %v", read, err)
	}
	b.must(jobs.DeleteCollection(b.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "a=b"}))
	b.eventually(func() error {
		if _, err := jobs.Get(b.Context(), "j", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the job is still there: %v", err)
		}
		return nil
	})
}

func suspendedJob(b trial) {
	b.create(`
apiVersion: batch/v1
kind: Job
metadata: {name: j}
spec: {suspend: true, template: {spec: {restartPolicy: Never, terminationGracePeriodSeconds: 0, containers: [{name: app, image: IMAGE, command: [sh, -c, 'sleep 600']}]}}}`)
	if job := b.untilJob("j", batchv1.JobSuspended); job.Status.Active != 0 || job.Status.StartTime != nil {
		b.Errorf("%+v", job.Status)
	}
	// While it is suspended its pods' constraints may change.
	for _, patch := range []string{
		`{"spec":{"template":{"metadata":{"labels":{"x":"z"}},"spec":{"nodeSelector":{"kubernetes.io/hostname":"agent-1"}}}}}`, `{"spec":{"suspend":false}}`,
	} {
		_, err := env.client.BatchV1().Jobs(b.ns).Patch(b.Context(), "j", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
		b.must(err)
	}
	b.eventually(func() error {
		pods, err := env.client.CoreV1().Pods(b.ns).List(b.Context(), metav1.ListOptions{FieldSelector: "status.phase=Running", LabelSelector: "x=z"})
		if err != nil || len(pods.Items) != 1 || pods.Items[0].Spec.NodeName != "agent-1" {
			return fmt.Errorf("%d pods run: %v", len(pods.Items), err)
		}
		return nil
	})
	_, err := env.client.BatchV1().Jobs(b.ns).Patch(b.Context(), "j", types.StrategicMergePatchType, []byte(`{"spec":{"suspend":true}}`), metav1.PatchOptions{})
	b.must(err)
	b.untilJob("j", batchv1.JobSuspended)
	b.eventually(func() error {
		pods, err := env.client.CoreV1().Pods(b.ns).List(b.Context(), metav1.ListOptions{})
		if err != nil || len(pods.Items) != 0 {
			return fmt.Errorf("a suspended job has %d pods: %v", len(pods.Items), err)
		}
		return nil
	})
}
