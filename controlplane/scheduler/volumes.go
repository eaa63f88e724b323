// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"errors"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"

	"github.com/fairlead/fairlead/controlplane/scheduler/placement"
)

func (s *Scheduler) setClaim(_, pvc *v1.PersistentVolumeClaim) {
	s.state.Storage.SetClaim(pvc)
	s.queue.Wake(s.clock.Now(), func(c *placement.Class, rejected placement.PluginSet) bool {
		return rejected&volumePlugins != 0 && c.UsesClaim(pvc.Namespace+"/"+pvc.Name)
	})
}

func (s *Scheduler) setCSINode(name string, n *storagev1.CSINode) {
	if node := s.state.SetCSINode(name, n); node != nil {
		s.nodeChanged(node)
	}
}

// prepare carries out a plan: it binds and provisions the volumes and waits until they are there. What it has written when it fails stays: a volume bound
// to the claim is where the next try will find it.
func (s *Scheduler) prepare(ctx context.Context, pod *v1.Pod, node string, p *plan) error {
	if err := s.prepareDevices(ctx, pod, p.devices); err != nil {
		return err
	}
	for _, d := range p.volumes {
		if d.Volume != nil {
			pv, dirty, err := volume.GetBindVolumeToClaim(d.Volume, d.Claim)
			if err != nil {
				return fmt.Errorf("bind volume %s to claim %s: %w", d.Volume.Name, d.Key, err)
			}
			if !dirty {
				continue
			}
			if _, err := s.client.CoreV1().PersistentVolumes().Update(ctx, pv, metav1.UpdateOptions{}); err != nil {
				return fmt.Errorf("bind volume %s to claim %s: %w", d.Volume.Name, d.Key, err)
			}
			continue
		}
		claim := d.Claim.DeepCopy()
		if claim.Annotations[volume.AnnSelectedNode] == node {
			continue
		}
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volume.AnnSelectedNode, node)
		if _, err := s.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("ask for a volume for claim %s near node %s: %w", d.Key, node, err)
		}
	}
	if len(p.volumes) == 0 {
		return nil
	}
	return s.awaitVolumes(ctx, pod, node, p.volumes)
}

var errVolumesLate = errors.New("timed out")

// awaitVolumes returns when every claim is bound to a volume that node can reach. Claims change by informer events, which the ticker looks for.
func (s *Scheduler) awaitVolumes(ctx context.Context, pod *v1.Pod, node string, decisions []placement.VolumeDecision) error {
	ticker := s.clock.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	deadline := s.clock.Now().Add(s.settings.BindTimeout)
	asked := map[string]bool{} // claims seen with their annotation: if it goes again, provisioning failed
	for {
		s.mu.Lock()
		pending, err := s.volumesPending(pod, node, decisions, asked)
		s.mu.Unlock()
		if err != nil || pending == "" {
			return err
		}
		if s.clock.Now().After(deadline) {
			return fmt.Errorf("bind volumes: claim %s is not bound: %w", pending, errVolumesLate)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C():
		}
	}
}

// volumesPending returns a claim that is not bound yet, or an error if it will not be.
func (s *Scheduler) volumesPending(pod *v1.Pod, node string, decisions []placement.VolumeDecision, asked map[string]bool) (string, error) {
	if s.queue.Get(pod.UID) == nil {
		return "", fmt.Errorf("bind volumes: pod %s/%s is gone", pod.Namespace, pod.Name)
	}
	n := s.state.Node(node)
	if n == nil {
		return "", fmt.Errorf("bind volumes: node %s is gone", node)
	}
	for _, d := range decisions {
		claim := s.state.Storage.Claim(d.Key)
		if claim == nil {
			return "", fmt.Errorf("bind volumes: claim %s is gone", d.Key)
		}
		if d.Volume == nil {
			selected := claim.Annotations[volume.AnnSelectedNode]
			if asked[d.Key] && selected != node {
				return "", fmt.Errorf("bind volumes: provisioning failed for claim %s", d.Key)
			}
			asked[d.Key] = selected == node
		}
		if claim.Spec.VolumeName == "" || claim.Annotations[volume.AnnBindCompleted] == "" {
			return d.Key, nil
		}
		pv := s.state.Storage.Volume(claim.Spec.VolumeName)
		if pv == nil {
			return d.Key, nil
		}
		if err := volume.CheckNodeAffinity(pv, n.Object.Labels); err != nil {
			return "", fmt.Errorf("bind volumes: volume %s of claim %s is out of reach of node %s: %w", pv.Name, d.Key, node, err)
		}
	}
	return "", nil
}
