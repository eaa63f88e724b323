// SPDX-License-Identifier: Apache-2.0

// Package kubelet runs a node's pods: it registers the machine, watches the pods bound to it, and makes a container runtime (any, by
// CRI) and the machine be as their specs say.
//
//	API server ──▶ pods ──▶ podworker ──▶ sync.Next (pure) ──▶ actions ──▶ CRI, volumes, cgroups
//	                            ▲                                              │
//	CRI events ──▶ pleg ────────┤◀── probes                                    │
//	                            └──────────── status ──▶ API server ◀── node ◀─┘
//
// Input: the API server's pods, nodes, services, config maps and secrets; the runtime's events. Output: running containers, pod and node
// status, and the HTTPS server on port 10250. It never programs the network: that is CNI's and the rest of the dataplane's.
package kubelet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	gosync "sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	internalapi "k8s.io/cri-api/pkg/apis"
	cri "k8s.io/cri-client/pkg"
	"k8s.io/klog/v2"
	registrationapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/fairlead/fairlead/dataplane/kubelet/cgroups"
	"github.com/fairlead/fairlead/dataplane/kubelet/claims"
	"github.com/fairlead/fairlead/dataplane/kubelet/criconfig"
	"github.com/fairlead/fairlead/dataplane/kubelet/csi"
	"github.com/fairlead/fairlead/dataplane/kubelet/devices"
	"github.com/fairlead/fairlead/dataplane/kubelet/downward"
	"github.com/fairlead/fairlead/dataplane/kubelet/images"
	"github.com/fairlead/fairlead/dataplane/kubelet/node"
	"github.com/fairlead/fairlead/dataplane/kubelet/objects"
	"github.com/fairlead/fairlead/dataplane/kubelet/observed"
	"github.com/fairlead/fairlead/dataplane/kubelet/pleg"
	"github.com/fairlead/fairlead/dataplane/kubelet/plugins"
	"github.com/fairlead/fairlead/dataplane/kubelet/podworker"
	"github.com/fairlead/fairlead/dataplane/kubelet/probes"
	"github.com/fairlead/fairlead/dataplane/kubelet/resolv"
	"github.com/fairlead/fairlead/dataplane/kubelet/shutdown"
	"github.com/fairlead/fairlead/dataplane/kubelet/stats"
	"github.com/fairlead/fairlead/dataplane/kubelet/status"
	"github.com/fairlead/fairlead/dataplane/kubelet/userns"
	"github.com/fairlead/fairlead/dataplane/kubelet/volumes"
)

const (
	connectTimeout = 30 * time.Second
	callTimeout    = 2 * time.Minute
)

type kubelet struct {
	cfg     Config
	client  kubernetes.Interface
	rest    *rest.Config
	runtime internalapi.RuntimeService
	images  internalapi.ImageManagerService
	machine node.Machine
	layout  cgroups.Layout

	keeper  *node.Keeper
	workers *podworker.Workers
	events  *recorder
	tokens  *tokens
	sources *sources
	pleg    *pleg.Watcher
	cgroups *cgroups.Manager
	volumes *volumes.Host
	csi     *csi.Volumes
	devices *devices.Manager
	claims  *claims.Manager
	ranges  *userns.Ranges
	health  *health
	stats   *stats.Collector
	static  *static

	metrics     *metrics
	shutdown    *shutdown.Watcher
	certificate func() (*tls.Certificate, error) // that the server shows; nil until it serves
	life        context.Context                  // Run's
}

// ErrAbandoned is the cause of ending Run's context because another part of the node failed: that is no shutdown of the machine.
var ErrAbandoned = errors.New("another part of the node failed")

