// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/podspec"
	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

func subdomain(name string) []string { return apivalidation.NameIsDNSSubdomain(name, false) }

func validatePersistentVolume(_ context.Context, pv *v1.PersistentVolume) field.ErrorList {
	r := &rule.Report{}
	ValidatePersistentVolumeSpec(r, field.NewPath("spec"), &pv.Spec, false)
	return r.Errors()
}

// ValidatePersistentVolumeSpec reports what is wrong with a volume. Inline volumes, which VolumeAttachments carry, are CSI volumes without a
// claim, class or affinity.
func ValidatePersistentVolumeSpec(r *rule.Report, at *field.Path, s *v1.PersistentVolumeSpec, inline bool) {
	if inline {
		r.Forbidden(at.Child("claimRef"), s.ClaimRef != nil, "may not be specified in the context of inline volumes")
		r.Forbidden(at.Child("capacity"), len(s.Capacity) > 0, "may not be specified in the context of inline volumes")
		r.Forbidden(at.Child("persistentVolumeReclaimPolicy"), s.PersistentVolumeReclaimPolicy != "", "may not be specified in the context of inline volumes")
		r.Forbidden(at.Child("storageClassName"), s.StorageClassName != "", "may not be specified in the context of inline volumes")
		r.Forbidden(at.Child("nodeAffinity"), s.NodeAffinity != nil, "may not be specified in the context of inline volumes")
		r.Required(at.Child("csi"), s.CSI != nil, "must be specified for inline volumes")
	} else {
		capacity := at.Child("capacity")
		if r.Required(capacity, len(s.Capacity) > 0, "") {
			size, ok := s.Capacity[v1.ResourceStorage]
			if !ok || len(s.Capacity) > 1 {
				r.Add(field.NotSupported(capacity, fmt.Sprint(slices.Sorted(maps.Keys(s.Capacity))), []string{string(v1.ResourceStorage)}))
			} else if size.Sign() <= 0 {
				r.Invalid(capacity.Key(string(v1.ResourceStorage)), size.String(), "must be greater than zero")
			}
		}
		rule.OneOf(r, at.Child("persistentVolumeReclaimPolicy"), s.PersistentVolumeReclaimPolicy,
			v1.PersistentVolumeReclaimDelete, v1.PersistentVolumeReclaimRecycle, v1.PersistentVolumeReclaimRetain)
		if a := s.NodeAffinity; a != nil && r.Required(at.Child("nodeAffinity", "required"), a.Required != nil, "must specify required node constraints") {
			podspec.NodeSelector(r, at.Child("nodeAffinity", "required"), a.Required)
		}
	}
	podspec.AccessModes(r, at.Child("accessModes"), s.AccessModes)
	rule.OneOfOptional(r, at.Child("volumeMode"), s.VolumeMode, v1.PersistentVolumeBlock, v1.PersistentVolumeFilesystem)
	r.Optional(at.Child("storageClassName"), s.StorageClassName, subdomain)
	if c := s.VolumeAttributesClassName; c != nil {
		r.Name(at.Child("volumeAttributesClassName"), *c, subdomain)
		r.Required(at.Child("csi"), s.CSI != nil, "has to be specified when using volumeAttributesClassName")
	}
	persistentSource(r, at, s)
}

