// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/remotecommand"
)

// behaviour is what one or more entries of Kubernetes' conformance list describe; docs/conformance-cluster.md names them.
type behaviour struct {
	name string
	run  func(b trial)
}

// trial is one behaviour being tried in a namespace of its own. It talks to the API in process: a start of kubectl costs more than most of these.
type trial struct {
	pods
	*cluster
}

type cluster struct {
	config  *rest.Config
	dynamic dynamic.Interface
	mapper  meta.RESTMapper
}

// theCluster is the cluster under test, by other clients than env's.
var theCluster = sync.OnceValues(func() (*cluster, error) {
	config, err := clientcmd.BuildConfigFromFlags("", env.sandbox.Kubeconfig())
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	c := &cluster{config: config}
	if c.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return nil, err
	}
	resources, err := restmapper.GetAPIGroupResources(env.client.Discovery())
	if err != nil {
		return nil, err
	}
	c.mapper = restmapper.NewDiscoveryRESTMapper(resources)
	return c, nil
})

// atOnce is how many behaviours are tried beside each other: most of them wait most of the time.
const atOnce = 12

// runBehaviours tries all of them, and leaves nothing behind that the tests after it would meet.
func runBehaviours(t *testing.T, prefix string, all []behaviour) {
	if os.Getenv("FAIRLEAD_E2E_BEHAVIOURS") == "" {
		t.Skip("a run by itself: make test-behaviours")
	}
	c, err := theCluster()
	if err != nil {
		t.Fatal(err)
	}
	names := func(i int) string { return fmt.Sprintf("e2e-%s-%d", prefix, i) }
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i, one := range all {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			t.Run(one.name, func(t *testing.T) {
				b := trial{pods{t, names(i)}, c}
				namespaces := env.client.CoreV1().Namespaces()
				if _, err := namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: b.ns}}, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := namespaces.Delete(context.Background(), b.ns, metav1.DeleteOptions{}); err != nil {
						t.Error(err)
					}
				})
				one.run(b)
			})
		})
	}
	wg.Wait()
	for i := range all {
		eventually(t, 2*podPatience, func() error {
			if _, err := env.client.CoreV1().Namespaces().Get(t.Context(), names(i), metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("the namespace %s is still there: %v", names(i), err)
			}
			return nil
		})
	}
}

// resource is the API of a kind in the trial's namespace, or in none.
func (b trial) resource(apiVersion, kind string) dynamic.ResourceInterface {
	b.Helper()
	gvk := schema.FromAPIVersionAndKind(apiVersion, kind)
	mapping, err := b.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		b.Fatal(err)
	}
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		return b.dynamic.Resource(mapping.Resource).Namespace(b.ns)
	}
	return b.dynamic.Resource(mapping.Resource)
}

// try creates the objects of a manifest, in which IMAGE stands for the image with a shell and NS for the namespace.
func (b trial) try(manifest string) error {
	b.Helper()
	manifest = strings.NewReplacer("IMAGE", shellImage, "NS", b.ns).Replace(manifest)
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(manifest), 4096)
	for {
		var u unstructured.Unstructured
		switch err := decoder.Decode(&u.Object); {
		case err == io.EOF:
			return nil
		case err != nil:
			b.Fatalf("%v in %s", err, manifest)
		case len(u.Object) == 0:
			continue
		}
		if _, err := b.resource(u.GetAPIVersion(), u.GetKind()).Create(b.Context(), &u, metav1.CreateOptions{FieldValidation: "Strict"}); err != nil {
			return err
		}
	}
}

// create is try for what must succeed.
func (b trial) create(manifest string) {
	b.Helper()
	if err := b.try(manifest); err != nil {
		b.Fatal(err)
	}
}

// exec runs a shell command in a pod's container, the first one when container is empty.
func (b trial) exec(pod, container, script string) (string, error) {
	request := env.client.CoreV1().RESTClient().Post().Namespace(b.ns).Resource("pods").Name(pod).SubResource("exec").VersionedParams(
		&corev1.PodExecOptions{Container: container, Command: []string{"sh", "-c", script}, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(b.config, "GET", request.URL().String())
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(b.Context(), podPatience)
	defer cancel()
	var out, errOut bytes.Buffer
	if err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out, Stderr: &errOut}); err != nil {
		return out.String(), fmt.Errorf("%s in %s: %w: %s", script, pod, err, errOut.String())
	}
	return out.String(), nil
}

// sh is exec in the first container for what must succeed.
func (b trial) sh(pod, script string) string {
	b.Helper()
	out, err := b.exec(pod, "", script)
	if err != nil {
		b.Fatal(err)
	}
	return out
}

// log is what a container wrote.
func (b trial) log(pod, container string) string {
	b.Helper()
	text, err := env.client.CoreV1().Pods(b.ns).GetLogs(pod, &corev1.PodLogOptions{Container: container}).DoRaw(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	return string(text)
}

// must fails the trial on an error.
func (b trial) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// eventually waits until f returns nil.
func (b trial) eventually(f func() error) {
	b.Helper()
	eventually(b.T, podPatience, f)
}
