// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers"
	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

// startWithControllers runs a control plane with all controllers, each with its own rights, and returns an administrator's client of it. Nothing is scheduled.
func startWithControllers(t *testing.T) (Env, *rest.Config, kubernetes.Interface) {
	t.Helper()
	env, stop := startConfig(t, Config{DataDir: shortDir(t), Token: "abcdef.0123456789abcdef", Components: []Component{{Name: "controllers", Run: func(ctx context.Context, env Env) error {
		ca, err := os.ReadFile(env.Keys.CAFile())
		if err != nil {
			return err
		}
		return controllers.Run(ctx, controllers.Config{RESTConfig: env.ClientAs(user.KubeControllerManager),
			Settings: controller.Settings{ClusterCIDRs: env.Config.ClusterCIDRs, ServiceCIDRs: env.Config.ServiceCIDRs, ClusterName: "test", ClusterDomain: env.Config.ClusterDomain, RootCA: ca},
			Account: func(account string) (*rest.Config, error) {
				return env.ClientAs(serviceaccount.MakeUsername(metav1.NamespaceSystem, account)), nil
			}})
	}}}})
	t.Cleanup(stop)
	cfg, err := clientcmd.BuildConfigFromFlags("", env.AdminKubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS = -1
	return env, cfg, kubernetes.NewForConfigOrDie(cfg)
}

// TestPublishedBehavioursOfControllers does what the conformance list describes of garbage collection, quotas, namespaces and service accounts, with the real
// controllers. The pods have no node: what is said of them is about the API.
func TestPublishedBehavioursOfControllers(t *testing.T) {
	_, cfg, client := startWithControllers(t)
	for _, c := range []struct {
		name string
		test func(t *testing.T, cfg *rest.Config, client kubernetes.Interface, ns string)
	}{
		{"Garbage Collector, delete replication controller, propagation policy background, orphan and after owned pods", collectedPods},
		{"Garbage Collector, delete deployment, propagation policy background and orphan", collectedReplicaSets},
		{"Garbage Collector, multiple owners", twoOwners},
		{"Garbage Collector, dependency cycle", circle},
		{"ResourceQuota, object count quota", countedObjects},
		{"ResourceQuota, object count quota, pod", countedPods},
		{"ResourceQuota, quota scope", scopedPods},
		{"ResourceQuota, update, delete, manage lifecycle", changedQuota},
		{"namespace-deletion-removes-pods, -services", emptiedNamespace},
		{"RootCA ConfigMap test", rootCA},
		{"SubjectReview, API Operations", subjectReviews},
	} {
		t.Run(c.name, func(t *testing.T) {
			ns, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "published-"}}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			soon(t, "the namespace has its default service account", func() error {
				_, err := client.CoreV1().ServiceAccounts(ns.Name).Get(t.Context(), "default", metav1.GetOptions{})
				return err
			})
			c.test(t, cfg, client, ns.Name)
		})
	}
}

func onePodSpec() corev1.PodSpec {
	return corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "example.com/c"}}}
}

// replicator makes a ReplicationController and waits for its pods.
func replicator(t *testing.T, client kubernetes.Interface, ns, name string, replicas int32) *corev1.ReplicationController {
	t.Helper()
	labels := map[string]string{"of": name}
	rc, err := client.CoreV1().ReplicationControllers(ns).Create(t.Context(), &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ReplicationControllerSpec{Replicas: &replicas, Selector: labels, Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: onePodSpec()}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	soon(t, fmt.Sprintf("%s has %d pods", name, replicas), func() error {
		pods, err := client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "of=" + name})
		if err == nil && len(pods.Items) != int(replicas) {
			err = fmt.Errorf("it has %d", len(pods.Items))
		}
		return err
	})
	return rc
}

func deleteBy(policy metav1.DeletionPropagation) metav1.DeleteOptions {
	return metav1.DeleteOptions{PropagationPolicy: &policy}
}

// podsOf returns the pods with that label value.
func podsOf(t *testing.T, client kubernetes.Interface, ns, name string) []corev1.Pod {
	t.Helper()
	pods, err := client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "of=" + name})
	if err != nil {
		t.Fatal(err)
	}
	return pods.Items
}

