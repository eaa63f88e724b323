// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"path"
	"regexp"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

// Sources that a pod's volume and a PersistentVolume have in common, and those of storage systems that CSI drivers took over.

func backends(r *rule.Report, at *field.Path, v *v1.Volume) {
	if s := v.HostPath; s != nil {
		HostPath(r, at.Child("hostPath"), s)
	}
	if s := v.NFS; s != nil {
		NFS(r, at.Child("nfs"), s)
	}
	if s := v.ISCSI; s != nil {
		ISCSI(r, at.Child("iscsi"), ISCSITarget{s.TargetPortal, s.IQN, s.Lun, s.DiscoveryCHAPAuth || s.SessionCHAPAuth, s.SecretRef != nil, s.InitiatorName})
	}
	if s := v.FC; s != nil {
		FC(r, at.Child("fc"), s)
	}
	if s := v.GCEPersistentDisk; s != nil {
		r.Required(at.Child("gcePersistentDisk", "pdName"), s.PDName != "", "")
		r.Between(at.Child("gcePersistentDisk", "partition"), int64(s.Partition), 0, 255)
	}
	if s := v.AWSElasticBlockStore; s != nil {
		r.Required(at.Child("awsElasticBlockStore", "volumeID"), s.VolumeID != "", "")
		r.Between(at.Child("awsElasticBlockStore", "partition"), int64(s.Partition), 0, 255)
	}
	if s := v.AzureDisk; s != nil {
		AzureDisk(r, at.Child("azureDisk"), s)
	}
	if s := v.Quobyte; s != nil {
		Quobyte(r, at.Child("quobyte"), s)
	}
	if s := v.Flocker; s != nil {
		Flocker(r, at.Child("flocker"), s)
	}
	required := func(source string, values map[string]string) {
		for _, name := range sortedKeys(values) {
			r.Required(at.Child(source, name), values[name] != "", "")
		}
	}
	if s := v.Glusterfs; s != nil {
		required("glusterfs", map[string]string{"endpoints": s.EndpointsName, "path": s.Path})
	}
	if s := v.RBD; s != nil {
		r.Required(at.Child("rbd", "monitors"), len(s.CephMonitors) > 0, "")
		required("rbd", map[string]string{"image": s.RBDImage})
	}
	if s := v.CephFS; s != nil {
		r.Required(at.Child("cephfs", "monitors"), len(s.Monitors) > 0, "")
	}
	if s := v.Cinder; s != nil {
		required("cinder", map[string]string{"volumeID": s.VolumeID})
		if s.SecretRef != nil {
			r.Required(at.Child("cinder", "secretRef", "name"), s.SecretRef.Name != "", "")
		}
	}
	if s := v.FlexVolume; s != nil {
		required("flexVolume", map[string]string{"driver": s.Driver})
		FlexOptions(r, at.Child("flexVolume", "options"), s.Options)
	}
	if s := v.AzureFile; s != nil {
		required("azureFile", map[string]string{"secretName": s.SecretName, "shareName": s.ShareName})
	}
	if s := v.VsphereVolume; s != nil {
		required("vsphereVolume", map[string]string{"volumePath": s.VolumePath})
	}
	if s := v.PhotonPersistentDisk; s != nil {
		required("photonPersistentDisk", map[string]string{"pdID": s.PdID})
	}
	if s := v.PortworxVolume; s != nil {
		required("portworxVolume", map[string]string{"volumeID": s.VolumeID})
	}
	if s := v.ScaleIO; s != nil {
		required("scaleIO", map[string]string{"gateway": s.Gateway, "system": s.System, "volumeName": s.VolumeName})
	}
	if s := v.StorageOS; s != nil {
		r.Name(at.Child("storageos", "volumeName"), s.VolumeName, validation.IsDNS1123Label)
		r.Optional(at.Child("storageos", "volumeNamespace"), s.VolumeNamespace, validation.IsDNS1123Label)
		if s.SecretRef != nil {
			r.Required(at.Child("storageos", "secretRef", "name"), s.SecretRef.Name != "", "")
		}
	}
}

// HostPath reports a path that leaves its directory and types that are none.
func HostPath(r *rule.Report, at *field.Path, s *v1.HostPathVolumeSource) {
	if r.Required(at.Child("path"), s.Path != "", "") {
		noBacksteps(r, at.Child("path"), s.Path)
	}
	rule.OneOfOptional(r, at.Child("type"), s.Type, v1.HostPathUnset, v1.HostPathDirectoryOrCreate, v1.HostPathDirectory, v1.HostPathFileOrCreate,
		v1.HostPathFile, v1.HostPathSocket, v1.HostPathCharDev, v1.HostPathBlockDev)
}

// NFS reports a missing server and a path that does not start at its root.
func NFS(r *rule.Report, at *field.Path, s *v1.NFSVolumeSource) {
	r.Required(at.Child("server"), s.Server != "", "")
	if r.Required(at.Child("path"), s.Path != "", "") && !path.IsAbs(s.Path) {
		r.Invalid(at.Child("path"), s.Path, "must be an absolute path")
	}
}

// ISCSITarget is what pods' and PersistentVolumes' iSCSI sources have in common.
type ISCSITarget struct {
	Portal, IQN     string
	LUN             int32
	CHAP, HasSecret bool
	Initiator       *string
}

var iqn = regexp.MustCompile(`^(iqn\.\d{4}-\d{2}\.([[:alnum:]-.]+)(:[^,;*&$|\s]+)?|eui\.[[:xdigit:]]{16}|naa\.[[:xdigit:]]{32})$`)

