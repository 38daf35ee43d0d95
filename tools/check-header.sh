#!/bin/sh
# Compiles the header alone, with every initialiser, in every language standard that callers use.
# Usage: tools/check-header.sh   (CC and CXX lists may be set: CCS="gcc clang" CXXS="g++ clang++")
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat >"$work/use.c" <<'C'
#include "helixmq.h"
#include "helixmq.h"
hmq_record record = HMQ_RECORD_INIT;
hmq_receipt receipt = HMQ_RECEIPT_INIT;
hmq_event event = HMQ_EVENT_INIT;
hmq_settlement settlement = HMQ_SETTLEMENT_INIT;
hmq_broker_ops ops = HMQ_BROKER_OPS_INIT;
size_t nts = HMQ_NTS;
hmq_verdict verdicts[4] = { HMQ_ACK, HMQ_RETRY, HMQ_REJECT, HMQ_LATER };
int use(struct hmq_hub *hub);
int use(struct hmq_hub *hub)
{
    return hmq_hub_close(hub, -1, 0) < 0 || hmq_version() != HMQ_VERSION_NUMBER;
}
C
cp "$work/use.c" "$work/use.cpp"
echo '#include "helixmq.hpp"' >"$work/wrapper.cpp"

flags="-I$root/include -Wall -Wextra -Wpedantic -Werror -fsyntax-only"
checked=0
for cc in ${CCS:-gcc clang}; do
    command -v "$cc" >/dev/null || { echo "$cc: not installed, skipped"; continue; }
    for std in c99 c11 c17 c2x; do
        "$cc" -std=$std $flags "$work/use.c"
        checked=$((checked + 1))
    done
done
for cxx in ${CXXS:-g++ clang++}; do
    command -v "$cxx" >/dev/null || { echo "$cxx: not installed, skipped"; continue; }
    for std in c++98 c++11 c++14 c++17 c++20; do
        "$cxx" -std=$std $flags "$work/use.cpp"
        checked=$((checked + 1))
        case $std in
        c++17 | c++20) "$cxx" -std=$std $flags "$work/wrapper.cpp" ;;
        esac
    done
done
[ "$checked" -gt 0 ] || { echo "no compiler was found" >&2; exit 1; }
echo "helixmq.h is clean in $checked combinations"
