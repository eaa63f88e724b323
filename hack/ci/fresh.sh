#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What a new user sees: a new clone on a Debian 12 that has Go, make and git and nothing else, with empty caches.
#
#   fresh.sh DIR [MAKE ARGUMENT...]     default: up
#
# DIR becomes that machine's root directory (mmdebstrap makes it) and stays, so that a second run goes on where the first ended; remove it to begin anew.
# Needs root. The new root has its own mounts; kernel, network and cgroups are this machine's.
set -euo pipefail
repo=$(cd "$(dirname "$0")/../.." && pwd)
root=$1; shift
go=$(dirname "$(dirname "$(readlink -f "$(command -v go)")")")
command -v mmdebstrap >/dev/null || { echo "mmdebstrap is missing: apt-get install mmdebstrap" >&2; exit 1; }
if [ ! -e "$root/etc/debian_version" ]; then
  mmdebstrap --variant=minbase --include=make,git,ca-certificates bookworm "$root"
fi
[ -e "$root/src" ] || git clone -q "$repo" "$root/src"
# What it takes to reach the same servers: this machine's name servers, and the authorities it trusts.
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
mkdir -p "$root/usr/local/go" "$root/old"
exec unshare --mount --propagation private bash -c '
  set -e
  root=$1 go=$2; shift 2
  mount --bind "$root" "$root"
  mount --bind -o ro "$go" "$root/usr/local/go"
  for d in proc sys dev; do mount --rbind "/$d" "$root/$d"; done
  mount -t tmpfs tmp "$root/tmp"
  mount -t tmpfs run "$root/run"
  cd "$root"
  pivot_root . old
  umount -l /old
  cd /src
  exec env -i HOME=/root TERM=dumb PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin make "$@"
' fresh "$root" "$go" "${@:-up}"
