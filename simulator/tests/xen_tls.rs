//! TLS of the pool: what stunnel offers, and no more.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use simulator::xen::{XenConfig, XenServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Trusts the one certificate with this hash.
#[derive(Debug)]
struct Pin(String);

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if hex::encode(Sha256::digest(end_entity)) == self.0 {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::General("another certificate".to_owned()))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = ring::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("no TLS 1.3".to_owned()))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

async fn connect(
    server: &XenServer,
    host: usize,
    groups: &[&'static dyn SupportedKxGroup],
    version: &'static SupportedProtocolVersion,
) -> std::io::Result<TlsStream<TcpStream>> {
    let pin = Pin(server.handle().pin_sha256(host).unwrap());
    let provider = CryptoProvider { kx_groups: groups.to_vec(), ..ring::default_provider() };
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(pin))
        .with_no_client_auth();
    let address = server.handle().url(host).unwrap();
    let address = address.strip_prefix("https://").unwrap().to_owned();
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

const P384: &[&dyn SupportedKxGroup] = &[ring::kx_group::SECP384R1];
const OTHERS: &[&dyn SupportedKxGroup] = &[ring::kx_group::X25519, ring::kx_group::SECP256R1];

#[tokio::test]
async fn one_version_and_one_curve_are_offered() {
    let server = XenServer::start(XenConfig::new()).await.unwrap();
    let tls12 = &rustls::version::TLS12;
    let stream = connect(&server, 0, P384, tls12).await.unwrap();
    let names = stream.get_ref().1.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(names, rustls::NamedGroup::secp384r1);
    assert!(connect(&server, 0, OTHERS, tls12).await.is_err());
}

#[tokio::test]
async fn the_end_of_a_stream_is_announced_unless_a_fault_forgets_it() {
    let server = XenServer::start(XenConfig::new()).await.unwrap();
    let mut ends = Vec::new();
    for fault in [None, Some("export-unclean-close")] {
        if let Some(fault) = fault {
            server.handle().faults().set_str(fault).unwrap();
        }
        let mut tls = connect(&server, 0, P384, &rustls::version::TLS12).await.unwrap();
        let vdi = snapshot_vdi(&server).await;
        let request = format!(
            "GET /export_raw_vdi?vdi={vdi}&format=vhd HTTP/1.1\r\nHost: x\r\n\
             Authorization: Basic cm9vdDpzaW11bGF0ZWQtcGFzc3dvcmQ=\r\n\r\n"
        );
        tls.write_all(request.as_bytes()).await.unwrap();
        let mut body = Vec::new();
        let end = tls.read_to_end(&mut body).await;
        assert!(body.starts_with(b"HTTP/1.1 200 OK"));
        assert!(body.len() > 1 << 20);
        ends.push(end.is_ok());
    }
    assert_eq!(ends, [true, false]);
}

async fn call(server: &XenServer, method: &str, params: Value) -> Value {
    let (_, answer) = exchange(server, 0, method, params, "").await;
    answer["result"].clone()
}

/// A call with more headers; the header block and the answer.
async fn exchange(
    server: &XenServer,
    host: usize,
    method: &str,
    params: Value,
    headers: &str,
) -> (String, Value) {
    let mut tls = connect(server, host, P384, &rustls::version::TLS12).await.unwrap();
    let body = json!({"jsonrpc": "2.0", "method": method, "params": params, "id": 1}).to_string();
    let length = body.len();
    let request = format!(
        "POST /jsonrpc HTTP/1.1\r\nConnection: close\r\n{headers}\
         Content-Length: {length}\r\n\r\n{body}"
    );
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tls.read_to_end(&mut answer).await.unwrap();
    let start = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8(answer[..start].to_vec()).unwrap();
    (head, serde_json::from_slice(&answer[start..]).unwrap())
}

#[tokio::test]
async fn a_member_names_its_master_and_the_masters_certificate() {
    let server = XenServer::start(XenConfig::new().with_second_host(true)).await.unwrap();
    let login = json!(["root", "any", "1.0", "tests"]);
    let asks = "x-xenapi-request-host-certificate-thumbprint: sha-256:master\r\n";
    let (head, answer) = exchange(&server, 1, "session.login_with_password", login, asks).await;
    let master = server.url();
    assert_eq!(answer["error"]["message"], "HOST_IS_SLAVE");
    assert_eq!(answer["error"]["data"][0], master.strip_prefix("https://").unwrap());
    let pin = server.handle().pin_sha256(0).unwrap();
    let header = format!("x-xenapi-response-host-certificate-thumbprint: {pin}\r\n");
    assert!(head.contains(&header), "{head}");

    // A client that trusts the pool learns the other host's certificate from it.
    let config = server.config();
    let login = json!([config.username(), config.password(), "1.0", "tests"]);
    let session = call(&server, "session.login_with_password", login).await;
    let hosts = call(&server, "host.get_all", json!([session])).await;
    let mut found = Vec::new();
    for host in hosts.as_array().unwrap() {
        let pem = call(&server, "host.get_server_certificate", json!([session, host])).await;
        found.push(pem.as_str().unwrap().to_owned());
    }
    let mut expected = [0, 1].map(|i| server.handle().certificate_pem(i).unwrap());
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

/// A VDI that nothing uses.
async fn snapshot_vdi(server: &XenServer) -> String {
    let config = server.config();
    let login = json!([config.username(), config.password(), "1.0", "tests"]);
    let session = call(server, "session.login_with_password", login).await;
    let vdis = call(server, "VDI.get_all", json!([session])).await;
    let snapshot = call(server, "VDI.snapshot", json!([session, vdis[0]])).await;
    snapshot.as_str().unwrap().to_owned()
}
