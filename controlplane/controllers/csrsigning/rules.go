// SPDX-License-Identifier: Apache-2.0

package csrsigning

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// NodeUserPrefix is how the user name of a kubelet begins.
const NodeUserPrefix = "system:node:"

const nodesGroup = "system:nodes"

// signer is the rules of one signer name, from "Certificates and Certificate Signing Requests" in Kubernetes' reference.
type signer struct {
	known          bool
	required       []certificatesv1.KeyUsage // must be there
	optional       []certificatesv1.KeyUsage // may be there
	anyUsage       bool
	node           bool // subject must be O=system:nodes, CN=system:node:NAME
	names, noNames bool // needs a DNS name or address; must have none
}

var signers = map[string]signer{
	certificatesv1.KubeAPIServerClientSignerName: {
		known: true, required: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth},
		optional: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment},
	},
	certificatesv1.KubeAPIServerClientKubeletSignerName: {
		known: true, node: true, noNames: true,
		required: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth, certificatesv1.UsageDigitalSignature},
		optional: []certificatesv1.KeyUsage{certificatesv1.UsageKeyEncipherment},
	},
	certificatesv1.KubeletServingSignerName: {
		known: true, node: true, names: true,
		required: []certificatesv1.KeyUsage{certificatesv1.UsageServerAuth, certificatesv1.UsageDigitalSignature},
		optional: []certificatesv1.KeyUsage{certificatesv1.UsageKeyEncipherment},
	},
	"kubernetes.io/legacy-unknown": {known: true, anyUsage: true},
}

// ParseRequest reads the one PEM block of a certificate signing request and checks that it is signed with its own key.
func ParseRequest(text []byte) (*x509.CertificateRequest, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(strings.TrimSpace(string(rest))) > 0 {
		return nil, errors.New("the request is not exactly one PEM block of type CERTIFICATE REQUEST")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	return request, request.CheckSignature()
}

// Validate reports which rule of its signer a request breaks. The request must have been parsed by ParseRequest.
func Validate(name string, r *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	rules := signers[name]
	if !rules.known {
		return fmt.Errorf("there is no signer %q here", name)
	}
	if !rules.anyUsage {
		for _, u := range rules.required {
			if !slices.Contains(usages, u) {
				return fmt.Errorf("usage %q is required by %s", u, name)
			}
		}
		for _, u := range usages {
			if !slices.Contains(rules.required, u) && !slices.Contains(rules.optional, u) {
				return fmt.Errorf("usage %q is not allowed by %s", u, name)
			}
		}
	}
	if rules.node {
		if !slices.Equal(r.Subject.Organization, []string{nodesGroup}) {
			return fmt.Errorf("organization must be exactly %s", nodesGroup)
		}
		if n := strings.TrimPrefix(r.Subject.CommonName, NodeUserPrefix); n == r.Subject.CommonName || n == "" {
			return fmt.Errorf("common name must be %sNAME", NodeUserPrefix)
		}
		if len(r.EmailAddresses) > 0 || len(r.URIs) > 0 {
			return errors.New("email addresses and URIs are not allowed as alternative names of a node")
		}
	}
	if rules.noNames && len(r.DNSNames)+len(r.IPAddresses) > 0 {
		return errors.New("DNS names and IP addresses are not allowed in a client certificate of a node")
	}
	if rules.names && len(r.DNSNames)+len(r.IPAddresses) == 0 {
		return errors.New("a serving certificate needs a DNS name or an IP address")
	}
	if name == certificatesv1.KubeAPIServerClientSignerName && slices.Contains(r.Subject.Organization, "system:masters") {
		return errors.New("the group system:masters cannot be asked for")
	}
	return nil
}

var keyUsages = map[certificatesv1.KeyUsage]x509.KeyUsage{
	certificatesv1.UsageSigning: x509.KeyUsageDigitalSignature, certificatesv1.UsageDigitalSignature: x509.KeyUsageDigitalSignature,
	certificatesv1.UsageContentCommitment: x509.KeyUsageContentCommitment, certificatesv1.UsageKeyEncipherment: x509.KeyUsageKeyEncipherment,
	certificatesv1.UsageKeyAgreement: x509.KeyUsageKeyAgreement, certificatesv1.UsageDataEncipherment: x509.KeyUsageDataEncipherment,
	certificatesv1.UsageEncipherOnly: x509.KeyUsageEncipherOnly, certificatesv1.UsageDecipherOnly: x509.KeyUsageDecipherOnly,
}

var extKeyUsages = map[certificatesv1.KeyUsage]x509.ExtKeyUsage{
	certificatesv1.UsageServerAuth: x509.ExtKeyUsageServerAuth, certificatesv1.UsageClientAuth: x509.ExtKeyUsageClientAuth,
	certificatesv1.UsageCodeSigning: x509.ExtKeyUsageCodeSigning, certificatesv1.UsageEmailProtection: x509.ExtKeyUsageEmailProtection,
	certificatesv1.UsageTimestamping: x509.ExtKeyUsageTimeStamping, certificatesv1.UsageOCSPSigning: x509.ExtKeyUsageOCSPSigning,
}
