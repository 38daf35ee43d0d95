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
. "$here/library.sh"

HELIXMQ_LIB_DIR=$libraries cargo build --quiet --locked --release \
    --manifest-path "$here/rivals/Cargo.toml" --target-dir "$target/rivals"
exec "$target/rivals/release/helixmq-rivals" "$@"
