#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything that CI runs, stage by stage. Logs of all stages are in out/test; the folder is the last line.
set -u
cd "$(dirname "$0")/../.."
out=$PWD/out/test
rm -rf "$out" && mkdir -p "$out"
failed=()
started=$SECONDS

# stage NAME COMMAND...: runs it, keeps its output, says how long it took.
stage() {
  local name=$1 begin=$SECONDS; shift
  printf '== %s\n' "$name"
  if "$@" >"$out/$name.log" 2>&1; then
    printf '   ok      %4ds\n' $((SECONDS - begin))
  else
    printf '   FAILED  %4ds, end of %s:\n' $((SECONDS - begin)) "$out/$name.log"
    grep -E -A15 '^(--- FAIL|FAIL|panic:)' "$out/$name.log" | head -n 120
    tail -n 40 "$out/$name.log"
    failed+=("$name")
  fi
}

generated() {
  make -s generate || return 1
  git diff --exit-code --stat || { echo "generated files differ: run make generate and commit"; return 1; }
}

stage build make -s build images
stage generate generated
stage lint make -s lint
# Test binaries that link the API server or containerd are large: two at a time is what two cores carry.
stage test go test -p 2 -timeout 15m ./...
stage sandbox go test -p 1 -timeout 40m -tags e2e -count=1 ./hack/e2e/...

grep -hE '^(ok|FAIL|---|panic)' "$out/test.log" "$out/sandbox.log"
printf '%ds in all\n' $((SECONDS - started))
if [ ${#failed[@]} -gt 0 ]; then
  printf 'failed: %s\n%s\n' "${failed[*]}" "$out"
  exit 1
fi
echo "$out"
