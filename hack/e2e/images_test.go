// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/klauspost/compress/zstd"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead/fairlead/hack/images/testimage"
)

func TestImages(t *testing.T) {
	runPods(t, "e2e-images", []podCase{
		{"archives are imported when they appear; a broken one harms nothing", archives},
		{"pulls: missing, invalid, private with and without a secret", pulls},
	})
}

// place puts a file into the image directory of a node as docs/node.md says: whole, by its last name.
func place(p pods, node, file string, data []byte) {
	p.Helper()
	path := filepath.Join(dataDir(node), "images", file)
	if err := os.WriteFile(path+".new", data, 0o644); err != nil {
		p.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() { os.Remove(path) })
}

func archives(p pods) {
	const late = "fairlead.io/late:1"
	archive, err := testimage.Shell(p.TempDir(), late)
	if err != nil {
		p.Fatal(err)
	}
	compressor, err := zstd.NewWriter(nil)
	if err != nil {
		p.Fatal(err)
	}
	packed := compressor.EncodeAll(archive, nil)
	place(p, "agent-1", "broken.tar", []byte("this is no archive"))
	place(p, "agent-1", "cut.tar.zst", packed[:len(packed)/2])
	place(p, "agent-1", "late.tar.zst", packed)
	eventually(p.T, podPatience, func() error {
		if list := inHost(p.T, "agent-1", fairlead(), "image", "list"); !strings.Contains(list, late) {
			return fmt.Errorf("images:\n%s", list)
		}
		return nil
	})
	p.apply(strings.ReplaceAll(`
apiVersion: v1
kind: Pod
metadata: {name: late}
spec: {restartPolicy: Never, nodeName: agent-1, containers: [{name: app, image: LATE, imagePullPolicy: Never, command: [echo, here]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: absent}
spec: {nodeName: agent-2, terminationGracePeriodSeconds: 1, containers: [{name: app, image: LATE, imagePullPolicy: Never}]}`, "LATE", late))
	p.untilPhase("late", corev1.PodSucceeded)
	p.wantLog("late", "app", "here\n")
	p.untilWaiting("absent", "ErrImageNeverPull")
	eventually(p.T, podPatience, func() error {
		text, err := os.ReadFile(env.sandbox.LogFile("agent-1"))
		if missing := containsAll(string(text), "images/broken.tar", "images/cut.tar.zst"); missing != "" {
			return fmt.Errorf("the node's log does not name %s: %v", missing, err)
		}
		return nil
	})
	eventually(p.T, podPatience, func() error {
		events := kubectl(p.T, "get", "events", "-n", "default", "--field-selector=involvedObject.kind=Node,involvedObject.name=agent-1,reason=ImageArchiveNotImported")
		if missing := containsAll(events, "Warning", "broken.tar", "cut.tar.zst"); missing != "" {
			return fmt.Errorf("no event of the node has %s:\n%s", missing, events)
		}
		return nil
	})
	if ready := kubectl(p.T, "get", "node", "agent-1", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`); ready != "True" {
		p.Errorf("the node is Ready=%s", ready)
	}
}

func pulls(p pods) {
	const address = "127.0.0.1:5443"
	stored := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	listener := listenIn(p.T, "agent-2", address)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); strings.Contains(r.URL.Path, "/private/") && (user != "me" || password != "sesame") {
			w.Header().Set("WWW-Authenticate", `Basic realm="e2e"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		stored.ServeHTTP(w, r)
	})}
	go func() { _ = server.Serve(listener) }()
	p.Cleanup(func() { server.Close() })
	upload := httptest.NewServer(stored)
	p.Cleanup(upload.Close)
	for _, repository := range []string{"public/app", "private/app", "private/other", "private/by-hand"} {
		if err := testimage.Push(p.Context(), upload.URL, repository, "1", map[string]string{"of": repository}); err != nil {
			p.Fatal(err)
		}
	}
	auth := base64.StdEncoding.EncodeToString([]byte("me:sesame"))
	config := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, address, auth))
	p.apply(strings.NewReplacer("CONFIG", config, "REGISTRY", address).Replace(`
apiVersion: v1
kind: Secret
metadata: {name: pull}
type: kubernetes.io/dockerconfigjson
data: {.dockerconfigjson: CONFIG}
---
apiVersion: v1
kind: Pod
metadata: {name: holder} # other tests need these images on the node
spec:
  nodeName: agent-2
  terminationGracePeriodSeconds: 1
  containers: [{name: shell, image: IMAGE, command: [/testapp, forever]}, {name: sample, image: fairlead.io/sample:latest, imagePullPolicy: IfNotPresent, args: [serve, --listen=:8099]}]
---
apiVersion: v1
kind: Pod
metadata: {name: missing}
spec: {nodeName: agent-2, terminationGracePeriodSeconds: 1, containers: [{name: app, image: REGISTRY/public/none:1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: invalid}
spec: {nodeName: agent-2, terminationGracePeriodSeconds: 1, containers: [{name: app, image: "REGISTRY/Not A Name"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: public}
spec: {nodeName: agent-2, restartPolicy: Never, containers: [{name: app, image: REGISTRY/public/app:1, imagePullPolicy: Always, command: [/nothing]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: private}
spec: {nodeName: agent-2, terminationGracePeriodSeconds: 1, containers: [{name: app, image: REGISTRY/private/other:1, command: [/nothing]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: allowed}
spec: {nodeName: agent-2, restartPolicy: Never, imagePullSecrets: [{name: pull}, {name: lost}], containers: [{name: app, image: REGISTRY/private/app:1, command: [/nothing]}]}`))
	p.untilWaiting("missing", "ImagePullBackOff")
	p.wantEvent("missing", "Warning Failed: Failed to pull image", "public/none:1")
	p.untilWaiting("invalid", "InvalidImageName")
	for _, name := range []string{"public", "allowed"} { // nothing in an empty image can start
		if s := p.ended(name); s.Reason != "StartError" || s.ExitCode != 128 || !strings.Contains(s.Message, "/nothing") {
			p.Errorf("%s: %+v", name, s)
		}
		p.wantEvent(name, "Normal Pulled: Successfully pulled image")
	}
	p.wantEvent("allowed", "Warning FailedToRetrieveImagePullSecret", "lost")
	p.wantEvent("private", "Warning Failed: Failed to pull image", "authorization failed")

	// The same by hand: what nobody uses goes, what is in use and the node's own stay.
	docker, err := base64.StdEncoding.DecodeString(config)
	if err == nil {
		err = os.WriteFile(filepath.Join(dataDir("agent-2"), "e2e-config.json"), docker, 0o600)
	}
	if err != nil {
		p.Fatal(err)
	}
	defer os.Remove(filepath.Join(dataDir("agent-2"), "e2e-config.json"))
	inHost(p.T, "agent-2", fairlead(), "image", "pull", "--config=/var/lib/fairlead/e2e-config.json", address+"/private/by-hand:1")
	wants := func(there bool) {
		p.Helper()
		list := inHost(p.T, "agent-2", fairlead(), "image", "list")
		if strings.Contains(list, "/private/by-hand:1") != there || containsAll(list, shellImage, "fairlead.io/sample:latest", "fairlead.io/pause:1") != "" {
			p.Errorf("the image pulled by hand should be there: %t, and what is used always:\n%s", there, list)
		}
	}
	wants(true)
	p.untilReady("holder")
	if out := inHost(p.T, "agent-2", fairlead(), "image", "prune"); !strings.Contains(out, "/private/by-hand:1") {
		p.Errorf("prune: %q", out)
	}
	wants(false)
}

func fairlead() string { return filepath.Join(env.bin, "fairlead") }
