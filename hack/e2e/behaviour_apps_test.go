// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/util/retry"
)

// TestAppsBehaviours tries entries of sig-apps in Kubernetes' conformance list.
func TestAppsBehaviours(t *testing.T) {
	runBehaviours(t, "apps", []behaviour{
		{"scale and status of a Deployment: read, replaced, patched, and true again", scaleAndStatus("apps/v1", "Deployment")},
		{"scale and status of a ReplicaSet", scaleAndStatus("apps/v1", "ReplicaSet")},
		{"scale and status of a StatefulSet", scaleAndStatus("apps/v1", "StatefulSet")},
		{"scale and status of a ReplicationController", scaleAndStatus("v1", "ReplicationController")},
		{"revisions of a DaemonSet come and go by hand", revisions},
		{"a DaemonSet replaces a failed pod and goes back without restarts", daemonReturns},
		{"a DaemonSet follows the labels of nodes", daemonSelects},
		{"a pod is adopted and released by ReplicaSet, ReplicationController and Job", adoption},
		{"a ReplicationController says that a quota is in its way", quotaInTheWay},
		{"a StatefulSet makes its pod again where a node refused it", refusedReplica},
		{"a StatefulSet rolls out by partition, and back", partitions},
		{"evictions wait for their budget", evictions},
		{"an indexed Job: names, indexes, local restarts", indexedJob},
		{"a Job ignores pods that were evicted", evictedJobPods},
		{"a Job fails early by exit code, succeeds early by its policy", jobPolicies},
		{"a Job's status is written by others", jobStatus},
		{"a suspended Job runs when it may", suspendedJob},
		{"a Deployment of one after the other; the revisions it keeps", recreateAndHistory},
	})
}

const workload = `
apiVersion: API
kind: KIND
metadata: {name: w, labels: {set: w}}
spec:
  replicas: 1
  selector: SELECTOR
  template:
    metadata: {labels: {app: w}}
    spec: {terminationGracePeriodSeconds: 0, containers: [{name: app, image: IMAGE, command: [/testapp, forever]}]}
`

func workloadOf(apiVersion, kind string) string {
	selector := "{matchLabels: {app: w}}"
	if kind == "ReplicationController" {
		selector = "{app: w}"
	}
	return strings.NewReplacer("API", apiVersion, "KIND", kind, "SELECTOR", selector).Replace(workload)
}

// number reads a number of an object; -1 when it is not there.
func number(u *unstructured.Unstructured, fields ...string) int64 {
	n, found, err := unstructured.NestedInt64(u.Object, fields...)
	if err != nil || !found {
		return -1
	}
	return n
}

func scaleAndStatus(apiVersion, kind string) func(trial) {
	return func(b trial) { b.scaleAndStatus(apiVersion, kind) }
}

