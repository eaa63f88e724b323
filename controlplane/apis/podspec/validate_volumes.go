// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

// volumes reports what is wrong with the pod's volumes and returns them by name.
func volumes(r *rule.Report, path *field.Path, list []v1.Volume, pod *metav1.ObjectMeta) map[string]*v1.Volume {
	byName := map[string]*v1.Volume{}
	claims := map[string]bool{}
	for i := range list {
		v, at := &list[i], path.Index(i)
		r.Name(at.Child("name"), v.Name, validation.IsDNS1123Label)
		if byName[v.Name] != nil {
			r.Add(field.Duplicate(at.Child("name"), v.Name))
		}
		byName[v.Name] = v
		sources := volumeSources(v)
		choices := make([]rule.Choice, 0, len(sources))
		for _, name := range slices.Sorted(maps.Keys(sources)) {
			choices = append(choices, rule.Choice{Name: name, Set: sources[name]})
		}
		exactlyOneVolume(r, at, choices)
		source(r, at, v, pod)
		if c := v.PersistentVolumeClaim; c != nil {
			claims[c.ClaimName] = true
		}
	}
	// A generic ephemeral volume's claim is named after pod and volume; a claim that the pod names itself may not be the same.
	for i := range list {
		if list[i].Ephemeral != nil && pod.Name != "" && claims[pod.Name+"-"+list[i].Name] {
			r.Invalid(path.Index(i).Child("name"), list[i].Name, "would use the claim "+pod.Name+"-"+list[i].Name+" that another volume of the pod names")
		}
	}
	return byName
}

// exactlyOneVolume is rule.ExactlyOne with a message that does not recite thirty names.
func exactlyOneVolume(r *rule.Report, at *field.Path, choices []rule.Choice) {
	n := 0
	for _, c := range choices {
		if c.Set {
			if n++; n > 1 {
				r.Forbidden(at.Child(c.Name), true, "may not specify more than 1 volume type")
			}
		}
	}
	r.Required(at, n > 0, "must specify a volume type")
}

func volumeSources(v *v1.Volume) map[string]bool {
	s := &v.VolumeSource
	return map[string]bool{
		"hostPath": s.HostPath != nil, "emptyDir": s.EmptyDir != nil, "gcePersistentDisk": s.GCEPersistentDisk != nil,
		"awsElasticBlockStore": s.AWSElasticBlockStore != nil, "gitRepo": s.GitRepo != nil, "secret": s.Secret != nil, "nfs": s.NFS != nil,
		"iscsi": s.ISCSI != nil, "glusterfs": s.Glusterfs != nil, "persistentVolumeClaim": s.PersistentVolumeClaim != nil, "rbd": s.RBD != nil,
		"flexVolume": s.FlexVolume != nil, "cinder": s.Cinder != nil, "cephfs": s.CephFS != nil, "flocker": s.Flocker != nil,
		"downwardAPI": s.DownwardAPI != nil, "fc": s.FC != nil, "azureFile": s.AzureFile != nil, "configMap": s.ConfigMap != nil,
		"vsphereVolume": s.VsphereVolume != nil, "quobyte": s.Quobyte != nil, "azureDisk": s.AzureDisk != nil,
		"photonPersistentDisk": s.PhotonPersistentDisk != nil, "projected": s.Projected != nil, "portworxVolume": s.PortworxVolume != nil,
		"scaleIO": s.ScaleIO != nil, "storageos": s.StorageOS != nil, "csi": s.CSI != nil, "ephemeral": s.Ephemeral != nil, "image": s.Image != nil,
	}
}

