// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"sigs.k8s.io/yaml"

	"github.com/fairlead/fairlead/hack/await"
)

// childKubectl makes the test binary kubectl, for commands that run until they are stopped.
const childKubectl = "FAIRLEAD_TEST_KUBECTL"

// TestPublishedKubectl does what the conformance list says of kubectl and needs no running pod, beyond what TestKubectlOnEveryKind does on every kind.
func TestPublishedKubectl(t *testing.T) {
	cmdutil.BehaviorOnFatal(func(message string, code int) { panic(failed{message, code}) })
	defer cmdutil.DefaultBehaviorOnFatal()
	env, cfg, client := startWithControllers(t)
	transport, err := rest.TransportFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	await.Nil(t, 30*time.Second, func() error {
		_, err := client.CoreV1().ServiceAccounts("default").Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	k := kubectl{kubeconfig: env.AdminKubeconfig, cache: t.TempDir(), transport: transport}
	for _, c := range []struct {
		name string
		test func(*testing.T, kubectl, kubernetes.Interface)
	}{
		{"Kubectl, check version v1, cluster info, version", kubectlAboutTheServer},
		{"Kubectl, run pod, server-side dry-run Pod, replace, label update", kubectlOnAPod},
		{"Kubectl, replication controller, scale, describe, patch to annotate, create service", kubectlOnAReplicator},
		{"Kubectl, diff Deployment", kubectlDiff},
		{"Kubectl, proxy socket, proxy port zero", kubectlProxy},
		{"Custom Resource OpenAPI Publish, with validation schema", kubectlWithSchema},
		{"Custom Resource OpenAPI Publish, with x-kubernetes-preserve-unknown-fields at root, in object, in embedded object", kubectlUnknownFields},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := k
			k.t = t
			c.test(t, k, client)
		})
	}
}

// file returns the path of a file with that text. (kubectl's "-f -" reads the process's own input.)
func (k kubectl) file(text string) string {
	k.t.Helper()
	path := filepath.Join(shortDir(k.t), "manifest") // the name of a test may have a comma, which would be two files
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		k.t.Fatal(err)
	}
	return path
}

func kubectlAboutTheServer(t *testing.T, k kubectl, _ kubernetes.Interface) {
	if versions := "\n" + k.must("", "", "api-versions"); !strings.Contains(versions, "\nv1\n") {
		t.Errorf("kubectl api-versions printed %q, want a line v1", versions)
	}
	if info := k.must("", "is running at", "cluster-info"); !strings.Contains(info, "Kubernetes control plane") {
		t.Errorf("kubectl cluster-info printed %q", info)
	}
	var version struct{ Major, Minor, GitVersion, GoVersion, Platform string } // what kubectl version adds of its own is stamped by make
	if err := json.Unmarshal([]byte(k.must("", "", "get", "--raw", "/version")), &version); err != nil {
		t.Fatal(err)
	}
	if v := version; v.Major != "1" || v.Minor == "" || v.GitVersion == "" || v.GoVersion == "" || v.Platform == "" {
		t.Errorf("the server's version is %+v", v)
	}
}

