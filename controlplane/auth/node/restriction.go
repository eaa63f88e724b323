// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	kubeletapis "k8s.io/kubelet/pkg/apis"
)

// RestrictionPlugin is the name of the admission plugin.
const RestrictionPlugin = "NodeRestriction"

// Register makes the plugin known.
func Register(plugins *admission.Plugins) {
	plugins.Register(RestrictionPlugin, func(io.Reader) (admission.Interface, error) { return NewRestriction(), nil })
}

// Restriction is admission of what nodes write: their own Node, Lease and CSINode, the status of their pods, mirrors of their static pods,
// and tokens for the service accounts of their pods.
type Restriction struct {
	*admission.Handler
	client     kubernetes.Interface
	authorizer authorizer.UnconditionalAuthorizer
	pods       corelisters.PodLister
	nodes      corelisters.NodeLister
	drivers    storagelisters.CSIDriverLister
}

var (
	_ admission.ValidationInterface                = (*Restriction)(nil)
	_ initializer.WantsExternalKubeClientSet       = (*Restriction)(nil)
	_ initializer.WantsExternalKubeInformerFactory = (*Restriction)(nil)
	_ initializer.WantsUnconditionalAuthorizer     = (*Restriction)(nil)
)

// NewRestriction returns the plugin, to be initialised by its Set methods.
func NewRestriction() *Restriction {
	return &Restriction{Handler: admission.NewHandler(admission.Create, admission.Update, admission.Delete)}
}

func (r *Restriction) SetExternalKubeClientSet(c kubernetes.Interface) { r.client = c }
func (r *Restriction) SetUnconditionalAuthorizer(a authorizer.UnconditionalAuthorizer) {
	r.authorizer = a
}

func (r *Restriction) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	pods, nodes, drivers := f.Core().V1().Pods(), f.Core().V1().Nodes(), f.Storage().V1().CSIDrivers()
	r.pods, r.nodes, r.drivers = pods.Lister(), nodes.Lister(), drivers.Lister()
	synced := []func() bool{pods.Informer().HasSynced, nodes.Informer().HasSynced, drivers.Informer().HasSynced}
	r.SetReadyFunc(func() bool { return !slices.ContainsFunc(synced, func(f func() bool) bool { return !f() }) })
}

// ValidateInitialization implements admission.InitializationValidator.
func (r *Restriction) ValidateInitialization() error {
	if r.client == nil || r.pods == nil || r.authorizer == nil {
		return fmt.Errorf("%s needs a client, informers and an authorizer", RestrictionPlugin)
	}
	return nil
}

// Validate refuses what is not the node's own.
func (r *Restriction) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	node, ok := Identify(a.GetUserInfo())
	if !ok {
		return nil
	}
	var err error
	switch gr := a.GetResource().GroupResource(); gr.Group + "/" + gr.Resource {
	case "/pods":
		err = r.pod(ctx, a, node)
	case "/nodes":
		err = r.node(a, node)
	case "/persistentvolumeclaims":
		err = claim(a)
	case "/serviceaccounts":
		if a.GetSubresource() == "token" {
			err = r.token(ctx, a, node)
		}
	case "coordination.k8s.io/leases":
		if a.GetNamespace() != corev1.NamespaceNodeLease {
			err = fmt.Errorf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
		} else {
			err = sameName(a, node, "lease")
		}
	case "storage.k8s.io/csinodes":
		err = sameName(a, node, "CSINode")
	case "resource.k8s.io/resourceslices":
		if slice, ok := a.GetObject().(*resourcev1.ResourceSlice); ok && a.GetOperation() == admission.Create {
			if slice.Spec.NodeName == nil || *slice.Spec.NodeName != node {
				err = fmt.Errorf("can only create ResourceSlice with the same NodeName as the requesting node")
			}
		}
	case "certificates.k8s.io/certificatesigningrequests":
		err = certificate(a, node)
	}
	if err == nil {
		return nil
	}
	if _, ok := err.(apierrors.APIStatus); ok {
		return err
	}
	return admission.NewForbidden(a, err)
}

func (r *Restriction) pod(ctx context.Context, a admission.Attributes, node string) error {
	switch sub := a.GetSubresource(); {
	case sub == "" && a.GetOperation() == admission.Create:
		return r.newPod(a, node)
	case sub == "" && a.GetOperation() == admission.Delete, sub == "eviction":
		pod, err := r.livePod(ctx, a.GetNamespace(), a.GetName())
		if apierrors.IsNotFound(err) {
			return err
		}
		if err != nil {
			return err
		}
		if pod.Spec.NodeName != node {
			return fmt.Errorf("node %q can only delete or evict pods with spec.nodeName set to itself", node)
		}
		return nil
	case sub == "status" && a.GetOperation() == admission.Update:
		old, ok := a.GetOldObject().(*corev1.Pod)
		pod, isPod := a.GetObject().(*corev1.Pod)
		switch {
		case !ok || !isPod:
			return fmt.Errorf("unexpected type %T", a.GetObject())
		case old.Spec.NodeName != node:
			return fmt.Errorf("node %q can only update pod status for pods with spec.nodeName set to itself", node)
		case !maps.Equal(pod.Labels, old.Labels):
			return fmt.Errorf("node %q cannot update labels through pod status", node)
		case !equality.Semantic.DeepEqual(pod.Status.ResourceClaimStatuses, old.Status.ResourceClaimStatuses):
			return fmt.Errorf("node %q cannot update resource claim statuses", node)
		}
		return nil
	}
	return fmt.Errorf("unexpected operation %s on pods/%s by node %q", a.GetOperation(), a.GetSubresource(), node)
}

