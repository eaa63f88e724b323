// SPDX-License-Identifier: Apache-2.0

// Package apps declares the kinds of the apps group (v1): workloads that keep a number of pods running.
package apps

import (
	v1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

var group = schema.GroupVersion{Group: "apps", Version: "v1"}

// Resources are the declarations of the group.
func Resources() []resource.Resource {
	return []resource.Resource{
		deployments().Resource(),
		replicaSets().Resource(),
		statefulSets().Resource(),
		daemonSets().Resource(),
		controllerRevisions().Resource(),
	}
}

func deployments() resource.Kind[*v1.Deployment] {
	return resource.Kind[*v1.Deployment]{
		GVR:            group.WithResource("deployments"),
		Kind:           "Deployment",
		ShortNames:     []string{"deploy"},
		Categories:     []string{"all"},
		New:            func() *v1.Deployment { return &v1.Deployment{} },
		NewList:        func() runtime.Object { return &v1.DeploymentList{} },
		HasStatus:      true,
		Scale:          deploymentScale(),
		Default:        defaultDeployment,
		Columns:        deploymentColumns(),
		PrepareUpdate:  prepareDeploymentUpdate,
		Validate:       validateDeployment,
		ValidateUpdate: validateDeploymentUpdate,
		ValidateStatus: validateDeploymentStatus,
	}
}

func replicaSets() resource.Kind[*v1.ReplicaSet] {
	return resource.Kind[*v1.ReplicaSet]{
		GVR:            group.WithResource("replicasets"),
		Kind:           "ReplicaSet",
		ShortNames:     []string{"rs"},
		Categories:     []string{"all"},
		New:            func() *v1.ReplicaSet { return &v1.ReplicaSet{} },
		NewList:        func() runtime.Object { return &v1.ReplicaSetList{} },
		HasStatus:      true,
		Fields:         replicaSetFields,
		Scale:          replicaSetScale(),
		Default:        defaultReplicaSet,
		Columns:        replicaSetColumns(),
		Validate:       validateReplicaSet,
		ValidateUpdate: validateReplicaSetUpdate,
		ValidateStatus: validateReplicaSetStatus,
	}
}

func statefulSets() resource.Kind[*v1.StatefulSet] {
	return resource.Kind[*v1.StatefulSet]{
		GVR:            group.WithResource("statefulsets"),
		Kind:           "StatefulSet",
		ShortNames:     []string{"sts"},
		Categories:     []string{"all"},
		New:            func() *v1.StatefulSet { return &v1.StatefulSet{} },
		NewList:        func() runtime.Object { return &v1.StatefulSetList{} },
		HasStatus:      true,
		Scale:          statefulSetScale(),
		Default:        defaultStatefulSet,
		Columns:        statefulSetColumns(),
		Validate:       validateStatefulSet,
		ValidateUpdate: validateStatefulSetUpdate,
		ValidateStatus: validateStatefulSetStatus,
		ValidateName:   statefulSetName,
	}
}

func daemonSets() resource.Kind[*v1.DaemonSet] {
	return resource.Kind[*v1.DaemonSet]{
		GVR:            group.WithResource("daemonsets"),
		Kind:           "DaemonSet",
		ShortNames:     []string{"ds"},
		Categories:     []string{"all"},
		New:            func() *v1.DaemonSet { return &v1.DaemonSet{} },
		NewList:        func() runtime.Object { return &v1.DaemonSetList{} },
		HasStatus:      true,
		Default:        defaultDaemonSet,
		Columns:        daemonSetColumns(),
		PrepareCreate:  prepareDaemonSet,
		PrepareUpdate:  prepareDaemonSetUpdate,
		Validate:       validateDaemonSet,
		ValidateUpdate: validateDaemonSetUpdate,
		ValidateStatus: validateDaemonSetStatus,
	}
}

func controllerRevisions() resource.Kind[*v1.ControllerRevision] {
	return resource.Kind[*v1.ControllerRevision]{
		GVR:            group.WithResource("controllerrevisions"),
		Kind:           "ControllerRevision",
		New:            func() *v1.ControllerRevision { return &v1.ControllerRevision{} },
		NewList:        func() runtime.Object { return &v1.ControllerRevisionList{} },
		NoGeneration:   true,
		Columns:        controllerRevisionColumns(),
		Validate:       validateControllerRevision,
		ValidateUpdate: validateControllerRevisionUpdate,
	}
}
