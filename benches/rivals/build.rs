//! Links the shared library of this repository, and the system's libzmq as a peer; with the feature
//! `servers`, librabbitmq.

fn main() {
    println!("cargo:rerun-if-env-changed=HELIXMQ_LIB_DIR");
    if let Ok(folder) = std::env::var("HELIXMQ_LIB_DIR") {
        println!("cargo:rustc-link-search=native={folder}");
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
    }
    println!("cargo:rustc-link-lib=dylib=helixmq");
    #[cfg(feature = "servers")]
    rabbitmq_c();
    #[cfg(not(feature = "servers"))]
    needed("libzmq", "libzmq3-dev");
}

fn needed(library: &str, package: &str) -> pkg_config::Library {
    pkg_config::probe_library(library).unwrap_or_else(|error| {
        println!("cargo:warning={library} is needed as a peer (Debian: {package}): {error}");
        std::process::exit(1);
    })
}

/// The loop of a program in C that uses librabbitmq, compiled as such a program is.
#[cfg(feature = "servers")]
fn rabbitmq_c() {
    const SOURCE: &str = "src/servers/rabbitmq_c.c";
    println!("cargo:rerun-if-changed={SOURCE}");
    cc::Build::new().file(SOURCE).opt_level(2).warnings(true).compile("rabbitmq_c_loop");
    // After the loop, which needs it.
    needed("librabbitmq", "librabbitmq-dev");
}
