// SPDX-License-Identifier: Apache-2.0

package resourcequota_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/controllers/resourcequota"
)

var ctx = context.Background()

func quota(change func(*corev1.ResourceQuotaSpec), hard ...string) *corev1.ResourceQuota {
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{}}}
	for _, name := range hard {
		q.Spec.Hard[corev1.ResourceName(name)] = resource.MustParse("100")
	}
	if change != nil {
		change(&q.Spec)
	}
	return q
}

func pod(name, cpu string, change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
	if cpu != "" {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
	}
	if change != nil {
		change(p)
	}
	return p
}

func service(name string, kind corev1.ServiceType) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.ServiceSpec{Type: kind, Ports: []corev1.ServicePort{{Port: 80}}}}
	return s
}

func claim(name, class, size string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		StorageClassName: &class, Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
	}}
}

func used(w *controllertest.World) map[string]string {
	q := controllertest.Must(w.Client.CoreV1().ResourceQuotas("ns").Get(ctx, "q", metav1.GetOptions{}))
	out := map[string]string{}
	for name, v := range q.Status.Used {
		out[string(name)] = v.String()
	}
	return out
}

func TestWhatCounts(t *testing.T) {
	finished := func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }
	burst := func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](60) }
	for _, test := range []struct {
		name  string
		quota *corev1.ResourceQuota
		objs  []runtime.Object
		want  map[string]string
	}{
		{"pods and their requests", quota(nil, "pods", "requests.cpu", "cpu"), []runtime.Object{pod("a", "500m", nil), pod("b", "2", nil)},
			map[string]string{"pods": "2", "requests.cpu": "2500m", "cpu": "2500m"}},
		{"a finished pod uses nothing", quota(nil, "pods", "requests.cpu"), []runtime.Object{pod("a", "1", nil), pod("b", "2", finished)},
			map[string]string{"pods": "1", "requests.cpu": "1"}},
		{"a finished pod is still an object", quota(nil, "count/pods"), []runtime.Object{pod("a", "1", nil), pod("b", "2", finished)}, map[string]string{"count/pods": "2"}},
		{"a pod being deleted after its grace uses nothing", quota(nil, "pods"), []runtime.Object{pod("a", "", func(p *corev1.Pod) {
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = ptr.To(metav1.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC)), ptr.To[int64](30) // virtual time begins in 2000
		})}, map[string]string{"pods": "0"}},
		{"scope Terminating counts pods with a deadline", quota(func(s *corev1.ResourceQuotaSpec) {
			s.Scopes = []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeTerminating}
		}, "pods"),
			[]runtime.Object{pod("a", "1", nil), pod("b", "1", burst)}, map[string]string{"pods": "1"}},
		{"scope BestEffort counts pods without requests", quota(func(s *corev1.ResourceQuotaSpec) {
			s.Scopes = []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort}
		}, "pods"),
			[]runtime.Object{pod("a", "1", nil), pod("b", "", nil), pod("c", "", nil)}, map[string]string{"pods": "2"}},
		{"scope PriorityClass counts one class", quota(func(s *corev1.ResourceQuotaSpec) {
			s.ScopeSelector = &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{{
				ScopeName: corev1.ResourceQuotaScopePriorityClass, Operator: corev1.ScopeSelectorOpIn, Values: []string{"high"}}}}
		}, "pods"), []runtime.Object{pod("a", "1", nil), pod("b", "1", func(p *corev1.Pod) { p.Spec.PriorityClassName = "high" })}, map[string]string{"pods": "1"}},
		{"services by type", quota(nil, "services", "services.nodeports", "services.loadbalancers"),
			[]runtime.Object{service("a", corev1.ServiceTypeClusterIP), service("b", corev1.ServiceTypeNodePort), service("c", corev1.ServiceTypeLoadBalancer)},
			map[string]string{"services": "3", "services.nodeports": "2", "services.loadbalancers": "1"}},
		{"storage by class", quota(nil, "persistentvolumeclaims", "requests.storage", "fast.storageclass.storage.k8s.io/requests.storage"),
			[]runtime.Object{claim("a", "fast", "1Gi"), claim("b", "slow", "2Gi")},
			map[string]string{"persistentvolumeclaims": "2", "requests.storage": "3Gi", "fast.storageclass.storage.k8s.io/requests.storage": "1Gi"}},
		{"a type that is watched because a quota names it", quota(nil, "count/configmaps", "secrets"), []runtime.Object{
			&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}}, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "c"}},
			&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"}}}, map[string]string{"count/configmaps": "1", "secrets": "1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := controllertest.NewWorld(t, append(test.objs, test.quota), resourcequota.New)
				defer w.Close()
				w.After(time.Second) // informers of further types are listed
				got := used(w)
				if fmt.Sprint(got) != fmt.Sprint(test.want) {
					t.Errorf("used %v, want %v", got, test.want)
				}
			})
		})
	}
}

