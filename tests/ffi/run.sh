#!/bin/sh
# Uses the library from Go and from Python, and compares what they print with expected.txt.
# Installs nothing: says what is missing, and fails.
#
#   tests/ffi/run.sh <directory of libhelixmq.so>
set -eu

lib=$(cd "${1:?usage: $0 <directory of libhelixmq.so>}" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
failed=0

for tool in go cc python3; do
    if ! command -v "$tool" >/dev/null; then
        echo "FAIL: $tool is missing; this test needs Go (1.24 or later), a C compiler and Python (3.9 or later)"
        failed=1
    fi
done
[ -f "$lib/libhelixmq.so" ] || { echo "FAIL: there is no libhelixmq.so in $lib"; failed=1; }
[ $failed = 0 ] || exit 1

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
# Programs ask for the library by its soname; a build directory has only the plain name.
ln -s "$lib/libhelixmq.so" "$out/libhelixmq.so"
ln -s "$lib/libhelixmq.so" "$out/libhelixmq.so.1"

compare() {
    if [ "$2" = 0 ] && diff -u "$here/expected.txt" "$out/$1.out"; then
        echo "ok   $1"
    else
        echo "FAIL $1"
        cat "$out/$1.out" "$out/$1.err"
        failed=1
    fi
}

with_go() (
    cd "$here/go"
    # The Go that is here is used; none is downloaded.
    export GOTOOLCHAIN=local GOFLAGS=-mod=readonly CGO_ENABLED=1
    export CGO_CFLAGS="-I$root/include" CGO_LDFLAGS="-L$out -Wl,-rpath,$out"
    test -z "$(gofmt -l .)" || { echo "gofmt would change: $(gofmt -l .)"; return 1; }
    go vet ./... && go build -o "$out/ffi-go" . && timeout 60 "$out/ffi-go"
)
status=0
with_go >"$out/go.out" 2>"$out/go.err" || status=$?
compare go $status

status=0
timeout 60 python3 -B -X dev "$here/python/main.py" "$out/libhelixmq.so.1" >"$out/python.out" 2>"$out/python.err" || status=$?
compare python $status

exit $failed
