// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	v1 "k8s.io/api/core/v1"
)

// fileMode is what files of configMap, secret, downwardAPI and projected volumes get.
const fileMode = int32(0644)

// DefaultVolume makes an unspecified source an emptyDir and fills the source's open fields.
func DefaultVolume(v *v1.Volume) {
	if v.VolumeSource == (v1.VolumeSource{}) {
		v.EmptyDir = &v1.EmptyDirVolumeSource{}
	}
	DefaultHostPath(v.HostPath)
	defaultMode := func(mode **int32) {
		if *mode == nil {
			*mode = new(fileMode)
		}
	}
	if s := v.Secret; s != nil {
		defaultMode(&s.DefaultMode)
	}
	if s := v.ConfigMap; s != nil {
		defaultMode(&s.DefaultMode)
	}
	if s := v.DownwardAPI; s != nil {
		defaultMode(&s.DefaultMode)
		defaultDownward(s.Items)
	}
	if s := v.Projected; s != nil {
		defaultMode(&s.DefaultMode)
		for i := range s.Sources {
			if d := s.Sources[i].DownwardAPI; d != nil {
				defaultDownward(d.Items)
			}
			if t := s.Sources[i].ServiceAccountToken; t != nil && t.ExpirationSeconds == nil {
				t.ExpirationSeconds = new(int64(3600))
			}
			if c := s.Sources[i].PodCertificate; c != nil && c.MaxExpirationSeconds == nil {
				c.MaxExpirationSeconds = new(int32(24 * 3600))
			}
		}
	}
	if s := v.Ephemeral; s != nil && s.VolumeClaimTemplate != nil {
		DefaultClaim(&s.VolumeClaimTemplate.Spec)
	}
	if s := v.Image; s != nil && s.PullPolicy == "" {
		s.PullPolicy = pullPolicy(s.Reference)
	}
	if s := v.ISCSI; s != nil && s.ISCSIInterface == "" {
		s.ISCSIInterface = "default"
	}
	if s := v.RBD; s != nil {
		orString(&s.RBDPool, "rbd")
		orString(&s.RadosUser, "admin")
		orString(&s.Keyring, "/etc/ceph/keyring")
	}
	DefaultAzureDisk(v.AzureDisk)
	if s := v.ScaleIO; s != nil {
		orString(&s.StorageMode, "ThinProvisioned")
		orString(&s.FSType, "xfs")
	}
}

func defaultDownward(items []v1.DownwardAPIVolumeFile) {
	for i := range items {
		defaultFieldRef(items[i].FieldRef)
	}
}

// DefaultHostPath makes an unspecified type explicit: no check.
func DefaultHostPath(s *v1.HostPathVolumeSource) {
	if s != nil && s.Type == nil {
		s.Type = new(v1.HostPathUnset)
	}
}

// DefaultAzureDisk fills caching, file system, sharing and access.
func DefaultAzureDisk(s *v1.AzureDiskVolumeSource) {
	if s == nil {
		return
	}
	if s.CachingMode == nil {
		s.CachingMode = new(v1.AzureDataDiskCachingReadWrite)
	}
	if s.Kind == nil {
		s.Kind = new(v1.AzureSharedBlobDisk)
	}
	if s.FSType == nil {
		s.FSType = new("ext4")
	}
	if s.ReadOnly == nil {
		s.ReadOnly = new(false)
	}
}

// DefaultClaim fills a PersistentVolumeClaim's spec.
func DefaultClaim(s *v1.PersistentVolumeClaimSpec) {
	if s.VolumeMode == nil {
		s.VolumeMode = new(v1.PersistentVolumeFilesystem)
	}
	RoundUp(s.Resources.Limits)
	RoundUp(s.Resources.Requests)
}

func orString(s *string, value string) {
	if *s == "" {
		*s = value
	}
}