func (b trial) scaleAndStatus(apiVersion, kind string) {
	const name = "w"
	b.create(workloadOf(apiVersion, kind))
	api := b.resource(apiVersion, kind)
	settled := func(want int64) {
		b.Helper()
		b.eventually(func() error {
			u, err := api.Get(b.Context(), name, metav1.GetOptions{}, "status")
			if err != nil {
				return err
			}
			for _, field := range []string{"replicas", "readyReplicas", "availableReplicas"} {
				if got := number(u, "status", field); got != want {
					return fmt.Errorf("%s has %d %s, want %d", kind, got, field, want)
				}
			}
			return nil
		})
	}
	settled(1)
	scale, err := api.Get(b.Context(), name, metav1.GetOptions{}, "scale")
	b.must(err)
	if scale.GetKind() != "Scale" || number(scale, "spec", "replicas") != 1 || number(scale, "status", "replicas") != 1 {
		b.Errorf("scale of %s: %v", kind, scale)
	}
	b.must(retry.RetryOnConflict(retry.DefaultRetry, func() error { // without a version it replaces whatever is there
		scale.SetResourceVersion("")
		b.must(unstructured.SetNestedField(scale.Object, int64(2), "spec", "replicas"))
		scale, err = api.Update(b.Context(), scale, metav1.UpdateOptions{}, "scale")
		return err
	}))
	settled(2)
	for _, patch := range []types.PatchType{types.StrategicMergePatchType, types.MergePatchType} {
		if scale, err = api.Patch(b.Context(), name, patch, []byte(`{"metadata":{"creationTimestamp":null},"spec":{"replicas":3},"status":{"replicas":0}}`), metav1.PatchOptions{}, "scale"); err != nil || number(scale, "spec", "replicas") != 3 {
			b.Errorf("scale of %s by %s: %v %v", kind, patch, scale, err)
		}
	}
	settled(3)

	// Numbers that are wrong are put right, a condition of another's stays.
	if u, err := api.Patch(b.Context(), name, types.MergePatchType, []byte(`{"status":{"readyReplicas":0,"availableReplicas":0}}`), metav1.PatchOptions{}, "status"); err != nil || number(u, "status", "readyReplicas") > 0 {
		b.Errorf("status of %s patched: %v %v", kind, u, err)
	}
	settled(3)
	condition := map[string]any{"type": "Reviewed", "status": "True", "reason": "ByHand", "message": "said so"}
	var updated *unstructured.Unstructured
	b.must(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		u, err := api.Get(b.Context(), name, metav1.GetOptions{})
		b.must(err)
		conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
		b.must(unstructured.SetNestedSlice(u.Object, append(conditions, condition), "status", "conditions"))
		updated, err = api.UpdateStatus(b.Context(), u, metav1.UpdateOptions{})
		return err
	}))
	if conditions, _, _ := unstructured.NestedSlice(updated.Object, "status", "conditions"); !hasCondition(conditions, "Reviewed") {
		b.Errorf("%s lacks the condition it was given: %v", kind, conditions)
	}
	if u, err := api.Patch(b.Context(), name, types.MergePatchType, []byte(`{"status":{"conditions":[{"type":"Patched","status":"True"}]}}`), metav1.PatchOptions{}, "status"); err != nil {
		b.Error(err)
	} else if conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions"); !hasCondition(conditions, "Patched") {
		b.Errorf("%s lacks the condition of the patch: %v", kind, conditions)
	}
	b.must(api.DeleteCollection(b.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "set=w"}))
	b.eventually(func() error {
		pods, err := env.client.CoreV1().Pods(b.ns).List(b.Context(), metav1.ListOptions{LabelSelector: "app=" + name})
		if err != nil || len(pods.Items) != 0 {
			return fmt.Errorf("%d pods of a deleted %s: %v", len(pods.Items), kind, err)
		}
		return nil
	})
}

func hasCondition(conditions []any, kind string) bool {
	return slices.ContainsFunc(conditions, func(c any) bool { return c.(map[string]any)["type"] == kind })
}

const daemons = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: d}
spec:
  selector: {matchLabels: {app: d}}
  template:
    metadata: {labels: {app: d}}
    spec: {nodeSelector: {SELECT}, terminationGracePeriodSeconds: 0, containers: [{name: app, image: IMAGE, command: [/testapp, forever]}]}