// source reports what is wrong with the volume's source; those that are the same in PersistentVolumes are in validate_backends.go.
func source(r *rule.Report, at *field.Path, v *v1.Volume, pod *metav1.ObjectMeta) {
	if s := v.EmptyDir; s != nil {
		at := at.Child("emptyDir")
		if s.SizeLimit != nil && s.SizeLimit.Sign() < 0 {
			r.Invalid(at.Child("sizeLimit"), s.SizeLimit.String(), "must be greater than or equal to 0")
		}
		huge := strings.HasPrefix(string(s.Medium), string(v1.StorageMediumHugePagesPrefix))
		if !huge && s.Medium != "" && s.Medium != v1.StorageMediumMemory && s.Medium != v1.StorageMediumHugePages {
			r.Add(field.NotSupported(at.Child("medium"), s.Medium, []v1.StorageMedium{"", v1.StorageMediumMemory, v1.StorageMediumHugePages,
				v1.StorageMediumHugePagesPrefix}))
		}
		mode(r, at.Child("mode"), s.Mode)
	}
	if s := v.GitRepo; s != nil {
		at := at.Child("gitRepo")
		r.Required(at.Child("repository"), s.Repository != "", "")
		ownPath(r, at.Child("directory"), s.Directory)
	}
	if s := v.Secret; s != nil {
		at := at.Child("secret")
		r.Required(at.Child("secretName"), s.SecretName != "", "")
		mode(r, at.Child("defaultMode"), s.DefaultMode)
		keys(r, at.Child("items"), s.Items)
	}
	if s := v.ConfigMap; s != nil {
		at := at.Child("configMap")
		r.Required(at.Child("name"), s.Name != "", "")
		mode(r, at.Child("defaultMode"), s.DefaultMode)
		keys(r, at.Child("items"), s.Items)
	}
	if s := v.DownwardAPI; s != nil {
		at := at.Child("downwardAPI")
		mode(r, at.Child("defaultMode"), s.DefaultMode)
		downward(r, at.Child("items"), s.Items)
	}
	if s := v.Projected; s != nil {
		projected(r, at.Child("projected"), s)
	}
	if s := v.PersistentVolumeClaim; s != nil {
		r.Required(at.Child("persistentVolumeClaim", "claimName"), s.ClaimName != "", "")
	}
	if s := v.Image; s != nil {
		at := at.Child("image")
		r.Required(at.Child("reference"), s.Reference != "", "")
		rule.OneOf(r, at.Child("pullPolicy"), s.PullPolicy, v1.PullAlways, v1.PullIfNotPresent, v1.PullNever)
	}
	if s := v.Ephemeral; s != nil {
		at := at.Child("ephemeral", "volumeClaimTemplate")
		if r.Required(at, s.VolumeClaimTemplate != nil, "") {
			r.Labels(at.Child("metadata", "labels"), s.VolumeClaimTemplate.Labels)
			Claim(r, at.Child("spec"), &s.VolumeClaimTemplate.Spec)
			if pod.Name != "" {
				name := pod.Name + "-" + v.Name
				r.Invalid(at.Child("metadata", "name"), name, subdomain(name)...)
			}
		}
	}
	if s := v.CSI; s != nil {
		at := at.Child("csi")
		CSIDriverName(r, at.Child("driver"), s.Driver)
		if s.NodePublishSecretRef != nil {
			r.Name(at.Child("nodePublishSecretRef", "name"), s.NodePublishSecretRef.Name, subdomain)
		}
	}
	backends(r, at, v)
}

func mode(r *rule.Report, at *field.Path, m *int32) {
	if m != nil && (*m < 0 || *m > 0777) {
		r.Invalid(at, *m, "must be a number between 0 and 0777 (octal), both inclusive")
	}
}

// keys reports entries of a configMap or secret that cannot become files.
func keys(r *rule.Report, at *field.Path, items []v1.KeyToPath) {
	for i, k := range items {
		at := at.Index(i)
		r.Required(at.Child("key"), k.Key != "", "")
		if r.Required(at.Child("path"), k.Path != "", "") {
			ownPath(r, at.Child("path"), k.Path)
		}
		mode(r, at.Child("mode"), k.Mode)
	}
}

func downward(r *rule.Report, at *field.Path, items []v1.DownwardAPIVolumeFile) {
	for i := range items {
		d, at := &items[i], at.Index(i)
		if r.Required(at.Child("path"), d.Path != "", "") {
			ownPath(r, at.Child("path"), d.Path)
		}
		switch {
		case d.FieldRef != nil:
			fieldRef(r, at.Child("fieldRef"), d.FieldRef, fileFields)
			if d.ResourceFieldRef != nil {
				r.Invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
			}
		case d.ResourceFieldRef != nil:
			(&scope{}).resourceFieldRef(r, at.Child("resourceFieldRef"), d.ResourceFieldRef, true)
		default:
			r.Required(at, false, "one of fieldRef and resourceFieldRef is required")
		}
		mode(r, at.Child("mode"), d.Mode)
	}
}
