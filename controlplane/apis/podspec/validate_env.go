// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

// What a pod can learn about itself, in variables and in files.
var (
	envFields = map[string]bool{
		"metadata.name": true, "metadata.namespace": true, "metadata.uid": true, "spec.nodeName": true, "spec.serviceAccountName": true,
		"status.hostIP": true, "status.hostIPs": true, "status.podIP": true, "status.podIPs": true,
	}
	fileFields = map[string]bool{"metadata.name": true, "metadata.namespace": true, "metadata.labels": true, "metadata.annotations": true,
		"metadata.uid": true}
	resourceFields    = []string{"limits.cpu", "limits.memory", "limits.ephemeral-storage", "requests.cpu", "requests.memory", "requests.ephemeral-storage"}
	hugePageFields    = []string{"limits." + v1.ResourceHugePagesPrefix, "requests." + v1.ResourceHugePagesPrefix}
	divisorsOfCPU     = map[string]bool{"0": true, "1m": true, "1": true}
	divisorsOfStorage = map[string]bool{
		"0": true, "1": true, "1k": true, "1M": true, "1G": true, "1T": true, "1P": true, "1E": true,
		"1Ki": true, "1Mi": true, "1Gi": true, "1Ti": true, "1Pi": true, "1Ei": true,
	}
)

func (s *scope) env(r *rule.Report, path *field.Path, c *v1.Container) {
	for i := range c.Env {
		e, at := &c.Env[i], path.Child("env").Index(i)
		r.Name(at.Child("name"), e.Name, validation.IsRelaxedEnvVarName)
		if e.ValueFrom != nil {
			s.envSource(r, at.Child("valueFrom"), e)
		}
	}
	for i, e := range c.EnvFrom {
		at := path.Child("envFrom").Index(i)
		r.Optional(at.Child("prefix"), e.Prefix, validation.IsRelaxedEnvVarName)
		r.ExactlyOne(at, rule.Choice{Name: "configMapRef", Set: e.ConfigMapRef != nil}, rule.Choice{Name: "secretRef", Set: e.SecretRef != nil})
		if e.ConfigMapRef != nil {
			r.Name(at.Child("configMapRef", "name"), e.ConfigMapRef.Name, subdomain)
		}
		if e.SecretRef != nil {
			r.Name(at.Child("secretRef", "name"), e.SecretRef.Name, subdomain)
		}
	}
}

func (s *scope) envSource(r *rule.Report, path *field.Path, e *v1.EnvVar) {
	from := e.ValueFrom
	r.ExactlyOne(path, rule.Choice{Name: "fieldRef", Set: from.FieldRef != nil}, rule.Choice{Name: "resourceFieldRef", Set: from.ResourceFieldRef != nil},
		rule.Choice{Name: "configMapKeyRef", Set: from.ConfigMapKeyRef != nil}, rule.Choice{Name: "secretKeyRef", Set: from.SecretKeyRef != nil},
		rule.Choice{Name: "fileKeyRef", Set: from.FileKeyRef != nil})
	if e.Value != "" {
		r.Invalid(path, "", "may not be specified when `value` is not empty")
	}
	if f := from.FieldRef; f != nil {
		fieldRef(r, path.Child("fieldRef"), f, envFields)
	}
	if f := from.ResourceFieldRef; f != nil {
		s.resourceFieldRef(r, path.Child("resourceFieldRef"), f, false)
	}
	if k := from.ConfigMapKeyRef; k != nil {
		at := path.Child("configMapKeyRef")
		r.Name(at.Child("name"), k.Name, subdomain)
		r.Name(at.Child("key"), k.Key, validation.IsConfigMapKey)
	}
	if k := from.SecretKeyRef; k != nil {
		at := path.Child("secretKeyRef")
		r.Name(at.Child("name"), k.Name, subdomain)
		r.Name(at.Child("key"), k.Key, validation.IsConfigMapKey)
	}
	if k := from.FileKeyRef; k != nil {
		s.fileKeyRef(r, path.Child("fileKeyRef"), k)
	}
}

// fieldRef reports a path that is no field a pod may learn. Single labels and annotations are asked for by subscript.
func fieldRef(r *rule.Report, path *field.Path, f *v1.ObjectFieldSelector, known map[string]bool) {
	if r.Required(path.Child("apiVersion"), f.APIVersion != "", "") && f.APIVersion != "v1" {
		r.Invalid(path.Child("apiVersion"), f.APIVersion, "must be v1")
	}
	at := path.Child("fieldPath")
	if !r.Required(at, f.FieldPath != "", "") {
		return
	}
	base, key, subscripted := f.FieldPath, "", false
	if i := strings.Index(base, "['"); i > 0 && strings.HasSuffix(base, "']") {
		base, key, subscripted = base[:i], base[i+2:len(base)-2], true
	}
	switch {
	case subscripted && base == "metadata.annotations":
		r.Invalid(at, key, validation.IsQualifiedName(strings.ToLower(key))...)
	case subscripted && base == "metadata.labels":
		r.Invalid(at, key, validation.IsQualifiedName(key)...)
	case subscripted:
		r.Invalid(at, f.FieldPath, "only metadata.labels and metadata.annotations take a key")
	case !known[base]:
		r.Add(field.NotSupported(at, f.FieldPath, sortedKeys(known)))
	}
}

// resourceFieldRef reports a resource that a container cannot ask for. A file has to name the container, a variable need not.
func (s *scope) resourceFieldRef(r *rule.Report, path *field.Path, f *v1.ResourceFieldSelector, file bool) {
	if file {
		r.Required(path.Child("containerName"), f.ContainerName != "", "")
	}
	at := path.Child("resource")
	if !r.Required(at, f.Resource != "", "") {
		return
	}
	huge := false
	for _, prefix := range hugePageFields {
		huge = huge || strings.HasPrefix(f.Resource, prefix) && f.Resource != prefix
	}
	known := huge
	for _, name := range resourceFields {
		known = known || f.Resource == name
	}
	if !known {
		r.Add(field.NotSupported(at, f.Resource, append(append([]string{}, resourceFields...), hugePageFields...)))
		return
	}
	allowed := divisorsOfStorage
	if strings.HasSuffix(f.Resource, ".cpu") {
		allowed = divisorsOfCPU
	}
	if d := f.Divisor.String(); !allowed[d] {
		r.Add(field.NotSupported(path.Child("divisor"), d, sortedKeys(allowed)))
	}
}

// fileKeyRef: the file lies in an emptyDir that some init container filled.
func (s *scope) fileKeyRef(r *rule.Report, path *field.Path, k *v1.FileKeySelector) {
	if r.Required(path.Child("volumeName"), k.VolumeName != "", "") {
		if v, ok := s.volumes[k.VolumeName]; !ok {
			r.Add(field.NotFound(path.Child("volumeName"), k.VolumeName))
		} else if v.EmptyDir == nil {
			r.Invalid(path.Child("volumeName"), k.VolumeName, "must be an emptyDir volume")
		}
	}
	if r.Required(path.Child("path"), k.Path != "", "") {
		localPath(r, path.Child("path"), k.Path)
	}
	if r.Required(path.Child("key"), k.Key != "", "") {
		if len(k.Key) > 128 {
			r.Add(field.TooLong(path.Child("key"), k.Key, 128))
		}
		r.Invalid(path.Child("key"), k.Key, validation.IsRelaxedEnvVarName(k.Key)...)
	}
}
