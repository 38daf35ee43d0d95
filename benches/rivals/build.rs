//! Links the shared library of this repository, and the system's libzmq as a peer.

fn main() {
    println!("cargo:rerun-if-env-changed=HELIXMQ_LIB_DIR");
    if let Ok(folder) = std::env::var("HELIXMQ_LIB_DIR") {
        println!("cargo:rustc-link-search=native={folder}");
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
    }
    println!("cargo:rustc-link-lib=dylib=helixmq");
    if let Err(error) = pkg_config::probe_library("libzmq") {
        println!("cargo:warning=libzmq is needed as a peer (Debian: libzmq3-dev): {error}");
        std::process::exit(1);
    }
}