// persistentSource reports a choice that is not exactly one, and what is wrong with it.
func persistentSource(r *rule.Report, at *field.Path, s *v1.PersistentVolumeSpec) {
	n := 0
	for _, c := range []rule.Choice{
		{Name: "hostPath", Set: s.HostPath != nil}, {Name: "gcePersistentDisk", Set: s.GCEPersistentDisk != nil},
		{Name: "awsElasticBlockStore", Set: s.AWSElasticBlockStore != nil}, {Name: "glusterfs", Set: s.Glusterfs != nil}, {Name: "flocker", Set: s.Flocker != nil},
		{Name: "nfs", Set: s.NFS != nil}, {Name: "rbd", Set: s.RBD != nil}, {Name: "quobyte", Set: s.Quobyte != nil}, {Name: "cephfs", Set: s.CephFS != nil},
		{Name: "iscsi", Set: s.ISCSI != nil}, {Name: "cinder", Set: s.Cinder != nil}, {Name: "fc", Set: s.FC != nil}, {Name: "flexVolume", Set: s.FlexVolume != nil},
		{Name: "azureFile", Set: s.AzureFile != nil}, {Name: "vsphereVolume", Set: s.VsphereVolume != nil}, {Name: "azureDisk", Set: s.AzureDisk != nil},
		{Name: "photonPersistentDisk", Set: s.PhotonPersistentDisk != nil}, {Name: "portworxVolume", Set: s.PortworxVolume != nil},
		{Name: "scaleIO", Set: s.ScaleIO != nil}, {Name: "local", Set: s.Local != nil}, {Name: "storageos", Set: s.StorageOS != nil}, {Name: "csi",
			Set: s.CSI != nil},
	} {
		if c.Set {
			if n++; n > 1 {
				r.Forbidden(at.Child(c.Name), true, "may not specify more than 1 volume type")
			}
		}
	}
	r.Required(at, n > 0, "must specify a volume type")
	if p := s.HostPath; p != nil {
		podspec.HostPath(r, at.Child("hostPath"), p)
		r.Forbidden(at.Child("persistentVolumeReclaimPolicy"), path.Clean(p.Path) == "/" && s.PersistentVolumeReclaimPolicy == v1.PersistentVolumeReclaimRecycle,
			"may not be 'recycle' for a hostPath mount of '/'")
	}
	if l := s.Local; l != nil {
		at := at.Child("local", "path")
		if r.Required(at, l.Path != "", "") && slices.Contains(strings.Split(l.Path, "/"), "..") {
			r.Invalid(at, l.Path, "must not contain '..'")
		}
		r.Required(field.NewPath("metadata", "nodeAffinity"), s.NodeAffinity != nil, "Local volume requires node affinity")
	}
	if c := s.CSI; c != nil {
		persistentCSI(r, at.Child("csi"), c)
	}
	if x := s.NFS; x != nil {
		podspec.NFS(r, at.Child("nfs"), x)
	}
	if x := s.ISCSI; x != nil {
		podspec.ISCSI(r, at.Child("iscsi"), podspec.ISCSITarget{Portal: x.TargetPortal, IQN: x.IQN, LUN: x.Lun,
			CHAP: x.DiscoveryCHAPAuth || x.SessionCHAPAuth, HasSecret: x.SecretRef != nil, Initiator: x.InitiatorName})
	}
	if x := s.FC; x != nil {
		podspec.FC(r, at.Child("fc"), x)
	}
	if x := s.AzureDisk; x != nil {
		podspec.AzureDisk(r, at.Child("azureDisk"), x)
	}
	if x := s.Quobyte; x != nil {
		podspec.Quobyte(r, at.Child("quobyte"), x)
	}
	if x := s.Flocker; x != nil {
		podspec.Flocker(r, at.Child("flocker"), x)
	}
	if x := s.FlexVolume; x != nil {
		r.Required(at.Child("flexVolume", "driver"), x.Driver != "", "")
		podspec.FlexOptions(r, at.Child("flexVolume", "options"), x.Options)
	}
	if x := s.RBD; x != nil {
		r.Required(at.Child("rbd", "monitors"), len(x.CephMonitors) > 0, "")
	}
	if x := s.CephFS; x != nil {
		r.Required(at.Child("cephfs", "monitors"), len(x.Monitors) > 0, "")
	}
	if x := s.AzureFile; x != nil && x.SecretNamespace != nil {
		r.Required(at.Child("azureFile", "secretNamespace"), *x.SecretNamespace != "", "")
	}
	for _, f := range requiredNames(s) {
		r.Required(at.Child(f.path[0], f.path[1:]...), f.value != "", "")
	}
}

type namedValue struct {
	path  []string
	value string
}

// requiredNames are the fields without which a storage system cannot find the volume.
func requiredNames(s *v1.PersistentVolumeSpec) []namedValue {
	var out []namedValue
	add := func(value string, path ...string) { out = append(out, namedValue{path, value}) }
	if x := s.GCEPersistentDisk; x != nil {
		add(x.PDName, "gcePersistentDisk", "pdName")
	}
	if x := s.AWSElasticBlockStore; x != nil {
		add(x.VolumeID, "awsElasticBlockStore", "volumeID")
	}
	if x := s.Glusterfs; x != nil {
		add(x.EndpointsName, "glusterfs", "endpoints")
		add(x.Path, "glusterfs", "path")
	}
	if x := s.RBD; x != nil {
		add(x.RBDImage, "rbd", "image")
	}
	if x := s.Cinder; x != nil {
		add(x.VolumeID, "cinder", "volumeID")
		if x.SecretRef != nil {
			add(x.SecretRef.Name, "cinder", "secretRef", "name")
			add(x.SecretRef.Namespace, "cinder", "secretRef", "namespace")
		}
	}
	if x := s.AzureFile; x != nil {
		add(x.SecretName, "azureFile", "secretName")
		add(x.ShareName, "azureFile", "shareName")
	}
	if x := s.VsphereVolume; x != nil {
		add(x.VolumePath, "vsphereVolume", "volumePath")
	}
	if x := s.PhotonPersistentDisk; x != nil {
		add(x.PdID, "photonPersistentDisk", "pdID")
	}
	if x := s.PortworxVolume; x != nil {
		add(x.VolumeID, "portworxVolume", "volumeID")
	}
	if x := s.ScaleIO; x != nil {
		add(x.Gateway, "scaleIO", "gateway")
		add(x.System, "scaleIO", "system")
		add(x.VolumeName, "scaleIO", "volumeName")
	}
	return out
}

