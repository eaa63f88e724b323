// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

// sysctlName is what sysctl(8) accepts, with dots or slashes between the parts.
var sysctlName = regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`)

// security reports what is wrong with the security context of the pod as a whole.
func security(r *rule.Report, at *field.Path, spec *v1.PodSpec) {
	if spec.ShareProcessNamespace != nil && *spec.ShareProcessNamespace && spec.HostPID {
		r.Invalid(at.Child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled")
	}
	sc := spec.SecurityContext
	at = at.Child("securityContext")
	if sc == nil {
		return
	}
	ids(r, at, sc.RunAsUser, sc.RunAsGroup)
	if sc.FSGroup != nil {
		r.Invalid(at.Child("fsGroup"), *sc.FSGroup, validation.IsValidGroupID(*sc.FSGroup)...)
	}
	for i, g := range sc.SupplementalGroups {
		r.Invalid(at.Child("supplementalGroups").Index(i), g, validation.IsValidGroupID(g)...)
	}
	rule.OneOfOptional(r, at.Child("fsGroupChangePolicy"), sc.FSGroupChangePolicy, v1.FSGroupChangeOnRootMismatch, v1.FSGroupChangeAlways)
	rule.OneOfOptional(r, at.Child("supplementalGroupsPolicy"), sc.SupplementalGroupsPolicy, v1.SupplementalGroupsPolicyMerge, v1.SupplementalGroupsPolicyStrict)
	rule.OneOfOptional(r, at.Child("seLinuxChangePolicy"), sc.SELinuxChangePolicy, v1.SELinuxChangePolicyRecursive, v1.SELinuxChangePolicyMountOption)
	sysctls(r, at.Child("sysctls"), spec)
	seccomp(r, at.Child("seccompProfile"), sc.SeccompProfile)
	apparmor(r, at.Child("appArmorProfile"), sc.AppArmorProfile)
	windows(r, at.Child("windowsOptions"), sc.WindowsOptions)
}

func ids(r *rule.Report, at *field.Path, user, group *int64) {
	if user != nil {
		r.Invalid(at.Child("runAsUser"), *user, validation.IsValidUserID(*user)...)
	}
	if group != nil {
		r.Invalid(at.Child("runAsGroup"), *group, validation.IsValidGroupID(*group)...)
	}
}

// sysctls reports settings twice, badly named, or of a namespace that the pod shares with the node.
func sysctls(r *rule.Report, at *field.Path, spec *v1.PodSpec) {
	seen := map[string]bool{}
	for i, s := range spec.SecurityContext.Sysctls {
		at := at.Index(i).Child("name")
		if !r.Required(at, s.Name != "", "") {
			continue
		}
		if len(s.Name) > 253 || !sysctlName.MatchString(s.Name) {
			r.Invalid(at, s.Name, fmt.Sprintf("must have at most 253 characters and match regex %s", sysctlName))
			continue
		}
		name := strings.ReplaceAll(s.Name, "/", ".")
		if seen[name] {
			r.Add(field.Duplicate(at, s.Name))
		}
		seen[name] = true
		ipc := strings.HasPrefix(name, "kernel.shm") || strings.HasPrefix(name, "kernel.msg") || name == "kernel.sem" || strings.HasPrefix(name, "fs.mqueue.")
		if ipc && spec.HostIPC {
			r.Invalid(at, s.Name, "may not be specified when 'hostIPC' is set to true")
		}
		if strings.HasPrefix(name, "net.") && spec.HostNetwork {
			r.Invalid(at, s.Name, "may not be specified when 'hostNetwork' is set to true")
		}
	}
}

func seccomp(r *rule.Report, at *field.Path, p *v1.SeccompProfile) {
	if p == nil {
		return
	}
	rule.OneOf(r, at.Child("type"), p.Type, v1.SeccompProfileTypeLocalhost, v1.SeccompProfileTypeRuntimeDefault, v1.SeccompProfileTypeUnconfined)
	localhost(r, at, p.Type == v1.SeccompProfileTypeLocalhost, p.LocalhostProfile, "seccomp")
	if p.Type == v1.SeccompProfileTypeLocalhost && p.LocalhostProfile != nil {
		localPath(r, at.Child("localhostProfile"), *p.LocalhostProfile)
	}
}

func apparmor(r *rule.Report, at *field.Path, p *v1.AppArmorProfile) {
	if p == nil {
		return
	}
	rule.OneOf(r, at.Child("type"), p.Type, v1.AppArmorProfileTypeLocalhost, v1.AppArmorProfileTypeRuntimeDefault, v1.AppArmorProfileTypeUnconfined)
	localhost(r, at, p.Type == v1.AppArmorProfileTypeLocalhost, p.LocalhostProfile, "AppArmor")
	if p.LocalhostProfile != nil {
		at := at.Child("localhostProfile")
		if *p.LocalhostProfile != strings.TrimSpace(*p.LocalhostProfile) {
			r.Invalid(at, *p.LocalhostProfile, "must not be padded with whitespace")
		}
		if len(*p.LocalhostProfile) > 4096 {
			r.Add(field.TooLong(at, *p.LocalhostProfile, 4096))
		}
	}
}

func localhost(r *rule.Report, at *field.Path, wanted bool, profile *string, kind string) {
	at = at.Child("localhostProfile")
	switch {
	case wanted:
		r.Required(at, profile != nil && *profile != "", "must be set when "+kind+" type is Localhost")
	case profile != nil:
		r.Invalid(at, *profile, "can only be set when "+kind+" type is Localhost")
	}
}

// containerSecurity reports what is wrong with a container's own context and how it fits the pod's.
func containerSecurity(r *rule.Report, at *field.Path, sc *v1.SecurityContext, spec *v1.PodSpec) {
	if sc == nil {
		return
	}
	ids(r, at, sc.RunAsUser, sc.RunAsGroup)
	if sc.ProcMount != nil {
		rule.OneOf(r, at.Child("procMount"), *sc.ProcMount, v1.DefaultProcMount, v1.UnmaskedProcMount)
		usersOnHost := spec.HostUsers == nil || *spec.HostUsers
		if *sc.ProcMount == v1.UnmaskedProcMount && usersOnHost {
			r.Invalid(at.Child("procMount"), *sc.ProcMount, "`hostUsers` must be false to use `Unmasked`")
		}
	}
	seccomp(r, at.Child("seccompProfile"), sc.SeccompProfile)
	apparmor(r, at.Child("appArmorProfile"), sc.AppArmorProfile)
	if e := sc.AllowPrivilegeEscalation; e != nil && !*e {
		if sc.Privileged != nil && *sc.Privileged {
			r.Invalid(at, sc, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true")
		}
		if sc.Capabilities != nil {
			for _, c := range sc.Capabilities.Add {
				if c == "CAP_SYS_ADMIN" {
					r.Invalid(at, sc, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN")
				}
			}
		}
	}
	windows(r, at.Child("windowsOptions"), sc.WindowsOptions)
}

// windows reports what Windows would refuse.
func windows(r *rule.Report, at *field.Path, o *v1.WindowsSecurityContextOptions) {
	if o == nil {
		return
	}
	if n := o.GMSACredentialSpecName; n != nil {
		r.Invalid(at.Child("gmsaCredentialSpecName"), *n, validation.IsDNS1123Subdomain(*n)...)
	}
	if s := o.GMSACredentialSpec; s != nil {
		if n := len(*s); n == 0 {
			r.Invalid(at.Child("gmsaCredentialSpec"), "", "gmsaCredentialSpec cannot be an empty string")
		} else if n > 64*1024 {
			r.Add(field.TooLong(at.Child("gmsaCredentialSpec"), "", 64*1024))
		}
	}
	if n := o.RunAsUserName; n != nil {
		windowsUser(r, at.Child("runAsUserName"), *n)
	}
}

// windowsUser: DOMAIN\user, the domain at most 255 characters and the user at most 104.
func windowsUser(r *rule.Report, at *field.Path, name string) {
	if name == "" {
		r.Invalid(at, name, "runAsUserName cannot be an empty string")
		return
	}
	if strings.ContainsFunc(name, func(c rune) bool { return c < 0x20 || c == 0x7f }) {
		r.Invalid(at, name, "runAsUserName cannot contain control characters")
	}
	parts := strings.Split(name, `\`)
	if len(parts) > 2 {
		r.Invalid(at, name, "runAsUserName can only contain one backslash")
		return
	}
	user := parts[len(parts)-1]
	if len(parts) == 2 && (parts[0] == "" || len(parts[0]) > 255 || strings.ContainsAny(parts[0], `/:*?"<>|`)) {
		r.Invalid(at, name, "runAsUserName's Domain must have 1 to 255 characters and be a NetBIOS or DNS name")
	}
	if user == "" || len(user) > 104 || strings.Trim(user, ". ") == "" || strings.ContainsAny(user, `"/\:;|=,+*?<>@[]`) {
		r.Invalid(at, name, `runAsUserName's User must have 1 to 104 characters, not only dots and spaces, and none of "/\:;|=,+*?<>@[]`)
	}
}

// annotations reports profiles that are named the old way and contradict the fields, or name containers that are not there.
func annotations(r *rule.Report, spec *v1.PodSpec, meta *metav1.ObjectMeta) {
	for key, profile := range meta.Annotations {
		container, ok := strings.CutPrefix(key, v1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix)
		if !ok {
			continue
		}
		where := field.NewPath("metadata", "annotations").Key(key)
		known := false
		for _, list := range [][]v1.Container{spec.InitContainers, spec.Containers} {
			for i := range list {
				known = known || list[i].Name == container
			}
		}
		if !known {
			r.Invalid(where, container, "container not found")
		}
		local, isLocal := strings.CutPrefix(profile, v1.DeprecatedAppArmorBetaProfileNamePrefix)
		switch {
		case profile == "" || profile == v1.DeprecatedAppArmorBetaProfileRuntimeDefault || profile == v1.DeprecatedAppArmorBetaProfileNameUnconfined:
		case isLocal && path.Clean(local) != ".":
		default:
			r.Invalid(where, profile, "must be runtime/default, unconfined or localhost/PROFILE")
		}
	}
}
