// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

// scope is what containers of one pod may refer to.
type scope struct {
	spec    *v1.PodSpec
	volumes map[string]*v1.Volume
	claims  map[string]bool
}

// containers reports what is wrong with all containers of the pod, and with their names and host ports taken together.
func containers(r *rule.Report, path *field.Path, spec *v1.PodSpec, vols map[string]*v1.Volume, claims map[string]bool) {
	s := &scope{spec: spec, volumes: vols, claims: claims}
	names := map[string]bool{}
	unique := func(at *field.Path, name string) {
		if names[name] {
			r.Add(field.Duplicate(at.Child("name"), name))
		}
		names[name] = true
	}
	r.Required(path.Child("containers"), len(spec.Containers) > 0, "")
	for i := range spec.Containers {
		c, at := &spec.Containers[i], path.Child("containers").Index(i)
		unique(at, c.Name)
		s.container(r, at, c)
		s.restart(r, at, c)
		handlers(r, at, c, s.spec)
	}
	for i := range spec.InitContainers {
		c, at := &spec.InitContainers[i], path.Child("initContainers").Index(i)
		unique(at, c.Name)
		s.container(r, at, c)
		s.restart(r, at, c)
		if isSidecar(c) {
			handlers(r, at, c, s.spec)
			continue
		}
		for _, f := range []struct {
			name string
			set  bool
		}{
			{"lifecycle", c.Lifecycle != nil && (c.Lifecycle.PostStart != nil || c.Lifecycle.PreStop != nil)}, {"livenessProbe", c.LivenessProbe != nil},
			{"readinessProbe", c.ReadinessProbe != nil}, {"startupProbe", c.StartupProbe != nil},
		} {
			r.Forbidden(at.Child(f.name), f.set, "may not be set for init containers without restartPolicy=Always")
		}
		if len(c.ResizePolicy) > 0 {
			r.Forbidden(at.Child("resizePolicy"), true, "may not be set for init containers without restartPolicy=Always")
		}
	}
	for i := range spec.EphemeralContainers {
		c, at := &spec.EphemeralContainers[i], path.Child("ephemeralContainers").Index(i)
		unique(at, c.Name)
		s.ephemeral(r, at, c)
	}
	hostPortConflicts(r, path.Child("containers"), spec.Containers)
}

func isSidecar(c *v1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
}

// container reports what is wrong with a container of any kind, apart from its probes and hooks.
func (s *scope) container(r *rule.Report, path *field.Path, c *v1.Container) {
	r.Name(path.Child("name"), c.Name, validation.IsDNS1123Label)
	if r.Required(path.Child("image"), c.Image != "", "") && strings.TrimSpace(c.Image) != c.Image {
		r.Invalid(path.Child("image"), c.Image, "must not have leading or trailing whitespace")
	}
	rule.OneOf(r, path.Child("terminationMessagePolicy"), c.TerminationMessagePolicy, v1.TerminationMessageReadFile, v1.TerminationMessageFallbackToLogsOnError)
	rule.OneOf(r, path.Child("imagePullPolicy"), c.ImagePullPolicy, v1.PullAlways, v1.PullIfNotPresent, v1.PullNever)
	ports(r, path.Child("ports"), c.Ports, s.spec.HostNetwork)
	s.env(r, path, c)
	devices := s.devices(r, path.Child("volumeDevices"), c)
	s.mounts(r, path.Child("volumeMounts"), c.VolumeMounts, c, devices)
	s.requirements(r, path.Child("resources"), &c.Resources)
	resizePolicy(r, path.Child("resizePolicy"), c.ResizePolicy, s.spec)
	containerSecurity(r, path.Child("securityContext"), c.SecurityContext, s.spec)
}

