//! Encryption towards the server: the peer's certificate and name are verified, TLS 1.2 at least.

use std::path::Path;

use openssl::pkey::PKey;
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode, SslVersion};
use openssl::x509::X509;

use super::error::error;
use crate::config::TlsConfig;
use crate::error::{Error, Kind, Result};

/// Reads certificates and keys once, so that what is wrong with them is told at open.
pub(super) fn connector(config: &TlsConfig) -> Result<SslConnector> {
    // Without the exit handler that its first use would otherwise leave in the host's process.
    openssl::init();
    let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(|failed| broken("TLS", &failed))?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2)).map_err(|failed| broken("TLS 1.2", &failed))?;
    if let Some(file) = &config.ca_file {
        let all = X509::stack_from_pem(&read("rabbitmq.tls.ca_file", file)?);
        let all =
            all.ok().filter(|all| !all.is_empty()).ok_or_else(|| no_pem("rabbitmq.tls.ca_file", "certificate"))?;
        // Only these: who names a certificate authority does not mean the system's as well.
        let mut store = openssl::x509::store::X509StoreBuilder::new().map_err(|failed| broken("TLS", &failed))?;
        for certificate in all {
            store.add_cert(certificate).map_err(|failed| broken("rabbitmq.tls.ca_file", &failed))?;
        }
        builder.set_cert_store(store.build());
    }
    if let (Some(certificates), Some(key)) = (&config.cert_file, &config.key_file) {
        own_certificate(&mut builder, config, certificates, key)?;
    }
    if config.unsafe_skip_verify {
        builder.set_verify(SslVerifyMode::NONE);
    }
    Ok(builder.build())
}

fn own_certificate(
    builder: &mut openssl::ssl::SslConnectorBuilder,
    config: &TlsConfig,
    certificates: &Path,
    key: &Path,
) -> Result<()> {
    let (cert_path, key_path) = ("rabbitmq.tls.cert_file", "rabbitmq.tls.key_file");
    let chain = X509::stack_from_pem(&read(cert_path, certificates)?).unwrap_or_default();
    let mut chain = chain.into_iter();
    let own = chain.next().ok_or_else(|| no_pem(cert_path, "certificate"))?;
    builder.set_certificate(&own).map_err(|failed| broken(cert_path, &failed))?;
    for further in chain {
        builder.add_extra_chain_cert(further).map_err(|failed| broken(cert_path, &failed))?;
    }
    let pem = read(key_path, key)?;
    // Asked for a password it was not given, OpenSSL would ask at the terminal.
    let password = config.key_password.as_ref().map_or("", |password| password.expose());
    let private = PKey::private_key_from_pem_passphrase(&pem, password.as_bytes())
        .map_err(|_| no_pem(key_path, "private key, or the password of it is missing or wrong"))?;
    builder.set_private_key(&private).map_err(|failed| broken(key_path, &failed))?;
    builder.check_private_key().map_err(|_| {
        let text = format!("`{key_path}` is not the key of the certificate in `{cert_path}`");
        error(Kind::Tls, text).at(key_path, 0, 0)
    })
}

fn read(path: &str, file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).map_err(|failed| {
        error(Kind::Tls, format!("`{path}`: {} cannot be read: {failed}", file.display())).at(path, 0, 0)
    })
}

fn no_pem(path: &str, what: &str) -> Error {
    error(Kind::Tls, format!("`{path}` holds no PEM {what}")).at(path, 0, 0)
}

fn broken(path: &str, failed: &openssl::error::ErrorStack) -> Error {
    error(Kind::Tls, format!("`{path}` cannot be used: {failed}")).at(path, 0, 0)
}
