// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	gosync "sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/fairlead/fairlead/dataplane/kubelet/node"
	"github.com/fairlead/fairlead/dataplane/kubelet/observed"
	"github.com/fairlead/fairlead/dataplane/kubelet/podworker"
)

const (
	staticPeriod = 2 * time.Second
	hashKey      = "kubernetes.io/config.hash"
	seenKey      = "kubernetes.io/config.seen"
	sourceFile   = "file"
)

// static runs the pods of manifest files, and shows each in the API by a mirror pod.
type static struct {
	dir, nodeName string
	client        kubernetes.Interface
	keeper        *node.Keeper
	workers       *podworker.Workers

	mu      gosync.Mutex
	pods    map[types.UID]*v1.Pod
	mirrors map[string]*v1.Pod // by namespace/name
	loaded  bool
}

func newStatic(cfg Config, client kubernetes.Interface, keeper *node.Keeper, workers *podworker.Workers) *static {
	return &static{dir: cfg.StaticPodDir, nodeName: cfg.NodeName, client: client, keeper: keeper, workers: workers,
		pods: map[types.UID]*v1.Pod{}, mirrors: map[string]*v1.Pod{}, loaded: cfg.StaticPodDir == ""}
}

// ready tells whether the directory was read once.
func (s *static) ready() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loaded
}

func key(pod *v1.Pod) string { return pod.Namespace + "/" + pod.Name }

