// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/fairlead/fairlead/controlplane/cloud"
	"github.com/fairlead/fairlead/controlplane/controllers/admissionpolicystatus"
	"github.com/fairlead/fairlead/controlplane/controllers/attachdetach"
	"github.com/fairlead/fairlead/controlplane/controllers/bootstrapsigner"
	"github.com/fairlead/fairlead/controlplane/controllers/clusterdns"
	"github.com/fairlead/fairlead/controlplane/controllers/clusterroleaggregation"
	"github.com/fairlead/fairlead/controlplane/controllers/controller"
	"github.com/fairlead/fairlead/controlplane/controllers/cronjob"
	"github.com/fairlead/fairlead/controlplane/controllers/csrapproving"
	"github.com/fairlead/fairlead/controlplane/controllers/csrcleaner"
	"github.com/fairlead/fairlead/controlplane/controllers/csrsigning"
	"github.com/fairlead/fairlead/controlplane/controllers/daemonset"
	"github.com/fairlead/fairlead/controlplane/controllers/deployment"
	"github.com/fairlead/fairlead/controlplane/controllers/disruption"
	"github.com/fairlead/fairlead/controlplane/controllers/endpoints"
	"github.com/fairlead/fairlead/controlplane/controllers/endpointslice"
	"github.com/fairlead/fairlead/controlplane/controllers/endpointslicemirroring"
	"github.com/fairlead/fairlead/controlplane/controllers/ephemeralvolume"
	"github.com/fairlead/fairlead/controlplane/controllers/garbagecollector"
	"github.com/fairlead/fairlead/controlplane/controllers/job"
	"github.com/fairlead/fairlead/controlplane/controllers/namespace"
	"github.com/fairlead/fairlead/controlplane/controllers/nodeipam"
	"github.com/fairlead/fairlead/controlplane/controllers/nodelifecycle"
	"github.com/fairlead/fairlead/controlplane/controllers/podautoscaler"
	"github.com/fairlead/fairlead/controlplane/controllers/podcertificatecleaner"
	"github.com/fairlead/fairlead/controlplane/controllers/podgc"
	"github.com/fairlead/fairlead/controlplane/controllers/replicaset"
	"github.com/fairlead/fairlead/controlplane/controllers/replicationcontroller"
	"github.com/fairlead/fairlead/controlplane/controllers/resourceclaim"
	"github.com/fairlead/fairlead/controlplane/controllers/resourcequota"
	"github.com/fairlead/fairlead/controlplane/controllers/rootca"
	"github.com/fairlead/fairlead/controlplane/controllers/serviceaccount"
	"github.com/fairlead/fairlead/controlplane/controllers/servicecidr"
	"github.com/fairlead/fairlead/controlplane/controllers/statefulset"
	"github.com/fairlead/fairlead/controlplane/controllers/storagemigration"
	"github.com/fairlead/fairlead/controlplane/controllers/tainteviction"
	"github.com/fairlead/fairlead/controlplane/controllers/tokencleaner"
	"github.com/fairlead/fairlead/controlplane/controllers/trustbundle"
	"github.com/fairlead/fairlead/controlplane/controllers/ttlafterfinished"
	"github.com/fairlead/fairlead/controlplane/controllers/volumebinder"
	"github.com/fairlead/fairlead/controlplane/controllers/volumeprotection"
)

// Registration names a controller and says what the API server must serve for it.
type Registration struct {
	Name string
	New  func(*controller.Context) controller.Controller
	// Needs are types, as "group/version/resource" ("v1/resource" for the core group), without which the controller has nothing to do.
	Needs []string
}

