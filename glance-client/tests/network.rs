//! TLS, client certificates and proxies, against a scripted cloud.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use glance_client::image::get;
use glance_client::keystone::{CloudConfig, Domain, Principal, Scope, Session};
use glance_client::{ErrorKind, Glance, Proxy, Upload};
use support::{Cloud, ID, PASSWORD, Reply, answer, take};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A certificate authority with a server's and a client's certificate, as PEM files.
struct Authority {
    folder: tempfile::TempDir,
    server: rcgen::Certificate,
    server_key: rcgen::KeyPair,
}

impl Authority {
    fn new() -> Self {
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::new(vec![]).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let signed = |name: &str| {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
            (params.signed_by(&key, &issuer).unwrap(), key)
        };
        let ((server, server_key), (client, client_key)) = (signed("localhost"), signed("client"));
        let folder = tempfile::tempdir().unwrap();
        let both = client.pem() + &client_key.serialize_pem();
        for (name, text) in [
            ("ca.pem", ca_pem),
            ("client.pem", client.pem()),
            ("client.key", client_key.serialize_pem()),
            ("both.pem", both),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Self { folder, server, server_key }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A TLS server in front of a scripted cloud, which may want to see a client certificate: gives its URL.
    async fn in_front_of(&self, cloud: &Cloud, wants_client: bool) -> (String, JoinHandle<()>) {
        use rustls::pki_types::pem::PemObject;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if wants_client {
            let mut roots = rustls::RootCertStore::empty();
            roots
                .add(rustls::pki_types::CertificateDer::from_pem_file(self.file("ca.pem")).unwrap())
                .unwrap();
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let key =
            rustls::pki_types::PrivateKeyDer::try_from(self.server_key.serialize_der()).unwrap();
        let server = builder.with_single_cert(vec![self.server.der().clone()], key).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let behind = cloud.url.trim_start_matches("http://").to_owned();
        let task = tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (acceptor, behind) = (acceptor.clone(), behind.clone());
                tokio::spawn(async move {
                    let Ok(mut outside) = acceptor.accept(tcp).await else { return };
                    let mut inside = TcpStream::connect(behind).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
                    let _ = (outside.shutdown().await, inside.read(&mut [0]).await);
                });
            }
        });
        (url, task)
    }
}

fn at(url: &str) -> glance_client::keystone::CloudConfigBuilder {
    CloudConfig::builder(format!("{url}/v3"))
        .with_password(Principal::named("demo", Domain::default()), PASSWORD)
        .with_scope(Scope::Project(Principal::id("p")))
        .with_endpoint_override("image", url)
}

/// A call goes through the pool, data over a connection of its own.
async fn works(config: &CloudConfig) {
    let glance = Glance::connect(&Session::connect(config).await.unwrap()).await.unwrap();
    assert_eq!(glance.call(get(ID)).await.unwrap().id, ID);
    let sent = glance.upload(ID, Upload::from_bytes(vec![1; 1 << 20])).await.unwrap();
    assert_eq!(sent.bytes, 1 << 20);
}

