#!/usr/bin/env bash
# install.sh RELEASE DESTDIR PREFIX LIBDIR VERSION ABI: puts library, header and pkg-config files in place.
set -eu
cd "$(dirname "$0")/.."
release=$1 dest=$2 prefix=$3 libdir=$4 version=$5 abi=$6

install -d "$dest$libdir/pkgconfig" "$dest$prefix/include"
install -m 755 "$release/libhelixmq.so" "$dest$libdir/libhelixmq.so.$version"
ln -sf "libhelixmq.so.$version" "$dest$libdir/libhelixmq.so.$abi"
ln -sf "libhelixmq.so.$abi" "$dest$libdir/libhelixmq.so"
install -m 644 "$release/libhelixmq-local.a" "$dest$libdir/libhelixmq.a"
install -m 644 include/helixmq.h include/helixmq.hpp "$dest$prefix/include/"

# What the header refers to.
install -d "$dest$prefix/share/doc/helixmq"
install -m 644 README.md LICENSE-MIT LICENSE-APACHE docs/*.md docs/*.json "$dest$prefix/share/doc/helixmq/"

pc() { # pc FILE LIBS PRIVATE
    cat >"$dest$libdir/pkgconfig/$1" <<PC
prefix=$prefix
libdir=$libdir
includedir=\${prefix}/include

Name: helixmq
Description: Tasks and events from any language over RabbitMQ, Kafka and an embedded broker
Version: $version
Cflags: -I\${includedir}
Libs: $2
Libs.private: $3
PC
}
native=$(cat "$release/native-static-libs.txt")
pc helixmq.pc "-L\${libdir} -lhelixmq" ""
pc helixmq-static.pc "\${libdir}/libhelixmq.a" "$native"
echo "installed helixmq $version under $dest$prefix"
