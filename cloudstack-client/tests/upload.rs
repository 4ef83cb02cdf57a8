//! What happens to an upload when the storage VM does not play along.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cloudstack_client::templates::{Format, NewTemplate, Preflight, upload_params};
use cloudstack_client::{Client, Credentials, Error, ErrorKind, Trust, Upload, UploadTicket};
use futures_util::{StreamExt, stream};
use support::{Cloud, Reply, Seen, hang_up, raw, take};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A cloud that gives tickets to itself, and answers uploads by `script`.
async fn cloud(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Cloud {
    Cloud::start(with_tickets(script)).await
}

fn with_tickets(
    script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
) -> impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static {
    move |seen, _| {
        if seen.is_upload() {
            return script(seen);
        }
        let host = seen.head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
        support::ok(&ticket_at(&format!("http://{host}/upload/7c1d")))
    }
}

fn ticket_at(url: &str) -> serde_json::Value {
    serde_json::json!({"getuploadparams": {"id": "t1", "postURL": url, "metadata": "bWV0YWRhdGEtMQ==",
        "expires": "2026-11-23T11:34:35.123Z", "signature": "c2lnbmF0dXJlLTE="}})
}

async fn ticket(client: &Client) -> UploadTicket {
    let template = NewTemplate::new("web01", "XenServer", Format::Raw, "z1");
    client.call(upload_params(&template)).await.unwrap()
}

/// The whole body of an upload.
async fn read_all(tcp: &mut tokio::net::TcpStream, mut data: Vec<u8>, len: u64) -> Vec<u8> {
    while (data.len() as u64) < len {
        let mut part = vec![0; 65536];
        match tcp.read(&mut part).await {
            Ok(n) if n > 0 => data.extend_from_slice(&part[..n]),
            _ => break,
        }
    }
    data
}

/// An endless source that counts, and tells when it is let go.
struct Endless {
    produced: Arc<AtomicU64>,
    dropped: Arc<AtomicBool>,
}

struct OnDrop(Arc<AtomicBool>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Endless {
    fn new() -> Self {
        Self { produced: Arc::default(), dropped: Arc::default() }
    }

    fn upload(&self) -> Upload {
        let chunk = Bytes::from(vec![0; 64 << 10]);
        let produced = Arc::clone(&self.produced);
        let guard = OnDrop(Arc::clone(&self.dropped));
        let body = stream::repeat_with(move || {
            let _ = &guard;
            produced.fetch_add(chunk.len() as u64, Ordering::SeqCst);
            Ok(chunk.clone())
        });
        Upload::new(1 << 40, body.boxed())
    }
}

fn told(error: &Error) {
    let text = format!("{error} {error:?}");
    assert!(error.to_string().starts_with("template t1: upload: "), "{error}");
    assert!(error.to_string().contains("delete this template"), "{error}");
    assert!(!text.contains("c2lnbmF0dXJl") && !text.contains("bWV0YWRhdGE"), "{text}");
}

#[tokio::test]
async fn the_request_is_what_storage_vms_want() {
    let body = Arc::new(std::sync::Mutex::new(Vec::new()));
    let store = Arc::clone(&body);
    let cloud = cloud(move |seen| {
        let (len, store) = (seen.len(), Arc::clone(&store));
        take(move |mut tcp, data| async move {
            *store.lock().unwrap() = read_all(&mut tcp, data, len).await;
            tcp.write_all(&raw("200 OK", &[], "upload successful.")).await.unwrap();
        })
    })
    .await;
    let client = cloud.client();
    let data: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let pieces: Vec<_> = data.chunks(100_000).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
    let seen_bytes = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&seen_bytes);
    let upload = Upload::new(data.len() as u64, stream::iter(pieces).boxed())
        .with_progress(move |bytes| count.store(bytes, Ordering::SeqCst));
    let done = client.upload(ticket(&client).await, upload).await.unwrap();
    assert_eq!((done.template_id.as_str(), done.bytes), ("t1", 3_000_000));
    assert_eq!(seen_bytes.load(Ordering::SeqCst), 3_000_000);

    let seen = cloud.seen.lock().unwrap().last().unwrap().clone();
    let host = cloud.url.trim_start_matches("http://");
    let lines: Vec<&str> = seen.head.split("\r\n").collect();
    assert_eq!(lines[0], "POST /upload/7c1d HTTP/1.1");
    for line in [
        // In exactly these letters: CloudStack 4.18.0 compares them so.
        "X-signature: c2lnbmF0dXJlLTE=",
        "X-metadata: bWV0YWRhdGEtMQ==",
        "X-expires: 2026-11-23T11:34:35.123Z",
        &format!("Host: {host}"),
    ] {
        assert!(lines.contains(&line), "{line} in {lines:?}");
    }
    assert!(!seen.head.to_ascii_lowercase().contains("transfer-encoding"));
    let body = body.lock().unwrap().clone();
    assert_eq!(seen.len(), body.len() as u64, "the length is exact");
    let start = body.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8(body[..start].to_vec()).unwrap();
    assert!(head.contains("name=\"files[]\"; filename=\"web01.raw\""), "{head}");
    assert_eq!(body[start..start + data.len()], data);
    let boundary = head.lines().next().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&body[start + data.len()..]),
        format!("\r\n{boundary}--\r\n")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_early_refusal_stops_an_endless_source_and_is_never_lost() {
    // How much the server reads before it refuses, and whether it closes at once, with megabytes unread, or stays open
    // and reads nothing more. The first makes the kernel reset the connection while the client writes.
    let case = Arc::new(AtomicU64::new(0));
    let number = Arc::clone(&case);
    let cloud = cloud(move |_| {
        let case = number.load(Ordering::SeqCst);
        take(move |mut tcp, _| async move {
            let mut left = (case % 5) * 300_000;
            let mut part = vec![0; 65536];
            while left > 0 {
                let n = tcp.read(&mut part).await.unwrap();
                left = left.saturating_sub(n as u64);
            }
            let text = "signature c2lnbmF0dXJlLTE= doesn't match";
            let _ = tcp.write_all(&raw("400 Bad Request", &[], text)).await;
            if case % 2 == 1 {
                tokio::time::sleep(Duration::from_secs(30)).await;
            }
        })
    })
    .await;
    let client = cloud.client();
    for number in 0..60 {
        case.store(number, Ordering::SeqCst);
        let source = Endless::new();
        let refused = client.upload(ticket(&client).await, source.upload()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unauthorized, "case {number}: {refused:?}");
        assert_eq!(refused.status().unwrap().as_u16(), 400);
        assert!(refused.to_string().contains("[redacted] doesn't match"), "{refused}");
        told(&refused);
        assert!(
            source.dropped.load(Ordering::SeqCst),
            "the source is let go before the error is told"
        );
        let produced = source.produced.load(Ordering::SeqCst);
        assert!(produced < 64 << 20, "{produced} bytes were produced");
    }
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_is_told() {
    // Nobody listens there; and a name that does not exist.
    for url in [
        "http://127.0.0.1:9/upload/1",
        "https://127.0.0.1:9/upload/1",
        "http://ssvm.invalid/upload/1",
    ] {
        let cloud = Cloud::start(move |_, _| support::ok(&ticket_at(url))).await;
        let client = cloud.client();
        let lost = client.upload(ticket(&client).await, Endless::new().upload()).await.unwrap_err();
        assert_eq!(lost.kind(), ErrorKind::Transport, "{lost}");
        assert!(lost.to_string().contains("secondary storage VM"), "{lost}");
        assert!(!lost.to_string().contains("/upload/"), "only the place is named: {lost}");
        told(&lost);
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_told_with_how_far_it_came() {
    let cloud = cloud(|_| {
        take(|mut tcp, _| async move {
            let mut part = vec![0; 1 << 20];
            for _ in 0..5 {
                let _ = tcp.read(&mut part).await;
            }
        })
    })
    .await;
    let client = cloud.client();
    let source = Endless::new();
    let lost = client.upload(ticket(&client).await, source.upload()).await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::Transport);
    assert!(lost.to_string().contains("bytes were on their way"), "{lost}");
    told(&lost);
    assert!(source.dropped.load(Ordering::SeqCst));
}

#[tokio::test]
async fn bad_data_never_becomes_a_whole_body() {
    let whole = Arc::new(AtomicBool::new(false));
    let seen_whole = Arc::clone(&whole);
    let cloud = cloud(move |seen| {
        let (len, whole) = (seen.len(), Arc::clone(&seen_whole));
        take(move |mut tcp, data| async move {
            let got = read_all(&mut tcp, data, len).await;
            if got.len() as u64 >= len {
                whole.store(true, Ordering::SeqCst);
            }
        })
    })
    .await;
    let client = cloud.client();
    let piece = || Ok(Bytes::from(vec![0; 1000]));
    let failed = || Err(std::io::Error::other("the export task failed"));
    for (len, body, words) in [
        (3000, vec![piece(), piece()], "ended after 2000 of the declared 3000"),
        (2000, vec![piece(), piece(), piece()], "longer than the declared 2000"),
        (2000, vec![piece(), piece(), failed()], "the export task failed"),
        (0, vec![], "there is no data"),
    ] {
        let upload = Upload::new(len, stream::iter(body).boxed());
        let bad = client.upload(ticket(&client).await, upload).await.unwrap_err();
        assert_eq!(bad.kind(), ErrorKind::Source, "{bad}");
        assert!(bad.to_string().contains(words), "{bad}");
        told(&bad);
    }
    assert!(!whole.load(Ordering::SeqCst), "the server never has all bytes");
}

#[tokio::test]
async fn what_would_be_stored_wrongly_is_not_sent() {
    let cloud = cloud(|_| hang_up()).await;
    let client = cloud.client();
    let template = NewTemplate::new("web01", "XenServer", Format::Vhd, "z1");
    let vhd = || client.call(upload_params(&template));
    let fixed = Upload::from_bytes(vec![0; 4096]);
    let refused = client.upload(vhd().await.unwrap(), fixed).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::UnsupportedFormat);
    assert!(refused.to_string().contains("nothing was sent"), "{refused}");
    for name in ["web01.qcow2", "web01.vhd\"; x=\".vhd", "a\r\nb.vhd", ".vhd"] {
        let named = Upload::from_bytes(vec![0; 4096]).with_file_name(name);
        let refused = client.upload(vhd().await.unwrap(), named).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{name:?}");
    }
    assert!(cloud.seen.lock().unwrap().iter().all(|seen| !seen.is_upload()));
    // Unless somebody wants it so.
    let off = Upload::from_bytes(vec![0; 4096]).with_preflight(Preflight::Off);
    assert_eq!(
        client.upload(vhd().await.unwrap(), off).await.unwrap_err().kind(),
        ErrorKind::Transport
    );
}

#[tokio::test]
async fn a_success_before_the_end_is_not_believed() {
    let cloud = cloud(|_| Reply::Send(raw("200 OK", &[], "upload successful."))).await;
    let client = cloud.client();
    let early = client.upload(ticket(&client).await, Endless::new().upload()).await.unwrap_err();
    assert_eq!(early.kind(), ErrorKind::Protocol);
    assert!(early.to_string().contains("before it had all"), "{early}");
}

#[tokio::test]
async fn a_cancelled_or_stalled_upload_ends() {
    let cloud = cloud(|_| {
        take(|tcp, _| async move {
            tokio::time::sleep(Duration::from_secs(60)).await;
            drop(tcp);
        })
    })
    .await;
    let client = cloud.client();
    let cancel = Arc::new(AtomicBool::new(false));
    let source = Endless::new();
    let upload =
        client.upload(ticket(&client).await, source.upload().with_cancel(Arc::clone(&cancel)));
    let (result, ()) = tokio::join!(upload, async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cancel.store(true, Ordering::Relaxed);
    });
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(source.dropped.load(Ordering::SeqCst));

    let short = Duration::from_millis(300);
    let stuck = stream::iter([Ok(Bytes::from(vec![0; 1024]))]).chain(stream::pending()).boxed();
    let stalled = Upload::new(4096, stuck).with_stall_timeout(short);
    let stalled = client.upload(ticket(&client).await, stalled).await.unwrap_err();
    assert_eq!(stalled.kind(), ErrorKind::Timeout);
    assert!(stalled.to_string().contains("no data has moved"), "{stalled}");
    let silent = Upload::from_bytes("abc").with_answer_timeout(short);
    let silent = client.upload(ticket(&client).await, silent).await.unwrap_err();
    assert!(silent.to_string().contains("has not answered after the last byte"), "{silent}");
}

#[tokio::test]
async fn uploads_over_tls_have_a_trust_of_their_own() {
    // As openssl makes it by default, a certificate that signed itself says that it is an authority.
    for authority in [false, true] {
        uploads_over_tls(authority, "localhost", &[]).await;
        uploads_over_tls(authority, "127.0.0.1", &[]).await;
    }
    // For another name it is none, whoever has signed it.
    for authority in [false, true] {
        uploads_over_tls(authority, "localhost", &["ssvm.example"]).await;
    }
}

/// The names in the certificate are that of the host, unless there are others.
async fn uploads_over_tls(authority: bool, host: &'static str, others: &[&str]) {
    let names = if others.is_empty() { &[host][..] } else { others };
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    if authority {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    }
    let signing_key = rcgen::KeyPair::generate().unwrap();
    let cert = params.self_signed(&signing_key).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ssvm.pem");
    std::fs::write(&ca, cert.pem()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(vec![cert.der().clone()], key)
    .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            // Else the kernel holds the answer back, and throws it away with the connection.
            tcp.set_nodelay(true).unwrap();
            let Ok(mut tls) = acceptor.accept(tcp).await else { continue };
            // Refuses early, over TLS as well.
            let mut part = vec![0; 4096];
            let _ = tls.read(&mut part).await;
            let _ = tls.write_all(&raw("500 Internal Server Error", &[], "no room")).await;
            let _ = tls.flush().await;
        }
    });
    let cloud = Cloud::start(move |_, _| {
        support::ok(&ticket_at(&format!("https://{host}:{port}/upload/1")))
    })
    .await;
    let build = |trust: Trust| {
        Client::builder(&cloud.url)
            .credentials(Credentials::new("k", "s"))
            .upload_trust(trust)
            .build()
            .unwrap()
    };
    for (trust, kind) in [
        (Trust::SystemRoots, ErrorKind::Transport),
        (
            Trust::CaFile(ca),
            if others.is_empty() { ErrorKind::Server } else { ErrorKind::Transport },
        ),
        (Trust::DangerAcceptAny, ErrorKind::Server),
    ] {
        let client = build(trust.clone());
        let refused =
            client.upload(ticket(&client).await, Endless::new().upload()).await.unwrap_err();
        assert_eq!(refused.kind(), kind, "{authority} {host} {trust:?}: {refused}");
        told(&refused);
    }
    server.abort();
}
