// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
)

const (
	minImageBytes = 23 << 20
	maxImageBytes = 1000 << 20 // per container
	imageSteps    = 64         // the unit of cluster.State.Image's spread
)

// declaredImage is an image of the class and the spread it had when nodes were scored.
type declaredImage struct {
	name   string
	size   int64
	spread int64
}

func declaredImages(c *Needs) []declaredImage {
	var images []declaredImage
	add := func(name string) {
		if name != "" {
			images = append(images, declaredImage{name: normalizeImage(name)})
		}
	}
	for i := range c.Sample.Spec.InitContainers {
		add(c.Sample.Spec.InitContainers[i].Image)
	}
	for i := range c.Sample.Spec.Containers {
		add(c.Sample.Spec.Containers[i].Image)
	}
	return images
}

// normalizeImage adds the tag that a name without one means.
func normalizeImage(name string) string {
	if strings.LastIndex(name, ":") <= strings.LastIndex(name, "/") {
		return name + ":latest"
	}
	return name
}

// imagesChanged notes the spread of the class's images and reports whether it differs from what scores were computed with.
func (v *verdicts) imagesChanged() bool {
	changed := false
	for i := range v.images {
		img := &v.images[i]
		size, spread := v.e.State.Image(img.name)
		changed = changed || size != img.size || spread != img.spread
		img.size, img.spread = size, spread
	}
	return changed
}

// scoreImages prefers nodes that have the pod's images, by size, and less so images that few nodes have, lest all pods crowd there.
func scoreImages(e *Evaluator, c *Needs, n *cluster.Node) int64 {
	if len(n.Object.Status.Images) == 0 || c.verdicts == nil {
		return 0
	}
	var sum int64
	for _, img := range c.verdicts.images {
		if img.spread > 0 && hasImage(n.Object, img.name) {
			sum += img.size * img.spread / imageSteps
		}
	}
	most := int64(maxImageBytes * len(c.verdicts.images))
	sum = max(minImageBytes, min(sum, most))
	if most <= minImageBytes {
		return 0
	}
	return MaxScore * (sum - minImageBytes) / (most - minImageBytes)
}

func hasImage(node *v1.Node, name string) bool {
	for i := range node.Status.Images {
		if slices.Contains(node.Status.Images[i].Names, name) {
			return true
		}
	}
	return false
}