`

// daemonsOn waits until a DaemonSet's pods are ready on so many nodes and all of its present revision, and returns them by node.
func (b trial) daemonsOn(want int) map[string]corev1.Pod {
	b.Helper()
	var found map[string]corev1.Pod
	b.eventually(func() error {
		ds, err := env.client.AppsV1().DaemonSets(b.ns).Get(b.Context(), "d", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if s := ds.Status; s.ObservedGeneration != ds.Generation || int(s.DesiredNumberScheduled) != want || int(s.NumberReady) != want || int(s.UpdatedNumberScheduled) != want {
			return fmt.Errorf("%+v, want %d", s, want)
		}
		pods, err := env.client.CoreV1().Pods(b.ns).List(b.Context(), metav1.ListOptions{LabelSelector: "app=d"})
		if err != nil || len(pods.Items) != want {
			return fmt.Errorf("%d pods, want %d: %v", len(pods.Items), want, err)
		}
		found = map[string]corev1.Pod{}
		for _, pod := range pods.Items {
			if podCondition(&pod, corev1.PodReady) != corev1.ConditionTrue || pod.DeletionTimestamp != nil {
				return fmt.Errorf("pod %s is not ready", pod.Name)
			}
			found[pod.Spec.NodeName] = pod
		}
		return nil
	})
	return found
}

func revisions(b trial) {
	b.create(strings.ReplaceAll(daemons, "SELECT", ""))
	b.daemonsOn(3)
	api := env.client.AppsV1().ControllerRevisions(b.ns)
	list := func(want int) (all []appsv1.ControllerRevision) {
		b.Helper()
		b.eventually(func() error {
			list, err := api.List(b.Context(), metav1.ListOptions{LabelSelector: "app=d"})
			if err != nil || len(list.Items) != want {
				return fmt.Errorf("%d revisions, want %d: %v", len(list.Items), want, err)
			}
			all = list.Items
			return nil
		})
		return all
	}
	first := list(1)[0]
	if got, err := api.Patch(b.Context(), first.Name, types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"patched":"yes"}}}`), metav1.PatchOptions{}); err != nil || got.Labels["patched"] != "yes" {
		b.Errorf("%v %v", got, err)
	}
	second := appsv1.ControllerRevision{Data: first.Data, Revision: first.Revision + 1}
	second.Name, second.OwnerReferences = "d-by-hand", first.OwnerReferences
	second.Labels = map[string]string{"app": "d", appsv1.ControllerRevisionHashLabelKey: "by-hand"}
	_, err := api.Create(b.Context(), &second, metav1.CreateOptions{})
	b.must(err)
	list(2)
	b.must(api.Delete(b.Context(), first.Name, metav1.DeleteOptions{}))
	list(1)
	b.must(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		current, err := api.Get(b.Context(), second.Name, metav1.GetOptions{})
		b.must(err)
		current.Labels["updated"] = "yes"
		_, err = api.Update(b.Context(), current, metav1.UpdateOptions{})
		return err
	}))
	_, err = env.client.AppsV1().DaemonSets(b.ns).Patch(b.Context(), "d", types.StrategicMergePatchType, []byte(`{"spec":{"template":{"spec":{"terminationGracePeriodSeconds":1}}}}`), metav1.PatchOptions{})
	b.must(err)
	list(2)
	b.must(api.DeleteCollection(b.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "updated=yes"}))
	if last := list(1)[0]; last.Revision != 3 {
		b.Errorf("the last revision is %d, want 3", last.Revision)
	}
	b.daemonsOn(3)
}

func daemonReturns(b trial) {
	b.create(strings.ReplaceAll(daemons, "SELECT", ""))
	before := b.daemonsOn(3)
	failed := before["agent-1"]
	b.must(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		pod, err := env.client.CoreV1().Pods(b.ns).Get(b.Context(), failed.Name, metav1.GetOptions{})
		b.must(err)
		pod.Status.Phase = corev1.PodFailed
		_, err = env.client.CoreV1().Pods(b.ns).UpdateStatus(b.Context(), pod, metav1.UpdateOptions{})
		return err
	}))
	b.eventually(func() error {
		if _, err := env.client.CoreV1().Pods(b.ns).Get(b.Context(), failed.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the failed pod is still there: %v", err)
		}
		return nil
	})
	before = b.daemonsOn(3)
	image := func(name string) {
		b.Helper()
		_, err := env.client.AppsV1().DaemonSets(b.ns).Patch(b.Context(), "d", types.StrategicMergePatchType, []byte(`{"spec":{"template":{"spec":{"containers":[{"name":"app","image":"`+name+`"}]}}}}`), metav1.PatchOptions{})
		b.must(err)
	}
	image("example.invalid/none:1")
	var replaced string
	b.eventually(func() error {
		pods, err := env.client.CoreV1().Pods(b.ns).List(b.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, pod := range pods.Items {
			if pod.Spec.Containers[0].Image != shellImage && pod.Spec.NodeName != "" {
				replaced = pod.Spec.NodeName
				return nil
			}
		}
		return fmt.Errorf("no pod of the new revision")
	})
	image(shellImage)
	after := b.daemonsOn(3)
	for node, pod := range before {
		if node != replaced && after[node].UID != pod.UID {
			b.Errorf("the pod on %s was replaced, though its revision is the one that came back", node)
		}
		if n := after[node].Status.ContainerStatuses[0].RestartCount; n != 0 {
			b.Errorf("the pod on %s restarted %d times", node, n)
		}
	}
}

