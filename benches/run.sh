#!/bin/sh
# Compares the shared library of a release with its rivals.
#
#   benches/run.sh [FOLDER] [TABLE.md] [--quick] [--unpinned] [--only I1,I2]
#
# FOLDER holds libhelixmq.so; without it the library is built here by the release recipe. TABLE.md
# gets the table between its marks, or is made. Needs libzmq (Debian: libzmq3-dev).
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
target=${CARGO_TARGET_DIR:-$root/target}
release=$target/release

if [ -d "${1:-}" ]; then
    release=$(cd "$1" && pwd)
    shift
else
    # Without the rlib among the crate types: only then is the library optimised as a whole.
    cargo rustc --quiet --locked --release --lib --crate-type cdylib \
        --manifest-path "$root/Cargo.toml" --target-dir "$target"
fi
case ${1:-} in
    *.md) table=$1; shift; set -- --out "$table" "$@" ;;
esac

# The loader looks for the soname, which the build's own folder does not have.
libraries=$target/rivals-lib
mkdir -p "$libraries"
cp "$release/libhelixmq.so" "$libraries/libhelixmq.so"
soname=$(readelf -d "$libraries/libhelixmq.so" | sed -n 's/.*SONAME.*\[\(.*\)\].*/\1/p')
if [ -n "$soname" ]; then
    ln -sf libhelixmq.so "$libraries/$soname"
fi

HELIXMQ_LIB_DIR=$libraries cargo build --quiet --locked --release \
    --manifest-path "$here/rivals/Cargo.toml" --target-dir "$target/rivals"
exec "$target/rivals/release/helixmq-rivals" "$@"
