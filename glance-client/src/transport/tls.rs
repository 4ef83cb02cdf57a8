//! TLS by rustls with ring: the system's roots, a CA file, or the explicit opt-out.

use std::error::Error as StdError;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use crate::error::{Error, ErrorKind, Result};

/// Whom to trust, and with which client certificate to appear.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct TlsOptions {
    /// Trust exactly the certificates of this PEM file in place of the system's: authorities, and a
    /// server's own, also one that signed itself and says that it is an authority, as
    /// `openssl req -x509` makes them.
    pub ca_file: Option<PathBuf>,
    /// Accept any certificate. The connection is then open to everyone on the way.
    pub danger_accept_any: bool,
    /// A client certificate chain (PEM), with its key in the same file or in `client_key`.
    pub client_cert: Option<PathBuf>,
    /// The key of the client certificate (PEM).
    pub client_key: Option<PathBuf>,
}

pub(crate) fn client_config(options: &TlsOptions) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::config("TLS cannot be set up").with_source(error))?;
    let builder = if options.danger_accept_any {
        let verifier = Arc::new(Verifier { provider, listed: None });
        builder.dangerous().with_custom_certificate_verifier(verifier)
    } else if let Some(path) = &options.ca_file {
        let listed = Some(Listed::of(path, Arc::clone(&provider))?);
        let verifier = Arc::new(Verifier { provider, listed });
        builder.dangerous().with_custom_certificate_verifier(verifier)
    } else {
        builder.with_root_certificates(Arc::clone(system_roots()))
    };
    let Some(cert) = &options.client_cert else { return Ok(builder.with_no_client_auth()) };
    let key_path = options.client_key.as_ref().unwrap_or(cert);
    let chain = certificates(cert)?;
    let key = PrivateKeyDer::from_pem_file(key_path).map_err(|error| {
        Error::config(format!("no private key can be read from {} (PEM)", key_path.display()))
            .with_source(error)
    })?;
    builder.with_client_auth_cert(chain, key).map_err(|error| {
        Error::config(format!("the client certificate {} cannot be used", cert.display()))
            .with_source(error)
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let wrong = |text: &str| Error::config(format!("{text} {} (PEM expected)", path.display()));
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| wrong("no certificates can be read from").with_source(error))?;
    if found.is_empty() { Err(wrong("there is no certificate in")) } else { Ok(found) }
}

/// Believes the authorities of a file, and the certificates in it themselves.
#[derive(Debug)]
struct Listed {
    certificates: Vec<CertificateDer<'static>>,
    authorities: Arc<WebPkiServerVerifier>,
}

impl Listed {
    fn of(path: &Path, provider: Arc<CryptoProvider>) -> Result<Self> {
        let certificates = certificates(path)?;
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(certificates.iter().cloned());
        let unusable =
            || Error::config(format!("no certificate in {} can be trusted", path.display()));
        if added == 0 {
            return Err(unusable());
        }
        let authorities =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let authorities = authorities.map_err(|error| unusable().with_source(error))?;
        Ok(Self { certificates, authorities })
    }

    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let authorities = &self.authorities;
        match authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp, now) {
            // To the authorities the certificate of one of them is none of a server; whoever has
            // put just this one on the list means it. A wrong time has an error of its own, and the
            // name was not looked at yet.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if self.certificates.iter().any(|listed| listed == end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }
}

/// The system's roots, read once a process. None at all is no error here: a plain http endpoint needs none.
fn system_roots() -> &'static Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    })
}

/// The error for a connection that failed because of TLS, with what to do about it; `None` if something else failed.
///
/// `std::io::Error` hides the error that it wraps from `source`, hence the second look.
pub(super) fn failure(at: &str, error: &(dyn StdError + 'static)) -> Option<Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            let text = match tls {
                rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                    "its certificate is not from a trusted authority: name the file of its authority (cacert, OS_CACERT)"
                        .to_owned()
                }
                rustls::Error::InvalidCertificate(reason) => {
                    format!("its certificate is not accepted: {reason}")
                }
                rustls::Error::InvalidMessage(_) => {
                    "it does not speak TLS at this port: is https right in the URL?".to_owned()
                }
                other => format!("TLS failed: {other}"),
            };
            let text = format!("cannot connect to {at}: {text}");
            return Some(Error::new(ErrorKind::Tls, text).with_source(tls.clone()));
        }
        if let Some(inner) =
            error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref)
            && let Some(found) = failure(at, inner)
        {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// Believes what is listed, or (without a list) anything. The signature of the handshake is checked in
/// either case: a certificate is public, only its key proves the server.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    listed: Option<Listed>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.listed {
            Some(listed) => listed.verify(end_entity, intermediates, server_name, ocsp, now),
            None => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_certificate_is_believed_for_its_name_and_time_only() {
        let authority = || {
            let mut params =
                rcgen::CertificateParams::new(vec!["here.example".to_owned()]).unwrap();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.not_before = rcgen::date_time_ymd(2026, 1, 1);
            params.not_after = rcgen::date_time_ymd(2028, 1, 1);
            (params, rcgen::KeyPair::generate().unwrap())
        };
        let (params, key) = authority();
        let listed = params.self_signed(&key).unwrap();
        let (other, other_key) = authority();
        let other = other.self_signed(&other_key).unwrap();
        let leaf = rcgen::CertificateParams::new(vec!["here.example".to_owned()]).unwrap();
        let leaf_key = rcgen::KeyPair::generate().unwrap();
        let leaf = leaf.signed_by(&leaf_key, &rcgen::Issuer::from_params(&params, &key)).unwrap();

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, listed.pem()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Listed::of(&file, provider).unwrap();
        let at = |seconds| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let (in_2027, in_2029) = (at(1_800_000_000), at(1_870_000_000));
        let good = |end: &rcgen::Certificate, name: &'static str, now: UnixTime| {
            let name = ServerName::try_from(name).unwrap();
            verifier.verify(end.der(), &[], &name, &[], now).is_ok()
        };
        assert!(good(&listed, "here.example", in_2027));
        assert!(good(&leaf, "here.example", in_2027));
        assert!(!good(&listed, "other.example", in_2027), "another name");
        assert!(!good(&listed, "here.example", in_2029), "it has expired");
        assert!(!good(&other, "here.example", in_2027), "it is not listed");
    }
}
