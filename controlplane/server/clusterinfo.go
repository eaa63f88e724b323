// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"net"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
)

// clusterInfo publishes where the cluster is and its authority in kube-public/cluster-info, readable for everybody; the controllers sign it for
// each bootstrap token. An address that somebody put there, such as a load balancer's, stays.
func (g *guards) clusterInfo(ctx context.Context, client kubernetes.Interface) error {
	maps := client.CoreV1().ConfigMaps(metav1.NamespacePublic)
	have, err := maps.Get(ctx, bootstrapapi.ConfigMapClusterInfo, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	cluster := &clientcmdapi.Cluster{Server: "https://" + net.JoinHostPort(g.cfg.advertised()[0].String(), strconv.Itoa(g.port))}
	if err == nil {
		if old, err := clientcmd.Load([]byte(have.Data[bootstrapapi.KubeConfigKey])); err == nil && old.Clusters[""] != nil {
			cluster = old.Clusters[""]
			if bytes.Equal(cluster.CertificateAuthorityData, g.keys.CA().CertPEM) {
				return nil
			}
		}
	}
	cluster.CertificateAuthorityData = g.keys.CA().CertPEM
	config := clientcmdapi.NewConfig()
	config.Clusters[""] = cluster // the unnamed cluster is where kubeadm looks
	text, writeErr := clientcmd.Write(*config)
	if writeErr != nil {
		return writeErr
	}
	if apierrors.IsNotFound(err) {
		_, err = maps.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: bootstrapapi.ConfigMapClusterInfo}, Data: map[string]string{bootstrapapi.KubeConfigKey: string(text)},
		}, metav1.CreateOptions{})
		return err
	}
	if have.Data == nil {
		have.Data = map[string]string{}
	}
	have.Data[bootstrapapi.KubeConfigKey] = string(text)
	_, err = maps.Update(ctx, have, metav1.UpdateOptions{})
	return err
}