func persistentCSI(r *rule.Report, at *field.Path, c *v1.CSIPersistentVolumeSource) {
	podspec.CSIDriverName(r, at.Child("driver"), c.Driver)
	r.Required(at.Child("volumeHandle"), c.VolumeHandle != "", "")
	for _, s := range []struct {
		name string
		ref  *v1.SecretReference
	}{
		{"controllerPublishSecretRef", c.ControllerPublishSecretRef}, {"controllerExpandSecretRef", c.ControllerExpandSecretRef},
		{"nodePublishSecretRef", c.NodePublishSecretRef}, {"nodeExpandSecretRef", c.NodeExpandSecretRef}, {"nodeStageSecretRef", c.NodeStageSecretRef},
	} {
		if s.ref == nil {
			continue
		}
		r.Name(at.Child(s.name, "name"), s.ref.Name, subdomain)
		r.Name(at.Child(s.name, "namespace"), s.ref.Namespace, validation.IsDNS1123Label)
	}
}

// validatePersistentVolumeUpdate: where the data lies never changes.
func validatePersistentVolumeUpdate(_ context.Context, pv, old *v1.PersistentVolume) field.ErrorList {
	r := &rule.Report{}
	at := field.NewPath("spec")
	now, was := pv.Spec.PersistentVolumeSource, old.Spec.PersistentVolumeSource
	if now.CSI != nil && was.CSI != nil && was.CSI.ControllerExpandSecretRef == nil {
		c := *now.CSI
		c.ControllerExpandSecretRef = nil // may be added later
		now.CSI = &c
	}
	if !equality.Semantic.DeepEqual(now, was) {
		r.Forbidden(at.Child("persistentvolumesource"), true, "spec.persistentvolumesource is immutable after creation")
	}
	r.Same(at.Child("volumeMode"), pv.Spec.VolumeMode, old.Spec.VolumeMode)
	if old.Spec.NodeAffinity != nil {
		r.Same(at.Child("nodeAffinity"), pv.Spec.NodeAffinity, old.Spec.NodeAffinity)
	}
	return r.Errors()
}

func validatePersistentVolumeClaim(_ context.Context, c *v1.PersistentVolumeClaim) field.ErrorList {
	r := &rule.Report{}
	podspec.Claim(r, field.NewPath("spec"), &c.Spec)
	return r.Errors()
}

// validatePersistentVolumeClaimUpdate: a bound claim may ask for more space and another attributes class; one without a class may get its class and
// its volume.
func validatePersistentVolumeClaimUpdate(_ context.Context, c, old *v1.PersistentVolumeClaim) field.ErrorList {
	r := &rule.Report{}
	at := field.NewPath("spec")
	rest, was := c.Spec.DeepCopy(), old.Spec.DeepCopy()
	if was.VolumeName == "" {
		was.VolumeName = rest.VolumeName // binding
	}
	if was.StorageClassName == nil && rest.StorageClassName != nil && old.Annotations[v1.BetaStorageClassAnnotation] == "" {
		was.StorageClassName = rest.StorageClassName // the default class, set later
	}
	if old.Status.Phase == v1.ClaimBound {
		size, had := rest.Resources.Requests[v1.ResourceStorage], was.Resources.Requests[v1.ResourceStorage]
		allocated := old.Status.Capacity[v1.ResourceStorage]
		switch {
		case size.Cmp(had) >= 0, size.Cmp(allocated) > 0: // growing, or growing less than was asked for in vain
			rest.Resources.Requests = was.Resources.Requests
		default:
			r.Forbidden(at.Child("resources", "requests", "storage"), true, "field can not be less than status.capacity")
			rest.Resources.Requests = was.Resources.Requests
		}
	}
	if a, b := rest.VolumeAttributesClassName, was.VolumeAttributesClassName; b == nil || *b == "" || a != nil && *a != "" {
		rest.VolumeAttributesClassName = b
	} else {
		r.Forbidden(at.Child("volumeAttributesClassName"), true, "update from non-nil value to nil is forbidden")
		rest.VolumeAttributesClassName = b
	}
	if !equality.Semantic.DeepEqual(rest, was) {
		r.Forbidden(at, true, "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims")
	}
	return r.Errors()
}

func validatePersistentVolumeClaimStatus(_ context.Context, c, _ *v1.PersistentVolumeClaim) field.ErrorList {
	r := &rule.Report{}
	at := field.NewPath("status")
	r.Required(at.Child("accessModes"), len(c.Status.AccessModes) > 0 || c.Status.Phase != v1.ClaimBound, "")
	for name, q := range c.Status.Capacity {
		podspec.Quantity(r, at.Child("capacity").Key(string(name)), name, q)
	}
	for name, q := range c.Status.AllocatedResources {
		key := at.Child("allocatedResources").Key(string(name))
		r.Invalid(key, name, validation.IsQualifiedName(string(name))...)
		podspec.Quantity(r, key, name, q)
	}
	for name, st := range c.Status.AllocatedResourceStatuses {
		key := at.Child("allocatedResourceStatuses").Key(string(name))
		r.Invalid(key, name, validation.IsQualifiedName(string(name))...)
		rule.OneOf(r, key, st, "", v1.PersistentVolumeClaimControllerResizeInProgress, v1.PersistentVolumeClaimControllerResizeInfeasible,
			v1.PersistentVolumeClaimNodeResizePending, v1.PersistentVolumeClaimNodeResizeInProgress, v1.PersistentVolumeClaimNodeResizeInfeasible)
	}
	return r.Errors()
}