// newPod: a node shows the pods that it runs from files, and nothing else.
func (r *Restriction) newPod(a admission.Attributes, node string) error {
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok {
		return fmt.Errorf("unexpected type %T", a.GetObject())
	}
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; !mirror {
		return fmt.Errorf("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, node)
	}
	if pod.Spec.NodeName != node {
		return fmt.Errorf("node %q can only create pods with spec.nodeName set to itself", node)
	}
	if len(pod.OwnerReferences) != 1 {
		return fmt.Errorf("node %q can only create pods with one owner reference, to itself", node)
	}
	owner := pod.OwnerReferences[0]
	if owner.APIVersion != "v1" || owner.Kind != "Node" || owner.Name != node || owner.BlockOwnerDeletion != nil && *owner.BlockOwnerDeletion {
		return fmt.Errorf("node %q can only create pods whose owner reference is its own Node, without blockOwnerDeletion", node)
	}
	if !r.WaitForReady() {
		return fmt.Errorf("nodes are not read yet, try again")
	}
	if own, err := r.nodes.Get(node); err != nil || own.UID != owner.UID {
		return fmt.Errorf("node %q can only create pods owned by itself: the owner's UID is %s (%v)", node, owner.UID, err)
	}
	for o := range podUses(pod) {
		return fmt.Errorf("node %q can not create pods that reference %s", node, o.kind)
	}
	return nil
}

func (r *Restriction) livePod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	if !r.WaitForReady() {
		return nil, fmt.Errorf("pods are not read yet, try again")
	}
	pod, err := r.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return r.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	}
	return pod, err
}

func (r *Restriction) node(a admission.Attributes, self string) error {
	name := a.GetName()
	obj, isNode := a.GetObject().(*corev1.Node)
	if isNode && a.GetOperation() == admission.Create {
		name = obj.Name // the request itself may carry no name
	}
	if name != self {
		return fmt.Errorf("node %q is not allowed to modify node %q", self, name)
	}
	if !isNode {
		return nil
	}
	if obj.Spec.ConfigSource != nil {
		return fmt.Errorf("node %q is not allowed to set spec.configSource", self)
	}
	if a.GetOperation() == admission.Create {
		if bad := reservedLabels(obj.Labels, nil); len(bad) > 0 {
			return fmt.Errorf("node %q is not allowed to set the following labels: %s", self, strings.Join(bad, ", "))
		}
		return nil
	}
	old, ok := a.GetOldObject().(*corev1.Node)
	if !ok || a.GetOperation() != admission.Update {
		return nil
	}
	if !equality.Semantic.DeepEqual(obj.Spec.Taints, old.Spec.Taints) {
		return fmt.Errorf("node %q is not allowed to modify taints", self)
	}
	if !equality.Semantic.DeepEqual(obj.OwnerReferences, old.OwnerReferences) {
		return fmt.Errorf("node %q is not allowed to modify owner references", self)
	}
	if bad := reservedLabels(obj.Labels, old.Labels); len(bad) > 0 {
		return fmt.Errorf("node %q is not allowed to modify labels: %s", self, strings.Join(bad, ", "))
	}
	return nil
}

// reservedLabels returns the labels that differ between now and before and that a node may not choose for itself: an administrator can
// trust them to keep sensitive pods off other nodes.
func reservedLabels(now, before map[string]string) (out []string) {
	for _, key := range slices.Sorted(maps.Keys(union(now, before))) {
		a, hasA := now[key]
		b, hasB := before[key]
		if hasA == hasB && a == b {
			continue
		}
		domain, _, found := strings.Cut(key, "/")
		if !found {
			continue
		}
		if domain == corev1.LabelNamespaceNodeRestriction || strings.HasSuffix(domain, "."+corev1.LabelNamespaceNodeRestriction) ||
			isKubernetes(domain) && !kubeletapis.IsKubeletLabel(key) {
			out = append(out, key)
		}
	}
	return out
}

func union(a, b map[string]string) map[string]struct{} {
	out := map[string]struct{}{}
	for k := range a {
		out[k] = struct{}{}
	}
	for k := range b {
		out[k] = struct{}{}
	}
	return out
}

func isKubernetes(domain string) bool {
	return domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io") || domain == "k8s.io" || strings.HasSuffix(domain, ".k8s.io")
}

