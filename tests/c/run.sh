#!/bin/sh
# Runs the C test suite: tests/c/run.sh plain | asan | valgrind | drd [program...]
#
# Builds the library, without the backends of servers, which these programs do not talk to, and with
# the hook for deliberate panics (--cfg hmq_test), compiles every program
# with all warnings as errors, runs each with a time limit, prints PASS, FAIL or SKIP with a reason,
# and ends with a count. Needs only Rust, a C compiler and awk; valgrind for its two modes.
#
#   HMQ_TEST_TARGET  where things are built (default target/test)
#   HMQ_TEST_SCALE   per cent of the loops that are run (default: by mode)
#   HMQ_TEST_NO_BUILD set: the library is used as it was built before
#   HMQ_TEST_TIMEOUT seconds for one program (default 120)
#   CC               the C compiler (default cc)

set -u
mode=${1:-plain}
[ $# -gt 0 ] && shift
cd "$(dirname "$0")/../.." || exit 2
root=$PWD
target=${HMQ_TEST_TARGET:-target/test}
case $target in /*) ;; *) target=$root/$target ;; esac
CC=${CC:-cc}
limit=${HMQ_TEST_TIMEOUT:-120}
out=$target/c-$mode
flags="-std=c11 -D_GNU_SOURCE -Wall -Wextra -Wpedantic -Werror -O1 -g -pthread -I$root/include -I$root/tests/c -I$out"
mkdir -p "$out" || exit 2

build() {
    [ -z "${HMQ_TEST_NO_BUILD:-}" ] || return 0
    ( cd "$root" && CARGO_TARGET_DIR=$target "$@" >"$out/build.log" 2>&1 ) || { cat "$out/build.log"; exit 2; }
}

soname() {
    sed -n "s/^#define HMQ_ABI (\\([0-9]*\\)).*/libhelixmq.so.\\1/p" include/helixmq.h
}

host=$(rustc -vV | sed -n 's/^host: //p')
case $mode in
plain | valgrind | drd)
    RUSTFLAGS="--cfg hmq_test" build cargo build --quiet --no-default-features --profile fast --lib
    library=$target/fast
    # Programs ask for the soname; cargo does not make that link.
    ln -sf "$library/libhelixmq.so" "$out/$(soname)"
    link="$library/libhelixmq.so -Wl,-rpath,$out"
    ;;
asan)
    # The sanitizer is a nightly option that the stable compiler has, too. The library leaves the
    # runtime to the program; the program brings rustc's own, so that both are of one version.
    RUSTC_BOOTSTRAP=1 RUSTFLAGS="--cfg hmq_test -Zsanitizer=address -Cforce-frame-pointers=yes" \
        build cargo rustc --quiet --no-default-features --lib --crate-type staticlib --target "$host"
    library=$target/$host/debug
    runtime=$(rustc --print sysroot)/lib/rustlib/$host/lib/librustc-stable_rt.asan.a
    [ -f "$runtime" ] || runtime=$(find "$(rustc --print sysroot)" -name 'librustc*_rt.asan.a' | head -n 1)
    [ -n "$runtime" ] || { echo "rustc has no runtime of the address sanitizer"; exit 2; }
    flags="$flags -fsanitize=address -fno-omit-frame-pointer"
    ;;
*)
    echo "usage: $0 plain | asan | valgrind | drd [program...]"
    exit 2
    ;;
esac

# How one program is linked; $1 is its name.
link_line() {
    case $mode:$1 in
    *:dlopen) echo "-ldl" ;;
    asan:*) echo "$library/libhelixmq.a -Wl,--whole-archive $runtime -Wl,--no-whole-archive -rdynamic -ldl -lrt -lm -lgcc_s" ;;
    *) echo "$link" ;;
    esac
}

# Why a program is not run in this mode; nothing if it is.
reason_to_skip() {
    case $mode:$1 in
    asan:limits) echo "an address space limit leaves no room for the sanitizer's shadow memory" ;;
    asan:dlopen) echo "it loads the shared library, and the sanitizer is in the static one" ;;
    asan:exit_busy) echo "it is about the exit of an ordinary process; the sanitizer has an exit of its own" ;;
    valgrind:limits) echo "an address space limit stops valgrind itself" ;;
    valgrind:exit_busy) echo "its processes end without freeing anything, which is the point" ;;
    valgrind:sanitizer) ;;
    drd:threads | drd:close_race | drd:callbacks) ;;
    drd:*) echo - ;;
    esac
}

