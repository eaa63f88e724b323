// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/fairlead/fairlead/controlplane/apiserver/apitest"
)

// TestHostileRequests sends what no good client sends: each request gets the right 4xx and a Status that says why, and the server lives on.
func TestHostileRequests(t *testing.T) {
	cfg := apitest.Start(t, apitest.Options{})
	client := kubernetes.NewForConfigOrDie(cfg)
	if _, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), configMap("target"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const maps, target = "/api/v1/namespaces/default/configmaps", "/api/v1/namespaces/default/configmaps/target"
	object := func(rest string) []byte {
		return []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"h"}` + rest + `}`)
	}
	deep := []byte(strings.Repeat(`{"a":`, 20000) + "1" + strings.Repeat("}", 20000))
	big := object(`,"data":{"k":"` + strings.Repeat("x", 100<<20) + `"}`)
	bomb := []byte("a: &a [x,x,x,x,x,x,x,x,x]\n" + func() string {
		var b strings.Builder
		for c := 'b'; c <= 'j'; c++ {
			b.WriteString(string(c) + ": &" + string(c) + " [" + strings.TrimSuffix(strings.Repeat("*"+string(c-1)+",", 9), ",") + "]\n")
		}
		return b.String()
	}())
	const jsonType, mergeType, patchType, applyType = "application/json", "application/merge-patch+json", "application/json-patch+json", "application/apply-patch+yaml"
	for _, test := range []struct {
		name, method, path, contentType string
		body                            []byte
		code                            int
		message                         string // part of it
	}{
		{"empty body", "POST", maps, jsonType, nil, 400, ""},
		{"no JSON", "POST", maps, jsonType, []byte("hello"), 400, ""},
		{"truncated JSON", "POST", maps, jsonType, object("")[:20], 400, ""},
		{"two documents", "POST", maps, jsonType, append(object(""), object("")...), 400, ""},
		{"JSON of 20,000 levels", "POST", maps, jsonType, deep, 400, ""},
		{"YAML that grows", "POST", maps, "application/yaml", bomb, 400, ""},
		{"body of 100 MB", "POST", maps, jsonType, big, 413, "limit"},
		{"unknown content type", "POST", maps, "text/html", object(""), 415, "unknown format"},
		{"protobuf that is none", "POST", maps, "application/vnd.kubernetes.protobuf", []byte("k8s\x00\xff\xff\xff\xff\xff"), 400, ""},
		{"protobuf without magic", "POST", maps, "application/vnd.kubernetes.protobuf", []byte("hello"), 400, ""},
		{"CBOR that is none", "POST", maps, "application/cbor", []byte{0xff, 0xff}, 400, ""},
		{"another kind", "POST", maps, jsonType, []byte(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"h"}}`), 400, "Secret"},
		{"another version", "POST", maps, jsonType, []byte(`{"apiVersion":"v7","kind":"ConfigMap","metadata":{"name":"h"}}`), 400, "v7"},
		{"another namespace", "POST", maps, jsonType, []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"h","namespace":"other"}}`), 400, "namespace"},
		{"name of wrong characters", "POST", maps, jsonType, []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"../etc"}}`), 422, "metadata.name"},
		{"name of 300 letters", "POST", maps, jsonType, []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"` + strings.Repeat("a", 300) + `"}}`), 422, "metadata.name"},
		{"no name", "POST", maps, jsonType, []byte(`{"apiVersion":"v1","kind":"ConfigMap"}`), 422, "name or generateName is required"},
		{"name that is a number", "POST", maps, jsonType, []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":7}}`), 400, ""},
		{"label with a space", "POST", maps, jsonType, []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"h","labels":{"a b":"c"}}}`), 422, "metadata.labels"},
		{"another object's name", "PUT", target, jsonType, object(""), 400, "name"},
		{"resourceVersion that is no number", "PUT", target, jsonType, []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"target","resourceVersion":"x"}}`), 422, "metadata.resourceVersion"},
		{"patch of unknown type", "PATCH", target, "application/patch", []byte("{}"), 415, ""},
		{"merge patch that is a list", "PATCH", target, mergeType, []byte("[]"), 400, ""},
		{"JSON patch that is an object", "PATCH", target, patchType, []byte("{}"), 400, ""},
		{"JSON patch of an absent path", "PATCH", target, patchType, []byte(`[{"op":"remove","path":"/data/none"}]`), 422, ""},
		{"JSON patch whose test fails", "PATCH", target, patchType, []byte(`[{"op":"test","path":"/data/k","value":"w"}]`), 422, ""},
		{"JSON patch that copies without end", "PATCH", target, patchType, copies(), 422, ""},
		{"apply without a field manager", "PATCH", target, applyType, []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"target"}}`), 422, "fieldManager"},
		{"apply with managed fields", "PATCH", target + "?fieldManager=x", applyType, []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"target","managedFields":[{"manager":"x"}]}}`), 400, "managedFields"},
		{"patch that changes the name", "PATCH", target, mergeType, []byte(`{"metadata":{"name":"other"}}`), 400, ""},
		{"method that is not allowed", "POST", target, jsonType, object(""), 405, ""},
		{"resource that is not there", "GET", "/api/v1/namespaces/default/gadgets", "", nil, 404, ""},
		{"group that is not there", "GET", "/apis/none.example.com/v1/gadgets", "", nil, 404, ""},
		{"object that is not there", "GET", maps + "/none", "", nil, 404, `configmaps "none" not found`},
		{"label selector that is none", "GET", maps + "?labelSelector=a%3D%3D%3Db", "", nil, 400, ""},
		{"field that cannot be selected", "GET", maps + "?fieldSelector=data.k%3Dv", "", nil, 400, "field label not supported"},
		{"limit that is no number", "GET", maps + "?limit=many", "", nil, 400, ""},
		{"continue token that is none", "GET", maps + "?limit=1&continue=nonsense", "", nil, 400, "continue"},
		{"list at a version of the far future", "GET", maps + "?resourceVersion=x", "", nil, 400, ""},
		{"version match without version", "GET", maps + "?resourceVersionMatch=Exact", "", nil, 422, ""},
		{"dry run of unknown kind", "POST", maps + "?dryRun=Some", jsonType, object(""), 422, "dryRun"},
		{"field validation of unknown kind", "POST", maps + "?fieldValidation=Sometimes", jsonType, object(""), 422, "fieldValidation"},
		{"grace period below zero", "DELETE", target, jsonType, []byte(`{"apiVersion":"v1","kind":"DeleteOptions","propagationPolicy":"Sometimes"}`), 422, "propagationPolicy"},
		{"preconditions of another object", "DELETE", target, jsonType, []byte(`{"apiVersion":"v1","kind":"DeleteOptions","preconditions":{"uid":"x"}}`), 409, ""},
		{"log of a pod with a bad number", "GET", "/api/v1/namespaces/default/pods/none/log?tailLines=many", "", nil, 400, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, _, data := raw(t, cfg, test.method, test.path, test.contentType, "application/json", test.body)
			if code != test.code {
				t.Errorf("answered %d %.300s, want %d", code, data, test.code)
			}
			var status metav1.Status
			if err := json.Unmarshal(data, &status); err != nil || status.Kind != "Status" {
				if code != http.StatusNotFound && code != http.StatusMethodNotAllowed && code != http.StatusRequestEntityTooLarge {
					t.Errorf("the answer is no Status: %.300s", data)
				}
				return
			}
			if int(status.Code) != code || status.Message == "" || !strings.Contains(status.Message, test.message) {
				t.Errorf("the Status says %d %q, want %d and %q in it", status.Code, status.Message, test.code, test.message)
			}
		})
	}
	// Invalid UTF-8 is replaced, as Kubernetes does; what is stored is valid.
	if code, _, data := raw(t, cfg, "POST", maps, jsonType, "application/json", object(",\"data\":{\"k\":\"\xff\xfe\"}")); code >= 500 || bytes.Contains(data, []byte("\xff")) {
		t.Errorf("invalid UTF-8 was answered with %d %q", code, data)
	}
	forged := rest.CopyConfig(cfg)
	forged.BearerToken = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJzeXN0ZW06bWFzdGVycyJ9."
	if code, _, _ := raw(t, forged, "GET", maps, "", "", nil); code != http.StatusUnauthorized && code != http.StatusForbidden {
		t.Errorf("a forged token was answered with %d, want 401 or 403", code)
	}
	for _, path := range []string{"/../../etc/passwd", "/api/v1/namespaces/default/configmaps/..%2f..%2fsecrets", "/api//v1/namespaces", "/%00", "/api/v1/namespaces/%2e%2e/secrets"} {
		if code, _, data := raw(t, cfg, "GET", path, "", "", nil); code >= 500 || bytes.Contains(data, []byte("root:")) {
			t.Errorf("GET %s answered %d %.200s", path, code, data)
		}
	}
	if got, err := client.CoreV1().ConfigMaps("default").Get(t.Context(), "target", metav1.GetOptions{}); err != nil || got.Data["k"] != "v" {
		t.Errorf("the target is %v (%v) after all this", got, err)
	}
}

// copies is a JSON patch of a few kilobytes that makes an object of 10 MB.
func copies() []byte {
	var b bytes.Buffer
	b.WriteString(`[{"op":"add","path":"/data/a","value":"` + strings.Repeat("x", 100<<10) + `"}`)
	for i := range 100 {
		fmt.Fprintf(&b, `,{"op":"copy","from":"/data/a","path":"/data/a%d"}`, i)
	}
	b.WriteString("]")
	return b.Bytes()
}