func collectedPods(t *testing.T, _ *rest.Config, client kubernetes.Interface, ns string) {
	rcs := client.CoreV1().ReplicationControllers(ns)
	goneRC := func(name string) func() error {
		return func() error {
			if _, err := rcs.Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("%s: %v, want NotFound", name, err)
			}
			return nil
		}
	}
	replicator(t, client, ns, "background", 2)
	if err := rcs.Delete(t.Context(), "background", deleteBy(metav1.DeletePropagationBackground)); err != nil {
		t.Fatal(err)
	}
	soon(t, "its pods go after it", func() error {
		if n := len(podsOf(t, client, ns, "background")); n > 0 {
			return fmt.Errorf("%d are left", n)
		}
		return goneRC("background")()
	})

	replicator(t, client, ns, "orphan", 3)
	if err := rcs.Delete(t.Context(), "orphan", deleteBy(metav1.DeletePropagationOrphan)); err != nil {
		t.Fatal(err)
	}
	soon(t, "the owner goes", goneRC("orphan"))
	for _, p := range podsOf(t, client, ns, "orphan") {
		if len(p.OwnerReferences) > 0 || p.DeletionTimestamp != nil {
			t.Errorf("orphaned %s is owned by %v and deleted at %v", p.Name, p.OwnerReferences, p.DeletionTimestamp)
		}
	}
	if n := len(podsOf(t, client, ns, "orphan")); n != 3 {
		t.Errorf("%d of 3 orphaned pods are left", n)
	}

	replicator(t, client, ns, "foreground", 10)
	held := podsOf(t, client, ns, "foreground")[0].Name
	if _, err := client.CoreV1().Pods(ns).Patch(t.Context(), held, types.MergePatchType, []byte(`{"metadata":{"finalizers":["example.com/held"]}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := rcs.Delete(t.Context(), "foreground", deleteBy(metav1.DeletePropagationForeground)); err != nil {
		t.Fatal(err)
	}
	soon(t, "all but one pod go", func() error {
		if n := len(podsOf(t, client, ns, "foreground")); n != 1 {
			return fmt.Errorf("%d are left", n)
		}
		return nil
	})
	if rc, err := rcs.Get(t.Context(), "foreground", metav1.GetOptions{}); err != nil || rc.DeletionTimestamp == nil || !slices.Contains(rc.Finalizers, metav1.FinalizerDeleteDependents) {
		t.Errorf("with a pod left the owner is %v (%v), want it to wait", rc, err)
	}
	if _, err := client.CoreV1().Pods(ns).Patch(t.Context(), held, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	soon(t, "the owner goes after its last pod", goneRC("foreground"))
}

func collectedReplicaSets(t *testing.T, _ *rest.Config, client kubernetes.Interface, ns string) {
	for _, policy := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationOrphan} {
		name, labels := "deployment-"+strings.ToLower(string(policy)), map[string]string{"of": string(policy)}
		_, err := client.AppsV1().Deployments(ns).Create(t.Context(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: appsv1.DeploymentSpec{Replicas: ptr.To[int32](2), Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: onePodSpec()}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		sets := func() []appsv1.ReplicaSet {
			list, err := client.AppsV1().ReplicaSets(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "of=" + string(policy)})
			if err != nil {
				t.Fatal(err)
			}
			return list.Items
		}
		soon(t, name+" has its pods", func() error {
			if n := len(podsOf(t, client, ns, string(policy))); n != 2 || len(sets()) != 1 {
				return fmt.Errorf("%d pods, %d ReplicaSets", n, len(sets()))
			}
			return nil
		})
		if err := client.AppsV1().Deployments(ns).Delete(t.Context(), name, deleteBy(policy)); err != nil {
			t.Fatal(err)
		}
		soon(t, name+" is gone", func() error {
			if _, err := client.AppsV1().Deployments(ns).Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("%v, want NotFound", err)
			}
			if n := len(podsOf(t, client, ns, string(policy))); policy == metav1.DeletePropagationBackground && n+len(sets()) > 0 {
				return fmt.Errorf("%d pods and %d ReplicaSets are left", n, len(sets()))
			}
			return nil
		})
		if policy == metav1.DeletePropagationOrphan {
			if s := sets(); len(s) != 1 || len(s[0].OwnerReferences) > 0 || len(podsOf(t, client, ns, string(policy))) != 2 {
				t.Errorf("orphaned: %v and %d pods", s, len(podsOf(t, client, ns, string(policy))))
			}
		}
	}
}

func owned(by ...*corev1.ReplicationController) string {
	text := ""
	for _, rc := range by {
		text += fmt.Sprintf(`,{"apiVersion":"v1","kind":"ReplicationController","name":%q,"uid":%q}`, rc.Name, rc.UID)
	}
	return `{"metadata":{"ownerReferences":[` + text[1:] + `]}}`
}

func twoOwners(t *testing.T, _ *rest.Config, client kubernetes.Interface, ns string) {
	deleted, stays := replicator(t, client, ns, "deleted", 10), replicator(t, client, ns, "stays", 0)
	shared := map[string]bool{}
	for _, p := range podsOf(t, client, ns, "deleted")[:5] {
		shared[p.Name] = true
		if _, err := client.CoreV1().Pods(ns).Patch(t.Context(), p.Name, types.StrategicMergePatchType, []byte(owned(deleted, stays)), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.CoreV1().ReplicationControllers(ns).Delete(t.Context(), "deleted", deleteBy(metav1.DeletePropagationForeground)); err != nil {
		t.Fatal(err)
	}
	soon(t, "the owner goes", func() error {
		if _, err := client.CoreV1().ReplicationControllers(ns).Get(t.Context(), "deleted", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("%v, want NotFound", err)
		}
		return nil
	})
	left := podsOf(t, client, ns, "deleted")
	for _, p := range left {
		if !shared[p.Name] || p.DeletionTimestamp != nil || len(p.OwnerReferences) != 1 || p.OwnerReferences[0].Name != "stays" {
			t.Errorf("left is %s, deleted at %v, owned by %v", p.Name, p.DeletionTimestamp, p.OwnerReferences)
		}
	}
	if len(left) != len(shared) {
		t.Errorf("%d pods with two owners are left, want %d", len(left), len(shared))
	}
}

func circle(t *testing.T, _ *rest.Config, client kubernetes.Interface, ns string) {
	pods := client.CoreV1().Pods(ns)
	names, uids := []string{"one", "two", "three"}, map[string]types.UID{}
	for _, name := range names {
		p, err := pods.Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"of": "circle"}}, Spec: onePodSpec()}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		uids[name] = p.UID
	}
	for i, name := range names {
		owner := names[(i+2)%3]
		patch := fmt.Sprintf(`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":%q,"uid":%q,"controller":true,"blockOwnerDeletion":true}]}}`, owner, uids[owner])
		if _, err := pods.Patch(t.Context(), name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := pods.Delete(t.Context(), "one", deleteBy(metav1.DeletePropagationForeground)); err != nil {
		t.Fatal(err)
	}
	soon(t, "the circle is gone", func() error {
		if n := len(podsOf(t, client, ns, "circle")); n > 0 {
			return fmt.Errorf("%d are left", n)
		}
		return nil
	})
}

// quota makes a ResourceQuota and returns a function that waits until what is used of name is want, and hard is as asked for.
func quota(t *testing.T, client kubernetes.Interface, ns, name string, hard map[corev1.ResourceName]string, scopes ...corev1.ResourceQuotaScope) (used func(want map[corev1.ResourceName]string)) {
	t.Helper()
	list := corev1.ResourceList{}
	for k, v := range hard {
		list[k] = resource.MustParse(v)
	}
	_, err := client.CoreV1().ResourceQuotas(ns).Create(t.Context(), &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"quota": name}},
		Spec: corev1.ResourceQuotaSpec{Hard: list, Scopes: scopes}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return func(want map[corev1.ResourceName]string) {
		t.Helper()
		soon(t, fmt.Sprintf("of %s is used %v", name, want), func() error {
			q, err := client.CoreV1().ResourceQuotas(ns).Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			for k := range hard {
				value, there := q.Status.Hard[k]
				if used := q.Status.Used[k]; !there || value.Cmp(q.Spec.Hard[k]) != 0 || want[k] != "" && used.Cmp(resource.MustParse(want[k])) != 0 {
					return fmt.Errorf("%s: hard %v, used %v", k, q.Status.Hard, q.Status.Used)
				}
			}
			return nil
		})
	}
}

type amounts = map[corev1.ResourceName]string

func countedObjects(t *testing.T, _ *rest.Config, client kubernetes.Interface, ns string) {
	used := quota(t, client, ns, "counts", amounts{"configmaps": "5", "secrets": "5", "services": "5", "services.nodeports": "1", "services.loadbalancers": "1",
		"replicationcontrollers": "5", "count/replicasets.apps": "5", "resourcequotas": "1", "persistentvolumeclaims": "5"})
	none := amounts{"configmaps": "1", "secrets": "0", "services": "0", "services.nodeports": "0", "replicationcontrollers": "0", "count/replicasets.apps": "0", "resourcequotas": "1",
		"persistentvolumeclaims": "0"} // kube-root-ca.crt is there from the beginning
	used(none)
	with := func(k corev1.ResourceName, n string) amounts {
		out := amounts{k: n}
		for name, v := range none {
			if name != k {
				out[name] = v
			}
		}
		return out
	}
	labels := map[string]string{"of": "nobody"}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: onePodSpec()}
	meta := metav1.ObjectMeta{Name: "counted"}
	port := []corev1.ServicePort{{Port: 80}}
	type kind struct {
		counts amounts
		create func() error
		remove func(ctx context.Context, name string, o metav1.DeleteOptions) error
	}
	core := client.CoreV1()
	for name, k := range map[string]kind{
		"ConfigMap": {with("configmaps", "2"), func() error {
			_, err := core.ConfigMaps(ns).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: meta}, metav1.CreateOptions{})
			return err
		}, core.ConfigMaps(ns).Delete},
		"Secret": {with("secrets", "1"), func() error {
			_, err := core.Secrets(ns).Create(t.Context(), &corev1.Secret{ObjectMeta: meta}, metav1.CreateOptions{})
			return err
		}, core.Secrets(ns).Delete},
		"Service": {with("services", "1"), func() error {
			_, err := core.Services(ns).Create(t.Context(), &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Ports: port}}, metav1.CreateOptions{})
			return err
		}, core.Services(ns).Delete},
		"ReplicationController": {with("replicationcontrollers", "1"), func() error {
			_, err := core.ReplicationControllers(ns).Create(t.Context(), &corev1.ReplicationController{ObjectMeta: meta,
				Spec: corev1.ReplicationControllerSpec{Replicas: ptr.To[int32](0), Selector: labels, Template: &template}}, metav1.CreateOptions{})
			return err
		}, core.ReplicationControllers(ns).Delete},
		"ReplicaSet": {with("count/replicasets.apps", "1"), func() error {
			_, err := client.AppsV1().ReplicaSets(ns).Create(t.Context(), &appsv1.ReplicaSet{ObjectMeta: meta,
				Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](0), Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template}}, metav1.CreateOptions{})
			return err
		}, client.AppsV1().ReplicaSets(ns).Delete},
	} {
		if err := k.create(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		used(k.counts)
		if err := k.remove(t.Context(), meta.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		used(none)
	}
	for range 2 { // one node port may be taken, and a second quota is one too many
		_, err := core.Services(ns).Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{GenerateName: "port-"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: port}}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsForbidden(err) {
			t.Fatal(err)
		}
	}
	used(amounts{"services": "1", "services.nodeports": "1"})
	if _, err := core.ResourceQuotas(ns).Create(t.Context(), &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "second"}}, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a second quota: %v, want Forbidden", err)
	}
}

