#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# generate.sh SOURCE STEM IDENT [bpf2go options]: compiles bpf/SOURCE to STEM_bpfel.o and writes its bindings STEM_bpfel.go with prefix IDENT.
# The caller's folder is where they go; ROOT is the way from there to the module's root (../..).
# The object is little-endian, position independent and the same for amd64 and arm64.
set -eu
src=$1 stem=$2 ident=$3
shift 3
root=${ROOT:-../..}
export BPF2GO_CFLAGS="-O2 -g -mcpu=v3 -Wall -Wextra -Werror -Wno-unused-function -Wno-unused-parameter -Wno-sign-compare \
 -Wno-address-of-packed-member -fdebug-prefix-map=$(cd "$root" && pwd)=. \
 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu"
exec go tool bpf2go -cc "${CLANG:-clang-19}" -strip "${LLVM_STRIP:-llvm-strip-19}" -target bpfel -output-stem "$stem" -no-global-types "$@" "$ident" "$root/bpf/$src"
