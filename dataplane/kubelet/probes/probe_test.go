// SPDX-License-Identifier: Apache-2.0

package probes

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestRedirectsAreFollowedWithinTheHost(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/bad":
			w.WriteHeader(http.StatusInternalServerError)
		case "/redirect":
			http.Redirect(w, r, r.FormValue("to"), http.StatusFound)
		}
	}))
	defer server.Close()
	host, portText, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, path string
		good, warn bool
	}{
		{"no redirect", "/", true, false},
		{"to what is well", "/redirect?to=/", true, false},
		{"to what fails", "/redirect?to=/bad", false, false},
		{"to another host", "/redirect?to=http://0.0.0.0/", true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			action := &v1.HTTPGetAction{Path: test.path, Port: intstr.FromInt(port)}
			target := Target{Container: &v1.Container{}, PodIP: host}
			output, err := Run(t.Context(), &v1.Probe{ProbeHandler: v1.ProbeHandler{HTTPGet: action}}, target, nil)
			if warned := errors.Is(err, ErrWarning); warned != test.warn || (err == nil || warned) != test.good {
				t.Errorf("probe: %q %v", output, err)
			}
			if test.warn && !strings.HasPrefix(output, "Probe terminated redirects") {
				t.Errorf("%q does not say why", output)
			}
			if _, err := HTTPGet(t.Context(), action, target); (err == nil) != test.good {
				t.Errorf("as a hook: %v", err)
			}
		})
	}
}