// apiPod is the API's pod for a pod: the mirror of one from a file (nil while there is none), else the pod itself.
func (s *static) apiPod(pod *v1.Pod) *v1.Pod {
	if pod.Annotations[observed.AnnotationSource] != sourceFile {
		return pod
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mirrors[key(pod)]
}

// observe takes a mirror pod as the watch has it; gone says it was deleted.
func (s *static) observe(pod *v1.Pod, gone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !gone {
		s.mirrors[key(pod)] = pod
		return
	}
	if old := s.mirrors[key(pod)]; old != nil && old.UID == pod.UID {
		delete(s.mirrors, key(pod))
	}
}

// run reads the directory until ctx ends.
func (s *static) run(ctx context.Context) {
	if s.dir == "" {
		return
	}
	log := klog.FromContext(ctx)
	reported := map[string]string{}
	tick := time.NewTicker(staticPeriod)
	defer tick.Stop()
	for {
		found, problems := readManifests(s.dir, s.nodeName)
		for file, err := range problems {
			if reported[file] != err.Error() {
				log.Error(err, "Static pod is not run", "file", file)
				reported[file] = err.Error()
			}
		}
		s.apply(found)
		if err := s.showMirrors(ctx); err != nil && ctx.Err() == nil {
			log.V(2).Info("Mirror pods are not up to date, trying again", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// apply starts and ends workers. A changed manifest is another pod (another UID), which waits for the old one's end.
func (s *static) apply(found map[types.UID]*v1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loaded = true
	busy := map[string]bool{}
	for uid, pod := range s.pods {
		if found[uid] != nil {
			continue
		}
		if !s.workers.Known(uid) {
			delete(s.pods, uid)
			continue
		}
		busy[key(pod)] = true
		s.workers.Remove(uid, grace(pod))
	}
	for uid, pod := range found {
		if s.pods[uid] == nil && !busy[key(pod)] {
			s.pods[uid] = pod
			s.workers.Update(pod)
		}
	}
}

func grace(pod *v1.Pod) time.Duration {
	return time.Duration(ptr.Deref(pod.Spec.TerminationGracePeriodSeconds, 30)) * time.Second
}

// showMirrors makes and removes mirror pods.
func (s *static) showMirrors(ctx context.Context) error {
	s.mu.Lock()
	wanted, have := map[string]*v1.Pod{}, map[string]*v1.Pod{}
	for _, pod := range s.pods {
		wanted[key(pod)] = pod
	}
	for name, mirror := range s.mirrors {
		have[name] = mirror
	}
	s.mu.Unlock()
	var problems []error
	for name, mirror := range have {
		if pod := wanted[name]; pod == nil || mirror.Annotations[v1.MirrorPodAnnotationKey] != pod.Annotations[hashKey] {
			now := int64(0)
			err := s.client.CoreV1().Pods(mirror.Namespace).Delete(ctx, mirror.Name, metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: metav1.NewUIDPreconditions(string(mirror.UID))})
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				problems = append(problems, err)
			}
		}
	}
	owner := s.keeper.Node()
	for name, pod := range wanted {
		if have[name] != nil || owner == nil {
			continue
		}
		mirror := pod.DeepCopy()
		mirror.UID = ""
		mirror.Annotations[v1.MirrorPodAnnotationKey] = pod.Annotations[hashKey]
		mirror.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: owner.Name, UID: owner.UID, Controller: ptr.To(true)}}
		if _, err := s.client.CoreV1().Pods(pod.Namespace).Create(ctx, mirror, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

// readManifests reads all files of dir; files that start with a dot are left out.
func readManifests(dir, nodeName string) (map[types.UID]*v1.Pod, map[string]error) {
	pods, problems := map[types.UID]*v1.Pod{}, map[string]error{}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		problems[dir] = err
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") || entry.IsDir() {
			continue
		}
		file := filepath.Join(dir, entry.Name())
		data, err := os.ReadFile(file)
		if err == nil {
			var pod *v1.Pod
			if pod, err = ParseManifest(data, file, nodeName); err == nil {
				pods[pod.UID] = pod
				continue
			}
		}
		problems[file] = err
	}
	return pods, problems
}

// ParseManifest turns a manifest file into the pod that runs from it: named after the node, with a UID made of the content, and with the
// API's defaults, as no API server sets them.
func ParseManifest(data []byte, file, nodeName string) (*v1.Pod, error) {
	pod := &v1.Pod{}
	if err := yaml.UnmarshalStrict(data, pod); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", file, err)
	}
	if pod.Kind != "Pod" || pod.APIVersion != "v1" {
		return nil, fmt.Errorf("manifest %s: it is a %s of %s, not a Pod of v1", file, pod.Kind, pod.APIVersion)
	}
	if pod.Name == "" || len(pod.Spec.Containers) == 0 {
		return nil, fmt.Errorf("manifest %s: the pod has no name or no containers", file)
	}
	sum := md5.New()
	fmt.Fprintf(sum, "%s\x00%s\x00", nodeName, file)
	sum.Write(data)
	hash := hex.EncodeToString(sum.Sum(nil))
	pod.UID = types.UID(hash)
	pod.Name += "-" + strings.ToLower(nodeName)
	if pod.Namespace == "" {
		pod.Namespace = metav1.NamespaceDefault
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[hashKey], pod.Annotations[observed.AnnotationSource] = hash, sourceFile
	pod.Annotations[seenKey] = time.Now().Format(time.RFC3339Nano)
	pod.Status = v1.PodStatus{}
	setDefaults(&pod.Spec, nodeName)
	return pod, nil
}

func setDefaults(spec *v1.PodSpec, nodeName string) {
	spec.NodeName = nodeName
	defaultTo(&spec.RestartPolicy, v1.RestartPolicyAlways)
	defaultTo(&spec.DNSPolicy, v1.DNSClusterFirst)
	defaultTo(&spec.TerminationGracePeriodSeconds, ptr.To[int64](30))
	defaultTo(&spec.EnableServiceLinks, ptr.To(true))
	defaultTo(&spec.SecurityContext, &v1.PodSecurityContext{})
	spec.Tolerations = append(spec.Tolerations, v1.Toleration{Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute})
	for _, list := range [][]v1.Container{spec.InitContainers, spec.Containers} {
		for i := range list {
			c := &list[i]
			defaultTo(&c.TerminationMessagePath, v1.TerminationMessagePathDefault)
			defaultTo(&c.TerminationMessagePolicy, v1.TerminationMessageReadFile)
			policy := v1.PullIfNotPresent
			if _, tag, ok := strings.Cut(filepath.Base(c.Image), ":"); (!ok || tag == "latest") && !strings.Contains(c.Image, "@") {
				policy = v1.PullAlways
			}
			defaultTo(&c.ImagePullPolicy, policy)
			for _, probe := range []*v1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
				if probe != nil {
					defaultTo(&probe.TimeoutSeconds, 1)
					defaultTo(&probe.PeriodSeconds, 10)
					defaultTo(&probe.SuccessThreshold, 1)
					defaultTo(&probe.FailureThreshold, 3)
				}
			}
			for j := range c.Ports {
				defaultTo(&c.Ports[j].Protocol, v1.ProtocolTCP)
			}
		}
	}
	for i := range spec.Volumes {
		if h := spec.Volumes[i].HostPath; h != nil && h.Type == nil {
			h.Type = ptr.To(v1.HostPathUnset)
		}
	}
}