func daemonSelects(b trial) {
	key := "e2e-" + b.ns
	color := func(value string) {
		b.Helper()
		_, err := env.client.CoreV1().Nodes().Patch(b.Context(), "agent-1", types.MergePatchType, []byte(`{"metadata":{"labels":{"`+key+`":`+value+`}}}`), metav1.PatchOptions{})
		b.must(err)
	}
	b.Cleanup(func() {
		_, err := env.client.CoreV1().Nodes().Patch(context.Background(), "agent-1", types.MergePatchType, []byte(`{"metadata":{"labels":{"`+key+`":null}}}`), metav1.PatchOptions{})
		b.must(err)
	})
	b.create(strings.ReplaceAll(daemons, "SELECT", key+": blue"))
	b.daemonsOn(0)
	color(`"blue"`)
	if on := b.daemonsOn(1); on["agent-1"].Name == "" {
		b.Errorf("pods %v", on)
	}
	color(`"green"`)
	b.daemonsOn(0)
	_, err := env.client.AppsV1().DaemonSets(b.ns).Patch(b.Context(), "d", types.StrategicMergePatchType, []byte(`{"spec":{"updateStrategy":{"type":"RollingUpdate"},"template":{"spec":{"nodeSelector":{"`+key+`":"green"}}}}}`), metav1.PatchOptions{})
	b.must(err)
	pod := b.daemonsOn(1)["agent-1"]
	b.must(env.client.CoreV1().Pods(b.ns).Delete(b.Context(), pod.Name, metav1.DeleteOptions{}))
	b.eventually(func() error {
		if now := b.daemonsOn(1)["agent-1"]; now.UID == pod.UID {
			return fmt.Errorf("the deleted pod is still there")
		}
		return nil
	})
}

// ownedBy waits until a pod is controlled by an object of this kind, or by none.
func (b trial) ownedBy(pod, kind string) {
	b.Helper()
	b.until(pod, fmt.Sprintf("controlled by %q", kind), func(pod *corev1.Pod) bool {
		owner := metav1.GetControllerOf(pod)
		return owner == nil && kind == "" || owner != nil && owner.Kind == kind
	})
}

func adoption(b trial) {
	pods := env.client.CoreV1().Pods(b.ns)
	for apiVersion, kind := range map[string]string{"apps/v1": "ReplicaSet", "v1": "ReplicationController"} {
		name := strings.ToLower(kind)
		b.create(`{apiVersion: v1, kind: Pod, metadata: {name: ` + name + `, labels: {app: ` + name + `}}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: app, image: IMAGE, command: [/testapp, forever]}]}}`)
		b.create(strings.ReplaceAll(workloadOf(apiVersion, kind), "app: w", "app: "+name))
		b.ownedBy(name, kind)
		_, err := pods.Patch(b.Context(), name, types.MergePatchType, []byte(`{"metadata":{"labels":{"app":"other"}}}`), metav1.PatchOptions{})
		b.must(err)
		b.ownedBy(name, "")
		b.eventually(func() error {
			list, err := pods.List(b.Context(), metav1.ListOptions{LabelSelector: "app=" + name})
			if err != nil || len(list.Items) != 1 {
				return fmt.Errorf("%s has %d pods in place of the released one: %v", kind, len(list.Items), err)
			}
			return nil
		})
	}
	b.create(`
apiVersion: batch/v1
kind: Job
metadata: {name: j}
spec: {parallelism: 2, template: {metadata: {labels: {a: b}}, spec: {restartPolicy: Never, terminationGracePeriodSeconds: 0, containers: [{name: app, image: IMAGE, command: [/testapp, forever]}]}}}`)
	var pod string
	b.eventually(func() error {
		list, err := pods.List(b.Context(), metav1.ListOptions{LabelSelector: "job-name=j"})
		if err != nil || len(list.Items) != 2 {
			return fmt.Errorf("%d pods of the job, want 2: %v", len(list.Items), err)
		}
		pod = list.Items[0].Name
		return nil
	})
	change := func(change func(*corev1.Pod)) {
		b.Helper()
		b.must(retry.RetryOnConflict(retry.DefaultRetry, func() error {
			p, err := pods.Get(b.Context(), pod, metav1.GetOptions{})
			b.must(err)
			change(p)
			_, err = pods.Update(b.Context(), p, metav1.UpdateOptions{})
			return err
		}))
	}
	change(func(p *corev1.Pod) { p.OwnerReferences = nil })
	b.ownedBy(pod, "Job")
	change(func(p *corev1.Pod) { p.Labels = nil })
	b.ownedBy(pod, "")
	b.until(pod, "without the job's finalizer", func(p *corev1.Pod) bool { return len(p.Finalizers) == 0 })
}

