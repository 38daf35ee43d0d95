#!/usr/bin/env bash
# Checks the release artefacts: soname, hardening, unwinding panics, and that the static archive
# links with exactly the libraries that its pkg-config file names.
set -eu
cd "$(dirname "$0")/.."
release=$1
so=$release/libhelixmq.so
fail() { echo "check-release: $*" >&2; exit 1; }

abi=$(sed -n 's/^const ABI: u32 = \([0-9]*\);/\1/p' build.rs)
dynamic=$(readelf -dW "$so")
grep -q "soname: \[libhelixmq.so.$abi\]" <<<"$dynamic" || fail "the soname is not libhelixmq.so.$abi"
grep -q NODELETE <<<"$dynamic" || fail "not linked with -z nodelete"
grep -q "BIND_NOW" <<<"$dynamic" || fail "not linked with -z now"
readelf -lW "$so" | grep -q GNU_RELRO || fail "no RELRO"
readelf -lW "$so" | grep GNU_STACK | grep -q RWE && fail "the stack is executable"
readelf -SW "$so" | grep -qE '\.(init_array|ctors)' && {
    size=$((16#$(readelf -SW "$so" | sed -n 's/.*\.init_array *INIT_ARRAY *[0-9a-f]* *[0-9a-f]* *\([0-9a-f]*\).*/\1/p')))
    [ "$size" -le 16 ] || fail "constructors run at load (.init_array has $size bytes)"
}
grep -A3 '^\[profile.release\]' Cargo.toml | grep -q 'panic = "unwind"' || fail "the release profile does not unwind"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/main.c" <<'C'
#include <helixmq.h>
#include <stdio.h>
int main(void) { printf("%s\n", hmq_version_string()); return hmq_abi_check(HMQ_ABI, NULL) == HMQ_OK ? 0 : 1; }
C
libs=$(cat "$release/native-static-libs.txt")
# shellcheck disable=SC2086
cc -Iinclude "$work/main.c" "$release/libhelixmq-local.a" $libs -o "$work/static"
"$work/static" >/dev/null || fail "a program linked with the static archive does not run"
visible=$(nm -g --defined-only "$release/libhelixmq-local.a" | awk 'NF == 3 && $3 !~ /^hmq_/ { print $3 }')
[ -z "$visible" ] || fail "the static archive shows foreign symbols: $visible"
prefix=$work/prefix
tools/install.sh "$release" "" "$prefix" "$prefix/lib" 0.0.0 "$abi" >/dev/null
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig
# shellcheck disable=SC2046
cc "$work/main.c" $(pkg-config --cflags --libs helixmq) -Wl,-rpath,"$prefix/lib" -o "$work/shared"
"$work/shared" >/dev/null || fail "a program linked with the installed library does not run"
# shellcheck disable=SC2046
cc "$work/main.c" $(pkg-config --static --cflags --libs helixmq-static) -o "$work/static2"
"$work/static2" >/dev/null || fail "a program linked by helixmq-static.pc does not run"
echo "check-release: all checks passed"
