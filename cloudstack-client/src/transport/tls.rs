//! TLS by rustls with ring: the system's roots, a CA file, or the explicit opt-out.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use crate::error::{Error, Result};

/// Whose certificates are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trust {
    /// What the operating system trusts.
    #[default]
    SystemRoots,
    /// Exactly the authorities in this PEM file, and a server's own certificate if it is in it: also one that signed
    /// itself and says that it is an authority, as `openssl req -x509` makes them.
    CaFile(PathBuf),
    /// Anything: whoever is on the way can read the data and change it.
    DangerAcceptAny,
}

pub(crate) fn client_config(trust: &Trust) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::config("TLS cannot be set up").with_source(error))?;
    let builder = match trust {
        Trust::SystemRoots => builder.with_root_certificates(Arc::clone(system_roots())),
        Trust::CaFile(path) => {
            let listed = Some(Listed::of(path, Arc::clone(&provider))?);
            let verifier = Arc::new(Verifier { provider, listed });
            builder.dangerous().with_custom_certificate_verifier(verifier)
        }
        Trust::DangerAcceptAny => {
            let verifier = Arc::new(Verifier { provider, listed: None });
            builder.dangerous().with_custom_certificate_verifier(verifier)
        }
    };
    Ok(builder.with_no_client_auth())
}

/// Believes the authorities of a file, and the certificates in it themselves.
#[derive(Debug)]
struct Listed {
    certificates: Vec<CertificateDer<'static>>,
    authorities: Arc<WebPkiServerVerifier>,
}

impl Listed {
    fn of(path: &Path, provider: Arc<CryptoProvider>) -> Result<Self> {
        let wrong = |text: &str| Error::config(format!("{text} {} (PEM expected)", path.display()));
        let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect)
            .map_err(|error| wrong("no certificates can be read from").with_source(error))?;
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(certificates.iter().cloned());
        if added == 0 {
            return Err(wrong("there is no certificate of a CA in"));
        }
        let authorities =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let authorities = authorities
            .map_err(|error| wrong("there is no usable certificate in").with_source(error))?;
        Ok(Self { certificates, authorities })
    }

    fn verify(
        &self,
        end: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.authorities.verify_server_cert(end, between, name, ocsp, now) {
            // An authority's certificate is not one for a server, but for whoever has put it on the list. Wrong times
            // and names have errors of their own; the name was not yet looked at.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if self.certificates.iter().any(|listed| listed == end) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end)?, name)?;
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
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    fn authority(name: &str) -> (CertificateParams, KeyPair) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2028, 1, 1);
        (params, KeyPair::generate().unwrap())
    }

    #[test]
    fn a_listed_certificate_is_believed_for_its_name_and_time_only() {
        let (params, key) = authority("ssvm.example");
        let listed = params.self_signed(&key).unwrap();
        let (other_params, other_key) = authority("ssvm.example");
        let other = other_params.self_signed(&other_key).unwrap();
        let leaf_key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["ssvm.example".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&leaf_key, &Issuer::from_params(&params, &key)).unwrap();

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, listed.pem()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Listed::of(&file, provider).unwrap();
        let in_2027 = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
        let in_2029 = UnixTime::since_unix_epoch(Duration::from_secs(1_870_000_000));
        let good = |end: &rcgen::Certificate, name: &'static str, now: UnixTime| {
            let name = ServerName::try_from(name).unwrap();
            verifier.verify(end.der(), &[], &name, &[], now).is_ok()
        };
        assert!(good(&listed, "ssvm.example", in_2027));
        assert!(good(&leaf, "ssvm.example", in_2027));
        assert!(!good(&listed, "other.example", in_2027), "another name");
        assert!(!good(&listed, "ssvm.example", in_2029), "it has expired");
        assert!(!good(&other, "ssvm.example", in_2027), "it is not listed");
    }
}