// Run runs the kubelet until ctx ends. Containers live on, unless the machine is shutting down and Config.Shutdown says how long pods have: then
// they end first.
func Run(ctx context.Context, cfg Config) error {
	ended := ctx
	ctx = context.WithoutCancel(ctx)
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	log := klog.FromContext(ctx).WithName("kubelet")
	ctx = klog.NewContext(ctx, log)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, dir := range []string{cfg.DataDir, cfg.PodLogsDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("kubelet: %w", err)
		}
	}
	k := &kubelet{cfg: cfg, metrics: newMetrics(), life: ctx}
	if k.shutdown, err = shutdown.New(cfg.Shutdown, k.endingPods()); err != nil {
		return fmt.Errorf("kubelet: %w", err)
	}
	ready := make(chan struct{}) // pods can be ended
	forget := context.AfterFunc(ended, func() {
		defer cancel()
		select {
		case <-ready:
			if !errors.Is(context.Cause(ended), ErrAbandoned) && k.shutdown.GoingDown(ctx) {
				k.shutdown.Shutdown(ctx)
			}
		default:
		}
	})
	defer forget()
	var running gosync.WaitGroup
	defer running.Wait()
	defer cancel()

	if k.rest, err = credentialsFor(ctx, cfg, &running); err != nil {
		return err
	}
	k.rest.QPS, k.rest.Burst = cfg.QPS, cfg.Burst
	if k.client, err = kubernetes.NewForConfig(k.rest); err != nil {
		return fmt.Errorf("kubelet: client: %w", err)
	}
	if k.runtime, err = connect(ctx, "container runtime", cfg.CRIEndpoint, cri.NewRemoteRuntimeServiceBuilder().WithConnectionTimeout(callTimeout).
		WithEndpoint(cfg.CRIEndpoint).Build); err != nil {
		return err
	}
	defer k.runtime.Close(context.WithoutCancel(ctx))
	k.runtime = countedRuntime{k.runtime, k.metrics.operation}
	if k.images, err = connect(ctx, "image service", cfg.ImageEndpoint, cri.NewRemoteImageServiceBuilder().WithConnectionTimeout(callTimeout).
		WithEndpoint(cfg.ImageEndpoint).Build); err != nil {
		return err
	}
	defer k.images.Close(context.WithoutCancel(ctx))
	k.images = countedImages{k.images, k.metrics.operation}
	if k.machine, err = node.ReadMachine(); err != nil {
		return fmt.Errorf("kubelet: %w", err)
	}
	if k.layout, err = cgroups.Detect(); err != nil {
		return fmt.Errorf("kubelet: cgroups: %w", err)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(cfg.Address, strconv.Itoa(max(cfg.Port, 0))))
	if err != nil {
		return fmt.Errorf("kubelet: serve logs, exec and metrics: %w", err)
	}
	defer listener.Close()
	k.cfg.Port = listener.Addr().(*net.TCPAddr).Port
	k.cgroups = &cgroups.Manager{Layout: k.layout, Root: cfg.CgroupRoot, PodPids: cfg.PodPidsLimit}
	capacity := k.capacity()
	if err := k.cgroups.SetUp(node.Allocatable(capacity, cfg.Reserved)); err != nil {
		return fmt.Errorf("kubelet: cgroups: %w", err)
	}
	k.events = newRecorder(ctx, k.client, cfg.NodeName)
	defer k.events.stop()
	k.health = newHealth(k.runtime, k.shutdown.Active)
	k.keeper = node.New(k.client, k.nodeOptions(capacity))
	k.tokens = newTokens(k.client)
	k.sources = newSources(ctx, k.client, cfg.NodeName, k.keeper)

	writer := status.NewWriter(k.client)
	wake := func(uid types.UID) { k.workers.Wake(uid) }
	objectCache := objects.New(ctx, k.client, func(uid types.UID) { k.workers.Refresh(uid) })
	defer objectCache.Wait()
	prober := probes.NewManager(k.execProbe, wake, func(pod *v1.Pod, container, reason, message string) {
		k.events.pod(pod, container, true, reason, message)
	})
	defer prober.Wait()
	prober.Probed = k.metrics.probed
	drivers := &csi.Drivers{Client: k.client, NodeName: cfg.NodeName}
	defer drivers.Close()
	if k.csi, err = csi.New(drivers, cfg.DataDir); err != nil {
		log.Error(err, "Volumes of CSI drivers that were there before")
	}
	k.csi.Tokens, k.csi.InUse = k.tokens.forDriver, k.keeper.Poke
	k.volumes = &volumes.Host{Root: cfg.DataDir, Source: volumes.Source{
		ConfigMap: objectCache.ConfigMap, Secret: objectCache.Secret, Token: k.tokens.get, Claim: k.claim,
	}, Observe: k.metrics.volume, CSI: k.csi}
	if k.devices, err = devices.New(ctx, filepath.Join(cfg.DataDir, "device-plugins"), k.keeper.Poke, wake); err != nil {
		log.Error(err, "Devices of device plugins")
	}
	if k.claims, err = claims.New(k.client, cfg.NodeName, filepath.Join(cfg.DataDir, "resource_claims"), wake); err != nil {
		log.Error(err, "Resource claims of pods that were here before")
	}
	defer k.claims.Close()
	uids, err := k.volumes.Orphans()
	if err != nil {
		return fmt.Errorf("kubelet: pods that were here before: %w", err)
	}
	if k.ranges, err = userns.New(k.volumes.PodDir, uids, max(cfg.MaxPods, 110)*2); err != nil {
		log.Error(err, "User namespaces of pods that were here before")
	}
	runtimeName := "containerd"
	if version, err := k.health.version(ctx); err == nil {
		runtimeName = version.RuntimeName
	}
	dns := resolv.Cluster{Servers: cfg.ClusterDNS, Domain: cfg.ClusterDomain, Host: cfg.ResolvConf}
	k.workers = podworker.New(ctx, &podworker.Services{
		Runtime: k.runtime, Puller: images.NewPuller(k.images, cfg.ParallelPulls), Volumes: k.volumes, Objects: objectCache, Probes: prober, Status: writer,
		Node: criconfig.Node{CgroupRoot: cfg.CgroupRoot, PodLogsDir: cfg.PodLogsDir, SeccompDir: filepath.Join(cfg.DataDir, "seccomp"),
			MemoryBytes: k.machine.MemoryBytes, SeccompDefault: cfg.SeccompDefault},
		RuntimeName: runtimeName, ClusterDomain: cfg.ClusterDomain, Event: k.events.pod, Services: k.sources.services, Facts: k.facts, DNS: dns.For,
		RuntimeHandler: k.runtimeHandler, Admit: k.admit, Fits: k.fits,
		Prepare: k.prepare, Devices: k.containerDevices, Health: k.deviceHealth, UserNS: k.userNamespace, Release: k.release, OnStage: k.metrics.stage, Cgroups: countedCgroups{k.cgroups, k.metrics},
		OnStep: func(kind string, took time.Duration) { k.metrics.worker.WithLabelValues(kind).Observe(took.Seconds()) },
	})
	defer k.workers.Wait()
	k.stats = &stats.Collector{Runtime: k.runtime, Images: k.images, NodeName: cfg.NodeName, DataDir: cfg.DataDir, LogsDir: cfg.PodLogsDir, Views: k.workers.Views,
		Machine: k.machine, Cgroups: k.layout, CgroupRoot: cfg.CgroupRoot, Volume: k.volumeStats}
	k.metrics.registry.MustRegister(state{k})
	k.pleg = pleg.New(k.runtime, wake, func(pods map[types.UID]*observed.Pod) { k.sweep(ctx, pods) })
	k.pleg.OnList = func(took, interval time.Duration) {
		k.metrics.relist.Observe(took.Seconds())
		k.metrics.interval.Observe(interval.Seconds())
	}

	k.static = newStatic(cfg, k.client, k.keeper, k.workers)
	writer.Mirror = k.static.apiPod
	watch := k.podWatch()
	k.sources.podsSynced = watch.HasSynced
	running.Go(func() { k.static.run(ctx) })
	keeping, err := newHousekeeper(k)
	if err != nil {
		return err
	}
	k.health.setPressure(keeping.conditions)
	running.Go(func() { keeping.run(ctx) })
	running.Go(func() { k.watchPlugins(ctx, drivers) })
	running.Go(func() { k.serveDevices(ctx) })
	running.Go(func() { k.claims.Run(ctx) })
	running.Go(func() { k.shutdown.Run(ctx) })
	close(ready)
	running.Go(func() { writer.Run(ctx) })
	running.Go(func() { k.keeper.Run(ctx) })
	running.Go(func() { k.sources.run(ctx) })
	running.Go(func() { watch.RunWithContext(ctx) })
	running.Go(func() { k.pleg.Run(ctx) })
	running.Go(func() {
		if cache.WaitForCacheSync(ctx.Done(), k.podsKnown) {
			k.pleg.List() // what was deleted while no agent ran is swept at once
		}
	})
	err = k.serve(ctx, listener, &running)
	cancel()
	return err
}

