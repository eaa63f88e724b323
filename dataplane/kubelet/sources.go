// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	gosync "sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/fairlead/fairlead/dataplane/kubelet/node"
	"github.com/fairlead/fairlead/dataplane/kubelet/observed"
)

type runtimeImage = runtimeapi.Image

// sources are the API objects beside pods that the kubelet follows: its node, and services for environments.
type sources struct {
	client     kubernetes.Interface
	factory    informers.SharedInformerFactory
	lister     corelisters.ServiceLister
	synced     cache.InformerSynced
	node       cache.Controller
	podsSynced func() bool
}

func newSources(_ context.Context, client kubernetes.Interface, nodeName string, keeper *node.Keeper) *sources {
	s := &sources{client: client, factory: informers.NewSharedInformerFactory(client, 0)}
	services := s.factory.Core().V1().Services()
	s.lister, s.synced = services.Lister(), services.Informer().HasSynced
	lister := cache.NewFilteredListWatchFromClient(client.CoreV1().RESTClient(), "nodes", metav1.NamespaceNone, func(options *metav1.ListOptions) {
		options.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, nodeName).String()
	})
	_, s.node = cache.NewInformerWithOptions(cache.InformerOptions{ListerWatcher: lister, ObjectType: &v1.Node{}, Handler: cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { keeper.Observe(o.(*v1.Node)) },
		UpdateFunc: func(_, o any) { keeper.Observe(o.(*v1.Node)) },
		DeleteFunc: func(any) { keeper.Poke() },
	}})
	return s
}

func (s *sources) run(ctx context.Context) {
	s.factory.StartWithContext(ctx)
	s.node.RunWithContext(ctx)
	s.factory.Shutdown()
}

// services returns a namespace's services and default/kubernetes. A container is not started before services are known, within reason:
// what its environment lacks cannot be added later.
func (s *sources) services(namespace string) (own []*v1.Service, master *v1.Service) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if !s.synced() {
		cache.WaitForCacheSync(ctx.Done(), s.synced)
	}
	own, err := s.lister.Services(namespace).List(labels.Everything())
	if err != nil {
		return nil, nil
	}
	master, err = s.lister.Services(metav1.NamespaceDefault).Get("kubernetes")
	if err != nil {
		return own, nil
	}
	return own, master
}

// ended tells whether a pod that has no worker is still in the API: one that ended and keeps its containers for their logs.
func (s *sources) ended(ctx context.Context, pod *observed.Pod) bool {
	found, err := s.client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), apierrors.IsForbidden(err): // a node may not ask for pods that are not on it
		return false
	case err != nil:
		return true // not known: leave it alone
	}
	return found.UID == pod.UID
}

// recorder writes events.
type recorder struct {
	broadcaster record.EventBroadcaster
	recorder    record.EventRecorder
}

func newRecorder(ctx context.Context, client kubernetes.Interface, nodeName string) *recorder {
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	return &recorder{broadcaster: broadcaster, recorder: broadcaster.NewRecorder(scheme.Scheme, v1.EventSource{Component: "kubelet", Host: nodeName})}
}

func (r *recorder) stop() { r.broadcaster.Shutdown() }

// pod records an event on a pod or on one of its containers.
func (r *recorder) pod(pod *v1.Pod, container string, warning bool, reason, message string) {
	if pod.Name == "" {
		return
	}
	reference := &v1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion}
	if container != "" {
		reference.FieldPath = containerPath(pod, container)
	}
	kind := v1.EventTypeNormal
	if warning {
		kind = v1.EventTypeWarning
	}
	const longest = 1024
	r.recorder.Event(reference, kind, reason, message[:min(len(message), longest)])
}

func containerPath(pod *v1.Pod, name string) string {
	for _, c := range pod.Spec.InitContainers {
		if c.Name == name {
			return "spec.initContainers{" + name + "}"
		}
	}
	for _, c := range pod.Spec.EphemeralContainers {
		if c.Name == name {
			return "spec.ephemeralContainers{" + name + "}"
		}
	}
	return "spec.containers{" + name + "}"
}

// tokens gets and keeps service-account tokens; one is renewed at 80% of its life.
type tokens struct {
	client kubernetes.Interface
	mu     gosync.Mutex
	kept   map[string]keptToken
}

type keptToken struct {
	token          string
	renew, expires time.Time
}

func newTokens(client kubernetes.Interface) *tokens {
	return &tokens{client: client, kept: map[string]keptToken{}}
}

// get returns a token for the pod's service account, bound to the pod.
func (t *tokens) get(ctx context.Context, pod *v1.Pod, audience string, seconds *int64) (string, error) {
	kept, err := t.fresh(ctx, pod, audience, seconds)
	return kept.token, err
}

// forDriver returns the tokens a CSI driver asks for, by audience, as the JSON it expects.
func (t *tokens) forDriver(ctx context.Context, pod *v1.Pod, requests []storagev1.TokenRequest) (string, error) {
	type issued struct {
		Token   string      `json:"token"`
		Expires metav1.Time `json:"expirationTimestamp"`
	}
	out := map[string]issued{}
	for _, request := range requests {
		kept, err := t.fresh(ctx, pod, request.Audience, request.ExpirationSeconds)
		if err != nil {
			return "", err
		}
		out[request.Audience] = issued{kept.token, metav1.NewTime(kept.expires)}
	}
	text, err := json.Marshal(out)
	return string(text), err
}

// fresh returns a token that lasts, a kept one if there is one.
func (t *tokens) fresh(ctx context.Context, pod *v1.Pod, audience string, seconds *int64) (keptToken, error) {
	name := pod.Spec.ServiceAccountName
	if name == "" {
		name = "default"
	}
	life := int64(3600)
	if seconds != nil {
		life = *seconds
	}
	id := fmt.Sprint(pod.UID, " ", name, " ", audience, " ", life)
	now := time.Now()
	t.mu.Lock()
	kept, ok := t.kept[id]
	t.mu.Unlock()
	if ok && now.Before(kept.renew) {
		return kept, nil
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &life,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID},
	}}
	if audience != "" {
		request.Spec.Audiences = []string{audience}
	}
	issued, err := t.client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, name, request, metav1.CreateOptions{})
	if err != nil {
		if ok && now.Before(kept.expires) {
			return kept, nil // still good; the next try is soon
		}
		return keptToken{}, fmt.Errorf("token of service account %s: %w", name, err)
	}
	expires := issued.Status.ExpirationTimestamp.Time
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, old := range t.kept {
		if now.After(old.expires) {
			delete(t.kept, key)
		}
	}
	renew := now.Add(expires.Sub(now) * 8 / 10)
	if day := now.Add(24 * time.Hour); renew.After(day) {
		renew = day
	}
	t.kept[id] = keptToken{token: issued.Status.Token, renew: renew, expires: expires}
	return t.kept[id], nil
}