func quotaInTheWay(b trial) {
	b.create(`{apiVersion: v1, kind: ResourceQuota, metadata: {name: two}, spec: {hard: {pods: "2"}}}`)
	b.eventually(func() error {
		q, err := env.client.CoreV1().ResourceQuotas(b.ns).Get(b.Context(), "two", metav1.GetOptions{})
		if hard := q.Status.Hard[corev1.ResourcePods]; err != nil || hard.String() != "2" {
			return fmt.Errorf("quota %v: %v", q.Status, err)
		}
		return nil
	})
	b.create(strings.ReplaceAll(workloadOf("v1", "ReplicationController"), "replicas: 1", "replicas: 3"))
	failure := func(want bool) {
		b.Helper()
		b.eventually(func() error {
			rc, err := env.client.CoreV1().ReplicationControllers(b.ns).Get(b.Context(), "w", metav1.GetOptions{})
			if err != nil {
				return err
			}
			got := slices.ContainsFunc(rc.Status.Conditions, func(c corev1.ReplicationControllerCondition) bool {
				return c.Type == corev1.ReplicationControllerReplicaFailure && c.Status == corev1.ConditionTrue
			})
			if got != want {
				return fmt.Errorf("conditions %v, want a failure: %t", rc.Status.Conditions, want)
			}
			return nil
		})
	}
	failure(true)
	_, err := env.client.CoreV1().ReplicationControllers(b.ns).Patch(b.Context(), "w", types.MergePatchType, []byte(`{"spec":{"replicas":2}}`), metav1.PatchOptions{}, "scale")
	b.must(err)
	failure(false)
}

func refusedReplica(b trial) {
	b.create(`
apiVersion: v1
kind: Pod
metadata: {name: first}
spec: {nodeName: agent-2, terminationGracePeriodSeconds: 0, containers: [{name: app, image: IMAGE, command: [/testapp, forever], ports: [{containerPort: 21017, hostPort: 21017}]}]}`)
	b.untilReady("first")
	b.create(`
apiVersion: v1
kind: Service
metadata: {name: s}
spec: {clusterIP: None, selector: {app: s}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: s}
spec:
  serviceName: s
  selector: {matchLabels: {app: s}}
  template:
    metadata: {labels: {app: s}}
    spec: {nodeName: agent-2, terminationGracePeriodSeconds: 0, containers: [{name: app, image: IMAGE, command: [/testapp, forever], ports: [{containerPort: 21017, hostPort: 21017}]}]}`)
	events, err := env.client.CoreV1().Pods(b.ns).Watch(b.Context(), metav1.ListOptions{FieldSelector: "metadata.name=s-0"})
	b.must(err)
	defer events.Stop()
	// Failed by the node, deleted by the controller, made again under another identity.
	seen := map[types.UID]bool{}
	failed := false
	for deadline := time.After(podPatience); len(seen) < 2 || !failed; {
		select {
		case event := <-events.ResultChan():
			pod, ok := event.Object.(*corev1.Pod)
			if !ok {
				b.Fatalf("%+v", event)
			}
			seen[pod.UID] = true
			failed = failed || pod.Status.Phase == corev1.PodFailed
		case <-deadline:
			b.Fatalf("%d pods in turn, failed: %t", len(seen), failed)
		}
	}
	b.must(env.client.CoreV1().Pods(b.ns).Delete(b.Context(), "first", metav1.DeleteOptions{}))
	b.untilReady("s-0")
}

