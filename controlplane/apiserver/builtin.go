// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"github.com/fairlead/fairlead/controlplane/apiserver/bootstrap"
	"github.com/fairlead/fairlead/controlplane/apiserver/core"
	"github.com/fairlead/fairlead/controlplane/apiserver/registry"
	"github.com/fairlead/fairlead/controlplane/apiserver/review"
)

// groupVersions are storages by group version and resource ("pods", "pods/status").
type groupVersions map[schema.GroupVersion]map[string]rest.Storage

func (g groupVersions) put(gv schema.GroupVersion, resource string, s rest.Storage) {
	if g[gv] == nil {
		g[gv] = map[string]rest.Storage{}
	}
	g[gv][resource] = s
}

// builtin assembles the delegate that serves the declared kinds; next takes what it does not know.
func (a *assembly) builtin(ctx context.Context, c *genericapiserver.Config, next genericapiserver.DelegationTarget) (*genericapiserver.GenericAPIServer, error) {
	c.SkipOpenAPIInstallation = true // installOpenAPI does it
	server, err := c.Complete(a.env.Informers).New("fairlead-apiserver", next)
	if err != nil {
		return nil, fmt.Errorf("assemble the built-in kinds: %w", err)
	}
	storages, built, err := a.storages(c)
	if err != nil {
		return nil, err
	}
	review.Install(storages.put, review.Config{Token: a.guards.TokenAuthenticator, Audiences: a.guards.APIAudiences, Authorizer: a.guards.Authorizer, Rules: a.guards.Rules})
	installed, err := core.Install(storages.put, built, core.Config{
		Client: a.env.Client, Kubelet: a.cfg.Kubelet, ServiceAccountToken: a.guards.ServiceAccountToken,
		ServiceCIDRs: a.cfg.ServiceCIDRs, NodePorts: a.cfg.NodePorts, MoreCIDRs: a.env.Informers.Networking().V1().ServiceCIDRs().Lister(),
		Options: c.RESTOptionsGetter,
	})
	if err != nil {
		return nil, err
	}
	server.RegisterDestroyFunc(installed.Close)
	a.binding, _ = storages[corev1.SchemeGroupVersion]["pods/binding"].(rest.NamedCreater)
	err = server.AddPostStartHook("start-service-ip-repair-controllers", func(hook genericapiserver.PostStartHookContext) error {
		go func() { _ = installed.Repair(hook) }()
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := a.install(server, storages); err != nil {
		return nil, err
	}
	if a.documents, err = installOpenAPI(ctx, server, c.OpenAPIConfig, c.OpenAPIV3Config, a.ready); err != nil {
		return nil, err
	}
	for path, h := range a.guards.Handlers {
		server.Handler.NonGoRestfulMux.Handle(path, h)
	}
	return server, bootstrap.Install(server, bootstrap.Config{
		Client: a.env.Client, Advertise: a.cfg.Advertise, Port: a.cfg.AdvertisePort, ServiceCIDRs: a.cfg.ServiceCIDRs,
		ClientCA: a.cfg.ClientCA, RequestHeader: a.guards.RequestHeader, More: a.guards.Bootstrap, Identity: leaseName(a.cfg.Name),
	})
}

// storages builds the storage of every declaration.
func (a *assembly) storages(c *genericapiserver.Config) (groupVersions, map[schema.GroupVersionResource]*registry.Built, error) {
	out := groupVersions{}
	built := map[schema.GroupVersionResource]*registry.Built{}
	for _, k := range a.cfg.Kinds {
		from := k.GVR
		if k.SharesStorageWith != nil {
			from = *k.SharesStorageWith
			if built[from] == nil {
				return nil, nil, fmt.Errorf("%s shares the storage of %s, which is not declared before it", k.GVR, from)
			}
		} else {
			var versions []string
			for _, other := range a.cfg.Kinds {
				if other.GVR == k.GVR || other.SharesStorageWith != nil && *other.SharesStorageWith == k.GVR {
					versions = append(versions, other.GVR.GroupVersion().String())
				}
			}
			b, err := registry.Build(k, versions, a.types.scheme, c.RESTOptionsGetter)
			if err != nil {
				return nil, nil, err
			}
			built[k.GVR] = b
		}
		gv, b := k.GVR.GroupVersion(), built[from]
		out.put(gv, k.GVR.Resource, b.Main)
		if b.Status != nil {
			out.put(gv, k.GVR.Resource+"/status", b.Status)
		}
		if b.Scale != nil {
			out.put(gv, k.GVR.Resource+"/scale", b.Scale)
		}
	}
	return out, built, nil
}

// install hands the storages over, group by group in the order of served.
func (a *assembly) install(server *genericapiserver.GenericAPIServer, storages groupVersions) error {
	groups := map[string]bool{}
	for _, g := range served {
		group := g.gv.Group
		if groups[group] {
			continue
		}
		groups[group] = true
		info := genericapiserver.NewDefaultAPIGroupInfo(group, a.types.scheme, a.types.parameters, a.types.codecs)
		for _, gv := range slices.Collect(maps.Keys(storages)) {
			if gv.Group == group {
				info.VersionedResourcesStorageMap[gv.Version] = storages[gv]
			}
		}
		if len(info.VersionedResourcesStorageMap) == 0 {
			continue
		}
		info.PrioritizedVersions = slices.DeleteFunc(slices.Clone(info.PrioritizedVersions), func(gv schema.GroupVersion) bool {
			return len(info.VersionedResourcesStorageMap[gv.Version]) == 0
		})
		var err error
		if group == "" {
			err = server.InstallLegacyAPIGroup(genericapiserver.DefaultLegacyAPIPrefix, &info)
		} else {
			err = server.InstallAPIGroup(&info)
		}
		if err != nil {
			return fmt.Errorf("install group %q: %w", group, err)
		}
	}
	return nil
}

// leaseName names an API server's Lease as Kubernetes does: by a hash, because a host name may be longer than a name. Empty stays empty.
func leaseName(name string) string {
	if name == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(name))
	return "apiserver-" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16]))
}
