//! Whom to trust: system roots, a CA file, or the fingerprints of certificates.

use std::error::Error as StdError;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, ErrorKind, Result};

/// The SHA-256 fingerprint of a certificate in DER form.
///
/// Displayed as 64 lower-case hexadecimal digits. Read with any case, with colons, with a leading
/// `sha256:`, and as the whole line that `openssl x509 -noout -fingerprint -sha256` prints.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin([u8; 32]);

impl Pin {
    /// The fingerprint of a certificate in DER form.
    #[must_use]
    pub fn of_der(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }

    /// The fingerprint of the first certificate in a PEM text.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if there is none.
    pub fn of_pem(text: &str) -> Result<Self> {
        CertificateDer::from_pem_slice(text.as_bytes())
            .map(|der| Self::of_der(&der))
            .map_err(|_| Error::new(ErrorKind::Config, "the text holds no PEM certificate"))
    }

    /// Reads fingerprints that are separated by commas, as in `XEN_PIN_SHA256`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if one is no fingerprint, or if there is none.
    pub fn parse_list(text: &str) -> Result<Vec<Self>> {
        let pins = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(str::parse)
            .collect::<Result<Vec<Self>>>()?;
        if pins.is_empty() {
            return Err(Error::new(ErrorKind::Config, "the list of pins is empty"));
        }
        Ok(pins)
    }
}

impl FromStr for Pin {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let lower = text.trim().to_ascii_lowercase();
        let lower = lower.strip_prefix("sha256 fingerprint=").unwrap_or(&lower);
        let bare = lower
            .strip_prefix("sha256:")
            .or_else(|| lower.strip_prefix("sha-256:"))
            .unwrap_or(lower);
        let digits: Vec<u32> =
            bare.chars().filter(|c| *c != ':').map_while(|c| c.to_digit(16)).collect();
        let clean = bare.chars().filter(|c| *c != ':').count();
        let mut bytes = [0_u8; 32];
        if clean != 64 || digits.len() != 64 {
            return Err(Error::new(
                ErrorKind::Config,
                "a pin is the SHA-256 of the server's certificate: 64 hexadecimal digits",
            ));
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            // Two digits below 16 make a byte.
            *byte = pair.iter().fold(0, |all, d| (all << 4) | u8::try_from(*d).unwrap_or(0));
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which certificates of servers are believed.
///
/// XenServer and XCP-ng make a self-signed certificate for each host, so that a pool is reached
/// with [`Pins`](Self::Pins) unless its hosts were given certificates of an authority.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Trust {
    /// What the operating system trusts; the name must be in the certificate.
    #[default]
    SystemRoots,
    /// The authorities in a PEM file, and a host's own certificate if it is in it: also one that
    /// signed itself and says that it is an authority. The name must be in the certificate.
    CaFile(PathBuf),
    /// Certificates with these fingerprints, whatever their names and dates. The server still has
    /// to prove that it holds the certificate's key.
    Pins(Vec<Pin>),
    /// Anything: whoever is on the way can read the password and change the disks.
    DangerAcceptAny,
}

impl Trust {
    /// This trust, and where it lists fingerprints, one more.
    pub(crate) fn and_pin(&self, pin: Option<Pin>) -> Self {
        match (self, pin) {
            (Self::Pins(pins), Some(pin)) if !pins.contains(&pin) => {
                let mut pins = pins.clone();
                pins.push(pin);
                Self::Pins(pins)
            }
            _ => self.clone(),
        }
    }

    pub(crate) fn is_pins(&self) -> bool {
        matches!(self, Self::Pins(_))
    }

    /// What rustls needs: TLS 1.2 and 1.3, and P-384 among the curves, because it is the only one
    /// that XenServer's TLS proxy accepts.
    pub(crate) fn client_config(&self) -> Result<ClientConfig> {
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match self {
            Self::SystemRoots => Arc::new(Telling::of(&provider, system_roots()?, Vec::new())?),
            Self::CaFile(path) => {
                let (roots, listed) = roots_of_file(path)?;
                Arc::new(Telling::of(&provider, roots, listed)?)
            }
            Self::Pins(pins) => {
                let pins = Some(pins.clone());
                Arc::new(Fingerprint { pins, provider: Arc::clone(&provider) })
            }
            Self::DangerAcceptAny => {
                Arc::new(Fingerprint { pins: None, provider: Arc::clone(&provider) })
            }
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|e| Error::new(ErrorKind::Config, "TLS cannot be set up").with_source(e))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(config)
    }
}

fn system_roots() -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(Error::new(
            ErrorKind::Config,
            "the system has no trusted certificate authorities; name a CA file or pin the server",
        ));
    }
    Ok(roots)
}

type Listed = Vec<CertificateDer<'static>>;

fn roots_of_file(path: &std::path::Path) -> Result<(RootCertStore, Listed)> {
    let fail =
        |what: &str| Error::new(ErrorKind::Config, format!("CA file {}: {what}", path.display()));
    let text =
        std::fs::read(path).map_err(|e| fail(&format!("cannot be read: {e}")).with_source(e))?;
    let (mut roots, mut listed) = (RootCertStore::empty(), Vec::new());
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|_| fail("is not PEM"))?;
        listed.push(certificate.clone());
        roots.add(certificate).map_err(|e| fail("holds a bad certificate").with_source(e))?;
    }
    if roots.is_empty() {
        return Err(fail("holds no certificate"));
    }
    Ok((roots, listed))
}