func kubectlOnAPod(t *testing.T, k kubectl, client kubernetes.Interface) {
	image := func() string {
		t.Helper()
		pod, err := client.CoreV1().Pods("default").Get(t.Context(), "ran", metav1.GetOptions{})
		if err != nil || len(pod.Spec.Containers) != 1 {
			t.Fatalf("the pod: %v, %v, want one container", pod, err)
		}
		return pod.Spec.Containers[0].Image
	}
	k.must("", "pod/ran created", "run", "ran", "--image=example.com/a:1", "--restart=Never", "--labels=run=ran")
	if image() != "example.com/a:1" {
		t.Errorf("kubectl run made a pod of %s", image())
	}
	k.must("", "patched", "patch", "pod", "ran", "-p", `{"spec":{"containers":[{"name":"ran","image":"example.com/b:1"}]}}`, "--dry-run=server")
	if image() != "example.com/a:1" {
		t.Errorf("a dry run changed the image to %s", image())
	}
	text := k.must("", "", "get", "pod", "ran", "-o", "json")
	k.must("", "pod/ran replaced", "replace", "-f", k.file(strings.ReplaceAll(text, "example.com/a:1", "example.com/c:1")))
	if image() != "example.com/c:1" {
		t.Errorf("after kubectl replace the image is %s", image())
	}
	k.must("", "labeled", "label", "pod", "ran", "testing-label=testing-label-value")
	k.must("", "testing-label-value", "get", "pod", "ran", "-L", "testing-label")
	k.must("", "unlabeled", "label", "pod", "ran", "testing-label-")
	if out := k.must("", "", "get", "pod", "ran", "-L", "testing-label"); strings.Contains(out, "testing-label-value") {
		t.Errorf("after its removal the label is shown: %s", out)
	}
	k.must("", "pod/ran replaced", "replace", "--force", "--grace-period=0", "-f", k.file(fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"ran"},"spec":{"hostname":"other","containers":[{"name":"ran","image":%q}]}}`, "example.com/d:1"))) // the hostname cannot be changed: the pod is made again
	if image() != "example.com/d:1" {
		t.Errorf("after kubectl replace --force the image is %s", image())
	}
}

func kubectlOnAReplicator(t *testing.T, k kubectl, client kubernetes.Interface) {
	const manifest = `{"apiVersion":"v1","kind":"ReplicationController","metadata":{"name":"primary","labels":{"app":"agnhost"}},"spec":{"replicas":2,"selector":{"of":"primary"},
		"template":{"metadata":{"labels":{"of":"primary"}},"spec":{"containers":[{"name":"c","image":"example.com/c","ports":[{"name":"server","containerPort":6379}]}]}}}}`
	k.must("", "created", "create", "-f", k.file(manifest))
	count := func(want int) {
		t.Helper()
		soon(t, fmt.Sprintf("there are %d pods", want), func() error {
			if n := len(podsOf(t, client, "default", "primary")); n != want {
				return fmt.Errorf("%d", n)
			}
			return nil
		})
	}
	count(2)
	for _, n := range []int{1, 2} {
		k.must("", "scaled", "scale", "rc", "primary", fmt.Sprintf("--replicas=%d", n))
		count(n)
	}
	for _, p := range podsOf(t, client, "default", "primary") {
		k.must("", "patched", "patch", "pod", p.Name, "-p", `{"metadata":{"annotations":{"x":"y"}}}`)
	}
	for _, p := range podsOf(t, client, "default", "primary") {
		if p.Annotations["x"] != "y" {
			t.Errorf("%s has annotations %v", p.Name, p.Annotations)
		}
		describe(k, []string{"Name:", "Namespace:", "Labels:", "of=primary", "Status:", "ReplicationController/primary", "Image:"}, "pod", p.Name)
	}
	k.must("", "exposed", "expose", "rc", "primary", "--name=rm2", "--port=1234", "--target-port=6379")
	k.must("", "exposed", "expose", "service", "rm2", "--name=rm3", "--port=2345", "--target-port=6379")
	for name, port := range map[string]int32{"rm2": 1234, "rm3": 2345} {
		s, err := client.CoreV1().Services("default").Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || len(s.Spec.Ports) != 1 || s.Spec.Ports[0].Port != port || s.Spec.Ports[0].TargetPort.IntValue() != 6379 || s.Spec.Selector["of"] != "primary" {
			t.Errorf("service %s: %v, %v", name, s, err)
		}
	}
	describe(k, []string{"Name:", "Namespace:", "Selector:", "of=primary", "Labels:", "Replicas:", "current / ", "Pods Status:", "Pod Template:", "Image:", "Events:"}, "rc", "primary")
	describe(k, []string{"Name:", "Selector:", "Type:", "ClusterIP", "IP:", "Port:", "Endpoints:", "Session Affinity:"}, "service", "rm2")
	if _, err := client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "described"}, Status: corev1.NodeStatus{
		Capacity:   corev1.ResourceList{corev1.ResourcePods: resource.MustParse("110")},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady"}}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	describe(k, []string{"Name:", "Labels:", "Annotations:", "CreationTimestamp:", "Conditions:", "Capacity:", "Pods:"}, "node", "described")
	describe(k, []string{"Name:", "Labels:", "Annotations:", "Status:       Active", "No resource quota", "No LimitRange resource"}, "namespace", "default")
}

// describe looks for all of want in what kubectl describe prints.
func describe(k kubectl, want []string, object ...string) {
	k.t.Helper()
	out := k.must("", "", append([]string{"describe"}, object...)...)
	for _, text := range want {
		if !strings.Contains(out, text) {
			k.t.Errorf("kubectl describe %v printed no %q:\n%s", object, text, out)
		}
	}
}

func kubectlDiff(t *testing.T, k kubectl, _ kubernetes.Interface) {
	manifest := func(image string) string {
		return fmt.Sprintf(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"differs"},"spec":{"replicas":0,"selector":{"matchLabels":{"app":"differs"}},
			"template":{"metadata":{"labels":{"app":"differs"}},"spec":{"containers":[{"name":"c","image":%q}]}}}}`, image)
	}
	k.must("", "created", "create", "-f", k.file(manifest("example.com/httpd:1")))
	out, err := k.run("", "diff", "-f", k.file(manifest("example.com/busybox:1")))
	if err == nil || !strings.Contains(out, "-      - image: example.com/httpd:1") || !strings.Contains(out, "+      - image: example.com/busybox:1") {
		t.Errorf("kubectl diff: %v, %s", err, out)
	}
}

