//! Links the shared library of this repository, and the system's libzmq as a peer; with the feature
//! `servers`, librabbitmq; and builds librdkafka's own program beside the librdkafka of the `rdkafka` crate.

fn main() {
    println!("cargo:rerun-if-env-changed=HELIXMQ_LIB_DIR");
    if let Ok(folder) = std::env::var("HELIXMQ_LIB_DIR") {
        println!("cargo:rustc-link-search=native={folder}");
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
    }
    println!("cargo:rustc-link-lib=dylib=helixmq");
    #[cfg(feature = "servers")]
    {
        rabbitmq_c();
        rdkafka_performance();
    }
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

/// The program that librdkafka measures itself with, linked with the same build of it as the crate.
#[cfg(feature = "servers")]
fn rdkafka_performance() {
    use std::process::{Command, Stdio};

    const PROGRAM: &str = "rdkafka_performance";
    let root = std::env::var("DEP_RDKAFKA_ROOT").expect("rdkafka-sys tells where it builds");
    let examples = format!("{root}/examples");
    let made = Command::new("make")
        .args(["-s", "-C", &examples, PROGRAM])
        // Cargo's own, for others than this one.
        .env_remove("MAKEFLAGS")
        // Cargo would read it.
        .stdout(Stdio::null())
        .status();
    assert!(made.is_ok_and(|status| status.success()), "{PROGRAM} could not be made in {examples}");
    println!("cargo:rustc-env=RDKAFKA_PERFORMANCE={examples}/{PROGRAM}");
}
