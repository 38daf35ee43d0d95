#!/bin/sh
# Builds and runs every program of examples-c, and compares what it prints with the .expected file
# beside it.
#
#   tests/examples.sh <directory of libhelixmq.so>
#   UPDATE=1 tests/examples.sh <directory>     writes the .expected files anew
#   VALGRIND=1 tests/examples.sh <directory>   runs them under valgrind, too
set -eu

lib=$(cd "${1:?usage: $0 <directory of libhelixmq.so>}" && pwd)
cd "$(dirname "$0")/../examples-c"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

make --no-print-directory -s LIB="$lib" OUT="$out"

# What differs from run to run: which worker was given what, and the version. Lines
# of workers come in any order.
steady() {
    sed -e 's/worker [0-9]*/worker N/' \
        -e 's/(helixmq [^)]*)/(helixmq ...)/' |
        awk '/^  worker N/ { print | "LC_ALL=C sort"; next } { close("LC_ALL=C sort"); print; fflush() }'
}

failed=0
for source in 0*.c; do
    name=${source%.c}
    set --
    case $name in
        *_server_*) continue ;; # with a server: tests/examples-servers.sh
        01_*) set -- input/haiku.txt input/numbers.txt input/empty.txt ;;
    esac
    if ! timeout 60 ${VALGRIND:+valgrind -q --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite} \
        "$out/$name" "$@" >"$out/$name.raw" 2>"$out/$name.err"; then
        echo "FAIL $name: it ended with a failure"
        cat "$out/$name.raw" "$out/$name.err"
        failed=1
        continue
    fi
    steady <"$out/$name.raw" >"$out/$name.out"
    if [ "${UPDATE:-}" ]; then
        cp "$out/$name.out" "$name.expected"
    fi
    if diff -u "$name.expected" "$out/$name.out"; then
        echo "ok   $name"
    else
        echo "FAIL $name: it printed something else"
        failed=1
    fi
done

# The program in the README must be one.
awk '/^```c$/ { on = 1; next } /^```$/ { on = 0 } on' ../README.md >"$out/readme.c"
if cc -std=c11 -Wall -Wextra -Werror -I../include "$out/readme.c" -L"$lib" -lhelixmq -Wl,-rpath,"$out" -o "$out/readme" &&
    timeout 60 "$out/readme" >/dev/null; then
    echo "ok   README.md"
else
    echo "FAIL README.md: its program does not build and run"
    failed=1
fi
exit $failed