// ISCSI reports what is wrong with a target (RFC 3720 section 3.2.6 and RFC 3980 for names).
func ISCSI(r *rule.Report, at *field.Path, t ISCSITarget) {
	r.Required(at.Child("targetPortal"), t.Portal != "", "")
	if r.Required(at.Child("iqn"), t.IQN != "", "") && !iqn.MatchString(t.IQN) {
		r.Invalid(at.Child("iqn"), t.IQN, "must be valid format")
	}
	r.Between(at.Child("lun"), int64(t.LUN), 0, 255)
	if t.CHAP {
		r.Required(at.Child("secretRef"), t.HasSecret, "")
	}
	if t.Initiator != nil && !iqn.MatchString(*t.Initiator) {
		r.Invalid(at.Child("initiatorName"), *t.Initiator, "must be valid format")
	}
}

// FC reports a source that names its disk neither by world wide names and LUN nor by world wide identifiers, or by both.
func FC(r *rule.Report, at *field.Path, s *v1.FCVolumeSource) {
	switch {
	case len(s.TargetWWNs) == 0 && len(s.WWIDs) == 0:
		r.Required(at.Child("targetWWNs"), false, "must specify either targetWWNs or wwids, but not both")
	case len(s.TargetWWNs) > 0 && len(s.WWIDs) > 0:
		r.Invalid(at.Child("targetWWNs"), s.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously")
	case len(s.TargetWWNs) > 0:
		if r.Required(at.Child("lun"), s.Lun != nil, "lun is required if targetWWNs is specified") {
			r.Between(at.Child("lun"), int64(*s.Lun), 0, 255)
		}
	}
}

// AzureDisk reports what is wrong with a disk's name, address and sharing.
func AzureDisk(r *rule.Report, at *field.Path, s *v1.AzureDiskVolumeSource) {
	r.Required(at.Child("diskName"), s.DiskName != "", "")
	r.Required(at.Child("diskURI"), s.DataDiskURI != "", "")
	rule.OneOfOptional(r, at.Child("cachingMode"), s.CachingMode, v1.AzureDataDiskCachingNone, v1.AzureDataDiskCachingReadOnly, v1.AzureDataDiskCachingReadWrite)
	rule.OneOfOptional(r, at.Child("kind"), s.Kind, v1.AzureSharedBlobDisk, v1.AzureDedicatedBlobDisk, v1.AzureManagedDisk)
	if s.Kind == nil || s.DataDiskURI == "" {
		return
	}
	managed := strings.HasPrefix(strings.ToLower(s.DataDiskURI), "/subscriptions/")
	if *s.Kind == v1.AzureManagedDisk && !managed {
		r.Add(field.NotSupported(at.Child("diskURI"), s.DataDiskURI,
			[]string{"/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"}))
	}
	if *s.Kind != v1.AzureManagedDisk && !strings.HasPrefix(s.DataDiskURI, "https://") {
		r.Add(field.NotSupported(at.Child("diskURI"), s.DataDiskURI, []string{"https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"}))
	}
}

// Quobyte reports registries that are no host:port pairs.
func Quobyte(r *rule.Report, at *field.Path, s *v1.QuobyteVolumeSource) {
	if r.Required(at.Child("registry"), s.Registry != "", "must be a host:port pair or multiple pairs separated by commas") {
		if len(s.Tenant) >= 65 {
			r.Required(at.Child("tenant"), false, "must be a UUID and may not exceed a length of 64 characters")
		}
		for pair := range strings.SplitSeq(s.Registry, ",") {
			if host, port, ok := strings.Cut(pair, ":"); !ok || host == "" || port == "" || strings.Contains(port, ":") {
				r.Invalid(at.Child("registry"), s.Registry, "must be a host:port pair or multiple pairs separated by commas")
			}
		}
	}
	r.Required(at.Child("volume"), s.Volume != "", "")
}

// Flocker reports a dataset that is named twice or not at all.
func Flocker(r *rule.Report, at *field.Path, s *v1.FlockerVolumeSource) {
	switch {
	case s.DatasetName == "" && s.DatasetUUID == "":
		r.Required(at, false, "one of datasetName and datasetUUID is required")
	case s.DatasetName != "" && s.DatasetUUID != "":
		r.Invalid(at, "resource", "datasetName and datasetUUID can not be specified simultaneously")
	}
	if strings.Contains(s.DatasetName, "/") {
		r.Invalid(at.Child("datasetName"), s.DatasetName, "must not contain '/'")
	}
}

// FlexOptions reports option names that belong to Kubernetes.
func FlexOptions(r *rule.Report, at *field.Path, options map[string]string) {
	for k := range options {
		domain, _, _ := strings.Cut(k, "/")
		if d := strings.ToLower(domain); d == "kubernetes.io" || strings.HasSuffix(d, ".kubernetes.io") || d == "k8s.io" || strings.HasSuffix(d, ".k8s.io") {
			r.Invalid(at.Key(k), k, "kubernetes.io and k8s.io namespaces are reserved")
		}
	}
}

// CSIDriverName reports a name that no CSI driver can have: a DNS name of at most 63 characters.
func CSIDriverName(r *rule.Report, at *field.Path, name string) {
	if !r.Required(at, name != "", "") {
		return
	}
	if len(name) > 63 {
		r.Add(field.TooLong(at, name, 63))
	}
	r.Invalid(at, name, validation.IsDNS1123Subdomain(strings.ToLower(name))...)
}