// claim: a node reports how far the expansion of a volume is, and nothing else of a claim.
func claim(a admission.Attributes) error {
	if a.GetOperation() != admission.Update || a.GetSubresource() != "status" {
		return fmt.Errorf("unexpected operation %s on persistentvolumeclaims/%s by a node", a.GetOperation(), a.GetSubresource())
	}
	old, ok := a.GetOldObject().(*corev1.PersistentVolumeClaim)
	now, isClaim := a.GetObject().(*corev1.PersistentVolumeClaim)
	if !ok || !isClaim {
		return fmt.Errorf("unexpected type %T", a.GetObject())
	}
	old, now = old.DeepCopy(), now.DeepCopy()
	for _, c := range []*corev1.PersistentVolumeClaim{old, now} {
		c.ResourceVersion, c.ManagedFields = "", nil
		c.Status.Capacity, c.Status.Conditions, c.Status.AllocatedResources, c.Status.AllocatedResourceStatuses = nil, nil, nil, nil
	}
	if !equality.Semantic.DeepEqual(old, now) {
		return fmt.Errorf("node is not allowed to update fields other than capacity, allocatedResources, allocatedResourceStatuses and conditions of the status")
	}
	return nil
}

// token: a node gets tokens for pods that are on it, for audiences that those pods ask for.
func (r *Restriction) token(ctx context.Context, a admission.Attributes, node string) error {
	tr, ok := a.GetObject().(*authenticationv1.TokenRequest)
	if !ok {
		return fmt.Errorf("unexpected type %T", a.GetObject())
	}
	to := tr.Spec.BoundObjectRef
	switch {
	case to == nil || to.APIVersion != "v1" || to.Kind != "Pod" || to.Name == "":
		return fmt.Errorf("node requested token not bound to a pod")
	case to.UID == "":
		return fmt.Errorf("node requested token with a pod binding without a uid")
	}
	pod, err := r.livePod(ctx, a.GetNamespace(), to.Name)
	if err != nil {
		return err
	}
	switch {
	case pod.UID != to.UID:
		return fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record (%s)", to.UID, pod.UID)
	case pod.Spec.NodeName != node:
		return fmt.Errorf("node requested token bound to a pod scheduled on a different node")
	}
	asked := podAudiences(pod, r.drivers)
	for _, audience := range tr.Spec.Audiences {
		if audience == "" || asked[audience] {
			continue
		}
		decision, _, err := r.authorizer.Authorize(ctx, authorizer.AttributesRecord{
			User: a.GetUserInfo(), Verb: "request-serviceaccounts-token-audience", APIGroup: "", APIVersion: "*", Resource: audience,
			Namespace: a.GetNamespace(), Name: a.GetName(), ResourceRequest: true,
		})
		if decision != authorizer.DecisionAllow {
			return fmt.Errorf("audience %q not found in pod spec volume, %v", audience, err)
		}
	}
	return nil
}

// podAudiences are those for which the pod's volumes and their drivers need tokens.
func podAudiences(pod *corev1.Pod, drivers storagelisters.CSIDriverLister) map[string]bool {
	out := map[string]bool{}
	driver := func(name string) {
		if d, err := drivers.Get(name); err == nil {
			for _, t := range d.Spec.TokenRequests {
				out[t.Audience] = true
			}
		}
	}
	uncertain := false
	for _, v := range pod.Spec.Volumes {
		switch {
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if s.ServiceAccountToken != nil {
					out[s.ServiceAccountToken.Audience] = true
				}
			}
		case v.CSI != nil:
			driver(v.CSI.Driver)
		case v.PersistentVolumeClaim != nil || v.Ephemeral != nil:
			uncertain = true
		}
	}
	if uncertain { // which driver a claim uses is known by its volume; any driver's audience may be meant
		if list, err := drivers.List(labels.Everything()); err == nil {
			for _, d := range list {
				driver(d.Name)
			}
		}
	}
	return out
}

// certificate: a node asks for certificates in its own name only.
func certificate(a admission.Attributes, node string) error {
	csr, ok := a.GetObject().(*certificatesv1.CertificateSigningRequest)
	if !ok || a.GetOperation() != admission.Create || a.GetSubresource() != "" ||
		csr.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName && csr.Spec.SignerName != certificatesv1.KubeletServingSignerName {
		return nil
	}
	block, _ := pem.Decode(csr.Spec.Request)
	if block == nil {
		return fmt.Errorf("unable to parse csr: no PEM block in it")
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return fmt.Errorf("unable to parse csr: %w", err)
	}
	if parsed.Subject.CommonName != userPrefix+node {
		return fmt.Errorf("can only create a node CSR with CN=%s", userPrefix+node)
	}
	return nil
}

func sameName(a admission.Attributes, node, kind string) error {
	name := a.GetName()
	if o, ok := a.GetObject().(metav1.Object); ok && a.GetOperation() == admission.Create {
		name = o.GetName()
	}
	if name != node {
		return fmt.Errorf("can only access %s with the same name as the requesting node", kind)
	}
	return nil
}