#[tokio::test]
async fn trust_is_the_systems_a_file_or_given_up_by_name() {
    let cloud = Cloud::start(3600, |_| Reply::Default).await;
    let authority = Authority::new();
    let (url, task) = authority.in_front_of(&cloud, false).await;
    let error = Session::connect(&at(&url).build().unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls);
    assert!(!error.is_retryable() && error.to_string().contains("OS_CACERT"), "{error}");
    assert!(cloud.seen.lock().unwrap().is_empty(), "something was sent to a stranger");
    // What a server says that takes the first bytes of TLS for a bad request.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = at(&format!("https://{}", listener.local_addr().unwrap())).build().unwrap();
    let answering = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let _ = tcp.read(&mut [0; 4096]).await;
    };
    let (result, ()) = tokio::join!(Session::connect(&plain), answering);
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
    assert!(error.to_string().contains("is https right"), "{error}");

    works(&at(&url).with_ca_file(authority.file("ca.pem")).build().unwrap()).await;
    works(&at(&url).danger_accept_any_certificate().build().unwrap()).await;
    let config = at(&url).with_ca_file(authority.file("none.pem")).build().unwrap();
    let error = Session::connect(&config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    task.abort();
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_one_is_wanted() {
    let cloud = Cloud::start(3600, |_| Reply::Default).await;
    let authority = Authority::new();
    let (url, task) = authority.in_front_of(&cloud, true).await;
    let config = || at(&url).with_ca_file(authority.file("ca.pem"));
    let error = Session::connect(&config().build().unwrap()).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Tls | ErrorKind::Transport), "{error}");
    assert!(
        cloud.seen.lock().unwrap().is_empty(),
        "the server let somebody in without a certificate"
    );

    let key = Some(authority.file("client.key"));
    works(&config().with_client_certificate(authority.file("client.pem"), key).build().unwrap())
        .await;
    works(&config().with_client_certificate(authority.file("both.pem"), None).build().unwrap())
        .await;
    let config =
        config().with_client_certificate(authority.file("client.pem"), None).build().unwrap();
    let error = Session::connect(&config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("no private key"), "{error}");
    task.abort();
}

/// A proxy that makes tunnels for those who know the password, and counts them.
async fn tunnels(authorization: &'static str) -> (String, Arc<AtomicUsize>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let task = tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(tcp.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let target = head.split(' ').nth(1).unwrap().to_owned();
                let known = head.lines().any(|line| {
                    line.split_once(": ").is_some_and(|(name, value)| {
                        name.eq_ignore_ascii_case("proxy-authorization") && value == authorization
                    })
                });
                if !head.starts_with("CONNECT ") || !known {
                    let _ =
                        tcp.write_all(&answer("407 Proxy Authentication Required", &[], "")).await;
                    return;
                }
                count.fetch_add(1, Ordering::SeqCst);
                let mut inside = TcpStream::connect(target).await.unwrap();
                tcp.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut tcp, &mut inside).await;
            });
        }
    });
    (address, made, task)
}

/// `user:s3cret`.
const KNOWN: &str = "Basic dXNlcjpzM2NyZXQ=";

#[tokio::test]
async fn https_goes_through_a_tunnel() {
    let cloud = Cloud::start(3600, |_| Reply::Default).await;
    let authority = Authority::new();
    let (url, task) = authority.in_front_of(&cloud, false).await;
    let (proxy, made, proxying) = tunnels(KNOWN).await;
    let config = |proxy: Proxy| {
        at(&url).with_ca_file(authority.file("ca.pem")).with_proxy(proxy).build().unwrap()
    };
    let known = || Proxy::through(format!("http://user:s3cret@{proxy}"));
    works(&config(known())).await;
    assert_eq!(made.load(Ordering::SeqCst), 2, "one for the pool, one for the data");
    works(&config(known().except("localhost"))).await;
    works(&config(Proxy::Direct)).await;
    assert_eq!(made.load(Ordering::SeqCst), 2);

    let stranger = config(Proxy::through(format!("http://user:wr0ng@{proxy}")));
    let error = Session::connect(&stranger).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transport, "{error}");
    assert!(!format!("{error} {error:?} {stranger:?}").contains("wr0ng"), "{error:?}");
    // The same on the connection of the data, which asks by itself.
    let session = Session::connect(&config(known())).await.unwrap();
    let transport = Arc::new(glance_client::HttpTransport::of(&stranger).unwrap());
    let body = glance_client::Body::Stream {
        len: Some(1),
        stream: stream::iter([Ok(Bytes::from("x"))]).boxed(),
    };
    let request = http::Request::put(session.identity_url().as_str()).body(body).unwrap();
    let error = glance_client::Transport::send(&*transport, request).await.err().unwrap();
    assert!(error.to_string().contains("(407)") && error.to_string().contains(&proxy), "{error}");
    assert!(!format!("{error} {error:?}").contains("wr0ng"), "{error:?}");
    for task in [task, proxying] {
        task.abort();
    }
}

