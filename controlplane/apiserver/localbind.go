// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/metrics"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

// localBind answers the scheduler's most frequent request, the creation of pods/binding as protobuf without options, in place of the generic create
// handler, which spends more on a Binding than the write itself: on finding the route, on managed fields of an object that is never stored, on a
// goroutine, and on negotiating how to say "Success". Admission, audit, metrics and storage are the same. Every other request goes to next.
type localBind struct {
	next    http.Handler
	types   *types
	storage rest.NamedCreater
	admit   admission.Interface
	scope   admission.ObjectInterfaces
	wire    runtime.Serializer
	done    []byte // the answer
}

var bindingKind = corev1.SchemeGroupVersion.WithKind("Binding")

const bindTimeout = 34 * time.Second // as k8s.io/apiserver bounds a create

func newLocalBind(next http.Handler, t *types, storage rest.NamedCreater, admit admission.Interface) (http.Handler, error) {
	info, ok := runtime.SerializerInfoForMediaType(t.codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	if !ok {
		return nil, fmt.Errorf("no serializer of %s", runtime.ContentTypeProtobuf)
	}
	done, err := runtime.Encode(t.codecs.EncoderForVersion(info.Serializer, corev1.SchemeGroupVersion), bound())
	if err != nil {
		return nil, fmt.Errorf("encode the answer to a binding: %w", err)
	}
	return &localBind{next: next, types: t, storage: storage, admit: admit, scope: admission.NewObjectInterfacesFromScheme(t.scheme),
		wire: info.Serializer, done: done}, nil
}

func bound() *metav1.Status {
	return &metav1.Status{Status: metav1.StatusSuccess, Code: http.StatusCreated}
}

func (b *localBind) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	info, ok := request.RequestInfoFrom(r.Context())
	if !ok || info.Subresource != "binding" || info.Verb != "create" || info.Resource != "pods" || info.APIGroup != "" || info.APIVersion != "v1" ||
		r.URL.RawQuery != "" || r.Header.Get("Content-Type") != runtime.ContentTypeProtobuf || !strings.HasPrefix(r.Header.Get("Accept"), runtime.ContentTypeProtobuf) {
		b.next.ServeHTTP(w, r)
		return
	}
	code, size := http.StatusCreated, len(b.done)
	if err := b.bind(r, info); err != nil {
		code, size = responsewriters.ErrorNegotiated(err, b.types.codecs, corev1.SchemeGroupVersion, w, r), 0
	} else {
		audit.LogResponseObject(r.Context(), bound(), corev1.SchemeGroupVersion, b.types.codecs)
		w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
		w.WriteHeader(code)
		_, _ = w.Write(b.done) // into memory
	}
	received, _ := request.ReceivedTimestampFrom(r.Context())
	metrics.MonitorRequest(r, "POST", "", "v1", "pods", "binding", "resource", metrics.APIServerComponent, false, "", code, size, time.Since(received))
}

func (b *localBind) bind(r *http.Request, info *request.RequestInfo) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	in := &corev1.Binding{}
	if _, gvk, err := b.wire.Decode(body, &bindingKind, in); err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("read a Binding: %v", err))
	} else if *gvk != bindingKind {
		return apierrors.NewBadRequest(fmt.Sprintf("the body is a %s, expected %s", gvk, bindingKind))
	}
	ctx, cancel := context.WithTimeout(request.WithNamespace(r.Context(), info.Namespace), bindTimeout)
	defer cancel()
	if err := rest.EnsureObjectNamespaceMatchesRequestNamespace(info.Namespace, in); err != nil {
		return err
	}
	pods := corev1.SchemeGroupVersion.WithResource("pods")
	audit.LogRequestObject(ctx, in, corev1.SchemeGroupVersion, pods, "binding", b.types.codecs)
	who, _ := request.UserFrom(ctx)
	options := &metav1.CreateOptions{TypeMeta: metav1.TypeMeta{Kind: "CreateOptions", APIVersion: "meta.k8s.io/v1"}}
	admit := admission.WithAudit(b.admit)
	asked := admission.NewAttributesRecord(in, nil, bindingKind, info.Namespace, info.Name, pods, "binding", admission.Create, options, false, who)
	if mutating, ok := admit.(admission.MutationInterface); ok && mutating.Handles(admission.Create) {
		if err := mutating.Admit(ctx, asked, b.scope); err != nil {
			return err
		}
	}
	_, err = b.storage.Create(ctx, info.Name, in, rest.AdmissionToValidateObjectFunc(admit, asked, b.scope), options)
	if err != nil && ctx.Err() != nil {
		return apierrors.NewTimeoutError(fmt.Sprintf("request did not complete within requested timeout - %s", ctx.Err()), 0)
	}
	return err
}
