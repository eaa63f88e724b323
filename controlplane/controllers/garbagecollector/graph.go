// SPDX-License-Identifier: Apache-2.0

package garbagecollector

import (
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// node is one object of the cluster as the graph knows it. Its fields are guarded by the graph's lock, except the identity, which never changes.
type node struct {
	uid             types.UID
	gvr             schema.GroupVersionResource // empty while virtual
	gvk             schema.GroupVersionKind     // from the first owner reference, of a virtual node
	namespace, name string

	virtual    bool // known only from an owner reference: nobody has shown it
	deleting   bool
	foreground bool // being deleted, and waits for its dependents
	orphaning  bool // being deleted, and its dependents stay
	owners     []metav1.OwnerReference
	dependents map[*node]struct{}
}

// graph is who owns whom, among all objects of all types. It is fed by the reflectors of monitors and feeds two work queues: what may have to be deleted, and
// which deletion must first cut its dependents loose.
type graph struct {
	mu     sync.Mutex
	nodes  map[types.UID]*node
	byType map[schema.GroupVersionResource]map[types.UID]*node

	check  func(types.UID) // the object may have to be deleted, or have waited for what happened
	orphan func(types.UID)
}

func newGraph(check, orphan func(types.UID)) *graph {
	return &graph{
		nodes: map[types.UID]*node{}, byType: map[schema.GroupVersionResource]map[types.UID]*node{},
		check: check, orphan: orphan,
	}
}

// observe records what a reflector saw of an object.
func (g *graph) observe(gvr schema.GroupVersionResource, obj metav1.Object) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.observeLocked(gvr, obj)
}

func (g *graph) observeLocked(gvr schema.GroupVersionResource, obj metav1.Object) {
	n := g.nodes[obj.GetUID()]
	if n == nil {
		n = &node{uid: obj.GetUID(), dependents: map[*node]struct{}{}}
		g.nodes[n.uid] = n
	}
	if n.virtual || n.name == "" {
		mismatched := n.virtual && (n.name != obj.GetName() || n.namespace != "" && n.namespace != obj.GetNamespace())
		n.virtual, n.gvr, n.namespace, n.name = false, gvr, obj.GetNamespace(), obj.GetName()
		if g.byType[gvr] == nil {
			g.byType[gvr] = map[types.UID]*node{}
		}
		g.byType[gvr][n.uid] = n
		if mismatched { // a reference named this UID with other coordinates: it points nowhere
			g.checkDependents(n)
		}
	}
	g.relink(n, obj.GetOwnerReferences())

	wasDeleting, wasForeground, wasOrphaning := n.deleting, n.foreground, n.orphaning
	n.deleting = obj.GetDeletionTimestamp() != nil
	n.foreground = n.deleting && slices.Contains(obj.GetFinalizers(), metav1.FinalizerDeleteDependents)
	n.orphaning = n.deleting && slices.Contains(obj.GetFinalizers(), metav1.FinalizerOrphanDependents)
	if n.orphaning && !wasOrphaning {
		g.orphan(n.uid)
	}
	if n.foreground && !wasForeground {
		g.checkDependents(n)
		g.check(n.uid)
	}
	if n.deleting && !wasDeleting { // an owner may wait only for dependents that are not on their way out
		g.checkWaitingOwners(n)
	}
}

