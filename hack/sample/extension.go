// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// The extension is what a cluster calls back: admission webhooks, a conversion webhook and an aggregated API, over TLS. It knows no Kubernetes
// library; the documents are those of admission.k8s.io/v1, apiextensions.k8s.io/v1 and meta/v1.

type document = map[string]any

// extend serves the extension until ctx ends.
//
//	POST /mutate    adds the label fairlead.io/harboured to every object
//	POST /validate  refuses objects with the label fairlead.io/refused
//	POST /convert   writes spec.length (v1, a number of metres) as spec.size (v2, "12m") and back
//	GET  /apis/harbour.fairlead.io/...  discovery, and a list of ships that says who asked
func extend(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("extend", flag.ContinueOnError)
	listen := fs.String("listen", ":8443", "address to serve HTTPS on")
	cert := fs.String("cert", "/tls/tls.crt", "certificate")
	key := fs.String("key", "/tls/tls.key", "its key")
	if err := fs.Parse(args); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /mutate", review(mutate))
	mux.HandleFunc("POST /validate", review(validate))
	mux.HandleFunc("POST /convert", review(convert))
	const group = "/apis/harbour.fairlead.io"
	serveJSON := func(path string, answer func(*http.Request) document) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) { write(w, answer(r)) })
	}
	serveJSON("/apis", func(*http.Request) document {
		return document{"kind": "APIGroupList", "apiVersion": "v1", "groups": []any{document{"name": "harbour.fairlead.io",
			"versions": []any{document{"groupVersion": "harbour.fairlead.io/v1", "version": "v1"}}}}}
	})
	serveJSON(group+"/v1", func(*http.Request) document {
		return document{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "harbour.fairlead.io/v1", "resources": []any{
			document{"name": "berths", "singularName": "berth", "kind": "Berth", "namespaced": true, "verbs": []string{"get", "list"}}}}
	})
	serveJSON(group+"/v1/namespaces/{namespace}/berths", func(r *http.Request) document {
		return document{"kind": "BerthList", "apiVersion": "harbour.fairlead.io/v1", "metadata": document{}, "items": []any{
			document{"kind": "Berth", "apiVersion": "harbour.fairlead.io/v1", "metadata": document{"name": "one", "namespace": r.PathValue("namespace")},
				"askedBy": r.Header.Get("X-Remote-User")}}}
	})
	mux.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	server := &http.Server{Addr: *listen, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServeTLS(*cert, *key) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	return server.Shutdown(end)
}

// review answers a document whose "request" decide turns into the "response".
func review(decide func(request document) (document, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in document
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		request, _ := in["request"].(document)
		response, err := decide(request)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		response["uid"] = request["uid"]
		write(w, document{"kind": in["kind"], "apiVersion": in["apiVersion"], "response": response})
	}
}

func write(w http.ResponseWriter, d document) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(d) // the client went away
}

func mutate(request document) (document, error) {
	object, _ := request["object"].(document)
	metadata, _ := object["metadata"].(document)
	labels, _ := metadata["labels"].(document)
	var patch []document
	if labels == nil {
		patch = append(patch, document{"op": "add", "path": "/metadata/labels", "value": document{}})
	}
	patch = append(patch, document{"op": "add", "path": "/metadata/labels/fairlead.io~1harboured", "value": "yes"})
	data, err := json.Marshal(patch)
	if err != nil {
		return nil, err
	}
	return document{"allowed": true, "patchType": "JSONPatch", "patch": base64.StdEncoding.EncodeToString(data)}, nil
}

func validate(request document) (document, error) {
	object, _ := request["object"].(document)
	metadata, _ := object["metadata"].(document)
	labels, _ := metadata["labels"].(document)
	if reason, refused := labels["fairlead.io/refused"]; refused {
		return document{"allowed": false, "status": document{"message": fmt.Sprintf("the harbour master refuses: %v", reason)}}, nil
	}
	return document{"allowed": true}, nil
}

func convert(request document) (document, error) {
	objects, _ := request["objects"].([]any)
	wanted, _ := request["desiredAPIVersion"].(string)
	for _, o := range objects {
		object, _ := o.(document)
		spec, _ := object["spec"].(document)
		if object["apiVersion"] == wanted {
			continue
		}
		switch {
		case spec == nil:
			return nil, errors.New("an object without spec")
		case strings.HasSuffix(wanted, "/v2"):
			spec["size"] = fmt.Sprintf("%vm", spec["length"])
			delete(spec, "length")
		default:
			var metres int
			if _, err := fmt.Sscanf(fmt.Sprint(spec["size"]), "%dm", &metres); err != nil {
				return document{"result": document{"status": "Failure", "message": "size: want metres, such as 12m"}}, nil
			}
			spec["length"] = metres
			delete(spec, "size")
		}
		object["apiVersion"] = wanted
	}
	return document{"convertedObjects": objects, "result": document{"status": "Success"}}, nil
}