compile() {
    name=$1
    if [ "$name" = null_and_garbage ]; then
        awk -f tests/c/gen_null_and_garbage.awk include/helixmq.h >"$out/null_and_garbage.inc" || return 1
    fi
    # The sanitizer's runtime is named on the link line: the compiler must not add its own.
    # shellcheck disable=SC2046,SC2086
    if [ -f "tests/c/$name.cpp" ]; then
        ${CXX:-g++} -std=c++17 -O1 -g -Wall -Wextra -Wpedantic -Werror -Iinclude -c -o "$out/$name.o" "tests/c/$name.cpp" &&
            ${CXX:-g++} -pthread -o "$out/$name" "$out/$name.o" $(link_line "$name")
        return
    fi
    $CC $flags -c -o "$out/$name.o" "tests/c/$name.c" && $CC -pthread -o "$out/$name" "$out/$name.o" $(link_line "$name")
}

run() {
    program=$out/$1
    case $mode in
    valgrind)
        set -- valgrind --quiet --leak-check=full --errors-for-leak-kinds=definite,possible --error-exitcode=99 \
            --fair-sched=yes --suppressions="$root/tests/c/valgrind.supp" "$program"
        ;;
    drd)
        set -- valgrind --tool=drd --quiet --error-exitcode=99 --fair-sched=yes \
            --suppressions="$root/tests/c/drd.supp" "$program"
        ;;
    *) set -- "$program" ;;
    esac
    timeout -k 5 "$limit" "$@" >"$program.log" 2>&1 </dev/null
}

# What is deliberately wrong must be found, or a clean run means nothing.
tool_bites() {
    compile sanitizer || return 1
    program=$out/sanitizer
    case $mode in
    asan)
        "$program" overflow >"$program.log" 2>&1 && return 1
        grep -q 'heap-buffer-overflow' "$program.log" || return 1
        "$program" overread >"$program.log" 2>&1 && return 1
        grep -q 'heap-buffer-overflow' "$program.log" || return 1
        "$program" leak >"$program.log" 2>&1 && return 1
        grep -q 'LeakSanitizer' "$program.log" || return 1
        ;;
    valgrind)
        for wrong in overflow overread leak; do
            valgrind --quiet --leak-check=full --errors-for-leak-kinds=definite,possible --error-exitcode=99 \
                "$program" $wrong >"$program.log" 2>&1
            [ $? -eq 99 ] || return 1
        done
        ;;
    drd)
        valgrind --tool=drd --quiet --error-exitcode=99 "$program" race >"$program.log" 2>&1
        [ $? -eq 99 ] || return 1
        ;;
    esac
}

# Every exported function must be called by a test that somebody wrote.
every_function_is_called() {
    sed -n 's/^\(hmq_[a-z0-9_]*\).*/\1/p' include/helixmq.symbols >"$out/symbols"
    missing=0
    while read -r symbol; do
        grep -qw "$symbol" tests/c/*.c || { echo "no test calls $symbol"; missing=1; }
    done <"$out/symbols"
    [ -s "$out/symbols" ] && [ $missing -eq 0 ]
}

case $mode in
plain) : "${HMQ_TEST_SCALE:=100}" ;;
asan) : "${HMQ_TEST_SCALE:=5}" ;;
valgrind) : "${HMQ_TEST_SCALE:=1}" ;;
drd) : "${HMQ_TEST_SCALE:=1}" ;;
esac
export HMQ_TEST_SCALE
[ "$mode" = plain ] || export HMQ_TEST_INSTRUMENTED=1
export HMQ_TEST_LIBRARY="$library/libhelixmq.so"
export ASAN_OPTIONS="detect_leaks=1:abort_on_error=0:detect_stack_use_after_return=0"

passed=0
failed=0
verdict() {
    if [ "$1" -eq 0 ]; then
        passed=$((passed + 1))
        echo "PASS $2"
    else
        failed=$((failed + 1))
        echo "FAIL $2"
        [ -n "${3:-}" ] && [ -f "$3" ] && tail -n 40 "$3"
    fi
}

if [ $# -eq 0 ]; then
    set --
    for source in tests/c/*.c tests/c/*.cpp; do
        name=$(basename "${source%.*}")
        [ "$name" = sanitizer ] || set -- "$@" "$name"
    done
    if [ "$mode" = plain ]; then
        every_function_is_called
        verdict $? every_function_is_called
    else
        tool_bites
        verdict $? "${mode}_finds_what_is_wrong" "$out/sanitizer.log"
    fi
fi

for name in "$@"; do
    reason=$(reason_to_skip "$name")
    if [ -n "$reason" ]; then
        [ "$reason" = - ] || echo "SKIP $name: $reason"
        continue
    fi
    if compile "$name" 2>"$out/$name.log"; then
        run "$name"
        verdict $? "$name" "$out/$name.log"
    else
        verdict 1 "$name" "$out/$name.log"
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
