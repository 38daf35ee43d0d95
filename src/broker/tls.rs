//! Encryption towards a server: the peer's certificate and name are verified, TLS 1.2 at least. What is
//! wrong with certificates and keys is told by the path of the option that names them.

use std::path::Path;

use openssl::pkey::PKey;
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode, SslVersion};
use openssl::x509::X509;

use crate::config::TlsConfig;
use crate::error::{Error, Kind, Result};

/// Reads certificates and keys once, so that what is wrong with them is told at open.
///
/// # Errors
/// `Tls`, with the path in `section` of what cannot be used.
pub(super) fn connector(section: &'static str, config: &TlsConfig) -> Result<SslConnector> {
    let files = Files { section };
    // Without the exit handler that its first use would otherwise leave in the host's process.
    openssl::init();
    let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(|failed| files.broken("", &failed))?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2)).map_err(|failed| files.broken("", &failed))?;
    if let Some(file) = &config.ca_file {
        let all = X509::stack_from_pem(&files.read("ca_file", file)?);
        let all = all.ok().filter(|all| !all.is_empty()).ok_or_else(|| files.no_pem("ca_file", "certificate"))?;
        // Only these: who names a certificate authority does not mean the system's as well.
        let mut store = openssl::x509::store::X509StoreBuilder::new().map_err(|failed| files.broken("", &failed))?;
        for certificate in all {
            store.add_cert(certificate).map_err(|failed| files.broken("ca_file", &failed))?;
        }
        builder.set_cert_store(store.build());
    }
    if let (Some(certificates), Some(key)) = (&config.cert_file, &config.key_file) {
        files.own_certificate(&mut builder, config, certificates, key)?;
    }
    if config.unsafe_skip_verify {
        builder.set_verify(SslVerifyMode::NONE);
    }
    Ok(builder.build())
}

/// The options of one section.
struct Files {
    section: &'static str,
}

impl Files {
    fn own_certificate(
        &self,
        builder: &mut openssl::ssl::SslConnectorBuilder,
        config: &TlsConfig,
        certificates: &Path,
        key: &Path,
    ) -> Result<()> {
        let chain = X509::stack_from_pem(&self.read("cert_file", certificates)?).unwrap_or_default();
        let mut chain = chain.into_iter();
        let own = chain.next().ok_or_else(|| self.no_pem("cert_file", "certificate"))?;
        builder.set_certificate(&own).map_err(|failed| self.broken("cert_file", &failed))?;
        for further in chain {
            builder.add_extra_chain_cert(further).map_err(|failed| self.broken("cert_file", &failed))?;
        }
        let pem = self.read("key_file", key)?;
        // Asked for a password it was not given, OpenSSL would ask at the terminal.
        let password = config.key_password.as_ref().map_or("", |password| password.expose());
        let private = PKey::private_key_from_pem_passphrase(&pem, password.as_bytes())
            .map_err(|_| self.no_pem("key_file", "private key, or the password of it is missing or wrong"))?;
        builder.set_private_key(&private).map_err(|failed| self.broken("key_file", &failed))?;
        builder.check_private_key().map_err(|_| {
            let cert = self.path("cert_file");
            self.error("key_file", |key| format!("`{key}` is not the key of the certificate in `{cert}`"))
        })
    }

    fn read(&self, option: &str, file: &Path) -> Result<Vec<u8>> {
        std::fs::read(file).map_err(|failed| {
            self.error(option, |path| format!("`{path}`: {} cannot be read: {failed}", file.display()))
        })
    }

    fn no_pem(&self, option: &str, what: &str) -> Error {
        self.error(option, |path| format!("`{path}` holds no PEM {what}"))
    }

    fn broken(&self, option: &str, failed: &openssl::error::ErrorStack) -> Error {
        self.error(option, |path| format!("`{path}` cannot be used: {failed}"))
    }

    /// The option as a document names it; the section of encryption for none.
    fn path(&self, option: &str) -> String {
        match option {
            "" => format!("{}.tls", self.section),
            option => format!("{}.tls.{option}", self.section),
        }
    }

    fn error(&self, option: &str, text: impl FnOnce(&str) -> String) -> Error {
        let path = self.path(option);
        Error::new(Kind::Tls, text(&path)).with_backend(self.section).at(path, 0, 0)
    }
}
