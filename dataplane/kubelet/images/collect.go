// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
)

// minAge keeps an image that was just pulled or used from going.
const minAge = 2 * time.Minute

// Collector removes images nobody uses, the longest unused first.
type Collector struct {
	Service internalapi.ImageManagerService
	// Used tells which images (by id or reference) containers have.
	Used func(ctx context.Context) (map[string]bool, error)
	// Removed is told of each image that went. Nil: it is logged.
	Removed func(*runtimeapi.Image)

	seen map[string]time.Time // when each image was first seen or last in use
}

// Free removes unused images until about bytes are free again; 0 removes all unused ones, whatever their age. Pinned images stay.
// It returns how much it removed. It must not be called concurrently.
func (c *Collector) Free(ctx context.Context, bytes uint64) (freed uint64, err error) {
	candidates, err := c.unused(ctx)
	if err != nil {
		return 0, err
	}
	now := time.Now()
	var problems []error
	for _, image := range candidates {
		if bytes > 0 && (freed >= bytes || now.Sub(c.seen[image.Id]) < minAge) {
			break
		}
		if err := c.Service.RemoveImage(ctx, &runtimeapi.ImageSpec{Image: image.Id}); err != nil {
			problems = append(problems, fmt.Errorf("remove image %s: %w", image.Id, err))
			continue
		}
		if c.Removed != nil {
			c.Removed(image)
		} else {
			klog.FromContext(ctx).Info("Removed an unused image", "image", image.RepoTags, "size", image.Size)
		}
		freed += image.Size
		delete(c.seen, image.Id)
	}
	return freed, errors.Join(problems...)
}

// Note remembers which images are in use now.
func (c *Collector) Note(ctx context.Context) error {
	_, err := c.unused(ctx)
	return err
}

// OfContainers returns the images, by id and by reference, that the runtime's containers have or mount, running or not.
func OfContainers(ctx context.Context, runtime internalapi.ContainerManager) (map[string]bool, error) {
	containers, err := runtime.ListContainers(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	used := map[string]bool{}
	for _, c := range containers {
		used[c.ImageRef], used[c.ImageId], used[c.GetImage().GetImage()] = true, true, true
		response, err := runtime.ContainerStatus(ctx, c.Id, false)
		if status.Code(err) == codes.NotFound {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("status of container %s: %w", c.Id, err)
		}
		for _, m := range response.GetStatus().GetMounts() {
			used[m.GetImage().GetImage()] = true
		}
	}
	return used, nil
}

// unused lists images without containers, the longest unused first.
func (c *Collector) unused(ctx context.Context) ([]*runtimeapi.Image, error) {
	list, err := c.Service.ListImages(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	used, err := c.Used(ctx)
	if err != nil {
		return nil, err
	}
	if c.seen == nil {
		c.seen = map[string]time.Time{}
	}
	now := time.Now()
	present := map[string]bool{}
	var out []*runtimeapi.Image
	for _, image := range list {
		present[image.Id] = true
		inUse := used[image.Id] || slices.ContainsFunc(append(slices.Clone(image.RepoTags), image.RepoDigests...), func(name string) bool { return used[name] })
		if _, known := c.seen[image.Id]; !known || inUse {
			c.seen[image.Id] = now
		}
		if !inUse && !image.Pinned {
			out = append(out, image)
		}
	}
	for id := range c.seen {
		if !present[id] {
			delete(c.seen, id)
		}
	}
	slices.SortFunc(out, func(a, b *runtimeapi.Image) int { return c.seen[a.Id].Compare(c.seen[b.Id]) })
	return out, nil
}
