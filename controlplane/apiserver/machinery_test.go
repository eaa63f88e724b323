// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/apiserver/apitest"
	"github.com/fairlead/fairlead/hack/await"
)

// TestMachinery runs everything that needs no particular configuration against one server.
func TestMachinery(t *testing.T) { testMachinery(t, apitest.Options{}) }

// TestMachineryLocal does so with a client that has no socket between.
func TestMachineryLocal(t *testing.T) { testMachinery(t, apitest.Options{Local: true}) }

func testMachinery(t *testing.T, o apitest.Options) {
	cfg := apitest.Start(t, o)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *rest.Config, kubernetes.Interface)
	}{
		{"lists in chunks are one snapshot", testChunks},
		{"watch bookmarks and streaming lists", testStreamingList},
		{"informers see initial objects and changes", testInformers},
		{"dry run writes nothing", testDryRun},
		{"field validation", testFieldValidation},
		{"CBOR in and out", testCBOR},
		{"server-side apply keeps owners apart", testApply},
		{"status and spec are written apart", testStatus},
		{"scale", testScale},
		{"one event in two groups", testEvents},
		{"one autoscaler in two versions", testAutoscalers},
		{"binding, field selectors and graceful deletion of a pod", testPod},
		{"eviction asks the disruption budget", testEviction},
		{"a namespace ends in two steps", testNamespace},
		{"generation counts changes of what is wanted", testGeneration},
		{"conflicting updates", testConflict},
		{"services get addresses and ports", testService},
		{"custom resources", testCustomResources},
		{"aggregated discovery", testDiscovery},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, cfg, kubernetes.NewForConfigOrDie(cfg)) })
	}
}

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"k": "v"}}
}

func namespace(t *testing.T, client kubernetes.Interface, name string) string {
	t.Helper()
	if _, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return name
}

func testChunks(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	ns := namespace(t, client, "chunks")
	for i := range 25 {
		if _, err := client.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap(fmt.Sprintf("c%02d", i)), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	options := metav1.ListOptions{Limit: 10}
	version := ""
	for page := 0; ; page++ {
		list, err := client.CoreV1().ConfigMaps(ns).List(t.Context(), options)
		if err != nil {
			t.Fatal(err)
		}
		if version == "" {
			version = list.ResourceVersion
		} else if list.ResourceVersion != version {
			t.Errorf("page %d is at resource version %s, the first was at %s", page, list.ResourceVersion, version)
		}
		for _, c := range list.Items {
			names = append(names, c.Name)
		}
		if page == 0 {
			if list.RemainingItemCount == nil || *list.RemainingItemCount != 15 {
				t.Errorf("remainingItemCount is %v, want 15", list.RemainingItemCount)
			}
			// Written between two pages: not part of the list.
			if _, err := client.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap("c99"), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if list.Continue == "" {
			break
		}
		options.Continue = list.Continue
	}
	if len(names) != 25 || names[24] != "c24" {
		t.Errorf("the pages held %v, want c00 to c24", names)
	}
}

func testStreamingList(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	ns := namespace(t, client, "streaming")
	for i := range 3 {
		if _, err := client.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap(fmt.Sprintf("c%d", i)), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	w, err := client.CoreV1().ConfigMaps(ns).Watch(t.Context(), metav1.ListOptions{
		SendInitialEvents: ptr.To(true), ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, AllowWatchBookmarks: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for added := 0; ; {
		e := next(t, w)
		switch {
		case e.Type == watch.Added:
			added++
			continue
		case e.Type != watch.Bookmark:
			t.Fatalf("unexpected event %s", e.Type)
		}
		if got := e.Object.(*corev1.ConfigMap).Annotations[metav1.InitialEventsAnnotationKey]; got != "true" || added != 3 {
			t.Errorf("bookmark with annotation %q after %d objects, want true after 3", got, added)
		}
		return
	}
}

func next(t *testing.T, w watch.Interface) watch.Event {
	t.Helper()
	select {
	case e, ok := <-w.ResultChan():
		if !ok {
			t.Fatal("the watch ended")
		}
		return e
	case <-time.After(20 * time.Second):
		t.Fatal("no event within 20 s")
	}
	panic("not reached")
}

func testInformers(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	ns := namespace(t, client, "informers")
	ctx, cancel := context.WithCancel(t.Context())
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(ns))
	lister := factory.Core().V1().ConfigMaps().Lister()
	factory.Core().V1().ConfigMaps().Informer()
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	defer cancel()
	factory.WaitForCacheSync(ctx.Done())
	if _, err := client.CoreV1().ConfigMaps(ns).Create(ctx, configMap("seen"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { _, err := lister.ConfigMaps(ns).Get("seen"); return err })
	if err := client.CoreV1().ConfigMaps(ns).Delete(ctx, "seen", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if _, err := lister.ConfigMaps(ns).Get("seen"); !apierrors.IsNotFound(err) {
			return fmt.Errorf("still there: %v", err)
		}
		return nil
	})
}

func eventually(t *testing.T, f func() error) {
	t.Helper()
	await.Nil(t, 20*time.Second, f)
}

func testDryRun(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	dry := []string{metav1.DryRunAll}
	made, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), configMap("dry"), metav1.CreateOptions{DryRun: dry})
	if err != nil {
		t.Fatal(err)
	}
	if made.UID == "" {
		t.Error("a dry run returned no UID")
	}
	if _, err := client.CoreV1().ConfigMaps("default").Get(t.Context(), "dry", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after a dry run: %v, want NotFound", err)
	}
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "dry"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80, NodePort: 30123}}}}
	if _, err := client.CoreV1().Services("default").Create(t.Context(), svc, metav1.CreateOptions{DryRun: dry}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Services("default").Create(t.Context(), svc, metav1.CreateOptions{}); err != nil {
		t.Errorf("a dry run kept the node port: %v", err)
	}
}

