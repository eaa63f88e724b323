// SPDX-License-Identifier: Apache-2.0

// Package podenv builds the environment of containers: services, envFrom, env with $(REFERENCES), and the downward API.
package podenv

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/fairlead/fairlead/dataplane/kubelet/criconfig"
	"github.com/fairlead/fairlead/dataplane/kubelet/downward"
)

// Lookup finds what an environment refers to. A config map or secret that does not exist is (nil, nil).
type Lookup struct {
	ConfigMap func(name string) (*v1.ConfigMap, error)
	Secret    func(name string) (*v1.Secret, error)
	File      func(volume, path, key string) (value string, found bool, err error)
}

// Build returns the container's variables in the order they are defined; a later definition of a name replaces the earlier one.
// services are all of the pod's namespace, and master the service kubernetes of namespace default; both may be nil.
func Build(pod *v1.Pod, container *v1.Container, services []*v1.Service, master *v1.Service, lookup Lookup, facts downward.Facts) ([]*runtimeapi.KeyValue, error) {
	e := &environment{values: map[string]string{}}
	serviceVars := map[string]string{}
	if pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks {
		for _, service := range services {
			maps.Copy(serviceVars, Service(service))
		}
	}
	if master != nil {
		maps.Copy(serviceVars, Service(master))
	}
	for i := range container.EnvFrom {
		if err := e.from(&container.EnvFrom[i], lookup); err != nil {
			return nil, err
		}
	}
	for i := range container.Env {
		variable := &container.Env[i]
		value, skip, err := e.value(pod, container, variable, serviceVars, lookup, facts)
		if err != nil {
			return nil, err
		}
		if !skip {
			e.set(variable.Name, value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(serviceVars)) {
		if _, defined := e.values[name]; !defined {
			e.set(name, serviceVars[name])
		}
	}
	out := make([]*runtimeapi.KeyValue, 0, len(e.order))
	for _, name := range e.order {
		out = append(out, &runtimeapi.KeyValue{Key: name, Value: []byte(e.values[name])})
	}
	return out, nil
}

type environment struct {
	values map[string]string
	order  []string
}

func (e *environment) set(name, value string) {
	if _, ok := e.values[name]; !ok {
		e.order = append(e.order, name)
	}
	e.values[name] = value
}

func (e *environment) from(source *v1.EnvFromSource, lookup Lookup) error {
	switch {
	case source.ConfigMapRef != nil:
		m, err := lookup.ConfigMap(source.ConfigMapRef.Name)
		if err != nil {
			return err
		}
		if m == nil {
			if optional(source.ConfigMapRef.Optional) {
				return nil
			}
			return fmt.Errorf("configmap %q not found", source.ConfigMapRef.Name)
		}
		for _, key := range slices.Sorted(maps.Keys(m.Data)) {
			e.set(source.Prefix+key, m.Data[key])
		}
	case source.SecretRef != nil:
		s, err := lookup.Secret(source.SecretRef.Name)
		if err != nil {
			return err
		}
		if s == nil {
			if optional(source.SecretRef.Optional) {
				return nil
			}
			return fmt.Errorf("secret %q not found", source.SecretRef.Name)
		}
		for _, key := range slices.Sorted(maps.Keys(s.Data)) {
			e.set(source.Prefix+key, string(s.Data[key]))
		}
	}
	return nil
}

func (e *environment) value(pod *v1.Pod, container *v1.Container, variable *v1.EnvVar, services map[string]string, lookup Lookup, facts downward.Facts) (
	value string, skip bool, err error,
) {
	source := variable.ValueFrom
	switch {
	case source == nil:
		if !strings.Contains(variable.Value, "$") {
			return variable.Value, false, nil
		}
		known := maps.Clone(services)
		maps.Copy(known, e.values)
		return criconfig.Expand(variable.Value, known), false, nil
	case source.FieldRef != nil:
		value, err = downward.Field(source.FieldRef.FieldPath, pod, facts)
		return value, false, err
	case source.ResourceFieldRef != nil:
		of := container
		if name := source.ResourceFieldRef.ContainerName; name != "" && name != container.Name {
			for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
				for i := range list {
					if list[i].Name == name {
						of = &list[i]
					}
				}
			}
		}
		value, err = downward.Resource(source.ResourceFieldRef, of, facts)
		return value, false, err
	case source.ConfigMapKeyRef != nil:
		ref := source.ConfigMapKeyRef
		m, err := lookup.ConfigMap(ref.Name)
		if err != nil {
			return "", false, err
		}
		if m == nil {
			return missing(ref.Optional, "configmap %q not found", ref.Name)
		}
		value, ok := m.Data[ref.Key]
		if !ok {
			return missing(ref.Optional, "couldn't find key %v in ConfigMap %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		return value, false, nil
	case source.SecretKeyRef != nil:
		ref := source.SecretKeyRef
		s, err := lookup.Secret(ref.Name)
		if err != nil {
			return "", false, err
		}
		if s == nil {
			return missing(ref.Optional, "secret %q not found", ref.Name)
		}
		data, ok := s.Data[ref.Key]
		if !ok {
			return missing(ref.Optional, "couldn't find key %v in Secret %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		return string(data), false, nil
	case source.FileKeyRef != nil && lookup.File != nil:
		ref := source.FileKeyRef
		value, found, err := lookup.File(ref.VolumeName, ref.Path, ref.Key)
		if err != nil {
			return "", false, err
		}
		if !found {
			return missing(ref.Optional, "environment variable key %q not found in file %q", ref.Key, ref.Path)
		}
		return value, false, nil
	}
	return "", false, fmt.Errorf("environment variable %s has a source of an unknown kind", variable.Name)
}

func missing(isOptional *bool, format string, args ...any) (string, bool, error) {
	if optional(isOptional) {
		return "", true, nil
	}
	return "", false, fmt.Errorf(format, args...)
}

func optional(b *bool) bool { return b != nil && *b }

// Service returns the variables for one service: NAME_SERVICE_HOST, NAME_SERVICE_PORT, and the docker-link kind.
func Service(service *v1.Service) map[string]string {
	ip := service.Spec.ClusterIP
	if ip == "" || ip == v1.ClusterIPNone || len(service.Spec.Ports) == 0 {
		return nil
	}
	prefix := strings.ToUpper(strings.ReplaceAll(service.Name, "-", "_"))
	out := map[string]string{
		prefix + "_SERVICE_HOST": ip,
		prefix + "_SERVICE_PORT": strconv.Itoa(int(service.Spec.Ports[0].Port)),
	}
	for i, port := range service.Spec.Ports {
		if port.Name != "" {
			out[prefix+"_SERVICE_PORT_"+strings.ToUpper(strings.ReplaceAll(port.Name, "-", "_"))] = strconv.Itoa(int(port.Port))
		}
		protocol := string(v1.ProtocolTCP)
		if port.Protocol != "" {
			protocol = string(port.Protocol)
		}
		number := strconv.Itoa(int(port.Port))
		url := strings.ToLower(protocol) + "://" + net.JoinHostPort(ip, number)
		if i == 0 {
			out[prefix+"_PORT"] = url
		}
		link := prefix + "_PORT_" + number + "_" + strings.ToUpper(protocol)
		out[link], out[link+"_PROTO"], out[link+"_PORT"], out[link+"_ADDR"] = url, strings.ToLower(protocol), number, ip
	}
	return out
}
