// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
)

// refuseDots answers requests whose path has a segment "." or ".." with 400: no object has such a name, and what reads the path as a way through
// directories must not get that far. What follows "proxy" belongs to somebody else.
func refuseDots(next http.Handler, s runtime.NegotiatedSerializer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for segment := range strings.SplitSeq(r.URL.Path, "/") {
			if segment == "proxy" {
				break
			}
			if segment == "." || segment == ".." {
				err := apierrors.NewBadRequest("the path of the request has a segment " + segment + ", which no API path has")
				responsewriters.ErrorNegotiated(err, s, schema.GroupVersion{}, w, r)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}
