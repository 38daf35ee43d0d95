#!/usr/bin/env bash
# Builds the release artefacts: libhelixmq.so with its soname link, and libhelixmq.a localised to
# the symbols of the header, so that it links beside other Rust archives.
#
# Each crate type is built alone: an rlib beside them would switch link-time optimisation off.
set -eu
cd "$(dirname "$0")/.."
target=${TARGET:-target}
out=$target/release

cargo rustc --locked --release --lib --crate-type cdylib --target-dir "$target"
cp "$out/libhelixmq.so" "$out/libhelixmq.so.tmp"
told=$(cargo rustc --locked --release --lib --crate-type staticlib --target-dir "$target" -- \
    --print native-static-libs 2>&1) || { echo "$told" >&2; exit 1; }
echo "$told" >&2
native=$(sed -n 's/^note: native-static-libs: //p' <<<"$told" | tail -1)
mv "$out/libhelixmq.so.tmp" "$out/libhelixmq.so"

abi=$(sed -n 's/^const ABI: u32 = \([0-9]*\);/\1/p' build.rs)
ln -sf libhelixmq.so "$out/libhelixmq.so.$abi"

# One object with everything in it; only hmq_* stays visible.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ld -r --whole-archive "$out/libhelixmq.a" -o "$work/helixmq.o"
# The compiler's own bitcode goes: archivers of other toolchains cannot read it.
objcopy --remove-section=.llvmbc --remove-section=.llvmcmd "$work/helixmq.o"
objcopy --wildcard --keep-global-symbol='hmq_*' "$work/helixmq.o"
rm -f "$out/libhelixmq-local.a"
ar rcs "$out/libhelixmq-local.a" "$work/helixmq.o"
if [ -n "$native" ]; then
    echo "$native" >"$out/native-static-libs.txt"
fi