// demanding is a pod that asks for these.
func demanding(name string, requests amounts) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: onePodSpec()}
	list, limits := corev1.ResourceList{}, corev1.ResourceList{}
	for k, v := range requests {
		list[k], limits[k] = resource.MustParse(v), resource.MustParse(v)
	}
	p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: list, Limits: limits}
	return p
}

func countedPods(t *testing.T, _ *rest.Config, client kubernetes.Interface, ns string) {
	pods := client.CoreV1().Pods(ns)
	used := quota(t, client, ns, "pods", amounts{"pods": "5", "cpu": "1", "memory": "500Mi", "requests.ephemeral-storage": "50Gi", "requests.example.com/dongle": "3"})
	none := amounts{"pods": "0", "cpu": "0", "memory": "0", "requests.ephemeral-storage": "0", "requests.example.com/dongle": "0"}
	used(none)
	if _, err := pods.Create(t.Context(), demanding("fits", amounts{"cpu": "500m", "memory": "252Mi", "ephemeral-storage": "30Gi", "example.com/dongle": "2"}), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	full := amounts{"pods": "1", "cpu": "500m", "memory": "252Mi", "requests.ephemeral-storage": "30Gi", "requests.example.com/dongle": "2"}
	used(full)
	for what, requests := range map[string]amounts{
		"cpu": {"cpu": "600m", "memory": "100Mi", "ephemeral-storage": "1Gi"}, "dongle": {"cpu": "10m", "memory": "1Mi", "ephemeral-storage": "1Gi", "example.com/dongle": "2"}} {
		if _, err := pods.Create(t.Context(), demanding("exceeds", requests), metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("a pod beyond %s: %v, want Forbidden", what, err)
		}
	}
	if _, err := pods.Patch(t.Context(), "fits", types.StrategicMergePatchType, []byte(`{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"100m"}}}]}}`), metav1.PatchOptions{}); err == nil {
		t.Error("a pod's requests were changed outside /resize")
	}
	used(full)
	if err := pods.Delete(t.Context(), "fits", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	used(none)
}

func scopedPods(t *testing.T, _ *rest.Config, client kubernetes.Interface, ns string) {
	pods, five := client.CoreV1().Pods(ns), amounts{"pods": "5"}
	used := map[corev1.ResourceQuotaScope]func(amounts){}
	for name, scope := range map[string]corev1.ResourceQuotaScope{"best": corev1.ResourceQuotaScopeBestEffort, "not-best": corev1.ResourceQuotaScopeNotBestEffort,
		"ends": corev1.ResourceQuotaScopeTerminating, "stays": corev1.ResourceQuotaScopeNotTerminating} {
		used[scope] = quota(t, client, ns, name, five, scope)
	}
	ends := demanding("ends", amounts{"cpu": "100m", "memory": "10Mi"})
	ends.Spec.ActiveDeadlineSeconds = ptr.To[int64](3600)
	for _, c := range []struct {
		pod *corev1.Pod
		in  []corev1.ResourceQuotaScope
	}{
		{demanding("best", nil), []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotTerminating}},
		{demanding("asks", amounts{"cpu": "100m", "memory": "10Mi"}), []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopeNotTerminating}},
		{ends, []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopeTerminating}},
	} {
		for scope := range used {
			used[scope](amounts{"pods": "0"})
		}
		if _, err := pods.Create(t.Context(), c.pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		for scope := range used {
			want := "0"
			if slices.Contains(c.in, scope) {
				want = "1"
			}
			used[scope](amounts{"pods": want})
		}
		if err := pods.Delete(t.Context(), c.pod.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

func changedQuota(t *testing.T, _ *rest.Config, client kubernetes.Interface, ns string) {
	quotas := client.CoreV1().ResourceQuotas(ns)
	used := quota(t, client, ns, "changed", amounts{"cpu": "1", "memory": "500Mi"})
	used(nil)
	selector := metav1.ListOptions{LabelSelector: "quota=changed"}
	if list, err := client.CoreV1().ResourceQuotas("").List(t.Context(), selector); err != nil || len(list.Items) != 1 {
		t.Errorf("in all namespaces: %v, %v, want one", list, err)
	}
	if _, err := quotas.Patch(t.Context(), "changed", types.StrategicMergePatchType, []byte(`{"spec":{"hard":{"cpu":"2","memory":"1Gi"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	used(nil) // hard follows in the status
	q, err := quotas.Get(t.Context(), "changed", metav1.GetOptions{})
	if err != nil || q.Status.Hard.Cpu().String() != "2" || q.Status.Hard.Memory().String() != "1Gi" {
		t.Errorf("after the change: %v, %v", q, err)
	}
	if err := quotas.DeleteCollection(t.Context(), metav1.DeleteOptions{}, selector); err != nil {
		t.Fatal(err)
	}
	if _, err := quotas.Get(t.Context(), "changed", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after its deletion: %v, want NotFound", err)
	}
}

func emptiedNamespace(t *testing.T, _ *rest.Config, client kubernetes.Interface, ns string) {
	if _, err := client.CoreV1().Pods(ns).Create(t.Context(), demanding("inside", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "inside"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	if _, err := client.CoreV1().Services(ns).Create(t.Context(), service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := client.CoreV1().Namespaces().Delete(t.Context(), ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	soon(t, "the namespace is gone", func() error {
		if _, err := client.CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("%v, want NotFound", err)
		}
		return nil
	})
	if _, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pods, err := client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(pods.Items) > 0 {
		t.Errorf("made again, it has pods %v (%v)", pods, err)
	}
	services, err := client.CoreV1().Services(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(services.Items) > 0 {
		t.Errorf("made again, it has services %v (%v)", services, err)
	}
}

func rootCA(t *testing.T, cfg *rest.Config, client kubernetes.Interface, ns string) {
	maps := client.CoreV1().ConfigMaps(ns)
	whole := func() error {
		m, err := maps.Get(t.Context(), "kube-root-ca.crt", metav1.GetOptions{})
		if err == nil && (len(m.Data) != 1 || m.Data["ca.crt"] != string(cfg.CAData)) {
			err = fmt.Errorf("data %v", m.Data)
		}
		return err
	}
	soon(t, "it is there", whole)
	if err := maps.Delete(t.Context(), "kube-root-ca.crt", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	soon(t, "it is there again", whole)
	if _, err := maps.Patch(t.Context(), "kube-root-ca.crt", types.MergePatchType, []byte(`{"data":{"ca.crt":"none"}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	soon(t, "it is itself again", whole)
}

// subjectReviews asks whether a service account may list, and lets it try, before and after it is given the right.
func subjectReviews(t *testing.T, cfg *rest.Config, client kubernetes.Interface, ns string) {
	account, err := client.CoreV1().ServiceAccounts(ns).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "reviewed"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	account.Labels = map[string]string{"updated": "yes"}
	if account, err = client.CoreV1().ServiceAccounts(ns).Update(t.Context(), account, metav1.UpdateOptions{}); err != nil || account.Labels["updated"] != "yes" {
		t.Fatalf("updated: %v, %v", account, err)
	}
	name := serviceaccount.MakeUsername(ns, "reviewed")
	as := rest.CopyConfig(cfg)
	as.Impersonate = rest.ImpersonationConfig{UserName: name}
	impersonated := kubernetes.NewForConfigOrDie(as)
	spec := authorizationv1.SubjectAccessReviewSpec{User: name, UID: string(account.UID), ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: ns, Verb: "list", Resource: "configmaps", Version: "v1"}}
	asked := func(want bool) error {
		review, err := client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{Spec: spec}, metav1.CreateOptions{})
		if err != nil || review.Status.Allowed != want {
			return fmt.Errorf("SubjectAccessReview: %v, %w, want allowed: %t", review.Status, err, want)
		}
		local, err := client.AuthorizationV1().LocalSubjectAccessReviews(ns).Create(t.Context(), &authorizationv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: ns}, Spec: spec}, metav1.CreateOptions{})
		if err != nil || local.Status.Allowed != want {
			return fmt.Errorf("LocalSubjectAccessReview: %v, %w, want allowed: %t", local.Status, err, want)
		}
		if _, err := impersonated.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{}); want && err != nil || !want && !apierrors.IsForbidden(err) {
			return fmt.Errorf("impersonated it lists: %v, want allowed: %t", err, want)
		}
		return nil
	}
	if err := asked(false); err != nil {
		t.Error(err)
	}
	_, err = client.RbacV1().RoleBindings(ns).Create(t.Context(), &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "reviewed"},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"}, Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: ns, Name: "reviewed"}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	soon(t, "it may", func() error { return asked(true) })
}