// restart reports contradictions between what should happen when the container ends and when the pod does.
func (s *scope) restart(r *rule.Report, path *field.Path, c *v1.Container) {
	at := path.Child("restartPolicy")
	rule.OneOfOptional(r, at, c.RestartPolicy, v1.ContainerRestartPolicyAlways, v1.ContainerRestartPolicyOnFailure, v1.ContainerRestartPolicyNever)
	rules := path.Child("restartPolicyRules")
	if len(c.RestartPolicyRules) > 0 {
		r.Required(at, c.RestartPolicy != nil, "must be set when restartPolicyRules are")
		r.Forbidden(rules, isSidecar(c), "may not be set with restartPolicy=Always")
	}
	if n := len(c.RestartPolicyRules); n > 20 {
		r.Add(field.TooMany(rules, n, 20))
	}
	for i, x := range c.RestartPolicyRules {
		at := rules.Index(i)
		rule.OneOf(r, at.Child("action"), x.Action, v1.ContainerRestartRuleActionRestart, v1.ContainerRestartRuleActionRestartAllContainers)
		if !r.Required(at.Child("exitCodes"), x.ExitCodes != nil, "") {
			continue
		}
		codes := at.Child("exitCodes")
		rule.OneOf(r, codes.Child("operator"), x.ExitCodes.Operator, v1.ContainerRestartRuleOnExitCodesOpIn, v1.ContainerRestartRuleOnExitCodesOpNotIn)
		r.Required(codes.Child("values"), len(x.ExitCodes.Values) > 0, "")
		if n := len(x.ExitCodes.Values); n > 255 {
			r.Add(field.TooMany(codes.Child("values"), n, 255))
		}
		seen := map[int32]bool{}
		for j, v := range x.ExitCodes.Values {
			if seen[v] {
				r.Add(field.Duplicate(codes.Child("values").Index(j), v))
			}
			seen[v] = true
		}
	}
}

// ports reports what is wrong with a container's ports. In the node's network a port is what it is: it cannot be mapped.
func ports(r *rule.Report, path *field.Path, list []v1.ContainerPort, hostNetwork bool) {
	names := map[string]bool{}
	for i, p := range list {
		at := path.Index(i)
		if p.Name != "" {
			if msgs := validation.IsValidPortName(p.Name); len(msgs) > 0 {
				r.Invalid(at.Child("name"), p.Name, msgs...)
			} else if names[p.Name] {
				r.Add(field.Duplicate(at.Child("name"), p.Name))
			}
			names[p.Name] = true
		}
		if r.Required(at.Child("containerPort"), p.ContainerPort != 0, "") {
			r.Port(at.Child("containerPort"), p.ContainerPort)
		}
		if p.HostPort != 0 {
			r.Port(at.Child("hostPort"), p.HostPort)
			if hostNetwork && p.HostPort != p.ContainerPort {
				r.Invalid(at.Child("hostPort"), p.HostPort, "must match `containerPort` when `hostNetwork` is true")
			}
		}
		if p.HostIP != "" {
			r.Add(validation.IsValidIPForLegacyField(at.Child("hostIP"), p.HostIP, true, nil)...)
		}
		rule.OneOf(r, at.Child("protocol"), p.Protocol, v1.ProtocolTCP, v1.ProtocolUDP, v1.ProtocolSCTP)
	}
}

// hostPortConflicts reports ports of the node that two containers of the pod would bind.
func hostPortConflicts(r *rule.Report, path *field.Path, list []v1.Container) {
	seen := map[string]bool{}
	for i := range list {
		for j, p := range list[i].Ports {
			if p.HostPort == 0 {
				continue
			}
			key := fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort)
			if seen[key] {
				r.Add(field.Duplicate(path.Index(i).Child("ports").Index(j).Child("hostPort"), key))
			}
			seen[key] = true
		}
	}
}

// ephemeral reports what is wrong with a container that joins a running pod: it may look, but not reserve, serve or be restarted.
func (s *scope) ephemeral(r *rule.Report, path *field.Path, e *v1.EphemeralContainer) {
	c := (*v1.Container)(&e.EphemeralContainerCommon)
	s.container(r, path, c)
	if e.TargetContainerName != "" {
		known := slices.ContainsFunc(slices.Concat(s.spec.Containers, s.spec.InitContainers), func(c v1.Container) bool { return c.Name == e.TargetContainerName })
		if !known {
			r.Add(field.NotFound(path.Child("targetContainerName"), e.TargetContainerName))
		}
	}
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"ports", len(c.Ports) > 0}, {"lifecycle", c.Lifecycle != nil}, {"livenessProbe", c.LivenessProbe != nil},
		{"readinessProbe", c.ReadinessProbe != nil}, {"startupProbe", c.StartupProbe != nil},
		{"resources", len(c.Resources.Limits)+len(c.Resources.Requests)+len(c.Resources.Claims) > 0},
		{"resizePolicy", len(c.ResizePolicy) > 0}, {"restartPolicy", c.RestartPolicy != nil}, {"restartPolicyRules", len(c.RestartPolicyRules) > 0},
	} {
		r.Forbidden(path.Child(f.name), f.set, "cannot be set for an Ephemeral Container")
	}
	for i, m := range c.VolumeMounts {
		r.Forbidden(path.Child("volumeMounts").Index(i).Child("subPath"), m.SubPath != "", "cannot be set for an Ephemeral Container")
		r.Forbidden(path.Child("volumeMounts").Index(i).Child("subPathExpr"), m.SubPathExpr != "", "cannot be set for an Ephemeral Container")
	}
}
