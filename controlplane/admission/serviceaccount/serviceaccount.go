// SPDX-License-Identifier: Apache-2.0

// Package serviceaccount is admission of pods by their service account: it names the account "default" where none is named, refuses pods
// of accounts that do not exist, gives them the account's image pull secrets, and mounts a token, the cluster's CA bundle and the
// namespace's name at /var/run/secrets/kubernetes.io/serviceaccount as a projected volume.
package serviceaccount

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/utils/ptr"
)

const (
	// PluginName is what the plugin is called in flags and configuration.
	PluginName = "ServiceAccount"
	// MountPath is where every pod finds its credentials.
	MountPath = "/var/run/secrets/kubernetes.io/serviceaccount"
	// VolumePrefix begins the name of the volume that is added.
	VolumePrefix = "kube-api-access-"

	defaultName        = "default"
	tokenSeconds       = 3607 // an hour, and a mark: see tokens.REST
	rootCA             = "kube-root-ca.crt"
	enforceMountable   = "kubernetes.io/enforce-mountable-secrets"
	waitForAccount     = time.Second // how long a pod waits for an account that is being made
	waitForAccountStep = 50 * time.Millisecond
)

// Register makes the plugin known.
func Register(plugins *admission.Plugins) {
	plugins.Register(PluginName, func(io.Reader) (admission.Interface, error) { return New(), nil })
}

// Plugin is the admission plugin.
type Plugin struct {
	*admission.Handler
	client   kubernetes.Interface
	accounts corelisters.ServiceAccountLister
	suffix   names.NameGenerator
}

var (
	_ admission.MutationInterface                  = (*Plugin)(nil)
	_ admission.ValidationInterface                = (*Plugin)(nil)
	_ initializer.WantsExternalKubeClientSet       = (*Plugin)(nil)
	_ initializer.WantsExternalKubeInformerFactory = (*Plugin)(nil)
)

// New returns the plugin, to be initialised by its Set methods.
func New() *Plugin {
	return &Plugin{Handler: admission.NewHandler(admission.Create, admission.Update), suffix: names.SimpleNameGenerator}
}

func (p *Plugin) SetExternalKubeClientSet(c kubernetes.Interface) { p.client = c }
func (p *Plugin) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	informer := f.Core().V1().ServiceAccounts()
	p.accounts = informer.Lister()
	p.SetReadyFunc(informer.Informer().HasSynced)
}

// ValidateInitialization implements admission.InitializationValidator.
func (p *Plugin) ValidateInitialization() error {
	if p.client == nil || p.accounts == nil {
		return fmt.Errorf("%s needs a client and informers", PluginName)
	}
	return nil
}

// Admit completes a new pod.
func (p *Plugin) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	pod, ok := newPod(a)
	if !ok {
		return nil
	}
	if isMirror(pod) {
		return p.Validate(ctx, a, o)
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = defaultName
	}
	account, err := p.account(ctx, a, pod)
	if err != nil {
		return err
	}
	pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
	if automount(account, pod) {
		p.mountToken(pod)
	}
	if len(pod.Spec.ImagePullSecrets) == 0 {
		pod.Spec.ImagePullSecrets = slices.Clone(account.ImagePullSecrets)
	}
	return nil
}

// Validate refuses a new pod that names what its account or its being a mirror of a static pod does not allow.
func (p *Plugin) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if pod, old, ok := withEphemeralContainers(a); ok {
		return p.validateEphemeral(ctx, a, pod, old)
	}
	pod, ok := newPod(a)
	if !ok {
		return nil
	}
	if isMirror(pod) {
		return validateMirror(a, pod)
	}
	account, err := p.account(ctx, a, pod)
	if err != nil {
		return err
	}
	if enforces(account) {
		return limitSecrets(a, account, pod)
	}
	return nil
}

func newPod(a admission.Attributes) (*corev1.Pod, bool) {
	if a.GetOperation() != admission.Create || a.GetResource().GroupResource() != corev1.Resource("pods") || a.GetSubresource() != "" {
		return nil, false
	}
	pod, ok := a.GetObject().(*corev1.Pod)
	return pod, ok
}

func withEphemeralContainers(a admission.Attributes) (pod, old *corev1.Pod, ok bool) {
	if a.GetOperation() != admission.Update || a.GetResource().GroupResource() != corev1.Resource("pods") || a.GetSubresource() != "ephemeralcontainers" {
		return nil, nil, false
	}
	pod, ok = a.GetObject().(*corev1.Pod)
	if !ok {
		return nil, nil, false
	}
	old, ok = a.GetOldObject().(*corev1.Pod)
	return pod, old, ok
}

func isMirror(pod *corev1.Pod) bool {
	_, ok := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return ok
}

// validateMirror: a mirror shows a pod that the node runs from a file, and must not open access to anything of the cluster.
func validateMirror(a admission.Attributes, pod *corev1.Pod) error {
	if pod.Spec.ServiceAccountName != "" {
		return admission.NewForbidden(a, fmt.Errorf("a mirror pod may not reference service accounts"))
	}
	for _, v := range pod.Spec.Volumes {
		if v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool { return s.ServiceAccountToken != nil }) {
			return admission.NewForbidden(a, fmt.Errorf("a mirror pod may not use ServiceAccountToken volume projections"))
		}
	}
	return nil
}

