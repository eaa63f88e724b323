#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Writes zz_generated.openapi.go: the OpenAPI definitions of every type that the API server serves.
#
# openapi-gen walks the packages' sources and, as root, would rewrite files beside them: so it sees a module cache of its own, in which
# k8s.io is a copy and everything else a symbolic link.
set -euo pipefail
cd "$(dirname "$0")/../../.."
cache=$(go env GOMODCACHE)
private=$(mktemp -d)
trap 'chmod -R u+w "$private"; rm -rf "$private"' EXIT
for entry in "$cache"/*; do
  case $(basename "$entry") in
    k8s.io) cp -r "$entry" "$private/k8s.io" ;;
    *) ln -s "$entry" "$private/" ;;
  esac
done
header=$private/header.txt
echo '// SPDX-License-Identifier: Apache-2.0' >"$header"
api=k8s.io/api
packages=(
  k8s.io/apimachinery/pkg/apis/meta/v1 k8s.io/apimachinery/pkg/runtime k8s.io/apimachinery/pkg/version
  k8s.io/apimachinery/pkg/api/resource k8s.io/apimachinery/pkg/util/intstr
  $api/admissionregistration/v1 $api/apps/v1 $api/authentication/v1 $api/authorization/v1 $api/autoscaling/v1 $api/autoscaling/v2 $api/batch/v1
  $api/certificates/v1 $api/coordination/v1 $api/core/v1 $api/discovery/v1 $api/events/v1 $api/flowcontrol/v1 $api/networking/v1 $api/node/v1
  $api/policy/v1 $api/rbac/v1 $api/resource/v1 $api/scheduling/v1 $api/scheduling/v1alpha3 $api/storage/v1 $api/storagemigration/v1
  k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1 k8s.io/kube-aggregator/pkg/apis/apiregistration/v1
  k8s.io/metrics/pkg/apis/metrics/v1beta1
)
generator=$(go tool -n k8s.io/kube-openapi/cmd/openapi-gen)
GOMODCACHE=$private GOFLAGS=-mod=mod "$generator" --go-header-file "$header" --report-filename /dev/null \
  --output-dir controlplane/apis/openapi --output-pkg github.com/fairlead/fairlead/controlplane/apis/openapi \
  --output-file zz_generated.openapi.go "${packages[@]}"