// relink makes n's owners be refs and tells the owners that waited for n.
func (g *graph) relink(n *node, refs []metav1.OwnerReference) {
	old := n.owners
	n.owners = slices.Clone(refs)
	for _, was := range old {
		is := findRef(refs, was.UID)
		owner := g.nodes[was.UID]
		if owner == nil {
			continue
		}
		if is == nil {
			delete(owner.dependents, n)
			if owner.virtual && len(owner.dependents) == 0 {
				delete(g.nodes, owner.uid)
			}
		}
		if owner.foreground && blocks(&was) && (is == nil || !blocks(is)) {
			g.check(owner.uid)
		}
	}
	for _, ref := range refs {
		owner := g.nodes[ref.UID]
		if owner == nil {
			// Verified against the API server later: either its type's reflector shows it, or it does not exist and n is garbage.
			owner = &node{
				uid: ref.UID, gvk: schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind), namespace: n.namespace, name: ref.Name,
				virtual: true, dependents: map[*node]struct{}{},
			}
			g.nodes[ref.UID] = owner
			g.check(owner.uid)
		}
		if findRef(old, ref.UID) == nil {
			owner.dependents[n] = struct{}{}
			if owner.foreground || !owner.virtual && (owner.name != ref.Name || owner.namespace != "" && owner.namespace != n.namespace) {
				g.check(n.uid)
			}
		}
	}
}

// gone records that an object does not exist. What it owned is checked, and owners that waited for it.
func (g *graph) gone(uid types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.goneLocked(uid)
}

func (g *graph) goneLocked(uid types.UID) {
	n := g.nodes[uid]
	if n == nil {
		return
	}
	delete(g.nodes, uid)
	delete(g.byType[n.gvr], uid)
	for _, ref := range n.owners {
		owner := g.nodes[ref.UID]
		if owner == nil {
			continue
		}
		delete(owner.dependents, n)
		if owner.foreground {
			g.check(owner.uid)
		}
		if owner.virtual && len(owner.dependents) == 0 {
			delete(g.nodes, owner.uid)
		}
	}
	if len(n.dependents) == 0 {
		return
	}
	// Dependents still refer to the UID: a virtual node keeps the edge until they are deleted or let go.
	g.nodes[uid] = &node{uid: uid, gvk: n.gvk, namespace: n.namespace, name: n.name, virtual: true, dependents: n.dependents}
	g.checkDependents(n)
}

// replace records a full list of a type.
func (g *graph) replace(gvr schema.GroupVersionResource, objs []metav1.Object) {
	g.mu.Lock()
	defer g.mu.Unlock()
	listed := make(map[types.UID]bool, len(objs))
	for _, obj := range objs {
		listed[obj.GetUID()] = true
		g.observeLocked(gvr, obj)
	}
	for uid := range g.byType[gvr] {
		if !listed[uid] {
			g.goneLocked(uid)
		}
	}
}

func (g *graph) checkDependents(n *node) {
	for d := range n.dependents {
		g.check(d.uid)
	}
}

func (g *graph) checkWaitingOwners(n *node) {
	for _, ref := range n.owners {
		if owner := g.nodes[ref.UID]; owner != nil && owner.foreground {
			g.check(owner.uid)
		}
	}
}

// view is a copy of what the workers need of a node.
type view struct {
	uid                           types.UID
	gvr                           schema.GroupVersionResource
	gvk                           schema.GroupVersionKind
	namespace, name               string
	virtual, deleting, foreground bool
	dependents                    []dependent
}

type dependent struct {
	uid                  types.UID
	gvr                  schema.GroupVersionResource
	namespace, name      string
	blocks, deleting, fg bool
}

// get returns a copy of a node, false when there is none.
func (g *graph) get(uid types.UID) (view, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodes[uid]
	if n == nil {
		return view{}, false
	}
	v := view{uid: n.uid, gvr: n.gvr, gvk: n.gvk, namespace: n.namespace, name: n.name, virtual: n.virtual, deleting: n.deleting, foreground: n.foreground}
	for d := range n.dependents {
		ref := findRef(d.owners, uid)
		v.dependents = append(v.dependents, dependent{d.uid, d.gvr, d.namespace, d.name, ref != nil && blocks(ref), d.deleting, d.foreground})
	}
	return v, true
}

func findRef(refs []metav1.OwnerReference, uid types.UID) *metav1.OwnerReference {
	for i := range refs {
		if refs[i].UID == uid {
			return &refs[i]
		}
	}
	return nil
}

func blocks(ref *metav1.OwnerReference) bool {
	return ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
}