// account returns the pod's service account. The account of a namespace made a moment ago may still be on its way, so it waits a little.
func (p *Plugin) account(ctx context.Context, a admission.Attributes, pod *corev1.Pod) (*corev1.ServiceAccount, error) {
	namespace, name := a.GetNamespace(), pod.Spec.ServiceAccountName
	if !p.WaitForReady() {
		return nil, admission.NewForbidden(a, fmt.Errorf("service accounts are not read yet, try again"))
	}
	account, err := p.accounts.ServiceAccounts(namespace).Get(name)
	if err == nil {
		return account, nil
	}
	if !apierrors.IsNotFound(err) {
		return nil, admission.NewForbidden(a, fmt.Errorf("error looking up service account %s/%s: %w", namespace, name, err))
	}
	deadline := time.Now().Add(waitForAccount)
	for {
		account, err = p.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			return account, nil
		}
		// Only the account "default" is made for everybody; any other is somebody's own business.
		if !apierrors.IsNotFound(err) || name != defaultName || time.Now().After(deadline) {
			return nil, admission.NewForbidden(a, fmt.Errorf("error looking up service account %s/%s: %w", namespace, name, err))
		}
		select {
		case <-ctx.Done():
			return nil, admission.NewForbidden(a, ctx.Err())
		case <-time.After(waitForAccountStep):
		}
	}
}

// automount: the pod's word goes before the account's, and silence means yes.
func automount(account *corev1.ServiceAccount, pod *corev1.Pod) bool {
	switch {
	case pod.Spec.AutomountServiceAccountToken != nil:
		return *pod.Spec.AutomountServiceAccountToken
	case account.AutomountServiceAccountToken != nil:
		return *account.AutomountServiceAccountToken
	}
	return true
}

func (p *Plugin) mountToken(pod *corev1.Pod) {
	name := ""
	for _, v := range pod.Spec.Volumes {
		if strings.HasPrefix(v.Name, VolumePrefix) {
			name = v.Name // the pod was made from one that had been completed before
			break
		}
	}
	exists := name != ""
	if !exists {
		name = p.suffix.GenerateName(VolumePrefix)
	}
	mount := corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: MountPath}
	used := false
	add := func(containers []corev1.Container) {
		for i := range containers {
			if !slices.ContainsFunc(containers[i].VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == MountPath }) {
				containers[i].VolumeMounts = append(containers[i].VolumeMounts, mount)
				used = true
			}
		}
	}
	add(pod.Spec.InitContainers)
	add(pod.Spec.Containers)
	if used && !exists {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: TokenVolume()}})
	}
}

// TokenVolume is the volume that every pod gets.
func TokenVolume() *corev1.ProjectedVolumeSource {
	return &corev1.ProjectedVolumeSource{
		DefaultMode: ptr.To(corev1.ProjectedVolumeSourceDefaultMode),
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr.To[int64](tokenSeconds)}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: rootCA}, Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}},
			}}},
		},
	}
}

func enforces(account *corev1.ServiceAccount) bool {
	on, err := strconv.ParseBool(account.Annotations[enforceMountable])
	return err == nil && on
}

// limitSecrets refuses secrets that an account annotated with enforce-mountable-secrets does not list.
func limitSecrets(a admission.Attributes, account *corev1.ServiceAccount, pod *corev1.Pod) error {
	mountable := func(name string) bool {
		return slices.ContainsFunc(account.Secrets, func(r corev1.ObjectReference) bool { return r.Name == name })
	}
	for _, v := range pod.Spec.Volumes {
		if v.Secret != nil && !mountable(v.Secret.SecretName) {
			return admission.NewForbidden(a, fmt.Errorf("volume with secret.secretName=%q is not allowed because service account %s does not reference that secret",
				v.Secret.SecretName, account.Name))
		}
	}
	var bad error
	check := func(container string, env []corev1.EnvVar, from []corev1.EnvFromSource) {
		for _, e := range env {
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil && !mountable(e.ValueFrom.SecretKeyRef.Name) {
				bad = fmt.Errorf("container %s with envVar %s referencing secret.secretName=%q is not allowed because service account %s does not reference that secret",
					container, e.Name, e.ValueFrom.SecretKeyRef.Name, account.Name)
			}
		}
		for _, f := range from {
			if f.SecretRef != nil && !mountable(f.SecretRef.Name) {
				bad = fmt.Errorf("container %s with envFrom referencing secret.secretName=%q is not allowed because service account %s does not reference that secret",
					container, f.SecretRef.Name, account.Name)
			}
		}
	}
	for _, c := range pod.Spec.InitContainers {
		check(c.Name, c.Env, c.EnvFrom)
	}
	for _, c := range pod.Spec.Containers {
		check(c.Name, c.Env, c.EnvFrom)
	}
	for _, c := range pod.Spec.EphemeralContainers {
		check(c.Name, c.Env, c.EnvFrom)
	}
	for _, s := range pod.Spec.ImagePullSecrets {
		if !slices.Contains(account.ImagePullSecrets, s) {
			bad = fmt.Errorf("imagePullSecret %q is not allowed because service account %s does not reference that imagePullSecret", s.Name, account.Name)
		}
	}
	if bad != nil {
		return admission.NewForbidden(a, bad)
	}
	return nil
}

// validateEphemeral looks at debug containers added to a running pod.
func (p *Plugin) validateEphemeral(ctx context.Context, a admission.Attributes, pod, old *corev1.Pod) error {
	if isMirror(pod) || old.Spec.ServiceAccountName == "" {
		return nil
	}
	account, err := p.account(ctx, a, pod)
	if err != nil {
		return err
	}
	if !enforces(account) {
		return nil
	}
	only := &corev1.Pod{Spec: corev1.PodSpec{EphemeralContainers: pod.Spec.EphemeralContainers}}
	return limitSecrets(a, account, only)
}
