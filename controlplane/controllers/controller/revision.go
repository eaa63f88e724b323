// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
)

// Hash is a short name-safe digest of v's JSON, different for each collisions value.
func Hash(v any, collisions *int32) string {
	h := fnv.New32a()
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // API types always marshal
	}
	h.Write(body)
	if collisions != nil {
		fmt.Fprintf(h, "/%d", *collisions)
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

// SameTemplate reports whether two pod templates describe the same pods: the pod-template-hash label is not part of the comparison.
func SameTemplate(a, b *corev1.PodTemplateSpec) bool {
	a, b = a.DeepCopy(), b.DeepCopy()
	delete(a.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	delete(b.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	ja, erra := json.Marshal(a)
	jb, errb := json.Marshal(b)
	return erra == nil && errb == nil && bytes.Equal(ja, jb)
}

// templatePatch is the form in which StatefulSets and DaemonSets keep a revision: a strategic merge patch that replaces spec.template. kubectl
// rollout undo applies it as it is.
func templatePatch(template *corev1.PodTemplateSpec) ([]byte, error) {
	body, err := json.Marshal(template)
	if err != nil {
		return nil, err
	}
	t := map[string]any{}
	if err := json.Unmarshal(body, &t); err != nil {
		return nil, err
	}
	t["$patch"] = "replace"
	return json.Marshal(map[string]any{"spec": map[string]any{"template": t}})
}

// NewRevision is the not yet stored revision number revision of owner's template.
func NewRevision(owner metav1.Object, kind schema.GroupVersionKind, template *corev1.PodTemplateSpec, revision int64, collisions *int32) (*appsv1.ControllerRevision, error) {
	data, err := templatePatch(template)
	if err != nil {
		return nil, err
	}
	labels := maps.Clone(template.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	r := &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       owner.GetNamespace(),
			Labels:          labels,
			Annotations:     maps.Clone(owner.GetAnnotations()),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, kind)},
		},
		Data:     runtime.RawExtension{Raw: data},
		Revision: revision,
	}
	nameRevision(r, owner, collisions)
	return r, nil
}

func nameRevision(r *appsv1.ControllerRevision, owner metav1.Object, collisions *int32) {
	hash := Hash(string(r.Data.Raw), collisions)
	prefix := owner.GetName()
	if len(prefix) > 223 {
		prefix = prefix[:223]
	}
	r.Name = prefix + "-" + hash
	r.Labels[appsv1.ControllerRevisionHashLabelKey] = hash
}

// SameRevision reports whether two revisions keep the same data.
func SameRevision(a, b *appsv1.ControllerRevision) bool {
	if bytes.Equal(a.Data.Raw, b.Data.Raw) {
		return true
	}
	// A server may have stored the JSON in another order.
	var va, vb any
	return json.Unmarshal(a.Data.Raw, &va) == nil && json.Unmarshal(b.Data.Raw, &vb) == nil && mustJSON(va) == mustJSON(vb)
}

func mustJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// SortRevisions orders by revision number, then age, then name.
func SortRevisions(rs []*appsv1.ControllerRevision) {
	slices.SortStableFunc(rs, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
}

// ApplyRevision returns obj as it was at revision r; obj is not changed.
func ApplyRevision[T any](obj *T, r *appsv1.ControllerRevision) (*T, error) {
	body, err := json.Marshal(obj)
	if err != nil {
		return nil, err
	}
	out := new(T)
	patched, err := strategicpatch.StrategicMergePatch(body, r.Data.Raw, out)
	if err != nil {
		return nil, fmt.Errorf("apply revision %s: %w", r.Name, err)
	}
	return out, json.Unmarshal(patched, out)
}

// StoreRevision creates r. When its name is taken by other data it counts a collision and tries the next name; when it is taken by the same data, what
// is stored is returned.
func StoreRevision(ctx context.Context, c kubernetes.Interface, owner metav1.Object, r *appsv1.ControllerRevision, collisions *int32) (*appsv1.ControllerRevision, error) {
	for {
		nameRevision(r, owner, collisions)
		created, err := c.AppsV1().ControllerRevisions(r.Namespace).Create(ctx, r, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			return created, err
		}
		stored, err := c.AppsV1().ControllerRevisions(r.Namespace).Get(ctx, r.Name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		if SameRevision(stored, r) && metav1.IsControlledBy(stored, owner) {
			return stored, nil
		}
		*collisions++
	}
}

// History is the revisions of one owner's template.
type History struct {
	Client    kubernetes.Interface
	Owner     metav1.Object
	Kind      schema.GroupVersionKind
	Template  *corev1.PodTemplateSpec
	Revisions []*appsv1.ControllerRevision // all that the owner controls, oldest first
}

// Current returns the revision of the present template. It creates it when there is none; one that exists but is not the newest (a rollback) becomes the newest.
// collisions is raised for every name that was taken.
func (h *History) Current(ctx context.Context, collisions *int32) (*appsv1.ControllerRevision, error) {
	SortRevisions(h.Revisions)
	next := int64(1)
	if n := len(h.Revisions); n > 0 {
		next = h.Revisions[n-1].Revision + 1
	}
	want, err := NewRevision(h.Owner, h.Kind, h.Template, next, collisions)
	if err != nil {
		return nil, err
	}
	for i := len(h.Revisions) - 1; i >= 0; i-- {
		r := h.Revisions[i]
		if !SameRevision(r, want) {
			continue
		}
		if r.Revision == next-1 {
			return r, nil
		}
		r = r.DeepCopy()
		r.Revision = next
		updated, err := h.Client.AppsV1().ControllerRevisions(r.Namespace).Update(ctx, r, metav1.UpdateOptions{})
		if err == nil {
			h.Revisions[i] = updated
			SortRevisions(h.Revisions)
		}
		return updated, err
	}
	created, err := StoreRevision(ctx, h.Client, h.Owner, want, collisions)
	if err == nil {
		h.Revisions = append(h.Revisions, created)
	}
	return created, err
}

// Trim deletes the oldest revisions beyond limit that live does not hold.
func (h *History) Trim(ctx context.Context, limit int, live map[string]bool) error {
	var unused []*appsv1.ControllerRevision
	for _, r := range h.Revisions {
		if !live[r.Name] && !live[r.Labels[appsv1.ControllerRevisionHashLabelKey]] {
			unused = append(unused, r)
		}
	}
	for len(unused) > limit {
		r := unused[0]
		unused = unused[1:]
		err := h.Client.AppsV1().ControllerRevisions(r.Namespace).Delete(ctx, r.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &r.UID}})
		if err := IgnoreNotFound(err); err != nil {
			return err
		}
	}
	return nil
}

// ClaimRevisions returns the revisions that owner controls, after adoption and release.
func ClaimRevisions(ctx context.Context, c kubernetes.Interface, owner metav1.Object, kind schema.GroupVersionKind, selector *metav1.LabelSelector,
	candidates []*appsv1.ControllerRevision, fresh func(context.Context) (metav1.Object, error)) ([]*appsv1.ControllerRevision, error) {
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return nil, err
	}
	claim := Claim[*appsv1.ControllerRevision]{
		Owner: owner, Kind: kind, Selector: s, Fresh: fresh,
		Patch: func(ctx context.Context, r *appsv1.ControllerRevision, patch []byte) error {
			_, err := c.AppsV1().ControllerRevisions(r.Namespace).Patch(ctx, r.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			return err
		},
	}
	return claim.Run(ctx, candidates)
}