// watchPlugins takes plugins into use that put their sockets into the registration directory.
func (k *kubelet) watchPlugins(ctx context.Context, drivers *csi.Drivers) {
	watcher := &plugins.Watcher{Dir: filepath.Join(k.cfg.DataDir, "plugins_registry"), Handlers: map[string]plugins.Handler{
		registrationapi.CSIPlugin: drivers, registrationapi.DevicePlugin: devices.Watched{Manager: k.devices},
		registrationapi.DRAPlugin: k.claims,
	}}
	if err := watcher.Run(ctx); err != nil {
		klog.FromContext(ctx).Error(err, "Plugins of this node are not looked for")
	}
}

// serveDevices answers device plugins that register, and those who ask which pod has what.
func (k *kubelet) serveDevices(ctx context.Context) {
	var both gosync.WaitGroup
	tell := func(err error) {
		if err != nil {
			klog.FromContext(ctx).Error(err, "Device plugins are not served")
		}
	}
	both.Go(func() { tell(k.devices.Run(ctx)) })
	both.Go(func() {
		resources := &devices.Resources{Manager: k.devices, Pods: k.endingPods().List, Claims: k.claimed}
		tell(resources.Serve(ctx, filepath.Join(k.cfg.DataDir, "pod-resources", "kubelet.sock")))
	})
	both.Wait()
}

