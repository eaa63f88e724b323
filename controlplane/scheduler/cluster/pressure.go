// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// PressureAnnotation is where a node's kubelet publishes its pressure stall information: "cpu=12,memory=0,io=3", each the share of the last minute in
// which some task waited for the resource (the "some avg60" of /proc/pressure), in whole percent.
const PressureAnnotation = "fairlead.io/pressure"

// Pressure is a node's pressure, in percent of time.
type Pressure struct{ CPU, Memory, IO int64 }

// parsePressure reads the annotation. Fields that are missing or make no sense count as no pressure.
func parsePressure(node *v1.Node) Pressure {
	var p Pressure
	for field := range strings.SplitSeq(node.Annotations[PressureAnnotation], ",") {
		name, value, _ := strings.Cut(field, "=")
		percent, err := strconv.ParseFloat(value, 64)
		if err != nil || !(percent >= 0 && percent <= 100) {
			continue
		}
		switch name {
		case "cpu":
			p.CPU = int64(percent)
		case "memory":
			p.Memory = int64(percent)
		case "io":
			p.IO = int64(percent)
		}
	}
	return p
}
