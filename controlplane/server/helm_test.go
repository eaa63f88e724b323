// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/hack/helm"
)

// doHooks plays the controllers for Helm's Jobs: each is done as soon as it is there. It returns the Jobs seen, in order.
func doHooks(t *testing.T, client kubernetes.Interface) func() []string {
	var mu sync.Mutex
	var seen []string
	factory := informers.NewSharedInformerFactory(client, 0)
	_, err := factory.Batch().V1().Jobs().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(obj any) {
		job := obj.(*batchv1.Job).DeepCopy()
		mu.Lock()
		seen = append(seen, job.Name)
		mu.Unlock()
		now := ptr.To(metav1.Now())
		job.Status = batchv1.JobStatus{StartTime: now, CompletionTime: now, Succeeded: 1, UncountedTerminatedPods: &batchv1.UncountedTerminatedPods{}, Conditions: []batchv1.JobCondition{
			{Type: batchv1.JobSuccessCriteriaMet, Status: corev1.ConditionTrue, LastTransitionTime: *now},
			{Type: batchv1.JobComplete, Status: corev1.ConditionTrue, LastTransitionTime: *now},
		}}
		if _, err := client.BatchV1().Jobs(job.Namespace).UpdateStatus(context.Background(), job, metav1.UpdateOptions{}); err != nil {
			t.Errorf("complete %s: %v", job.Name, err)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	factory.StartWithContext(t.Context())
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(seen)
	}
}

// TestHelm installs a chart with hooks by Helm itself, upgrades it, rolls it back and uninstalls it.
func TestHelm(t *testing.T) {
	if testing.Short() {
		t.Skip("building Helm takes longer than all short tests; make test runs this one")
	}
	path, err := helm.Build(t.Context(), "../../bin/tools")
	if err != nil {
		t.Fatal(err)
	}
	env, stop := start(t, shortDir(t))
	defer stop()
	client := kubernetes.NewForConfigOrDie(env.Client)
	hooks := doHooks(t, client)
	home := t.TempDir()
	run := func(want string, args ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, path, append(args, "--kubeconfig", env.AdminKubeconfig)...)
		cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) {
			t.Fatalf("helm %s: %v\n%s\nwant it to contain %q", strings.Join(args, " "), err, out, want)
		}
	}
	state := func(motto string, replicas int32) {
		t.Helper()
		config, err := client.CoreV1().ConfigMaps("ships").Get(t.Context(), "port-config", metav1.GetOptions{})
		deployment, err2 := client.AppsV1().Deployments("ships").Get(t.Context(), "port", metav1.GetOptions{})
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		if config.Data["motto"] != motto || *deployment.Spec.Replicas != replicas {
			t.Errorf("the release has motto %q and %d replicas, want %q and %d", config.Data["motto"], *deployment.Spec.Replicas, motto, replicas)
		}
	}
	run("STATUS: deployed", "install", "port", "testdata/chart", "--namespace", "ships", "--create-namespace", "--wait-for-jobs", "--timeout", "30s")
	state("one", 2)
	run("REVISION: 2", "upgrade", "port", "testdata/chart", "--namespace", "ships", "--set", "motto=two,replicas=5")
	state("two", 5)
	run("Rollback was a success", "rollback", "port", "1", "--namespace", "ships")
	state("one", 2)
	run("Rollback to 1", "history", "port", "--namespace", "ships")
	run("port", "list", "--namespace", "ships", "--deployed")
	run("motto", "get", "manifest", "port", "--namespace", "ships")
	run("uninstalled", "uninstall", "port", "--namespace", "ships")
	if _, err := client.AppsV1().Deployments("ships").Get(t.Context(), "port", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the Deployment after helm uninstall: %v, want NotFound", err)
	}
	var want []string
	for _, h := range []string{"pre-install", "post-install", "pre-upgrade", "post-upgrade", "pre-rollback", "post-rollback", "pre-delete"} {
		want = append(want, "port-"+h)
	}
	if got := hooks(); !slices.Equal(got, want) {
		t.Errorf("hooks ran in the order %v, want %v", got, want)
	}
}