func partitions(b trial) {
	b.create(strings.ReplaceAll(workloadOf("apps/v1", "StatefulSet"), "replicas: 1", "replicas: 3\n  podManagementPolicy: Parallel\n  updateStrategy: {rollingUpdate: {partition: 3}}"))
	api := env.client.AppsV1().StatefulSets(b.ns)
	patch := func(text string) {
		b.Helper()
		_, err := api.Patch(b.Context(), "w", types.StrategicMergePatchType, []byte(text), metav1.PatchOptions{})
		b.must(err)
	}
	template := func(value string) string {
		return `{"spec":{"template":{"metadata":{"labels":{"version":"` + value + `"}}}}}`
	}
	partition := func(n int) string {
		return fmt.Sprintf(`{"spec":{"updateStrategy":{"rollingUpdate":{"partition":%d}}}}`, n)
	}
	versions := func(want string) {
		b.Helper()
		b.eventually(func() error {
			s, err := api.Get(b.Context(), "w", metav1.GetOptions{})
			if err != nil {
				return err
			}
			var got []string
			for i := range 3 {
				pod, err := env.client.CoreV1().Pods(b.ns).Get(b.Context(), fmt.Sprintf("w-%d", i), metav1.GetOptions{})
				if err != nil {
					return err
				}
				if podCondition(pod, corev1.PodReady) != corev1.ConditionTrue || pod.DeletionTimestamp != nil {
					return fmt.Errorf("w-%d is not ready", i)
				}
				revision := "?"
				switch pod.Labels[appsv1.StatefulSetRevisionLabel] {
				case s.Status.CurrentRevision:
					revision = "c"
				case s.Status.UpdateRevision:
					revision = "u"
				}
				got = append(got, pod.Labels["version"]+revision)
			}
			if text := strings.Join(got, " "); text != want || s.Status.ObservedGeneration != s.Generation {
				return fmt.Errorf("pods are of %q, want %q", text, want)
			}
			return nil
		})
	}
	revision := func() (current, update string) {
		s, err := api.Get(b.Context(), "w", metav1.GetOptions{})
		b.must(err)
		return s.Status.CurrentRevision, s.Status.UpdateRevision
	}
	versions("c c c")
	original, _ := revision()
	patch(template("2"))
	versions("c c c")
	patch(partition(2))
	versions("c c 2u")
	for _, name := range []string{"w-0", "w-2"} { // what is deleted comes back as the partition says
		b.must(env.client.CoreV1().Pods(b.ns).Delete(b.Context(), name, metav1.DeleteOptions{}))
	}
	versions("c c 2u")
	patch(partition(0))
	versions("2c 2c 2c")
	patch(`{"spec":{"template":{"metadata":{"labels":{"version":null}}}}}`)
	versions("c c c")
	if current, update := revision(); current != original || update != original {
		b.Errorf("going back is revision %s and %s, want %s again", current, update, original)
	}
}