// raw sends a request as it is.
func raw(t *testing.T, cfg *rest.Config, method, path, contentType, accept string, body []byte) (int, http.Header, []byte) {
	t.Helper()
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, cfg.Host+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, data
}

func testFieldValidation(t *testing.T, cfg *rest.Config, _ kubernetes.Interface) {
	body := []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"fv-"},"data":{"a":"1"},"dota":{},"data":{"a":"2"}}`)
	path := "/api/v1/namespaces/default/configmaps?fieldValidation="
	code, _, data := raw(t, cfg, "POST", path+"Strict", "application/json", "", body)
	if code != http.StatusBadRequest || !bytes.Contains(data, []byte(`unknown field \"dota\"`)) || !bytes.Contains(data, []byte(`duplicate field \"data\"`)) {
		t.Errorf("Strict answered %d %s, want 400 that names the unknown and the duplicate field", code, data)
	}
	code, header, data := raw(t, cfg, "POST", path+"Warn", "application/json", "", body)
	if code != http.StatusCreated || !strings.Contains(strings.Join(header["Warning"], " "), "dota") {
		t.Errorf("Warn answered %d %v %s, want 201 with a warning", code, header["Warning"], data)
	}
	code, header, _ = raw(t, cfg, "POST", path+"Ignore", "application/json", "", body)
	if code != http.StatusCreated || len(header["Warning"]) > 0 {
		t.Errorf("Ignore answered %d %v, want 201 without warning", code, header["Warning"])
	}
}

func testCBOR(t *testing.T, cfg *rest.Config, _ kubernetes.Interface) {
	body, err := direct.Marshal(map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "cbor"}, "data": map[string]any{"k": "v"}})
	if err != nil {
		t.Fatal(err)
	}
	code, _, data := raw(t, cfg, "POST", "/api/v1/namespaces/default/configmaps", "application/cbor", "application/cbor", body)
	if code != http.StatusCreated {
		t.Fatalf("create answered %d %q", code, data)
	}
	var got map[string]any
	if err := direct.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if k, _, _ := unstructured.NestedString(got, "data", "k"); k != "v" {
		t.Errorf("read back %v", got)
	}
}