/// Why a certificate was refused, with its fingerprint: what the user has to compare.
#[derive(Debug)]
pub(crate) struct Refused {
    presented: Pin,
    reason: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; the server presented {}: compare that with the host's own certificate, and if it \
             is the right one, pin it",
            self.reason, self.presented
        )
    }
}

impl StdError for Refused {}

/// Finds out from a chain of causes whether a certificate was refused.
///
/// `std::io::Error` hides the error that it wraps from `source`, hence the second look.
pub(crate) fn tls_failure(error: &(dyn StdError + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(describe(tls));
        }
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && let Some(inner) = io.get_ref()
            && let Some(found) = tls_failure(inner)
        {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn describe(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
            inner.to_string()
        }
        rustls::Error::InvalidCertificate(reason) => {
            format!("the certificate is not valid: {reason}")
        }
        rustls::Error::InvalidMessage(_) => {
            "it does not speak TLS at this port: is https right in the URL?".to_owned()
        }
        other => format!("TLS failed: {other}"),
    }
}

/// Verification by authorities; a refusal tells the fingerprint.
#[derive(Debug)]
struct Telling {
    inner: Arc<WebPkiServerVerifier>,
    /// Certificates that the caller has named themselves.
    listed: Listed,
}

impl Telling {
    fn of(provider: &Arc<CryptoProvider>, roots: RootCertStore, listed: Listed) -> Result<Self> {
        let (roots, provider) = (Arc::new(roots), Arc::clone(provider));
        let inner = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
        let words = "the authorities are no use";
        let inner = inner.map_err(|e| Error::new(ErrorKind::Config, words).with_source(e))?;
        Ok(Self { inner, listed })
    }

    /// The verdict of the authorities. To them the certificate of an authority is none of a server;
    /// whoever has put just this one on the list means it. A wrong time has an error of its own, and
    /// the name was not looked at yet.
    fn verdict(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let inner = &self.inner;
        match inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if self.listed.iter().any(|listed| listed == end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }
}

impl ServerCertVerifier for Telling {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verdict(end_entity, intermediates, server_name, ocsp_response, now).map_err(|e| {
            let reason = match &e {
                rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                    "the certificate is not from a trusted authority".to_owned()
                }
                rustls::Error::InvalidCertificate(inner) => {
                    format!("the certificate is not accepted ({inner})")
                }
                other => other.to_string(),
            };
            refused(Pin::of_der(end_entity), reason)
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Verification by fingerprint, or (without pins) none. The signature of the handshake is checked
/// in either case: a certificate is public, only its key proves the server.
#[derive(Debug)]
struct Fingerprint {
    pins: Option<Vec<Pin>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Fingerprint {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let presented = Pin::of_der(end_entity);
        match &self.pins {
            Some(pins) if !pins.contains(&presented) => {
                let expected = pins.iter().map(Pin::to_string).collect::<Vec<_>>().join(" or ");
                let reason = format!("the certificate is not the pinned one (expected {expected})");
                Err(refused(presented, reason))
            }
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn refused(presented: Pin, reason: String) -> rustls::Error {
    let refused = Refused { presented, reason };
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refused))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_read_in_every_usual_spelling() {
        let hex = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
        let pin: Pin = hex.parse().unwrap();
        assert_eq!(pin.to_string(), hex);
        let colons: Vec<String> =
            hex.as_bytes().chunks(2).map(|c| String::from_utf8_lossy(c).to_uppercase()).collect();
        assert_eq!(format!("SHA256:{}", colons.join(":")).parse::<Pin>().unwrap(), pin);
        let line = format!("sha256 Fingerprint={}\n", colons.join(":"));
        assert_eq!(line.parse::<Pin>().unwrap(), pin, "the line of openssl");
        assert_eq!(Pin::parse_list(&format!(" {hex} ,{hex},")).unwrap(), [pin, pin]);
        for bad in ["", "00", &"zz".repeat(32), &hex[1..], "é"] {
            assert!(bad.parse::<Pin>().is_err(), "{bad}");
        }
        assert_eq!(Pin::parse_list(" , ").unwrap_err().kind(), ErrorKind::Config);
    }

    #[test]
    fn a_pin_is_the_sha256_of_the_der() {
        assert_eq!(
            Pin::of_der(b"abc").to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert!(Pin::of_pem("no certificate").is_err());
    }

    #[test]
    fn p384_and_both_protocol_versions_are_offered() {
        let config = Trust::DangerAcceptAny.client_config().unwrap();
        let groups: Vec<_> = config.crypto_provider().kx_groups.iter().map(|g| g.name()).collect();
        assert!(groups.contains(&rustls::NamedGroup::secp384r1), "{groups:?}");
    }

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
        let (roots, certificates) = roots_of_file(&file).unwrap();
        let provider = Arc::new(ring::default_provider());
        let verifier = Telling::of(&provider, roots, certificates).unwrap();
        let at = |seconds| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let (in_2027, in_2029) = (at(1_800_000_000), at(1_870_000_000));
        let good = |end: &rcgen::Certificate, name: &'static str, now: UnixTime| {
            let name = ServerName::try_from(name).unwrap();
            verifier.verify_server_cert(end.der(), &[], &name, &[], now).is_ok()
        };
        assert!(good(&listed, "here.example", in_2027));
        assert!(good(&leaf, "here.example", in_2027));
        assert!(!good(&listed, "other.example", in_2027), "another name");
        assert!(!good(&listed, "here.example", in_2029), "it has expired");
        assert!(!good(&other, "here.example", in_2027), "it is not listed");
    }
}