func evictions(b trial) {
	b.create(strings.ReplaceAll(workloadOf("apps/v1", "ReplicaSet"), "replicas: 1", "replicas: 2") + `---
{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: b, labels: {a: b}}, spec: {minAvailable: 2, selector: {matchLabels: {app: w}}}}`)
	budgets := env.client.PolicyV1().PodDisruptionBudgets(b.ns)
	status := func(healthy, allowed int32) {
		b.Helper()
		b.eventually(func() error {
			budget, err := budgets.Get(b.Context(), "b", metav1.GetOptions{})
			if s := budget.Status; err != nil || s.ObservedGeneration != budget.Generation || s.CurrentHealthy != healthy || s.DisruptionsAllowed != allowed {
				return fmt.Errorf("%+v %v, want %d healthy, %d allowed", s, err, healthy, allowed)
			}
			return nil
		})
	}
	evict := func() error {
		b.Helper()
		pods, err := env.client.CoreV1().Pods(b.ns).List(b.Context(), metav1.ListOptions{LabelSelector: "app=w"})
		b.must(err)
		for _, pod := range pods.Items {
			if pod.DeletionTimestamp == nil {
				return env.client.CoreV1().Pods(b.ns).EvictV1(b.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod.Name}})
			}
		}
		return fmt.Errorf("no pod to evict")
	}
	status(2, 0)
	if err := evict(); !apierrors.IsTooManyRequests(err) || !apierrors.HasStatusCause(err, policyv1.DisruptionBudgetCause) {
		b.Errorf("an eviction against the budget: %v", err)
	}
	_, err := budgets.Patch(b.Context(), "b", types.StrategicMergePatchType, []byte(`{"spec":{"minAvailable":1}}`), metav1.PatchOptions{})
	b.must(err)
	status(2, 1)
	b.must(evict())
	status(2, 1) // another pod takes its place

	disrupted := `{"status":{"disruptedPods":{"some-pod":"` + time.Now().UTC().Format(time.RFC3339) + `"}}}`
	if got, err := budgets.Patch(b.Context(), "b", types.MergePatchType, []byte(disrupted), metav1.PatchOptions{}, "status"); err != nil || len(got.Status.DisruptedPods) != 1 {
		b.Errorf("status patched: %v %v", got, err)
	}
	b.must(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		budget, err := budgets.Get(b.Context(), "b", metav1.GetOptions{})
		b.must(err)
		budget.Status.DisruptedPods = map[string]metav1.Time{"other-pod": metav1.Now()}
		budget, err = budgets.UpdateStatus(b.Context(), budget, metav1.UpdateOptions{})
		if err == nil && len(budget.Status.DisruptedPods) != 1 {
			b.Errorf("status replaced: %v", budget.Status)
		}
		return err
	}))
	status(2, 1)
	b.must(budgets.DeleteCollection(b.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "a=b"}))
	b.must(evict())
}

func recreateAndHistory(b trial) {
	b.create(strings.ReplaceAll(workloadOf("apps/v1", "Deployment"), "replicas: 1", "replicas: 1\n  revisionHistoryLimit: 0\n  strategy: {type: Recreate}"))
	events, err := env.client.CoreV1().Pods(b.ns).Watch(b.Context(), metav1.ListOptions{})
	b.must(err)
	// together notes versions of which pods are there at once: the old ones must be gone before a new one comes.
	together, stopping := make(chan []string, 1), make(chan struct{})
	go func() {
		versions, found := map[types.UID]string{}, []string{}
		for event := range events.ResultChan() {
			pod, ok := event.Object.(*corev1.Pod)
			if !ok {
				select {
				case <-stopping: // the end of the watch may be told as an error
				default:
					found = append(found, fmt.Sprint(event.Object))
				}
				continue
			}
			switch event.Type {
			case watch.Deleted:
				delete(versions, pod.UID)
			case watch.Added:
				for _, version := range versions {
					if version != pod.Labels["version"] {
						found = append(found, version+" and "+pod.Labels["version"])
					}
				}
				versions[pod.UID] = pod.Labels["version"]
			}
		}
		together <- found
	}()
	ready := func(version string) {
		b.Helper()
		b.eventually(func() error {
			list, err := env.client.CoreV1().Pods(b.ns).List(b.Context(), metav1.ListOptions{LabelSelector: "version=" + version})
			if err != nil || len(list.Items) != 1 || podCondition(&list.Items[0], corev1.PodReady) != corev1.ConditionTrue {
				return fmt.Errorf("version %q has %d pods: %v", version, len(list.Items), err)
			}
			return nil
		})
	}
	for _, version := range []string{"1", "2"} {
		_, err := env.client.AppsV1().Deployments(b.ns).Patch(b.Context(), "w", types.StrategicMergePatchType, []byte(`{"spec":{"template":{"metadata":{"labels":{"version":"`+version+`"}}}}}`), metav1.PatchOptions{})
		b.must(err)
		ready(version)
	}
	close(stopping)
	events.Stop()
	if found := <-together; len(found) != 0 {
		b.Errorf("pods of these versions were there together: %q", found)
	}
	b.eventually(func() error {
		sets, err := env.client.AppsV1().ReplicaSets(b.ns).List(b.Context(), metav1.ListOptions{})
		if err != nil || len(sets.Items) != 1 {
			return fmt.Errorf("%d replica sets, want the one in use: %v", len(sets.Items), err)
		}
		return nil
	})
}
