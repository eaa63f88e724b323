// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	certutil "k8s.io/client-go/util/cert"
	kubectlcmd "k8s.io/kubectl/pkg/cmd"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"sigs.k8s.io/yaml"
)

// kubectl runs the kubectl of k8s.io/kubectl in this process.
type kubectl struct {
	t          *testing.T
	kubeconfig string
	cache      string
	// transport is shared: two thousand commands with connections of their own would be a test of TLS handshakes.
	transport http.RoundTripper
}

// failed is what a kubectl that would exit panics with.
type failed struct {
	message string
	code    int
}

// run returns what kubectl printed and, when it failed, why.
func (k kubectl) run(stdin string, args ...string) (out string, err error) {
	var stdout, stderr bytes.Buffer
	streams := genericiooptions.IOStreams{In: strings.NewReader(stdin), Out: &stdout, ErrOut: &stderr}
	flags := genericclioptions.NewConfigFlags(true).WithDiscoveryBurst(1000).WithDiscoveryQPS(1000)
	flags.KubeConfig, flags.CacheDir = &k.kubeconfig, &k.cache
	flags.WrapConfigFn = func(c *rest.Config) *rest.Config {
		c = rest.CopyConfig(c)
		c.TLSClientConfig, c.Transport = rest.TLSClientConfig{}, k.transport
		return c
	}
	cmd := kubectlcmd.NewKubectlCommand(kubectlcmd.KubectlOptions{IOStreams: streams, ConfigFlags: flags, Arguments: append([]string{"kubectl"}, args...)})
	cmd.SetArgs(args)
	cmd.SetOut(&stdout)
	cmd.SetErr(&stderr)
	defer func() {
		if r := recover(); r != nil {
			f, ok := r.(failed)
			if !ok {
				panic(r)
			}
			out, err = stdout.String(), fmt.Errorf("kubectl %s: exit status %d: %s%s", strings.Join(args, " "), f.code, f.message, stderr.String())
		}
	}()
	if err := cmd.Execute(); err != nil {
		return stdout.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// must reports a failure and output that lacks want.
func (k kubectl) must(stdin, want string, args ...string) string {
	k.t.Helper()
	out, err := k.run(stdin, args...)
	switch {
	case err != nil:
		k.t.Error(err)
	case !strings.Contains(out, want):
		k.t.Errorf("kubectl %s printed %q, want it to contain %q", strings.Join(args, " "), out, want)
	}
	return out
}

func TestKubectlOnEveryKind(t *testing.T) {
	cmdutil.BehaviorOnFatal(func(message string, code int) { panic(failed{message, code}) })
	defer cmdutil.DefaultBehaviorOnFatal()
	env, stop := start(t, shortDir(t))
	defer stop()
	admin, err := clientcmd.BuildConfigFromFlags("", env.AdminKubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	transport, err := rest.TransportFor(admin)
	if err != nil {
		t.Fatal(err)
	}
	k := kubectl{t: t, kubeconfig: env.AdminKubeconfig, cache: t.TempDir(), transport: transport}
	samples := readSamples(t)
	// The editor adds an annotation; every object that is edited has some.
	t.Setenv("KUBE_EDITOR", `sed -i '0,/^  annotations:/s//  annotations:\n    edited: by-editor/'`)
	k.must("", "created", "create", "serviceaccount", "default") // a controller's work, and there is none here: without it no pod is admitted

	k.must("", "ey", "create", "token", "default")
	k.must("", "deployments.apps", "api-resources", "-o", "name")

	lists, err := kubernetes.NewForConfigOrDie(env.Client).Discovery().ServerPreferredResources()
	if err != nil {
		t.Fatal(err)
	}
	all, err := kubernetes.NewForConfigOrDie(env.Client).Discovery().ServerResourcesForGroupVersion("autoscaling/v1") // the only version that is not preferred
	if err != nil {
		t.Fatal(err)
	}
	kinds := 0
	for _, list := range append(lists, all) {
		for _, r := range list.APIResources {
			if strings.Contains(r.Name, "/") {
				continue
			}
			kinds++
			sample := samples[list.GroupVersion+" "+r.Kind]
			t.Run(list.GroupVersion+"/"+r.Name, func(t *testing.T) {
				if !slices.Contains(r.Verbs, "create") { // computed, never written
					k := k
					k.t = t
					name := r.Name
					if group, _, grouped := strings.Cut(list.GroupVersion, "/"); grouped {
						name += "." + group // nodes and pods exist in metrics.k8s.io too
					}
					k.must("", `"items"`, "get", name, "-o", "json")
					k.must("", "KIND:", "explain", r.Name, "--api-version="+list.GroupVersion)
					return
				}
				if sample == nil {
					t.Fatalf("no sample of %s %s in testdata/kinds.yaml", list.GroupVersion, r.Kind)
				}
				k := k
				k.t = t
				walk(k, list.GroupVersion, r, sample, slices.ContainsFunc(list.APIResources, func(s metav1.APIResource) bool { return s.Name == r.Name+"/scale" }))
			})
		}
	}
	if kinds < 60 {
		t.Errorf("discovery shows %d kinds only", kinds)
	}
}

// walk takes one kind through the life of an object; scalable says whether it has the scale subresource.
func walk(k kubectl, groupVersion string, r metav1.APIResource, sample *unstructured.Unstructured, scalable bool) {
	file := filepath.Join(k.t.TempDir(), "sample.yaml")
	write := func(obj *unstructured.Unstructured) {
		data, err := yaml.Marshal(obj.Object)
		if err != nil {
			k.t.Fatal(err)
		}
		if err := os.WriteFile(file, data, 0o600); err != nil {
			k.t.Fatal(err)
		}
	}
	write(sample)
	if !slices.Contains(r.Verbs, "get") {
		walkQuestion(k, r, file)
		return
	}
	group, version, _ := strings.Cut(groupVersion, "/")
	if version == "" {
		group, version = "", group
	}
	resource, name := r.Name+"."+version+"."+group, sample.GetName()
	if group == "" {
		resource = r.Name
	}
	object := resource + "/" + name

	k.must("", "(server dry run)", "create", "-f", file, "--dry-run=server", "--validate=strict")
	k.must("", "created", "create", "-f", file, "--validate=strict", "--save-config")
	if table := k.must("", name, "get", resource); !strings.HasPrefix(table, "NAME") && !strings.HasPrefix(table, "LAST SEEN") {
		k.t.Errorf("the table begins with %q", table)
	}
	k.must("", name, "get", object, "-o", "wide")
	k.must("", "name: "+name, "get", object, "-o", "yaml")
	if got := k.must("", "", "get", object, "-o", "jsonpath={.metadata.name} {.kind} {.apiVersion}"); got != name+" "+r.Kind+" "+groupVersion {
		k.t.Errorf("jsonpath printed %q", got)
	}
	if r.Namespaced {
		k.must("", name, "get", resource, "-A", "--field-selector", "metadata.name="+name)
	}
	k.must("", "FIELD", "explain", strings.ToLower(r.Name)+".metadata.name", "--api-version", groupVersion)
	k.must("", "KIND:       "+r.Kind, "explain", r.Name, "--api-version", groupVersion)
	k.must("", name, "describe", object)

	changed := sample.DeepCopy()
	changed.SetLabels(merge(changed.GetLabels(), "walk", "client-side"))
	write(changed)
	k.must("", "configured", "apply", "-f", file)
	// Again: whatever kubectl says about its patch ("configured" where a list is replaced as a whole), nothing is written.
	before := k.must("", "", "get", object, "-o", "jsonpath={.metadata.resourceVersion}")
	k.must("", name, "apply", "-f", file)
	if after := k.must("", "", "get", object, "-o", "jsonpath={.metadata.resourceVersion}"); after != before {
		k.t.Errorf("applying the same again wrote the object: resource version %s, then %s", before, after)
	}
	changed.SetLabels(merge(changed.GetLabels(), "walk", "server-side"))
	write(changed)
	if out, err := k.run("", "diff", "-f", file); err == nil || !strings.Contains(out, "server-side") {
		k.t.Errorf("kubectl diff found %q (%v), want the changed label", out, err)
	}
	k.must("", "serverside-applied", "apply", "-f", file, "--server-side", "--force-conflicts", "--field-manager=walker")
	managers := k.must("", "walker", "get", object, "-o", "yaml", "--show-managed-fields")
	if !strings.Contains(managers, "operation: Apply") {
		k.t.Error("server-side apply left no manager with operation Apply")
	}
	k.must("", "labeled", "label", object, "by=label")
	k.must("", "annotated", "annotate", object, "by=annotate")
	k.must("", "patched", "patch", object, "--type=merge", "-p", `{"metadata":{"annotations":{"a":"merge"}}}`)
	k.must("", "patched", "patch", object, "--type=json", "-p", `[{"op":"add","path":"/metadata/annotations/b","value":"json"}]`)
	k.must("", "patched", "patch", object, "--type=strategic", "-p", `{"metadata":{"annotations":{"c":"strategic"}}}`)
	var after unstructured.Unstructured
	if err := json.Unmarshal([]byte(k.must("", "", "get", object, "-o", "json")), &after.Object); err == nil {
		for key, want := range map[string]string{"by": "annotate", "a": "merge", "b": "json", "c": "strategic"} {
			if got := after.GetAnnotations()[key]; got != want {
				k.t.Errorf("annotation %s is %q, want %q", key, got, want)
			}
		}
		if after.GetLabels()["walk"] != "server-side" || after.GetLabels()["by"] != "label" {
			k.t.Errorf("labels are %v", after.GetLabels())
		}
	}
	k.must("", "edited", "edit", object)
	if got := k.must("", "", "get", object, "-o", "jsonpath={.metadata.annotations.edited}"); got != "by-editor" {
		k.t.Errorf("after kubectl edit the annotation is %q, want what the editor wrote", got)
	}
	if scalable {
		k.must("", "scaled", "scale", object, "--replicas=7")
		if got := k.must("", "", "get", object, "-o", "jsonpath={.spec.replicas}"); got != "7" {
			k.t.Errorf("after kubectl scale there are %s replicas wanted, not 7", got)
		}
	}
	walkRollout(k, r, object)
	k.must("", "yes", "auth", "can-i", "delete", strings.TrimSuffix(r.Name+"."+group, "."))
	remove(k, r, object, name)
}

// walkRollout does what can be done to a rollout without its controller.
func walkRollout(k kubectl, r metav1.APIResource, object string) {
	switch r.Kind {
	case "Deployment":
		k.must("", "paused", "rollout", "pause", object)
		k.must("", "resumed", "rollout", "resume", object)
	case "DaemonSet", "StatefulSet":
	default:
		return
	}
	k.must("", "No rollout history found", "rollout", "history", object) // its revisions are a controller's work
	k.must("", "restarted", "rollout", "restart", object)
	if at := k.must("", "", "get", object, "-o", `jsonpath={.spec.template.metadata.annotations.kubectl\.kubernetes\.io/restartedAt}`); at == "" {
		k.t.Error("kubectl rollout restart left the template as it was")
	}
	k.must("", "aiting for", "rollout", "status", object, "--watch=false")
}

func remove(k kubectl, r metav1.APIResource, object, name string) {
	if r.Kind == "Namespace" { // there is no namespace controller here: its part is played by hand
		k.must("", "deleted", "delete", object, "--wait=false")
		k.must("", "Terminating", "get", object)
		k.must(`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"`+name+`"},"spec":{"finalizers":[]}}`, "", "replace", "--raw", "/api/v1/namespaces/"+name+"/finalize", "-f", "-")
	} else {
		k.must("", "deleted", "delete", object, "--cascade=background", "--wait=false")
		// Protection against removal while in use is a controller's to lift.
		if out, err := k.run("", "get", object, "-o", "jsonpath={.metadata.finalizers}"); err == nil && out != "" {
			if _, err := k.run("", "patch", object, "--type=merge", "-p", `{"metadata":{"finalizers":null}}`); err != nil && !strings.Contains(err.Error(), "NotFound") {
				k.t.Error(err) // one that the server removes itself may be gone meanwhile
			}
		}
	}
	k.must("", "", "wait", "--for=delete", object, "--timeout=10s")
	if _, err := k.run("", "get", object); err == nil || !strings.Contains(err.Error(), "NotFound") {
		k.t.Errorf("get after delete: %v, want NotFound", err)
	}
}

// walkQuestion is for the kinds that can only be created: they are answered, not stored.
func walkQuestion(k kubectl, r metav1.APIResource, file string) {
	k.must("", "KIND:", "explain", r.Name)
	if r.Kind == "Binding" {
		if _, err := k.run("", "create", "-f", file); err == nil || !strings.Contains(err.Error(), "NotFound") {
			k.t.Errorf("binding a pod that does not exist: %v, want NotFound", err)
		}
		return
	}
	k.must("", "kind: "+r.Kind, "create", "-f", file, "-o", "yaml")
}

func merge(in map[string]string, key, value string) map[string]string {
	out := map[string]string{key: value}
	for k, v := range in {
		if k != key {
			out[k] = v
		}
	}
	return out
}

// readSamples returns the documents of testdata/kinds.yaml by "groupVersion kind".
func readSamples(t *testing.T) map[string]*unstructured.Unstructured {
	t.Helper()
	data, err := os.ReadFile("testdata/kinds.yaml")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "sample"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	stub, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := certutil.NewSelfSignedCACert(certutil.Config{CommonName: "sample"}, key)
	if err != nil {
		t.Fatal(err)
	}
	bundle := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Raw})
	request := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})
	text := strings.NewReplacer(
		"  request: REQUEST", "  request: "+base64.StdEncoding.EncodeToString(request),
		"stubPKCS10Request: REQUEST", "stubPKCS10Request: "+base64.StdEncoding.EncodeToString(stub),
		`"BUNDLE"`, fmt.Sprintf("%q", bundle),
	).Replace(string(data))
	out := map[string]*unstructured.Unstructured{}
	for _, doc := range strings.Split(text, "\n---\n") {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
			t.Fatalf("%v in %s", err, doc)
		}
		out[u.GetAPIVersion()+" "+u.GetKind()] = u
	}
	return out
}