func TestWhatIsDeletedOrFinishedIsGivenBackSoonAndManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		objs := []runtime.Object{quota(nil, "pods", "count/configmaps")}
		for i := range 50 {
			objs = append(objs, pod(fmt.Sprint("p", i), "", nil))
		}
		objs = append(objs, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}})
		w := controllertest.NewWorld(t, objs, resourcequota.New)
		defer w.Close()
		w.After(time.Second)
		writes := w.Writes("update resourcequotas")
		for i := range 40 {
			w.Check(w.Client.CoreV1().Pods("ns").Delete(ctx, fmt.Sprint("p", i), metav1.DeleteOptions{}))
		}
		w.Check(w.Client.CoreV1().ConfigMaps("ns").Delete(ctx, "c", metav1.DeleteOptions{}))
		w.After(time.Second)
		if got := used(w); got["pods"] != "10" || got["count/configmaps"] != "0" {
			t.Errorf("used %v, want 10 pods and no ConfigMap", got)
		}
		if n := w.Writes("update resourcequotas") - writes; n > 2 {
			t.Errorf("%d status writes for one burst of deletions, want 2 at most", n)
		}
		p := controllertest.Must(w.Client.CoreV1().Pods("ns").Get(ctx, "p49", metav1.GetOptions{}))
		p.Status.Phase = corev1.PodFailed
		controllertest.Must(w.Client.CoreV1().Pods("ns").UpdateStatus(ctx, p, metav1.UpdateOptions{}))
		if w.After(time.Second); used(w)["pods"] != "9" {
			t.Errorf("used %v after a pod has failed, want 9 pods", used(w))
		}
	})
}

// TestAUsageThatWasLostIsFoundAgain: admission may have charged for an object whose creation failed.
func TestAUsageThatWasLostIsFoundAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controllertest.NewWorld(t, []runtime.Object{quota(nil, "pods"), pod("a", "", nil)}, resourcequota.New)
		defer w.Close()
		w.After(time.Second)
		q := controllertest.Must(w.Client.CoreV1().ResourceQuotas("ns").Get(ctx, "q", metav1.GetOptions{}))
		q.Status.Used["pods"] = resource.MustParse("7")
		controllertest.Must(w.Client.CoreV1().ResourceQuotas("ns").UpdateStatus(ctx, q, metav1.UpdateOptions{}))
		w.After(6 * time.Minute)
		if got := used(w); got["pods"] != "1" {
			t.Errorf("used %v six minutes later, want 1 pod", got)
		}
	})
}

func TestAChangedLimitIsTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controllertest.NewWorld(t, []runtime.Object{quota(nil, "pods")}, resourcequota.New)
		defer w.Close()
		q := controllertest.Must(w.Client.CoreV1().ResourceQuotas("ns").Get(ctx, "q", metav1.GetOptions{}))
		q.Spec.Hard = corev1.ResourceList{"services": resource.MustParse("3")}
		controllertest.Must(w.Client.CoreV1().ResourceQuotas("ns").Update(ctx, q, metav1.UpdateOptions{}))
		w.After(time.Second)
		q = controllertest.Must(w.Client.CoreV1().ResourceQuotas("ns").Get(ctx, "q", metav1.GetOptions{}))
		if v := q.Status.Hard["services"]; len(q.Status.Hard) != 1 || v.Value() != 3 || len(q.Status.Used) != 1 {
			t.Errorf("status %+v", q.Status)
		}
	})
}
