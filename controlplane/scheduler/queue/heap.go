// SPDX-License-Identifier: Apache-2.0

package queue

// orderedHeap is a heap whose items know their position.
type orderedHeap struct {
	items []*Item
	less  func(a, b *Item) bool
}

func (h *orderedHeap) Len() int           { return len(h.items) }
func (h *orderedHeap) Less(i, j int) bool { return h.less(h.items[i], h.items[j]) }
func (h *orderedHeap) Swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	h.items[i].index, h.items[j].index = i, j
}
func (h *orderedHeap) Push(x any) {
	item := x.(*Item)
	item.index = len(h.items)
	h.items = append(h.items, item)
}
func (h *orderedHeap) Pop() any {
	last := len(h.items) - 1
	item := h.items[last]
	h.items[last] = nil
	h.items = h.items[:last]
	return item
}

// dueHeap orders items by deadline.
type dueHeap []*Item

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].Deadline.Before(h[j].Deadline) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].dueIndex, h[j].dueIndex = i, j
}
func (h *dueHeap) Push(x any) {
	item := x.(*Item)
	item.dueIndex = len(*h)
	*h = append(*h, item)
}
func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	item := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	item.dueIndex = -1
	return item
}