// endingPods is how a shutdown of the machine sees and ends pods.
func (k *kubelet) endingPods() shutdown.Pods {
	return shutdown.Pods{
		List: func() (out []*v1.Pod) {
			for _, view := range k.workers.Views() {
				if !view.Ended && view.Pod.Name != "" {
					out = append(out, view.Pod)
				}
			}
			return out
		},
		Kill: func(pod *v1.Pod, grace time.Duration) {
			k.workers.Evict(pod.UID, shutdown.Reason, shutdown.Message, grace, &v1.PodCondition{
				Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonTerminationByKubelet, Message: shutdown.Message,
			})
		},
		Ended: func(uid types.UID) bool {
			view, known := k.workers.View(uid)
			return !known || view.Ended
		},
		Changed: func() { k.keeper.Poke() },
	}
}

// volumeStats measures a volume bound to a claim.
func (k *kubelet) volumeStats(ctx context.Context, pod *v1.Pod, volume *v1.Volume) (*statsapi.FsStats, *statsapi.PVCReference) {
	name := volumes.ClaimName(pod, volume)
	if name == "" {
		return nil, nil
	}
	if fs := k.csi.Stats(ctx, pod.UID, volume.Name); fs != nil {
		return fs, &statsapi.PVCReference{Namespace: pod.Namespace, Name: name}
	}
	path, err := k.volumes.Path(ctx, pod, volume)
	if err != nil {
		return nil, nil
	}
	return stats.Filesystem(path), &statsapi.PVCReference{Namespace: pod.Namespace, Name: name}
}

func (k *kubelet) facts() downward.Facts {
	return downward.Facts{NodeName: k.cfg.NodeName, HostIPs: k.cfg.NodeIPs, Allocatable: k.keeper.Allocatable()}
}

func (k *kubelet) capacity() v1.ResourceList { return k.machine.Capacity(k.cfg.MaxPods, k.cfg.DataDir) }

func (k *kubelet) nodeOptions(capacity v1.ResourceList) node.Options {
	return node.Options{
		Name: k.cfg.NodeName, IPs: k.cfg.NodeIPs, Hostname: k.cfg.Hostname, Labels: k.cfg.Labels, Taints: k.cfg.Taints,
		Port: int32(k.cfg.Port), Version: Version, Machine: k.machine, Capacity: k.capacity,
		Reserved:       []v1.ResourceList{k.cfg.Reserved, k.cfg.evictionReserve(capacity)},
		RuntimeVersion: k.health.runtimeVersion, Conditions: k.health.conditions, Images: k.nodeImages, RuntimeHandlers: k.health.handlers,
		GoingDown:      k.shutdown.Active,
		VolumesInUse:   func() []v1.UniqueVolumeName { return k.csi.Names() },
		DeviceCapacity: func() (capacity, allocatable v1.ResourceList) { return k.devices.Capacity() },
	}
}

// podWatch hands the pods bound to this node to their workers, once it runs.
func (k *kubelet) podWatch() cache.Controller {
	selector := fields.OneTermEqualSelector("spec.nodeName", k.cfg.NodeName)
	lister := cache.NewFilteredListWatchFromClient(k.client.CoreV1().RESTClient(), "pods", metav1.NamespaceAll, func(options *metav1.ListOptions) {
		options.FieldSelector = selector.String()
	})
	_, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: lister, ObjectType: &v1.Pod{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { k.podChanged(o.(*v1.Pod)) },
			UpdateFunc: func(_, o any) { k.podChanged(o.(*v1.Pod)) },
			DeleteFunc: func(o any) {
				if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
					o = gone.Obj
				}
				if pod, ok := o.(*v1.Pod); ok {
					k.podGone(pod)
				}
			},
		},
	})
	return controller
}

