// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"fmt"
	"strings"
	gosync "sync"
	"time"

	v1 "k8s.io/api/core/v1"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/fairlead/fairlead/dataplane/kubelet/node"
)

// health asks the runtime how it is, for the node's conditions.
type health struct {
	runtime  internalapi.RuntimeService
	pressure func() []node.Condition // memory, disk and process pressure
	down     func() bool             // the machine is shutting down

	mu      gosync.Mutex
	known   *runtimeapi.VersionResponse
	handler []v1.NodeRuntimeHandler
}

func newHealth(runtime internalapi.RuntimeService, down func() bool) *health {
	return &health{runtime: runtime, pressure: noPressure, down: down}
}

func noPressure() []node.Condition {
	return []node.Condition{
		{Type: v1.NodeMemoryPressure, Status: v1.ConditionFalse, Reason: "KubeletHasSufficientMemory", Message: "kubelet has sufficient memory available"},
		{Type: v1.NodeDiskPressure, Status: v1.ConditionFalse, Reason: "KubeletHasNoDiskPressure", Message: "kubelet has no disk pressure"},
		{Type: v1.NodePIDPressure, Status: v1.ConditionFalse, Reason: "KubeletHasSufficientPID", Message: "kubelet has sufficient PID available"},
	}
}

// setPressure says who knows about pressure, before the node is kept.
func (h *health) setPressure(f func() []node.Condition) { h.pressure = f }

// version is the runtime's, asked once.
func (h *health) version(ctx context.Context) (*runtimeapi.VersionResponse, error) {
	h.mu.Lock()
	known := h.known
	h.mu.Unlock()
	if known != nil {
		return known, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	version, err := h.runtime.Version(ctx, "0.1.0")
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.known = version
	return version, nil
}

func (h *health) runtimeVersion() string {
	version, err := h.version(context.Background())
	if err != nil {
		return "unknown"
	}
	return version.RuntimeName + "://" + version.RuntimeVersion
}

func (h *health) handlers() []v1.NodeRuntimeHandler {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.handler
}

// conditions are all of the node's conditions now.
func (h *health) conditions(ctx context.Context) []node.Condition {
	return append(h.pressure(), h.ready(ctx))
}

func (h *health) ready(ctx context.Context) node.Condition {
	c := node.Condition{Type: v1.NodeReady, Status: v1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	response, err := h.runtime.Status(ctx, false)
	var problems []string
	if err != nil {
		problems = append(problems, "container runtime is down: "+err.Error())
	} else {
		for _, condition := range response.GetStatus().GetConditions() {
			if condition.Status || condition.Type != runtimeapi.RuntimeReady && condition.Type != runtimeapi.NetworkReady {
				continue
			}
			what := map[string]string{runtimeapi.RuntimeReady: "container runtime not ready", runtimeapi.NetworkReady: "container runtime network not ready"}[condition.Type]
			problems = append(problems, fmt.Sprintf("%s: %s=false reason:%s message:%s", what, condition.Type, condition.Reason, condition.Message))
		}
		h.learn(response)
	}
	if h.down() {
		problems = append(problems, "node is shutting down")
	}
	if len(problems) > 0 {
		c.Status, c.Reason, c.Message = v1.ConditionFalse, "KubeletNotReady", strings.Join(problems, "; ")
	}
	return c
}

// learn keeps which handlers the runtime has and what they can.
func (h *health) learn(response *runtimeapi.StatusResponse) {
	var out []v1.NodeRuntimeHandler
	for _, handler := range response.GetRuntimeHandlers() {
		f := handler.GetFeatures()
		readOnly, users := f.GetRecursiveReadOnlyMounts(), f.GetUserNamespaces()
		out = append(out, v1.NodeRuntimeHandler{Name: handler.GetName(), Features: &v1.NodeRuntimeHandlerFeatures{RecursiveReadOnlyMounts: &readOnly, UserNamespaces: &users}})
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.handler = out
}

// userNamespaces tells whether a handler can give pods user namespaces of their own.
func (h *health) userNamespaces(name string) bool {
	for _, handler := range h.handlers() {
		if handler.Name == name {
			return handler.Features != nil && handler.Features.UserNamespaces != nil && *handler.Features.UserNamespaces
		}
	}
	return false
}
