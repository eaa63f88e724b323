// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
	"os"
	"time"

	"k8s.io/client-go/rest"
	componentconfig "k8s.io/component-base/config/v1alpha1"
	configv1 "k8s.io/kube-scheduler/config/v1"
	"sigs.k8s.io/yaml"

	"github.com/fairlead/fairlead/controlplane/scheduler/placement"
	"github.com/fairlead/fairlead/controlplane/scheduler/queue"
)

// Settings are what a KubeSchedulerConfiguration says, with defaults filled in.
type Settings struct {
	Profiles       map[string]*placement.Profile // by schedulerName
	Queue          queue.Options
	LeaderElection componentconfig.LeaderElectionConfiguration
	Connection     componentconfig.ClientConnectionConfiguration
	// BindTimeout bounds how long a pod waits for its volumes to be provisioned.
	BindTimeout time.Duration
	// Deadlines is false if a profile turned StartDeadline off: the queue is one for all profiles, so the first profile decides, as with PrioritySort.
	Deadlines bool
}

// LoadSettings reads a configuration file, or takes cfg if it is set. With neither, everything is default.
func LoadSettings(file string, cfg *configv1.KubeSchedulerConfiguration) (*Settings, error) {
	if cfg == nil {
		cfg = &configv1.KubeSchedulerConfiguration{}
		if file != "" {
			data, err := os.ReadFile(file)
			if err != nil {
				return nil, fmt.Errorf("scheduler configuration: %w", err)
			}
			if err := yaml.UnmarshalStrict(data, cfg); err != nil {
				return nil, fmt.Errorf("scheduler configuration %s: %w", file, err)
			}
			if gv := configv1.SchemeGroupVersion.String(); cfg.APIVersion != gv || cfg.Kind != "KubeSchedulerConfiguration" {
				return nil, fmt.Errorf("scheduler configuration %s: is %s %s, want %s KubeSchedulerConfiguration", file, cfg.APIVersion, cfg.Kind, gv)
			}
		}
	}
	if len(cfg.Extenders) > 0 {
		return nil, fmt.Errorf("scheduler configuration: extenders are not supported")
	}
	s := &Settings{Profiles: map[string]*placement.Profile{}, Queue: queue.DefaultOptions, LeaderElection: cfg.LeaderElection,
		Connection: cfg.ClientConnection, BindTimeout: 10 * time.Minute, Deadlines: true}
	if s.LeaderElection.ResourceName == "" {
		s.LeaderElection.ResourceName = configv1.SchedulerDefaultLockObjectName
	}
	if s.LeaderElection.ResourceNamespace == "" {
		s.LeaderElection.ResourceNamespace = configv1.SchedulerDefaultLockObjectNamespace
	}
	if v := cfg.PodInitialBackoffSeconds; v != nil {
		s.Queue.InitialBackoff = time.Duration(*v) * time.Second
	}
	if v := cfg.PodMaxBackoffSeconds; v != nil {
		s.Queue.MaxBackoff = time.Duration(*v) * time.Second
	}
	if s.Queue.InitialBackoff <= 0 || s.Queue.MaxBackoff < s.Queue.InitialBackoff {
		return nil, fmt.Errorf("scheduler configuration: podInitialBackoffSeconds must be positive and not above podMaxBackoffSeconds")
	}
	profiles := cfg.Profiles
	if len(profiles) == 0 {
		profiles = []configv1.KubeSchedulerProfile{{}}
	}
	for i := range profiles {
		p, err := s.profile(&profiles[i])
		if err != nil {
			return nil, fmt.Errorf("scheduler configuration: profiles[%d]: %w", i, err)
		}
		if s.Profiles[p.SchedulerName] != nil {
			return nil, fmt.Errorf("scheduler configuration: profiles[%d]: schedulerName %q is taken", i, p.SchedulerName)
		}
		s.Profiles[p.SchedulerName] = p
	}
	return s, nil
}

// applyConnection sets what the configuration file says about the client, as far as rc leaves it open.
func (s *Settings) applyConnection(rc *rest.Config) {
	if rc.QPS == 0 {
		rc.QPS = s.Connection.QPS
		rc.Burst = int(s.Connection.Burst)
	}
	if rc.QPS == 0 {
		rc.QPS = -1
	}
	if rc.ContentType == "" {
		rc.ContentType = "application/vnd.kubernetes.protobuf"
		rc.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	}
	if s.Connection.ContentType != "" {
		rc.ContentType, rc.AcceptContentTypes = s.Connection.ContentType, s.Connection.AcceptContentTypes
	}
}