func (k *kubelet) podChanged(pod *v1.Pod) {
	if hash, mirror := pod.Annotations[v1.MirrorPodAnnotationKey]; mirror { // the file it mirrors is what runs
		k.static.observe(pod, false)
		k.workers.Wake(types.UID(hash))
		return
	}
	k.workers.Update(pod)
}

func (k *kubelet) podGone(pod *v1.Pod) {
	if _, mirror := pod.Annotations[v1.MirrorPodAnnotationKey]; mirror {
		k.static.observe(pod, true)
		return
	}
	k.metrics.forget(pod)
	k.workers.Remove(pod.UID, podGrace(pod))
}

// podGrace is how long a pod that vanished from the API has: what it was given when it was deleted.
func podGrace(pod *v1.Pod) time.Duration {
	if pod.DeletionGracePeriodSeconds != nil {
		return time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second
	}
	return 2 * time.Second
}

// podsKnown tells whether all sources have said once which pods there are.
func (k *kubelet) podsKnown() bool { return k.sources.podsSynced() && k.static.ready() }

// sweep ends what the runtime or the disk has of pods that no source knows.
func (k *kubelet) sweep(ctx context.Context, pods map[types.UID]*observed.Pod) {
	if !k.podsKnown() {
		return
	}
	for uid, pod := range pods {
		if !k.workers.Known(uid) && !k.sources.ended(ctx, pod) {
			k.workers.Orphan(pod)
		}
	}
	if err := k.csi.Sweep(ctx); err != nil {
		klog.FromContext(ctx).Error(err, "Volumes left staged")
	}
	dirs, err := k.volumes.Orphans()
	if err != nil {
		klog.FromContext(ctx).Error(err, "Cannot look for volumes left over")
		return
	}
	for _, uid := range k.claims.Pods() {
		if _, inRuntime := pods[uid]; inRuntime || k.workers.Known(uid) {
			continue
		}
		if err := k.claims.Release(ctx, uid); err != nil {
			klog.FromContext(ctx).Error(err, "Resource claims left over were not taken back", "uid", uid)
		}
	}
	for _, uid := range dirs {
		if _, inRuntime := pods[uid]; inRuntime || k.workers.Known(uid) {
			continue
		}
		if err := k.volumes.TearDown(uid); err != nil {
			klog.FromContext(ctx).Error(err, "Volumes left over were not removed", "uid", uid)
		}
		orphan := &v1.Pod{}
		orphan.UID = uid
		if err := k.cgroups.Remove(orphan); err != nil {
			klog.FromContext(ctx).Error(err, "Cgroups left over were not removed", "uid", uid)
		}
	}
}

func (k *kubelet) execProbe(ctx context.Context, id string, command []string, timeout time.Duration) ([]byte, error) {
	stdout, stderr, err := k.runtime.ExecSync(ctx, id, command, timeout)
	return append(stdout, stderr...), err
}

func (k *kubelet) runtimeHandler(class string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	found, err := k.client.NodeV1().RuntimeClasses().Get(ctx, class, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("runtime class %q: %w", class, err)
	}
	return found.Handler, nil
}

// claim returns a claim with the volume it is bound to.
func (k *kubelet) claim(ctx context.Context, namespace, name string) (*v1.PersistentVolumeClaim, *v1.PersistentVolume, error) {
	claim, err := k.client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, nil, fmt.Errorf("persistent volume claim %s: %w", name, err)
	}
	if claim.Spec.VolumeName == "" || claim.Status.Phase != v1.ClaimBound {
		return nil, nil, fmt.Errorf("persistent volume claim %s is not bound", name)
	}
	volume, err := k.client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		return nil, nil, fmt.Errorf("persistent volume of claim %s: %w", name, err)
	}
	return claim, volume, nil
}

// nodeImages lists the biggest images for the node's status.
func (k *kubelet) nodeImages(ctx context.Context) []v1.ContainerImage {
	const most, mostNames = 50, 5
	list, err := k.images.ListImages(ctx, nil)
	if err != nil {
		return nil
	}
	slices.SortFunc(list, func(a, b *runtimeImage) int { return int(int64(b.Size) - int64(a.Size)) })
	var out []v1.ContainerImage
	for _, image := range list[:min(len(list), most)] {
		names := append(slices.Clone(image.RepoDigests), image.RepoTags...)
		if len(names) > 0 {
			out = append(out, v1.ContainerImage{Names: names[:min(len(names), mostNames)], SizeBytes: int64(image.Size)})
		}
	}
	return out
}