#[tokio::test]
async fn http_is_handed_to_the_proxy_and_an_early_answer_comes_back() {
    // The proxy is the scripted cloud itself: nobody else knows where `cloud.invalid` is.
    let proxy = Cloud::start(3600, |request| {
        assert_eq!(request.origin, "http://cloud.invalid:8080");
        assert_eq!(request.headers["proxy-authorization"], KNOWN);
        if request.method != "PUT" || !request.headers.contains_key("x-image-meta-store") {
            return Reply::Default;
        }
        take(|mut tcp, _| async move {
            let _ = tcp.read(&mut vec![0; 300_000]).await;
            let _ = tcp.write_all(&answer("413 Request Entity Too Large", &[], "too large")).await;
        })
    })
    .await;
    let through = Proxy::through(proxy.url.replace("http://", "http://user:s3cret@"));
    let config = at("http://cloud.invalid:8080").with_proxy(through).build().unwrap();
    works(&config).await;
    let glance = Glance::connect(&Session::connect(&config).await.unwrap()).await.unwrap();
    for _ in 0..20 {
        let endless = stream::repeat_with(|| Ok(Bytes::from_static(&[7; 65536]))).boxed();
        let upload = Upload::new(Some(1 << 40), endless).with_store("any");
        let error = glance.upload(ID, upload).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    }
    assert!(!format!("{config:?}").contains("s3cret"));
}

#[test]
fn what_is_no_proxy_is_told() {
    for url in ["", "proxy:3128", "socks5://user:s3cret@proxy:1080", "http://"] {
        let config = at("http://cloud.invalid").with_proxy(Proxy::through(url)).build().unwrap();
        let error = glance_client::HttpTransport::of(&config).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{url}");
        assert!(!format!("{error:?}").contains("s3cret"));
    }
}

/// Variables cannot be set in a process with threads: the test below starts another one.
#[tokio::test]
#[ignore = "a part of the_environment_names_proxies"]
async fn in_the_environment() {
    works(&at("http://cloud.invalid:8080").with_timeout(Duration::from_secs(20)).build().unwrap())
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_environment_names_proxies() {
    let proxy = Cloud::start(3600, |_| Reply::Default).await;
    let run = async |variables: &[(&str, &str)]| {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "in_the_environment", "--ignored", "--quiet"]);
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUEST_METHOD"] {
            child.env_remove(name).env_remove(name.to_lowercase());
        }
        child.envs(variables.iter().copied());
        let output = tokio::task::spawn_blocking(move || child.output()).await.unwrap().unwrap();
        let before = proxy.seen.lock().unwrap().drain(..).count();
        (output.status.success(), before)
    };
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        let (good, seen) = run(&[(name, &proxy.url)]).await;
        assert!(good && seen >= 5, "{name}: {seen} requests");
    }
    let (good, seen) = run(&[("HTTP_PROXY", &proxy.url), ("NO_PROXY", "cloud.invalid")]).await;
    assert_eq!((good, seen), (false, 0));
    assert_eq!(run(&[("HTTPS_PROXY", &proxy.url)]).await, (false, 0));
}

#[tokio::test]
async fn addresses_of_version_6_will_do() {
    if let Err(error) = TcpListener::bind("[::1]:0").await {
        eprintln!("skipped: this machine has no ::1: {error}");
        return;
    }
    let cloud = Cloud::start_at("[::1]", 3600, |_| Reply::Default).await;
    let glance = cloud.glance().await;
    glance.upload(ID, Upload::from_bytes("abc")).await.unwrap();
    let at = cloud.url.strip_prefix("http://").unwrap();
    let seen = cloud.seen.lock().unwrap();
    assert!(seen.iter().any(|request| request.method == "PUT"));
    assert!(seen.iter().all(|request| request.headers["host"] == at), "{seen:?}");
}
