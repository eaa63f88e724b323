// SPDX-License-Identifier: Apache-2.0

package core

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

func validateNamespace(_ context.Context, n *v1.Namespace) field.ErrorList {
	r := &rule.Report{}
	for i, f := range n.Spec.Finalizers {
		finalizer(r, field.NewPath("spec", "finalizers").Index(i), string(f))
	}
	return r.Errors()
}

func finalizer(r *rule.Report, at *field.Path, name string) {
	r.Invalid(at, name, validation.IsQualifiedName(name)...)
	if !bytes.ContainsRune([]byte(name), '/') && name != string(v1.FinalizerKubernetes) {
		r.Invalid(at, name, "name is neither a standard finalizer name nor is it fully qualified")
	}
}

func validateNamespaceStatus(_ context.Context, n, _ *v1.Namespace) field.ErrorList {
	r := &rule.Report{}
	at := field.NewPath("status", "phase")
	rule.OneOf(r, at, n.Status.Phase, v1.NamespaceActive, v1.NamespaceTerminating)
	if n.DeletionTimestamp.IsZero() && n.Status.Phase != v1.NamespaceActive {
		r.Invalid(at, n.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty")
	}
	if !n.DeletionTimestamp.IsZero() && n.Status.Phase != v1.NamespaceTerminating {
		r.Invalid(at, n.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")
	}
	return r.Errors()
}

// A config map or secret holds at most this many bytes of values.
const maxData = 1 << 20

func validateConfigMap(_ context.Context, c *v1.ConfigMap) field.ErrorList {
	r := &rule.Report{}
	total := 0
	for _, k := range slices.Sorted(maps.Keys(c.Data)) {
		r.Invalid(field.NewPath("data").Key(k), k, validation.IsConfigMapKey(k)...)
		if _, ok := c.BinaryData[k]; ok {
			r.Invalid(field.NewPath("data").Key(k), k, "duplicate of key present in binaryData")
		}
		total += len(c.Data[k])
	}
	for _, k := range slices.Sorted(maps.Keys(c.BinaryData)) {
		r.Invalid(field.NewPath("binaryData").Key(k), k, validation.IsConfigMapKey(k)...)
		total += len(c.BinaryData[k])
	}
	if total > maxData {
		r.Add(field.TooLong(field.NewPath("data"), "", maxData))
	}
	return r.Errors()
}

func validateConfigMapUpdate(_ context.Context, c, old *v1.ConfigMap) field.ErrorList {
	r := &rule.Report{}
	if old.Immutable == nil || !*old.Immutable {
		return nil
	}
	r.Forbidden(field.NewPath("immutable"), c.Immutable == nil || !*c.Immutable, "field is immutable when `immutable` is set")
	r.Forbidden(field.NewPath("data"), !maps.Equal(c.Data, old.Data), "field is immutable when `immutable` is set")
	r.Forbidden(field.NewPath("binaryData"), !maps.EqualFunc(c.BinaryData, old.BinaryData, bytes.Equal), "field is immutable when `immutable` is set")
	return r.Errors()
}

func validateSecret(_ context.Context, s *v1.Secret) field.ErrorList {
	r := &rule.Report{}
	total := 0
	data := field.NewPath("data")
	for _, k := range slices.Sorted(maps.Keys(s.Data)) {
		r.Invalid(data.Key(k), k, validation.IsConfigMapKey(k)...)
		total += len(s.Data[k])
	}
	if total > maxData {
		r.Add(field.TooLong(data, "", maxData))
	}
	required := func(keys ...string) {
		for _, k := range keys {
			_, ok := s.Data[k]
			r.Required(data.Key(k), ok, "")
		}
	}
	switch s.Type {
	case v1.SecretTypeServiceAccountToken:
		r.Required(field.NewPath("metadata", "annotations").Key(v1.ServiceAccountNameKey), s.Annotations[v1.ServiceAccountNameKey] != "", "")
	case v1.SecretTypeDockercfg:
		jsonObject(r, s.Data, data, v1.DockerConfigKey)
	case v1.SecretTypeDockerConfigJson:
		jsonObject(r, s.Data, data, v1.DockerConfigJsonKey)
	case v1.SecretTypeBasicAuth:
		_, user := s.Data[v1.BasicAuthUsernameKey]
		_, password := s.Data[v1.BasicAuthPasswordKey]
		if !user && !password {
			r.Required(data.Key(v1.BasicAuthUsernameKey), false, "")
			r.Required(data.Key(v1.BasicAuthPasswordKey), false, "")
		}
	case v1.SecretTypeSSHAuth:
		r.Required(data.Key(v1.SSHAuthPrivateKey), len(s.Data[v1.SSHAuthPrivateKey]) > 0, "")
	case v1.SecretTypeTLS:
		required(v1.TLSCertKey, v1.TLSPrivateKeyKey)
	}
	return r.Errors()
}

func jsonObject(r *rule.Report, data map[string][]byte, at *field.Path, key string) {
	text, ok := data[key]
	if !r.Required(at.Key(key), ok, "") {
		return
	}
	var object map[string]any
	if err := json.Unmarshal(text, &object); err != nil {
		r.Invalid(at.Key(key), "<secret contents redacted>", err.Error())
	}
}

func validateSecretUpdate(_ context.Context, s, old *v1.Secret) field.ErrorList {
	r := &rule.Report{}
	r.Same(field.NewPath("type"), s.Type, old.Type)
	if old.Immutable == nil || !*old.Immutable {
		return r.Errors()
	}
	r.Forbidden(field.NewPath("immutable"), s.Immutable == nil || !*s.Immutable, "field is immutable when `immutable` is set")
	r.Forbidden(field.NewPath("data"), !maps.EqualFunc(s.Data, old.Data, bytes.Equal), "field is immutable when `immutable` is set")
	return r.Errors()
}

// newEvents reports whether an event is written through events.k8s.io, which is stricter than the core group. Without a request its form decides.
func newEvents(ctx context.Context, e *v1.Event) bool {
	if info, ok := request.RequestInfoFrom(ctx); ok {
		return info.APIGroup != v1.GroupName
	}
	return !e.EventTime.IsZero()
}

func validateEvent(ctx context.Context, e *v1.Event) field.ErrorList {
	r := &rule.Report{}
	involved := field.NewPath("involvedObject", "namespace")
	switch ns := e.InvolvedObject.Namespace; {
	case ns == "" && e.Namespace != "" && e.Namespace != "default" && e.Namespace != "kube-system":
		r.Invalid(involved, ns, "does not match event.namespace")
	case ns != "" && ns != e.Namespace:
		r.Invalid(involved, ns, "does not match event.namespace")
	}
	if ns := e.InvolvedObject.Namespace; ns != "" {
		r.Invalid(field.NewPath("involvedObject", "namespace"), ns, validation.IsDNS1123Label(ns)...)
	}
	if !e.EventTime.IsZero() {
		validateReporter(r, e)
	}
	if !newEvents(ctx, e) || e.ResourceVersion != "" { // what is there already may have been written through the core group
		return r.Errors()
	}
	r.Required(field.NewPath("eventTime"), !e.EventTime.IsZero(), "")
	rule.OneOf(r, field.NewPath("type"), e.Type, v1.EventTypeNormal, v1.EventTypeWarning)
	const old = "needs to be unset"
	r.Forbidden(field.NewPath("firstTimestamp"), !e.FirstTimestamp.IsZero(), old)
	r.Forbidden(field.NewPath("lastTimestamp"), !e.LastTimestamp.IsZero(), old)
	r.Forbidden(field.NewPath("count"), e.Count != 0, old)
	r.Forbidden(field.NewPath("source"), e.Source != v1.EventSource{}, old)
	validateSeries(r, e.Series)
	return r.Errors()
}

func validateSeries(r *rule.Report, s *v1.EventSeries) {
	if s == nil {
		return
	}
	if s.Count < 2 {
		r.Invalid(field.NewPath("series", "count"), s.Count, "should be at least 2")
	}
	r.Required(field.NewPath("series", "lastObservedTime"), !s.LastObservedTime.IsZero(), "")
}

// validateReporter is about what an event with an eventTime says of itself.
func validateReporter(r *rule.Report, e *v1.Event) {
	r.Required(field.NewPath("reportingController"), e.ReportingController != "", "")
	r.Invalid(field.NewPath("reportingController"), e.ReportingController, validation.IsQualifiedName(e.ReportingController)...)
	for _, f := range []struct {
		name, value string
		limit       int
		required    bool
	}{
		{"reportingInstance", e.ReportingInstance, 128, true}, {"action", e.Action, 128, true}, {"reason", e.Reason, 128, true}, {"message", e.Message, 1024, false},
	} {
		at := field.NewPath(f.name)
		if f.required {
			r.Required(at, f.value != "", "")
		}
		if len(f.value) > f.limit {
			r.Add(field.TooLong(at, f.value, f.limit))
		}
	}
}

// validateEventUpdate: through events.k8s.io, only what counts an event's repetitions changes.
func validateEventUpdate(ctx context.Context, e, old *v1.Event) field.ErrorList {
	r := &rule.Report{}
	if !newEvents(ctx, e) && !newEvents(ctx, old) {
		return nil
	}
	if !equality.Semantic.DeepEqual(e.Series, old.Series) {
		validateSeries(r, e.Series)
	}
	r.Same(field.NewPath("involvedObject"), e.InvolvedObject, old.InvolvedObject)
	r.Same(field.NewPath("reason"), e.Reason, old.Reason)
	r.Same(field.NewPath("message"), e.Message, old.Message)
	r.Same(field.NewPath("source"), e.Source, old.Source)
	r.Same(field.NewPath("firstTimestamp"), e.FirstTimestamp, old.FirstTimestamp)
	r.Same(field.NewPath("lastTimestamp"), e.LastTimestamp, old.LastTimestamp)
	r.Same(field.NewPath("count"), e.Count, old.Count)
	r.Same(field.NewPath("type"), e.Type, old.Type)
	r.Same(field.NewPath("action"), e.Action, old.Action)
	r.Same(field.NewPath("related"), e.Related, old.Related)
	r.Same(field.NewPath("reportingController"), e.ReportingController, old.ReportingController)
	r.Same(field.NewPath("reportingInstance"), e.ReportingInstance, old.ReportingInstance)
	if !e.EventTime.Equal(&old.EventTime) {
		r.Invalid(field.NewPath("eventTime"), e.EventTime, "field is immutable")
	}
	return r.Errors()
}
