#!/bin/sh
# Compares what a shared library exports with include/helixmq.symbols.
# Usage: tools/check-symbols.sh path/to/libhelixmq.so
set -eu
[ $# -eq 1 ] || { echo "usage: $0 path/to/libhelixmq.so" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

LC_ALL=C
export LC_ALL
nm -D --defined-only "$1" | awk '{ print $NF }' | sort >"$work/exported"
awk '{ print $1 }' "$root/include/helixmq.symbols" | sort >"$work/listed"
if ! diff -u "$work/listed" "$work/exported"; then
    echo "$1 does not export what include/helixmq.symbols lists (- listed, + exported)" >&2
    exit 1
fi
echo "$(wc -l <"$work/listed") symbols, all listed"
