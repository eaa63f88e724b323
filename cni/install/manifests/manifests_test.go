// SPDX-License-Identifier: Apache-2.0

// Package manifests has no code: it is the Kubernetes manifests of the dataplane, and this test that the Helm chart and the kustomize base say the same.
package manifests

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/template"

	"gopkg.in/yaml.v3"
)

type object = map[string]any

func decode(t *testing.T, name string, body []byte) map[string]object {
	t.Helper()
	out := map[string]object{}
	d := yaml.NewDecoder(bytes.NewReader(body))
	for {
		var o object
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, body)
		}
		if o != nil {
			out[fmt.Sprint(o["kind"], "/", o["metadata"].(object)["name"])] = o
		}
	}
}

// render does what helm template does with the few functions that the chart uses.
func render(t *testing.T, change func(values object)) map[string]object {
	t.Helper()
	var values object
	body, err := os.ReadFile("helm/fairlead/values.yaml")
	if err == nil {
		err = yaml.Unmarshal(body, &values)
	}
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(values)
	}
	out := map[string]object{}
	files, _ := filepath.Glob("helm/fairlead/templates/*.yaml")
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		funcs := template.FuncMap{"quote": func(v any) string { return strconv.Quote(fmt.Sprint(v)) }}
		var buf bytes.Buffer
		tmpl, err := template.New(f).Funcs(funcs).Option("missingkey=error").Parse(string(text))
		if err == nil {
			err = tmpl.Execute(&buf, object{"Values": values, "Release": object{"Namespace": "kube-system"}})
		}
		if err != nil {
			t.Fatal(err)
		}
		for k, o := range decode(t, f, buf.Bytes()) {
			out[k] = o
		}
	}
	return out
}

func base(t *testing.T) map[string]object {
	t.Helper()
	out := map[string]object{}
	for _, f := range []string{"rbac.yaml", "daemonset.yaml"} {
		body, err := os.ReadFile(filepath.Join("kustomize/base", f))
		if err != nil {
			t.Fatal(err)
		}
		for k, o := range decode(t, f, body) {
			out[k] = o
		}
	}
	return out
}

func container(t *testing.T, objects map[string]object) object {
	t.Helper()
	spec := objects["DaemonSet/fairlead-dataplane"]["spec"].(object)["template"].(object)["spec"].(object)
	return spec["containers"].([]any)[0].(object)
}

func TestChartEqualsBase(t *testing.T) {
	chart, base := render(t, nil), base(t)
	c := container(t, chart)
	if c["image"] != "fairlead:latest" {
		t.Error("image", c["image"])
	}
	c["image"] = "fairlead"
	delete(c, "imagePullPolicy")
	if !reflect.DeepEqual(chart, base) {
		a, _ := yaml.Marshal(chart)
		b, _ := yaml.Marshal(base)
		t.Errorf("chart:\n%s\nbase:\n%s", a, b)
	}
	if len(base) != 4 {
		t.Errorf("%d objects", len(base))
	}
}

func TestChartValues(t *testing.T) {
	c := container(t, render(t, func(v object) {
		v["podNetwork"] = false
		v["clusterCIDRs"] = []any{"10.0.0.0/14", "fd01::/48"}
		v["uplinks"] = []any{"eth1"}
		v["apiServer"].(object)["host"] = "192.0.2.5"
		v["runtime"].(object)["dir"] = "/run/containerd"
	}))
	if got := fmt.Sprint(c["volumeMounts"]); !strings.Contains(got, "map[mountPath:/host/cri name:cri]") || !strings.Contains(fmt.Sprint(c["args"]), "--container-runtime-endpoint=unix:///host/cri/containerd.sock") {
		t.Error("runtime's socket:", got, c["args"])
	}
	args := fmt.Sprint(c["args"])
	if strings.Contains(args, "--pod-network") || !strings.Contains(args, "--cluster-cidr=10.0.0.0/14 --cluster-cidr=fd01::/48 --uplink=eth1") {
		t.Error(args)
	}
	if env := fmt.Sprint(c["env"]); !strings.Contains(env, "192.0.2.5") || !strings.Contains(env, "6443") {
		t.Error(env)
	}
}

// TestPrivileges pins what the dataplane may do: a change here is a decision.
func TestPrivileges(t *testing.T) {
	objects := base(t)
	sc := container(t, objects)["securityContext"].(object)
	if sc["privileged"] != false || sc["allowPrivilegeEscalation"] != false || sc["readOnlyRootFilesystem"] != true {
		t.Errorf("%v", sc)
	}
	if got := fmt.Sprint(sc["capabilities"].(object)["add"]); got != "[BPF PERFMON NET_ADMIN SYS_ADMIN]" {
		t.Error("capabilities", got)
	}
	for _, r := range objects["ClusterRole/fairlead-dataplane"]["rules"].([]any) {
		if fmt.Sprint(r.(object)["resources"]) == "[events]" {
			if got := fmt.Sprint(r.(object)["verbs"]); got != "[create patch]" {
				t.Error("events:", got)
			}
			continue
		}
		for _, v := range r.(object)["verbs"].([]any) {
			if !slices.Contains([]any{"get", "list", "watch"}, v) {
				t.Errorf("the dataplane must not %v %v", v, r)
			}
		}
	}
}