func testApply(t *testing.T, cfg *rest.Config, client kubernetes.Interface) {
	apply := func(manager, body string, force bool) error {
		_, err := client.CoreV1().ConfigMaps("default").Patch(t.Context(), "applied", types.ApplyPatchType, []byte(body), metav1.PatchOptions{FieldManager: manager, Force: &force})
		return err
	}
	const head = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"applied"},"data":`
	if err := apply("one", head+`{"a":"1","b":"1"}}`, false); err != nil {
		t.Fatal(err)
	}
	if err := apply("two", head+`{"a":"2"}}`, false); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), ".data.a") {
		t.Errorf("taking another's field: %v, want a conflict that names .data.a", err)
	}
	if err := apply("two", head+`{"a":"2"}}`, true); err != nil {
		t.Fatal(err)
	}
	if err := apply("one", head+`{"b":"1"}}`, false); err != nil {
		t.Fatal(err)
	}
	if err := apply("one", head+`{}}`, false); err != nil {
		t.Fatal(err)
	}
	got, err := client.CoreV1().ConfigMaps("default").Get(t.Context(), "applied", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Data) != 1 || got.Data["a"] != "2" {
		t.Errorf("data is %v, want a=2 of manager two and nothing that one gave up", got.Data)
	}
}

func deployment(name string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: appsv1.DeploymentSpec{Replicas: ptr.To(int32(2)), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec()}},
	}
}

func podSpec() corev1.PodSpec {
	return corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "example.com/main:1"}}}
}

func testStatus(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	d := deployment("status")
	d.Status.Replicas = 7
	d, err := client.AppsV1().Deployments("default").Create(t.Context(), d, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if d.Status.Replicas != 0 {
		t.Error("a create brought its status along")
	}
	d.Status.Replicas, d.Spec.Replicas = 2, ptr.To(int32(9))
	d, err = client.AppsV1().Deployments("default").UpdateStatus(t.Context(), d, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if d.Status.Replicas != 2 || *d.Spec.Replicas != 2 {
		t.Errorf("after a status update: status %d, spec %d, want 2 and 2", d.Status.Replicas, *d.Spec.Replicas)
	}
	d.Status.Replicas, d.Spec.Replicas = 5, ptr.To(int32(3))
	d, err = client.AppsV1().Deployments("default").Update(t.Context(), d, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if d.Status.Replicas != 2 || *d.Spec.Replicas != 3 {
		t.Errorf("after an update: status %d, spec %d, want 2 and 3", d.Status.Replicas, *d.Spec.Replicas)
	}
}

func testScale(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	if _, err := client.AppsV1().Deployments("default").Create(t.Context(), deployment("scaled"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	scale, err := client.AppsV1().Deployments("default").GetScale(t.Context(), "scaled", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if scale.Spec.Replicas != 2 || scale.Status.Selector != "app=scaled" {
		t.Errorf("the scale is %+v", scale)
	}
	scale.Spec.Replicas = 5
	if _, err := client.AppsV1().Deployments("default").UpdateScale(t.Context(), "scaled", scale, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.AppsV1().Deployments("default").UpdateScale(t.Context(), "scaled", scale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("scaling from an old version: %v, want a conflict", err)
	}
	bad := &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "scaled"}, Spec: autoscalingv1.ScaleSpec{Replicas: -1}}
	if _, err := client.AppsV1().Deployments("default").UpdateScale(t.Context(), "scaled", bad, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("scaling to -1: %v, want Invalid", err)
	}
	d, err := client.AppsV1().Deployments("default").Get(t.Context(), "scaled", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if *d.Spec.Replicas != 5 || d.Generation != 2 {
		t.Errorf("the deployment has %d replicas at generation %d, want 5 at 2", *d.Spec.Replicas, d.Generation)
	}
}

func testEvents(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	e := &eventsv1.Event{ObjectMeta: metav1.ObjectMeta{Name: "happened", Namespace: "default"}, EventTime: metav1.NowMicro(), ReportingController: "example.com/test",
		ReportingInstance: "test-1", Action: "Testing", Reason: "Tested", Note: "something", Type: "Normal", Regarding: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "p"}}
	if _, err := client.EventsV1().Events("default").Create(t.Context(), e, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	list, err := client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=p,reason=Tested"})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 1 || list.Items[0].Message != "something" {
		t.Errorf("the core group shows %d events", len(list.Items))
	}
	watched, err := client.EventsV1().Events("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(watched.Items) == 0 || watched.Items[0].Note == "" {
		t.Errorf("events.k8s.io lists %+v", watched.Items)
	}
}

func testAutoscalers(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	one := &autoscalingv1.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "two"}, Spec: autoscalingv1.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv1.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "x"}, MaxReplicas: 3, TargetCPUUtilizationPercentage: ptr.To(int32(50))}}
	if _, err := client.AutoscalingV1().HorizontalPodAutoscalers("default").Create(t.Context(), one, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	two, err := client.AutoscalingV2().HorizontalPodAutoscalers("default").Get(t.Context(), "two", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(two.Spec.Metrics) != 1 || *two.Spec.Metrics[0].Resource.Target.AverageUtilization != 50 {
		t.Errorf("v2 shows metrics %+v, want cpu at 50", two.Spec.Metrics)
	}
}

func testPod(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	ctx := t.Context()
	pods := client.CoreV1().Pods("default")
	if _, err := pods.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "bound"}, Spec: podSpec()}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := pods.Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "bound"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := pods.Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "bound"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n2"}}, metav1.CreateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("binding twice: %v, want a conflict", err)
	}
	list, err := pods.List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=n1"})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 1 || list.Items[0].Name != "bound" {
		t.Errorf("on node n1 are %d pods, want 1", len(list.Items))
	}
	if err := pods.Delete(ctx, "bound", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	p, err := pods.Get(ctx, "bound", metav1.GetOptions{})
	if err != nil {
		t.Fatalf("a pod on a node is gone before its grace period: %v", err)
	}
	if p.DeletionTimestamp == nil || p.DeletionGracePeriodSeconds == nil || *p.DeletionGracePeriodSeconds != 30 {
		t.Errorf("deletion timestamp %v, grace period %v, want one and 30", p.DeletionTimestamp, p.DeletionGracePeriodSeconds)
	}
	if err := pods.Delete(ctx, "bound", metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0))}); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Get(ctx, "bound", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after a deletion without grace: %v, want NotFound", err)
	}
}

func testEviction(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	ctx := t.Context()
	ns := namespace(t, client, "eviction")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "guarded", Labels: map[string]string{"app": "guarded"}}, Spec: podSpec()}
	pod, err := client.CoreV1().Pods(ns).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	if _, err := client.CoreV1().Pods(ns).UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: pod.Labels}}}
	if budget, err = client.PolicyV1().PodDisruptionBudgets(ns).Create(ctx, budget, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	evict := func() error { // without the client's own patience: the server says when to come again
		return client.CoreV1().RESTClient().Post().Namespace(ns).Resource("pods").Name("guarded").SubResource("eviction").MaxRetries(0).
			Body(&policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "guarded"}}).Do(ctx).Error()
	}
	if err := evict(); !apierrors.IsTooManyRequests(err) {
		t.Errorf("eviction before the budget was computed: %v, want TooManyRequests", err)
	}
	budget.Status = policyv1.PodDisruptionBudgetStatus{ObservedGeneration: budget.Generation, DisruptionsAllowed: 0, CurrentHealthy: 1, DesiredHealthy: 1, ExpectedPods: 1}
	if budget, err = client.PolicyV1().PodDisruptionBudgets(ns).UpdateStatus(ctx, budget, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := evict(); !apierrors.IsTooManyRequests(err) || !apierrors.HasStatusCause(err, policyv1.DisruptionBudgetCause) {
		t.Errorf("eviction without allowance: %v, want TooManyRequests with cause DisruptionBudget", err)
	}
	budget.Status.DisruptionsAllowed = 1
	if _, err = client.PolicyV1().PodDisruptionBudgets(ns).UpdateStatus(ctx, budget, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := evict(); err != nil {
		t.Errorf("eviction with allowance: %v", err)
	}
	budget, err = client.PolicyV1().PodDisruptionBudgets(ns).Get(ctx, "b", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if budget.Status.DisruptionsAllowed != 0 || len(budget.Status.DisruptedPods) != 1 {
		t.Errorf("after the eviction the budget allows %d and remembers %d pods, want 0 and 1", budget.Status.DisruptionsAllowed, len(budget.Status.DisruptedPods))
	}
}

func testNamespace(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	ctx := t.Context()
	name := namespace(t, client, "ending")
	if err := client.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	ns, err := client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if ns.Status.Phase != corev1.NamespaceTerminating || ns.DeletionTimestamp == nil {
		t.Errorf("the namespace is %s, want Terminating", ns.Status.Phase)
	}
	if _, err := client.CoreV1().ConfigMaps(name).Create(ctx, configMap("late"), metav1.CreateOptions{}); !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.Errorf("create in a namespace that ends: %v, want Forbidden with cause NamespaceTerminating", err)
	}
	ns.Status.Conditions = []corev1.NamespaceCondition{{Type: corev1.NamespaceContentRemaining, Status: corev1.ConditionTrue}}
	if _, err := client.CoreV1().Namespaces().UpdateStatus(ctx, ns, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if ns, err = client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{}); err != nil {
		t.Fatalf("writing the status of a terminating namespace removed it: %v", err)
	}
	ns.Spec.Finalizers = nil
	if _, err := client.CoreV1().Namespaces().Finalize(ctx, ns, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after finalizing: %v, want NotFound", err)
	}
}

func testGeneration(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	ctx := t.Context()
	d, err := client.AppsV1().Deployments("default").Create(ctx, deployment("generation"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name   string
		change func(*appsv1.Deployment)
		want   int64
	}{
		{"a label", func(d *appsv1.Deployment) { d.Labels["x"] = "y" }, 1},
		{"replicas", func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To(int32(4)) }, 2},
		{"generation itself", func(d *appsv1.Deployment) { d.Generation = 100 }, 2},
		{"nothing", func(*appsv1.Deployment) {}, 2},
	} {
		step.change(d)
		if d, err = client.AppsV1().Deployments("default").Update(ctx, d, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if d.Generation != step.want {
			t.Errorf("after changing %s the generation is %d, want %d", step.name, d.Generation, step.want)
		}
	}
}

func testConflict(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	ctx := t.Context()
	a, err := client.CoreV1().ConfigMaps("default").Create(ctx, configMap("contended"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b := a.DeepCopy()
	a.Data["k"] = "a"
	if _, err := client.CoreV1().ConfigMaps("default").Update(ctx, a, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	b.Data["k"] = "b"
	if _, err := client.CoreV1().ConfigMaps("default").Update(ctx, b, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("an update from an old version: %v, want a conflict", err)
	}
	wrong := types.UID("another")
	if err := client.CoreV1().ConfigMaps("default").Delete(ctx, "contended", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &wrong}}); !apierrors.IsConflict(err) {
		t.Errorf("a deletion of another UID: %v, want a conflict", err)
	}
}

func testService(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	ctx := t.Context()
	seen := map[string]bool{}
	for i := range 5 {
		s, err := client.CoreV1().Services("default").Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("s%d", i)},
			Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		port := s.Spec.Ports[0].NodePort
		if seen[s.Spec.ClusterIP] || seen[fmt.Sprint(port)] || port < 30000 || port > 32767 || !strings.HasPrefix(s.Spec.ClusterIP, "10.96.") {
			t.Errorf("service %d has address %s and node port %d", i, s.Spec.ClusterIP, port)
		}
		seen[s.Spec.ClusterIP], seen[fmt.Sprint(port)] = true, true
		if _, err := client.NetworkingV1().IPAddresses().Get(ctx, s.Spec.ClusterIP, metav1.GetOptions{}); err != nil {
			t.Errorf("the claim on %s: %v", s.Spec.ClusterIP, err)
		}
	}
	if cidr, err := client.NetworkingV1().ServiceCIDRs().Get(ctx, "kubernetes", metav1.GetOptions{}); err != nil || len(cidr.Spec.CIDRs) != 1 {
		t.Errorf("the default ServiceCIDR is %v (%v)", cidr, err)
	}
}

func testCustomResources(t *testing.T, cfg *rest.Config, client kubernetes.Interface) {
	ctx := t.Context()
	dyn := dynamic.NewForConfigOrDie(cfg)
	crd := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": "boats.example.com"},
		"spec": map[string]any{
			"group": "example.com", "scope": "Namespaced",
			"names": map[string]any{"plural": "boats", "singular": "boat", "kind": "Boat", "shortNames": []any{"bt"}, "categories": []any{"all"}},
			"versions": []any{map[string]any{
				"name": "v1", "served": true, "storage": true,
				"subresources":             map[string]any{"status": map[string]any{}, "scale": map[string]any{"specReplicasPath": ".spec.sails", "statusReplicasPath": ".status.sails"}},
				"selectableFields":         []any{map[string]any{"jsonPath": ".spec.port"}},
				"additionalPrinterColumns": []any{map[string]any{"name": "Port", "type": "string", "jsonPath": ".spec.port"}},
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "properties": map[string]any{
					"spec": map[string]any{"type": "object", "properties": map[string]any{
						"port":  map[string]any{"type": "string", "default": "Hamburg"},
						"sails": map[string]any{"type": "integer", "x-kubernetes-validations": []any{map[string]any{"rule": "self <= 12", "message": "too many sails"}}},
					}},
					"status": map[string]any{"type": "object", "properties": map[string]any{"sails": map[string]any{"type": "integer"}}},
				}}},
			}},
		},
	}}
	crds := dyn.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	if _, err := crds.Create(ctx, crd, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	boats := dyn.Resource(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "boats"}).Namespace("default")
	boat := func(name string, sails int64) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "Boat", "metadata": map[string]any{"name": name}, "spec": map[string]any{"sails": sails}}}
	}
	var made *unstructured.Unstructured
	eventually(t, func() (err error) {
		made, err = boats.Create(ctx, boat("gorch", 3), metav1.CreateOptions{})
		return err
	})
	if port, _, _ := unstructured.NestedString(made.Object, "spec", "port"); port != "Hamburg" {
		t.Errorf("the default of spec.port is %q, want Hamburg", port)
	}
	if _, err := boats.Create(ctx, boat("overloaded", 13), metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "too many sails") {
		t.Errorf("a CEL rule was broken: %v, want Invalid", err)
	}
	list, err := boats.List(ctx, metav1.ListOptions{FieldSelector: "spec.port=Hamburg"})
	if err != nil || len(list.Items) != 1 {
		t.Errorf("the selectable field finds %v (%v), want one boat", list, err)
	}
	// Discovery, old and aggregated, shows the group at once.
	eventually(t, func() error {
		r, err := client.Discovery().ServerResourcesForGroupVersion("example.com/v1")
		if err == nil && len(r.APIResources) < 3 {
			err = fmt.Errorf("only %d resources", len(r.APIResources))
		}
		return err
	})
	if err := crds.Delete(ctx, "boats.example.com", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if _, err := boats.List(ctx, metav1.ListOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the kind is still served: %v", err)
		}
		return nil
	})
}

func testDiscovery(t *testing.T, cfg *rest.Config, _ kubernetes.Interface) {
	code, header, data := raw(t, cfg, "GET", "/apis", "", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", nil)
	if code != http.StatusOK || header.Get("ETag") == "" {
		t.Fatalf("aggregated discovery answered %d with ETag %q", code, header.Get("ETag"))
	}
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Versions []struct {
				Version   string
				Freshness string
				Resources []struct{ Resource string }
			}
		}
	}
	if err := json.Unmarshal(data, &list); err != nil {
		t.Fatal(err)
	}
	groups := map[string]int{}
	for _, g := range list.Items {
		for _, v := range g.Versions {
			groups[g.Metadata.Name+"/"+v.Version] = len(v.Resources)
		}
	}
	for _, want := range []string{"apps/v1", "batch/v1", "autoscaling/v1", "autoscaling/v2", "apiregistration.k8s.io/v1", "apiextensions.k8s.io/v1", "resource.k8s.io/v1"} {
		if groups[want] == 0 {
			t.Errorf("aggregated discovery has no %s: %v", want, groups)
		}
	}
	for _, path := range []string{"/openapi/v2", "/openapi/v3", "/openapi/v3/apis/apps/v1", "/version", "/livez?verbose", "/readyz?verbose", "/metrics", "/api", "/apis/apps", "/apis/apps/v1"} {
		if code, _, data := raw(t, cfg, "GET", path, "", "", nil); code != http.StatusOK || len(data) == 0 {
			t.Errorf("GET %s answered %d with %d bytes", path, code, len(data))
		}
	}
	_, _, data = raw(t, cfg, "GET", "/metrics", "", "", nil)
	for _, name := range []string{"apiserver_request_total", "apiserver_request_duration_seconds_bucket", "apiserver_current_inflight_requests", "apiserver_storage_objects",
		"apiserver_flowcontrol_current_executing_requests", "apiserver_watch_events_total", "etcd_request_duration_seconds_bucket", "workqueue_depth", "rest_client_requests_total"} {
		if !bytes.Contains(data, []byte("\n"+name)) {
			t.Errorf("/metrics has no %s", name)
		}
	}
}
