// SPDX-License-Identifier: Apache-2.0

// Package batch declares the kinds of the batch group (v1): work that ends.
package batch

import (
	v1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

var group = schema.GroupVersion{Group: "batch", Version: "v1"}

// Resources are the declarations of the group.
func Resources() []resource.Resource {
	return []resource.Resource{
		jobs().Resource(),
		cronJobs().Resource(),
	}
}

func jobs() resource.Kind[*v1.Job] {
	return resource.Kind[*v1.Job]{
		GVR:                group.WithResource("jobs"),
		Kind:               "Job",
		Categories:         []string{"all"},
		New:                func() *v1.Job { return &v1.Job{} },
		NewList:            func() runtime.Object { return &v1.JobList{} },
		HasStatus:          true,
		DefaultPropagation: metav1.DeletePropagationOrphan, // what clients of batch/v1 rely on
		Fields:             jobFields,
		Default:            defaultJob,
		Columns:            jobColumns(),
		PrepareCreate:      prepareJob,
		Validate:           validateJob,
		ValidateUpdate:     validateJobUpdate,
		ValidateStatus:     validateJobStatus,
	}
}

func cronJobs() resource.Kind[*v1.CronJob] {
	return resource.Kind[*v1.CronJob]{
		GVR:          group.WithResource("cronjobs"),
		Kind:         "CronJob",
		ShortNames:   []string{"cj"},
		Categories:   []string{"all"},
		New:          func() *v1.CronJob { return &v1.CronJob{} },
		NewList:      func() runtime.Object { return &v1.CronJobList{} },
		HasStatus:    true,
		Default:      defaultCronJob,
		Columns:      cronJobColumns(),
		Validate:     validateCronJob,
		ValidateName: cronJobName,
	}
}
