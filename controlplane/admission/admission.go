// SPDX-License-Identifier: Apache-2.0

// Package admission puts the admission plugins together: those of this folder, those of the API server library (namespace life cycle,
// webhooks, CEL policies, quota), NodeRestriction and the guard against escalation by roles.
//
//	request ─► mutating plugins, in order ─► mutating policies ─► mutating webhooks
//	        ─► validating plugins ─► validating policies ─► validating webhooks ─► quota ─► storage
//
// A plugin is one package here: it knows Kubernetes' objects and informers, and nothing of HTTP, storage or other plugins.
package admission

import (
	"errors"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	mutatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	validatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	mutatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	validatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/options"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"github.com/fairlead/fairlead/controlplane/admission/alwayspullimages"
	"github.com/fairlead/fairlead/controlplane/admission/certificateapproval"
	"github.com/fairlead/fairlead/controlplane/admission/certificatesigning"
	"github.com/fairlead/fairlead/controlplane/admission/certificatesubject"
	"github.com/fairlead/fairlead/controlplane/admission/defaultingressclass"
	"github.com/fairlead/fairlead/controlplane/admission/defaultstorageclass"
	"github.com/fairlead/fairlead/controlplane/admission/defaulttolerationseconds"
	"github.com/fairlead/fairlead/controlplane/admission/denyexternalips"
	"github.com/fairlead/fairlead/controlplane/admission/limitranger"
	"github.com/fairlead/fairlead/controlplane/admission/ownerreferences"
	"github.com/fairlead/fairlead/controlplane/admission/podsecurity"
	"github.com/fairlead/fairlead/controlplane/admission/podtopologylabels"
	"github.com/fairlead/fairlead/controlplane/admission/priority"
	"github.com/fairlead/fairlead/controlplane/admission/pvcresize"
	"github.com/fairlead/fairlead/controlplane/admission/runtimeclass"
	"github.com/fairlead/fairlead/controlplane/admission/serviceaccount"
	"github.com/fairlead/fairlead/controlplane/admission/storageobjectinuse"
	"github.com/fairlead/fairlead/controlplane/admission/taintnodesbycondition"
	"github.com/fairlead/fairlead/controlplane/auth/node"
	"github.com/fairlead/fairlead/controlplane/auth/rbac"
)

// Config changes the default set of plugins.
type Config struct {
	// ConfigFile is a file of kind AdmissionConfiguration.
	ConfigFile string
	// Enable and Disable name plugins, as --enable-admission-plugins and --disable-admission-plugins of kube-apiserver.
	Enable, Disable []string
}

// Env is what the plugins work with.
type Env struct {
	// Generic is the server's configuration, whose Authorization is set already.
	Generic   *genericapiserver.Config
	Client    kubernetes.Interface
	Dynamic   dynamic.Interface
	Informers informers.SharedInformerFactory
	// Services finds the address of a webhook's Service. Nil: its DNS name is used.
	Services webhook.ServiceResolver
}

// plugin is one line of the order in which plugins run, Kubernetes' order.
type plugin struct {
	name     string
	register func(*admission.Plugins)
	off      bool // unless enabled
	fixed    bool // cannot be disabled
}

func order() []plugin {
	return []plugin{
		{name: lifecycle.PluginName, register: lifecycle.Register},
		{name: limitranger.PluginName, register: limitranger.Register},
		{name: serviceaccount.PluginName, register: serviceaccount.Register},
		{name: node.RestrictionPlugin, register: node.Register},
		{name: taintnodesbycondition.PluginName, register: taintnodesbycondition.Register},
		{name: alwayspullimages.PluginName, register: alwayspullimages.Register, off: true},
		{name: podsecurity.PluginName, register: podsecurity.Register},
		{name: priority.PluginName, register: priority.Register},
		{name: defaulttolerationseconds.PluginName, register: defaulttolerationseconds.Register},
		{name: defaultstorageclass.PluginName, register: defaultstorageclass.Register},
		{name: storageobjectinuse.PluginName, register: storageobjectinuse.Register},
		{name: ownerreferences.PluginName, register: ownerreferences.Register, off: true},
		{name: pvcresize.PluginName, register: pvcresize.Register},
		{name: runtimeclass.PluginName, register: runtimeclass.Register},
		{name: certificateapproval.PluginName, register: certificateapproval.Register},
		{name: certificatesigning.PluginName, register: certificatesigning.Register},
		{name: certificatesubject.PluginName, register: certificatesubject.Register},
		{name: defaultingressclass.PluginName, register: defaultingressclass.Register},
		{name: podtopologylabels.PluginName, register: podtopologylabels.Register},
		{name: denyexternalips.PluginName, register: denyexternalips.Register, off: true},
		{name: rbac.EscalationPlugin, register: rbac.Register, fixed: true},
		{name: mutatingpolicy.PluginName, register: mutatingpolicy.Register},
		{name: mutatingwebhook.PluginName, register: mutatingwebhook.Register},
		{name: validatingpolicy.PluginName, register: validatingpolicy.Register},
		{name: validatingwebhook.PluginName, register: validatingwebhook.Register},
		{name: resourcequota.PluginName, register: resourcequota.Register},
	}
}

// Options returns the library's options holding every plugin in its order, changed by cfg.
func Options(cfg Config) (*options.AdmissionOptions, error) {
	o := options.NewAdmissionOptions()
	o.RecommendedPluginOrder, o.DefaultOffPlugins, o.Plugins = nil, sets.Set[string]{}, admission.NewPlugins()
	for _, p := range order() {
		p.register(o.Plugins)
		o.RecommendedPluginOrder = append(o.RecommendedPluginOrder, p.name)
		if p.off {
			o.DefaultOffPlugins.Insert(p.name)
		}
		if p.fixed && slices.Contains(cfg.Disable, p.name) {
			return nil, fmt.Errorf("admission plugin %s cannot be disabled: whoever may write roles would become cluster administrator", p.name)
		}
	}
	o.EnablePlugins, o.DisablePlugins, o.ConfigFile = cfg.Enable, cfg.Disable, cfg.ConfigFile
	if err := errors.Join(o.Validate()...); err != nil {
		return nil, fmt.Errorf("admission plugins: %w", err)
	}
	return o, nil
}

// New builds the chain and puts it into env.Generic too.
func New(cfg Config, env Env) (admission.Interface, error) {
	o, err := Options(cfg)
	if err != nil {
		return nil, err
	}
	err = o.ApplyTo(env.Generic, env.Informers, env.Client, env.Dynamic, utilfeature.DefaultFeatureGate, env.Generic.EffectiveVersion, initializers(env)...)
	if err != nil {
		return nil, fmt.Errorf("admission plugins: %w", err)
	}
	return env.Generic.AdmissionControl, nil
}