// Registry lists all controllers in the order in which they are constructed.
var Registry = []Registration{
	{"serviceaccount", serviceaccount.New, []string{"v1/serviceaccounts"}},
	{"rootca", rootca.New, []string{"v1/configmaps"}},
	{"namespace", namespace.New, []string{"v1/namespaces"}},
	{"garbagecollector", garbagecollector.New, nil},
	{"nodeipam", nodeipam.New, []string{"v1/nodes"}},
	{"replicaset", replicaset.New, []string{"apps/v1/replicasets"}},
	{"replicationcontroller", replicationcontroller.New, []string{"v1/replicationcontrollers"}},
	{"deployment", deployment.New, []string{"apps/v1/deployments"}},
	{"nodelifecycle", nodelifecycle.New, []string{"v1/nodes", "coordination.k8s.io/v1/leases"}},
	{"tainteviction", tainteviction.New, []string{"v1/nodes", "v1/pods"}},
	{"podgc", podgc.New, []string{"v1/nodes", "v1/pods"}},
	{"csrapproving", csrapproving.New, []string{"certificates.k8s.io/v1/certificatesigningrequests", "authorization.k8s.io/v1/subjectaccessreviews"}},
	{"csrsigning", csrsigning.New, []string{"certificates.k8s.io/v1/certificatesigningrequests"}},
	{"csrcleaner", csrcleaner.New, []string{"certificates.k8s.io/v1/certificatesigningrequests"}},
	{"clusterdns", clusterdns.New, []string{"v1/services", "v1/nodes", "discovery.k8s.io/v1/endpointslices"}},
	{"service-lb", cloud.New, []string{"v1/services", "v1/nodes"}},
	{"daemonset", daemonset.New, []string{"apps/v1/daemonsets", "apps/v1/controllerrevisions"}},
	{"job", job.New, []string{"batch/v1/jobs"}},
	{"statefulset", statefulset.New, []string{"apps/v1/statefulsets", "apps/v1/controllerrevisions", "v1/persistentvolumeclaims"}},
	{"endpointslice", endpointslice.New, []string{"v1/services", "discovery.k8s.io/v1/endpointslices"}},
	{"cronjob", cronjob.New, []string{"batch/v1/cronjobs"}},
	{"ttlafterfinished", ttlafterfinished.New, []string{"batch/v1/jobs"}},
	{"disruption", disruption.New, []string{"policy/v1/poddisruptionbudgets"}},
	{"resourcequota", resourcequota.New, []string{"v1/resourcequotas"}},
	{"clusterroleaggregation", clusterroleaggregation.New, []string{"rbac.authorization.k8s.io/v1/clusterroles"}},
	{"volumeprotection", volumeprotection.New, []string{"v1/persistentvolumes", "v1/persistentvolumeclaims"}},
	{"tokencleaner", tokencleaner.New, []string{"v1/secrets"}},
	{"bootstrapsigner", bootstrapsigner.New, []string{"v1/secrets"}},
	{"podautoscaler", podautoscaler.New, []string{"autoscaling/v2/horizontalpodautoscalers"}},
	{"endpoints", endpoints.New, []string{"v1/services", "v1/endpoints"}},
	{"endpointslicemirroring", endpointslicemirroring.New, []string{"v1/endpoints", "discovery.k8s.io/v1/endpointslices"}},
	{"volumebinder", volumebinder.New, []string{"v1/persistentvolumes", "v1/persistentvolumeclaims", "storage.k8s.io/v1/storageclasses"}},
	{"ephemeralvolume", ephemeralvolume.New, []string{"v1/persistentvolumeclaims"}},
	{"attachdetach", attachdetach.New, []string{"storage.k8s.io/v1/volumeattachments", "storage.k8s.io/v1/csidrivers"}},
	{"resourceclaim", resourceclaim.New, []string{"resource.k8s.io/v1/resourceclaims", "resource.k8s.io/v1/resourceclaimtemplates"}},
	{"servicecidr", servicecidr.New, []string{"networking.k8s.io/v1/servicecidrs", "networking.k8s.io/v1/ipaddresses"}},
	{"storagemigration", storagemigration.New, []string{"storagemigration.k8s.io/v1/storageversionmigrations"}},
	{"trustbundle", trustbundle.New, []string{"certificates.k8s.io/v1/clustertrustbundles"}},
	{"podcertificatecleaner", podcertificatecleaner.New, []string{"certificates.k8s.io/v1/podcertificaterequests"}},
	{"admissionpolicystatus", admissionpolicystatus.New, []string{"admissionregistration.k8s.io/v1/validatingadmissionpolicies"}},
}

// Names lists the registered controllers.
func Names() []string {
	names := make([]string, len(Registry))
	for i, r := range Registry {
		names[i] = r.Name
	}
	return names
}

// missing lists the types r needs that are not served.
func (r Registration) missing(served map[schema.GroupVersionResource]bool) []string {
	return controller.Filter(r.Needs, func(need string) bool { return !served[parseType(need)] })
}

func parseType(s string) schema.GroupVersionResource {
	parts := strings.Split(s, "/")
	if len(parts) == 2 {
		return schema.GroupVersionResource{Version: parts[0], Resource: parts[1]}
	}
	return schema.GroupVersionResource{Group: parts[0], Version: parts[1], Resource: parts[2]}
}
