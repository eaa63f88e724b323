// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"context"
	"encoding/json"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
)

// authenticationConfigMap is where aggregated API servers read how this server authenticates.
const authenticationConfigMap = "extension-apiserver-authentication"

// authenticationInfo publishes the client authority and the front proxy's in kube-system/extension-apiserver-authentication.
func (c Config) authenticationInfo(ctx context.Context) error {
	data := map[string]string{}
	if c.ClientCA != nil {
		data["client-ca-file"] = string(c.ClientCA.CurrentCABundleContent())
	}
	if h := c.RequestHeader; h != nil {
		data["requestheader-client-ca-file"] = string(h.CAContentProvider.CurrentCABundleContent())
		for key, list := range map[string]headerrequest.StringSliceProvider{
			"requestheader-username-headers": h.UsernameHeaders, "requestheader-group-headers": h.GroupHeaders, "requestheader-uid-headers": h.UIDHeaders,
			"requestheader-extra-headers-prefix": h.ExtraHeaderPrefixes, "requestheader-allowed-names": h.AllowedClientNames,
		} {
			if list == nil {
				continue
			}
			text, err := json.Marshal(list.Value())
			if err != nil {
				return err
			}
			data[key] = string(text)
		}
	}
	if len(data) == 0 {
		return nil
	}
	client := c.Client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	have, err := client.Get(ctx, authenticationConfigMap, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = client.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: authenticationConfigMap}, Data: data}, metav1.CreateOptions{})
		return ignoreExists(err)
	}
	if err != nil || maps.Equal(have.Data, data) {
		return err
	}
	have.Data = data
	_, err = client.Update(ctx, have, metav1.UpdateOptions{})
	return ignoreExists(err)
}