// kubectlProxy runs kubectl proxy on a port of the kernel's choice and on a unix socket.
func kubectlProxy(t *testing.T, k kubectl, _ kubernetes.Interface) {
	socket := filepath.Join(shortDir(t), "proxy.sock")
	for flag, client := range map[string]*http.Client{
		"--port=0": http.DefaultClient,
		"--unix-socket=" + socket: {Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}}},
	} {
		cmd := exec.Command(os.Args[0], "proxy", flag, "--kubeconfig="+k.kubeconfig)
		cmd.Env = append(os.Environ(), childKubectl+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		stop := func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
		timer := time.AfterFunc(time.Minute, stop)
		line, err := bufio.NewReader(stdout).ReadString('\n') // "Starting to serve on 127.0.0.1:40001"
		if err != nil {
			t.Fatalf("kubectl proxy %s said %q: %v", flag, line, err)
		}
		address := strings.TrimSpace(line[strings.LastIndex(line, " ")+1:])
		if strings.HasPrefix(address, "/") {
			address = "localhost"
		}
		response, err := client.Get("http://" + address + "/api/")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		var versions metav1.APIVersions
		if err != nil || json.Unmarshal(body, &versions) != nil || len(versions.Versions) == 0 {
			t.Errorf("through kubectl proxy %s: %s, %v", flag, body, err)
		}
		timer.Stop()
		stop()
	}
}

// defineByKubectl makes a CRD and waits until kubectl explain knows its kind.
func defineByKubectl(k kubectl, plural, kind, schema string) {
	k.t.Helper()
	text, err := yaml.Marshal(definition(plural, kind, schema, "v1"))
	if err != nil {
		k.t.Fatal(err)
	}
	k.must("", "created", "create", "-f", k.file(string(text)))
	soon(k.t, kind+" can be explained", func() error {
		out, err := k.run("", "explain", plural)
		if err == nil && !strings.Contains(out, "KIND:       "+kind) {
			err = fmt.Errorf("explained as %s", out)
		}
		return err
	})
	soon(k.t, kind+" is in OpenAPI v2, by which kubectl validates for a server without field validation", func() error {
		out, err := k.run("", "get", "--raw", "/openapi/v2")
		if err == nil && !strings.Contains(out, `"com.example.`+plural+`.v1.`+kind+`"`) {
			err = fmt.Errorf("not published")
		}
		return err
	})
}

