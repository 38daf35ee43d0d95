//! Link arguments of the shared library. Writes nothing into the source tree.

/// Bumped by every break of the ABI while the version is 0.x; `HMQ_ABI` in the header.
const ABI: u32 = 1;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-env=HELIXMQ_ABI={ABI}");
    let target = std::env::var("TARGET").unwrap_or_default();
    println!("cargo:rustc-env=HELIXMQ_TARGET={target}");
    if target.contains("linux") {
        // Our threads may outlive a dlclose: the code must stay mapped.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libhelixmq.so.{ABI}");
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,relro,-z,now");
    }
}
