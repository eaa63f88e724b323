// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"math"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

// handlers reports what is wrong with a container's probes and hooks.
func handlers(r *rule.Report, path *field.Path, c *v1.Container, spec *v1.PodSpec) {
	for _, p := range []struct {
		name  string
		probe *v1.Probe
	}{{"livenessProbe", c.LivenessProbe}, {"readinessProbe", c.ReadinessProbe}, {"startupProbe", c.StartupProbe}} {
		if p.probe == nil {
			continue
		}
		at := path.Child(p.name)
		probe(r, at, p.probe)
		if p.name != "readinessProbe" && p.probe.SuccessThreshold != 1 {
			r.Invalid(at.Child("successThreshold"), p.probe.SuccessThreshold, "must be 1")
		}
		r.Forbidden(at.Child("terminationGracePeriodSeconds"), p.name == "readinessProbe" && p.probe.TerminationGracePeriodSeconds != nil,
			"must not be set for readinessProbes")
	}
	l := c.Lifecycle
	if l == nil {
		return
	}
	at := path.Child("lifecycle")
	grace := int64(math.MaxInt64)
	if spec.TerminationGracePeriodSeconds != nil {
		grace = *spec.TerminationGracePeriodSeconds
	}
	for _, h := range []struct {
		name    string
		handler *v1.LifecycleHandler
	}{{"postStart", l.PostStart}, {"preStop", l.PreStop}} {
		if h.handler != nil {
			x := h.handler
			handler(r, at.Child(h.name), action{exec: x.Exec, http: x.HTTPGet, tcp: x.TCPSocket, sleep: x.Sleep, hook: true}, grace)
		}
	}
	if l.StopSignal != nil {
		at := at.Child("stopSignal")
		if spec.OS == nil || spec.OS.Name == "" {
			r.Forbidden(at, true, "may not be set for containers with empty `spec.os.name`")
		} else if spec.OS.Name == v1.Windows && *l.StopSignal != v1.SIGTERM && *l.StopSignal != v1.SIGKILL {
			r.Add(field.NotSupported(at, *l.StopSignal, []v1.Signal{v1.SIGTERM, v1.SIGKILL}))
		} else if spec.OS.Name == v1.Linux && !knownSignal(string(*l.StopSignal)) {
			r.Invalid(at, *l.StopSignal, "must be the name of a Linux signal, as SIGTERM or SIGRTMIN+3")
		}
	}
}

// knownSignal accepts the signals of signal(7), the real-time ones relative to either end of their range.
func knownSignal(name string) bool {
	if rest, ok := strings.CutPrefix(name, "SIGRTMIN"); ok {
		return rest == "" || len(rest) > 1 && rest[0] == '+' && inRange(rest[1:], 1, 15)
	}
	if rest, ok := strings.CutPrefix(name, "SIGRTMAX"); ok {
		return rest == "" || len(rest) > 1 && rest[0] == '-' && inRange(rest[1:], 1, 14)
	}
	const names = " ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT STOP SYS TERM TRAP TSTP TTIN TTOU URG USR1 USR2 " +
		"VTALRM WINCH XCPU XFSZ "
	rest, ok := strings.CutPrefix(name, "SIG")
	return ok && rest != "" && !strings.Contains(rest, " ") && strings.Contains(names, " "+rest+" ")
}

func inRange(digits string, from, to int) bool {
	n := 0
	for _, d := range digits {
		if d < '0' || d > '9' || n > to {
			return false
		}
		n = n*10 + int(d-'0')
	}
	return digits[0] != '0' && n >= from && n <= to
}

func probe(r *rule.Report, path *field.Path, p *v1.Probe) {
	handler(r, path, action{exec: p.Exec, http: p.HTTPGet, tcp: p.TCPSocket, grpc: p.GRPC}, 0)
	for _, n := range []struct {
		name  string
		value int32
	}{
		{"initialDelaySeconds", p.InitialDelaySeconds}, {"timeoutSeconds", p.TimeoutSeconds}, {"periodSeconds", p.PeriodSeconds},
		{"successThreshold", p.SuccessThreshold}, {"failureThreshold", p.FailureThreshold},
	} {
		r.NotNegative(path.Child(n.name), int64(n.value))
	}
	if n := p.TerminationGracePeriodSeconds; n != nil && *n <= 0 {
		r.Invalid(path.Child("terminationGracePeriodSeconds"), *n, "must be greater than 0")
	}
}

// action is what a probe or a hook does.
type action struct {
	exec  *v1.ExecAction
	http  *v1.HTTPGetAction
	tcp   *v1.TCPSocketAction
	grpc  *v1.GRPCAction
	sleep *v1.SleepAction
	hook  bool
}

// handler reports a choice that is not exactly one, and what is wrong with the one. Grace bounds how long a hook sleeps.
func handler(r *rule.Report, path *field.Path, a action, grace int64) {
	choices := []rule.Choice{{Name: "exec", Set: a.exec != nil}, {Name: "httpGet", Set: a.http != nil}, {Name: "tcpSocket", Set: a.tcp != nil}}
	if a.hook {
		choices = append(choices, rule.Choice{Name: "sleep", Set: a.sleep != nil})
	} else {
		choices = append(choices, rule.Choice{Name: "grpc", Set: a.grpc != nil})
	}
	r.ExactlyOne(path, choices...)
	if a.exec != nil {
		r.Required(path.Child("exec", "command"), len(a.exec.Command) > 0, "")
	}
	if g := a.http; g != nil {
		at := path.Child("httpGet")
		r.Required(at.Child("path"), g.Path != "", "")
		r.PortOrName(at.Child("port"), g.Port)
		rule.OneOf(r, at.Child("scheme"), g.Scheme, v1.URISchemeHTTP, v1.URISchemeHTTPS)
		rule.OneOfOptional(r, at.Child("protocol"), g.Protocol, v1.HTTPProtocolHTTP1, v1.HTTPProtocolHTTP2)
		if g.Protocol != nil && *g.Protocol == v1.HTTPProtocolHTTP2 && g.Scheme != v1.URISchemeHTTP {
			r.Invalid(at.Child("protocol"), *g.Protocol, "HTTP2 is spoken in clear text only: scheme must be HTTP")
		}
		for i, h := range g.HTTPHeaders {
			r.Invalid(at.Child("httpHeaders").Index(i).Child("name"), h.Name, validation.IsHTTPHeaderName(h.Name)...)
		}
	}
	if a.tcp != nil {
		r.PortOrName(path.Child("tcpSocket", "port"), a.tcp.Port)
	}
	if a.grpc != nil {
		r.PortOrName(path.Child("grpc", "port"), intstr.FromInt32(a.grpc.Port))
		rule.OneOfOptional(r, path.Child("grpc", "mode"), a.grpc.Mode, v1.GRPCProbeModePlaintext, v1.GRPCProbeModeTLS)
	}
	if a.sleep != nil {
		if n := a.sleep.Seconds; n < 0 || n > grace {
			r.Invalid(path.Child("sleep", "seconds"), n, "must be greater than or equal to 0 and less than or equal to terminationGracePeriodSeconds")
		}
	}
}
