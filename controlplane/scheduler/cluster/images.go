// SPDX-License-Identifier: Apache-2.0

package cluster

import v1 "k8s.io/api/core/v1"

// imageSteps is the resolution of Image.Spread. A pull changes the score of every node that has the image, so the share of nodes is rounded to this
// many steps: a roll-out to all nodes re-scores them 64 times, not once per node.
const imageSteps = 64

// Image is one image name that nodes have.
type Image struct {
	Size  int64 // bytes
	nodes int
}

// Image returns the image's size in bytes and the share of nodes that have it, in 1/64.
func (s *State) Image(name string) (size int64, spread int64) {
	img := s.images[name]
	if img == nil || s.nodeCount == 0 {
		return 0, 0
	}
	return img.Size, int64(img.nodes * imageSteps / s.nodeCount)
}

func (s *State) countImages(node *v1.Node, delta int) {
	if node == nil {
		return
	}
	for i := range node.Status.Images {
		for _, name := range node.Status.Images[i].Names {
			img := s.images[name]
			if img == nil {
				img = &Image{}
				s.images[name] = img
			}
			img.Size = node.Status.Images[i].SizeBytes
			if img.nodes += delta; img.nodes == 0 {
				delete(s.images, name)
			}
		}
	}
}
