# For run.sh and servers.sh: takes FOLDER and TABLE.md from their arguments, builds the library
# where there is no FOLDER, and puts it where the programs that are built next find it
# ($libraries). Wants $root and $target.

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
