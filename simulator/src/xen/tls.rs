//! TLS as the server's stunnel speaks it: version 1.2, one curve, a self-signed certificate.

use std::io;
use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;

/// A host's certificate, as the tests and the clients know it.
#[derive(Debug, Clone)]
pub(crate) struct Certificate {
    pub(crate) pem: String,
    /// Lower-case hex SHA-256 of the DER.
    pub(crate) sha256: String,
}

/// Makes a certificate with DNS and IP names and a TLS server that shows it.
///
/// Real hosts have RSA keys; nothing here can make one, so the key is ECDSA on the same curve.
pub(crate) fn server(hostname: &str) -> io::Result<(Certificate, TlsAcceptor)> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).map_err(other)?;
    let names = [hostname, "localhost", "127.0.0.1"].map(str::to_owned);
    let mut params = CertificateParams::new(names).map_err(other)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, hostname);
    let certificate = params.self_signed(&key).map_err(other)?;

    let mut provider = ring::default_provider();
    provider.kx_groups = vec![ring::kx_group::SECP384R1];
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(io::Error::other)?;
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .map_err(other)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .map_err(other)?;
    let facts = Certificate {
        pem: certificate.pem(),
        sha256: hex::encode(Sha256::digest(certificate.der())),
    };
    Ok((facts, TlsAcceptor::from(Arc::new(config))))
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}
