// SPDX-License-Identifier: Apache-2.0

// Package core declares the kinds of the core group (v1).
package core

import (
	v1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/fairlead/fairlead/controlplane/apis/column"
	"github.com/fairlead/fairlead/controlplane/apis/podspec"
	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

var group = schema.GroupVersion{Group: "", Version: "v1"}

// Resources are the declarations of the group.
func Resources() []resource.Resource {
	return []resource.Resource{
		pods().Resource(),
		podTemplates().Resource(),
		replicationControllers().Resource(),
		services().Resource(),
		endpoints().Resource(),
		nodes().Resource(),
		events().Resource(),
		limitRanges().Resource(),
		resourceQuotas().Resource(),
		namespaces().Resource(),
		secrets().Resource(),
		configMaps().Resource(),
		serviceAccounts().Resource(),
		persistentVolumes().Resource(),
		persistentVolumeClaims().Resource(),
	}
}

func pods() resource.Kind[*v1.Pod] {
	return resource.Kind[*v1.Pod]{
		GVR:            group.WithResource("pods"),
		Kind:           "Pod",
		ShortNames:     []string{"po"},
		Categories:     []string{"all"},
		New:            func() *v1.Pod { return &v1.Pod{} },
		NewList:        func() runtime.Object { return &v1.PodList{} },
		HasStatus:      true,
		Fields:         podFields,
		IndexFields:    []string{"spec.nodeName"},
		Default:        podspec.DefaultPod,
		Columns:        podColumns(),
		PrepareCreate:  preparePod,
		PrepareStatus:  preparePodStatus,
		GracePeriod:    podGracePeriod,
		Validate:       validatePod,
		ValidateUpdate: validatePodUpdate,
		ValidateStatus: validatePodStatus,
	}
}

func podTemplates() resource.Kind[*v1.PodTemplate] {
	return resource.Kind[*v1.PodTemplate]{
		GVR:      group.WithResource("podtemplates"),
		Kind:     "PodTemplate",
		New:      func() *v1.PodTemplate { return &v1.PodTemplate{} },
		NewList:  func() runtime.Object { return &v1.PodTemplateList{} },
		Default:  defaultPodTemplate,
		Columns:  podTemplateColumns(),
		Validate: validatePodTemplate,
	}
}

func replicationControllers() resource.Kind[*v1.ReplicationController] {
	return resource.Kind[*v1.ReplicationController]{
		GVR:            group.WithResource("replicationcontrollers"),
		Kind:           "ReplicationController",
		ShortNames:     []string{"rc"},
		Categories:     []string{"all"},
		New:            func() *v1.ReplicationController { return &v1.ReplicationController{} },
		NewList:        func() runtime.Object { return &v1.ReplicationControllerList{} },
		HasStatus:      true,
		Fields:         replicationControllerFields,
		Scale:          replicationControllerScale(),
		Default:        defaultReplicationController,
		Columns:        replicationControllerColumns(),
		Validate:       validateReplicationController,
		ValidateStatus: validateReplicationControllerStatus,
	}
}

func services() resource.Kind[*v1.Service] {
	return resource.Kind[*v1.Service]{
		GVR:            group.WithResource("services"),
		Kind:           "Service",
		ShortNames:     []string{"svc"},
		Categories:     []string{"all"},
		New:            func() *v1.Service { return &v1.Service{} },
		NewList:        func() runtime.Object { return &v1.ServiceList{} },
		HasStatus:      true,
		NoGeneration:   true,
		Fields:         serviceFields,
		CreateOnUpdate: true,
		Default:        defaultService,
		Columns:        serviceColumns(),
		PrepareCreate:  prepareService,
		PrepareUpdate:  prepareServiceUpdate,
		Validate:       validateService,
		ValidateUpdate: validateServiceUpdate,
		ValidateStatus: validateServiceStatus,
		Warnings:       serviceWarnings,
		ValidateName:   apivalidation.NameIsDNS1035Label,
	}
}

func endpoints() resource.Kind[*v1.Endpoints] {
	return resource.Kind[*v1.Endpoints]{
		GVR:            group.WithResource("endpoints"),
		Kind:           "Endpoints",
		ShortNames:     []string{"ep"},
		New:            func() *v1.Endpoints { return &v1.Endpoints{} },
		NewList:        func() runtime.Object { return &v1.EndpointsList{} },
		NoGeneration:   true,
		CreateOnUpdate: true,
		Default:        defaultEndpoints,
		Columns:        endpointsColumns(),
		Validate:       validateEndpoints,
	}
}

func nodes() resource.Kind[*v1.Node] {
	return resource.Kind[*v1.Node]{
		GVR:            group.WithResource("nodes"),
		Kind:           "Node",
		ShortNames:     []string{"no"},
		ClusterScoped:  true,
		New:            func() *v1.Node { return &v1.Node{} },
		NewList:        func() runtime.Object { return &v1.NodeList{} },
		HasStatus:      true,
		NoGeneration:   true,
		Fields:         nodeFields,
		Default:        defaultNode,
		Columns:        nodeColumns(),
		PrepareCreate:  prepareNode,
		PrepareUpdate:  prepareNodeUpdate,
		StatusOnCreate: true, // a node agent registers with what it knows
		Validate:       validateNode,
		ValidateUpdate: validateNodeUpdate,
		ValidateStatus: validateNodeStatus,
	}
}

func events() resource.Kind[*v1.Event] {
	return resource.Kind[*v1.Event]{
		GVR:            group.WithResource("events"),
		Kind:           "Event",
		ShortNames:     []string{"ev"},
		New:            func() *v1.Event { return &v1.Event{} },
		NewList:        func() runtime.Object { return &v1.EventList{} },
		NoGeneration:   true,
		Fields:         eventFields,
		CreateOnUpdate: true,
		Columns:        eventColumns(),
		TTLSeconds:     func(*v1.Event) uint64 { return 3600 },
		Validate:       validateEvent,
		ValidateUpdate: validateEventUpdate,
	}
}

func limitRanges() resource.Kind[*v1.LimitRange] {
	return resource.Kind[*v1.LimitRange]{
		GVR:            group.WithResource("limitranges"),
		Kind:           "LimitRange",
		ShortNames:     []string{"limits"},
		New:            func() *v1.LimitRange { return &v1.LimitRange{} },
		NewList:        func() runtime.Object { return &v1.LimitRangeList{} },
		NoGeneration:   true,
		CreateOnUpdate: true,
		Default:        defaultLimitRange,
		Columns:        column.NameAndDate[*v1.LimitRange](),
		Validate:       validateLimitRange,
	}
}

func resourceQuotas() resource.Kind[*v1.ResourceQuota] {
	return resource.Kind[*v1.ResourceQuota]{
		GVR:            group.WithResource("resourcequotas"),
		Kind:           "ResourceQuota",
		ShortNames:     []string{"quota"},
		New:            func() *v1.ResourceQuota { return &v1.ResourceQuota{} },
		NewList:        func() runtime.Object { return &v1.ResourceQuotaList{} },
		HasStatus:      true,
		NoGeneration:   true,
		Default:        defaultResourceQuota,
		Columns:        resourceQuotaColumns(),
		Validate:       validateResourceQuota,
		ValidateUpdate: validateResourceQuotaUpdate,
		ValidateStatus: validateResourceQuotaStatus,
	}
}

func namespaces() resource.Kind[*v1.Namespace] {
	return resource.Kind[*v1.Namespace]{
		GVR:            group.WithResource("namespaces"),
		Kind:           "Namespace",
		ShortNames:     []string{"ns"},
		ClusterScoped:  true,
		New:            func() *v1.Namespace { return &v1.Namespace{} },
		NewList:        func() runtime.Object { return &v1.NamespaceList{} },
		HasStatus:      true,
		NoGeneration:   true,
		Fields:         namespaceFields,
		Default:        defaultNamespace,
		Columns:        namespaceColumns(),
		PrepareCreate:  prepareNamespace,
		PrepareUpdate:  prepareNamespaceUpdate,
		Validate:       validateNamespace,
		ValidateStatus: validateNamespaceStatus,
		ValidateName:   apivalidation.NameIsDNSLabel,
	}
}

func secrets() resource.Kind[*v1.Secret] {
	return resource.Kind[*v1.Secret]{
		GVR:            group.WithResource("secrets"),
		Kind:           "Secret",
		New:            func() *v1.Secret { return &v1.Secret{} },
		NewList:        func() runtime.Object { return &v1.SecretList{} },
		NoGeneration:   true,
		Fields:         secretFields,
		Default:        defaultSecret,
		Columns:        secretColumns(),
		Validate:       validateSecret,
		ValidateUpdate: validateSecretUpdate,
	}
}

func configMaps() resource.Kind[*v1.ConfigMap] {
	return resource.Kind[*v1.ConfigMap]{
		GVR:            group.WithResource("configmaps"),
		Kind:           "ConfigMap",
		ShortNames:     []string{"cm"},
		New:            func() *v1.ConfigMap { return &v1.ConfigMap{} },
		NewList:        func() runtime.Object { return &v1.ConfigMapList{} },
		NoGeneration:   true,
		Columns:        configMapColumns(),
		Validate:       validateConfigMap,
		ValidateUpdate: validateConfigMapUpdate,
	}
}

func serviceAccounts() resource.Kind[*v1.ServiceAccount] {
	return resource.Kind[*v1.ServiceAccount]{
		GVR:          group.WithResource("serviceaccounts"),
		Kind:         "ServiceAccount",
		ShortNames:   []string{"sa"},
		New:          func() *v1.ServiceAccount { return &v1.ServiceAccount{} },
		NewList:      func() runtime.Object { return &v1.ServiceAccountList{} },
		NoGeneration: true,
		Columns:      serviceAccountColumns(),
	}
}

func persistentVolumes() resource.Kind[*v1.PersistentVolume] {
	return resource.Kind[*v1.PersistentVolume]{
		GVR:            group.WithResource("persistentvolumes"),
		Kind:           "PersistentVolume",
		ShortNames:     []string{"pv"},
		ClusterScoped:  true,
		New:            func() *v1.PersistentVolume { return &v1.PersistentVolume{} },
		NewList:        func() runtime.Object { return &v1.PersistentVolumeList{} },
		HasStatus:      true,
		NoGeneration:   true,
		Default:        defaultPersistentVolume,
		Columns:        persistentVolumeColumns(),
		PrepareCreate:  preparePersistentVolume,
		PrepareStatus:  preparePersistentVolumeStatus,
		Validate:       validatePersistentVolume,
		ValidateUpdate: validatePersistentVolumeUpdate,
	}
}

func persistentVolumeClaims() resource.Kind[*v1.PersistentVolumeClaim] {
	return resource.Kind[*v1.PersistentVolumeClaim]{
		GVR:            group.WithResource("persistentvolumeclaims"),
		Kind:           "PersistentVolumeClaim",
		ShortNames:     []string{"pvc"},
		New:            func() *v1.PersistentVolumeClaim { return &v1.PersistentVolumeClaim{} },
		NewList:        func() runtime.Object { return &v1.PersistentVolumeClaimList{} },
		HasStatus:      true,
		NoGeneration:   true,
		Default:        defaultPersistentVolumeClaim,
		Columns:        persistentVolumeClaimColumns(),
		PrepareCreate:  preparePersistentVolumeClaim,
		PrepareUpdate:  preparePersistentVolumeClaimUpdate,
		Validate:       validatePersistentVolumeClaim,
		ValidateUpdate: validatePersistentVolumeClaimUpdate,
		ValidateStatus: validatePersistentVolumeClaimStatus,
	}
}
