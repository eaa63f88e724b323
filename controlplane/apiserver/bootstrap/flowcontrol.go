// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"context"
	"errors"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
)

// flowControl puts the mandatory and the suggested objects of priority and fairness in place. Mandatory ones are always as they should be; a
// suggested one is left alone once its annotation says so or somebody else changed its spec (generation above 1 without the annotation).
func (c Config) flowControl(ctx context.Context) error {
	var errs []error
	for _, want := range bootstrap.MandatoryPriorityLevelConfigurations {
		errs = append(errs, c.priorityLevel(ctx, want, true))
	}
	for _, want := range bootstrap.SuggestedPriorityLevelConfigurations {
		errs = append(errs, c.priorityLevel(ctx, want, false))
	}
	for _, want := range bootstrap.MandatoryFlowSchemas {
		errs = append(errs, c.flowSchema(ctx, want, true))
	}
	for _, want := range bootstrap.SuggestedFlowSchemas {
		errs = append(errs, c.flowSchema(ctx, want, false))
	}
	return errors.Join(errs...)
}

func (c Config) priorityLevel(ctx context.Context, want *flowcontrolv1.PriorityLevelConfiguration, mandatory bool) error {
	client := c.Client.FlowcontrolV1().PriorityLevelConfigurations()
	have, err := client.Get(ctx, want.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		want = want.DeepCopy()
		want.Annotations = map[string]string{flowcontrolv1.AutoUpdateAnnotationKey: "true"}
		_, err = client.Create(ctx, want, metav1.CreateOptions{FieldManager: fieldManager})
		return ignoreExists(err)
	}
	if err != nil || !ours(&have.ObjectMeta, mandatory) {
		return err
	}
	update := have.DeepCopy()
	// The share of the exempt level is the operator's to choose.
	if want.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt {
		update.Spec.Type = want.Spec.Type
	} else {
		want.Spec.DeepCopyInto(&update.Spec)
	}
	metav1.SetMetaDataAnnotation(&update.ObjectMeta, flowcontrolv1.AutoUpdateAnnotationKey, "true")
	if equality.Semantic.DeepEqual(update, have) {
		return nil
	}
	_, err = client.Update(ctx, update, metav1.UpdateOptions{FieldManager: fieldManager})
	return ignoreExists(err)
}

func (c Config) flowSchema(ctx context.Context, want *flowcontrolv1.FlowSchema, mandatory bool) error {
	client := c.Client.FlowcontrolV1().FlowSchemas()
	have, err := client.Get(ctx, want.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		want = want.DeepCopy()
		want.Annotations = map[string]string{flowcontrolv1.AutoUpdateAnnotationKey: "true"}
		_, err = client.Create(ctx, want, metav1.CreateOptions{FieldManager: fieldManager})
		return ignoreExists(err)
	}
	if err != nil || !ours(&have.ObjectMeta, mandatory) {
		return err
	}
	update := have.DeepCopy()
	want.Spec.DeepCopyInto(&update.Spec)
	metav1.SetMetaDataAnnotation(&update.ObjectMeta, flowcontrolv1.AutoUpdateAnnotationKey, "true")
	if equality.Semantic.DeepEqual(update, have) {
		return nil
	}
	_, err = client.Update(ctx, update, metav1.UpdateOptions{FieldManager: fieldManager})
	return ignoreExists(err)
}

const fieldManager = "api-priority-and-fairness-config-producer-v1"

// ours reports whether the object may be overwritten.
func ours(meta *metav1.ObjectMeta, mandatory bool) bool {
	if mandatory {
		return true
	}
	switch meta.Annotations[flowcontrolv1.AutoUpdateAnnotationKey] {
	case "true":
		return true
	case "false":
		return false
	}
	return meta.Generation == 1
}

// ignoreExists drops the errors of a race with another API server; the next round compares again.
func ignoreExists(err error) error {
	if apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