func kubectlWithSchema(t *testing.T, k kubectl, _ kubernetes.Interface) {
	defineByKubectl(k, "hulls", "Hull", `{"type":"object","description":"A Hull holds water off","properties":{"spec":{"type":"object","description":"Specification of Hull","properties":{
		"planks":{"type":"array","description":"The list of planks","items":{"type":"object","required":["name"],"properties":{
			"name":{"type":"string","description":"Name of the plank"},"age":{"type":"integer","description":"Years since the forest"},"nails":{"type":"array","items":{"type":"string"}}}}}}},
		"status":{"type":"object"}}}`)
	hull := func(name, planks string) string {
		return fmt.Sprintf(`{"apiVersion":"hulls.example.com/v1","kind":"Hull","metadata":{"name":%q},"spec":{"planks":[%s]}}`, name, planks)
	}
	const valid = `{"name":"keel","age":3,"nails":["a","b"]}`
	soon(t, "a valid one is made", func() error {
		_, err := k.run("", "create", "-f", k.file(hull("made", valid)))
		return err
	})
	k.must("", "configured", "apply", "-f", k.file(hull("made", valid)))
	k.must("", "created", "apply", "-f", k.file(hull("applied", valid)))
	for _, verb := range []string{"create", "apply"} {
		for what, c := range map[string]struct{ planks, want string }{
			"an unknown field":         {`{"name":"keel","colour":"red"}`, "unknown field"},
			"a missing required field": {`{"age":3}`, "name"},
			"a field of another type":  {`{"name":"keel","age":"three"}`, "age"},
		} {
			if _, err := k.run("", verb, "-f", k.file(hull("refused", c.planks))); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("kubectl %s with %s: %v, want an error with %q", verb, what, err, c.want)
			}
		}
	}
	k.must("", "A Hull holds water off", "explain", "hulls")
	k.must("", "Specification of Hull", "explain", "hulls.spec")
	k.must("", "The list of planks", "explain", "hulls.spec.planks")
	k.must("", "Standard object's metadata", "explain", "hulls.metadata")
	if out := k.must("", "-required-", "explain", "hulls.spec", "--recursive"); !strings.Contains(out, "nails") || !strings.Contains(out, "age") {
		t.Errorf("explained recursively: %s", out)
	}
	if _, err := k.run("", "explain", "hulls.spec.sails"); err == nil {
		t.Error("a field that is not there was explained")
	}
}

func kubectlUnknownFields(t *testing.T, k kubectl, _ kubernetes.Interface) {
	for plural, c := range map[string]struct{ kind, schema, explain string }{
		"crates":  {"Crate", `{"type":"object","description":"preserved at the root","x-kubernetes-preserve-unknown-fields":true}`, "DESCRIPTION:"},
		"barrels": {"Barrel", `{"type":"object","properties":{"spec":{"type":"object","description":"preserved in spec","x-kubernetes-preserve-unknown-fields":true}}}`, "preserved in spec"},
		"trunks": {"Trunk", `{"type":"object","properties":{"spec":{"type":"object","x-kubernetes-embedded-resource":true,"x-kubernetes-preserve-unknown-fields":true,
			"properties":{"apiVersion":{"type":"string"},"kind":{"type":"string"},"metadata":{"type":"object"}}}}}`, "spec"},
	} {
		defineByKubectl(k, plural, c.kind, c.schema)
		manifest := func(name, value string) string {
			return fmt.Sprintf(`{"apiVersion":"%s.example.com/v1","kind":%q,"metadata":{"name":%q},"spec":{"apiVersion":"v1","kind":"Any","a":%q,"b":[{"c":"d"}]}}`, plural, c.kind, name, value)
		}
		soon(t, c.kind+" with unknown fields is made", func() error {
			_, err := k.run("", "create", "-f", k.file(manifest("made", "1")), "--validate=strict")
			return err
		})
		k.must("", "configured", "apply", "-f", k.file(manifest("made", "2")), "--validate=strict")
		if got := k.must("", "", "get", plural, "made", "-o", "jsonpath={.spec.a} {.spec.b[0].c}"); got != "2 d" {
			t.Errorf("%s keeps %q of its unknown fields, want 2 d", c.kind, got)
		}
		k.must("", c.explain, "explain", plural)
	}
}
