//! What happens to an upload when the server does not play along.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use glance_client::{ErrorKind, Upload};
use support::{Cloud, ID, Reply, Seen, answer, image, json, take};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PUT: &str = "/v2/images/9b4b0a5c-6d41-4f3b-9d6f-0b1e5a6a2c11/file";
const TOO_LARGE: &str = "<html>\n <head>\n  <title>413 Request Entity Too Large</title>\n </head>\n <body>\n  <h1>413 Request \
    Entity Too Large</h1>\n  Image exceeds the storage quota: 1 &gt; 0<br /><br />\n </body>\n</html>";

fn is_put(request: &Seen) -> bool {
    request.method == "PUT"
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

    fn upload(&self, len: Option<u64>) -> Upload {
        let chunk = Bytes::from(vec![0; 64 << 10]);
        let produced = Arc::clone(&self.produced);
        let guard = OnDrop(Arc::clone(&self.dropped));
        let body = stream::repeat_with(move || {
            let _ = &guard;
            produced.fetch_add(chunk.len() as u64, Ordering::SeqCst);
            Ok(chunk.clone())
        });
        Upload::new(len, body.boxed())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_early_413_stops_an_endless_source_and_is_never_lost() {
    // How much the server reads before it refuses, and whether it closes at once, with megabytes unread, or stays open
    // and reads nothing more. The first makes the kernel reset the connection while the client writes.
    let cloud = Cloud::start(3600, |request| {
        if !is_put(request) {
            return Reply::Default;
        }
        let case: u64 = request.headers["x-image-meta-store"].parse().unwrap();
        take(move |mut tcp, _| async move {
            let mut left = (case % 5) * 300_000;
            let mut part = vec![0; 65536];
            while left > 0 {
                let n = tcp.read(&mut part).await.unwrap();
                left = left.saturating_sub(n as u64);
            }
            let refusal =
                answer("413 Request Entity Too Large", &[("Content-Type", "text/html")], TOO_LARGE);
            let _ = tcp.write_all(&refusal).await;
            if case % 2 == 1 {
                tokio::time::sleep(Duration::from_secs(30)).await;
            }
        })
    })
    .await;
    let glance = cloud.glance().await;
    for case in 0..100u64 {
        let source = Endless::new();
        let len = (case % 3 != 0).then_some(1 << 40);
        let start = Instant::now();
        let error =
            glance.upload(ID, source.upload(len).with_store(case.to_string())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge, "case {case}: {error} {error:?}");
        assert_eq!(error.request_id(), Some("req-77"));
        let text = error.to_string();
        assert!(
            text.contains("Image exceeds the storage quota: 1 > 0") && !text.contains('<'),
            "{text}"
        );
        assert!(
            source.dropped.load(Ordering::SeqCst),
            "the source is let go before the error is told"
        );
        let produced = source.produced.load(Ordering::SeqCst);
        assert!(produced < 64 << 20, "{produced} bytes were produced");
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}

#[tokio::test]
async fn declared_sizes_and_nothing_that_glance_misreads() {
    let cloud = Cloud::start(3600, |_| Reply::Default).await;
    let glance = cloud.glance().await;
    let done = glance.upload(ID, Upload::from_bytes(vec![1; 100_000])).await.unwrap();
    assert_eq!((done.bytes, done.request_id.as_deref()), (100_000, Some("req-204")));
    let sent = &cloud.seen("PUT", PUT)[0].headers;
    assert_eq!(sent["content-length"], "100000");
    assert_eq!(sent["x-openstack-image-size"], "100000");
    assert_eq!(sent["content-type"], "application/octet-stream");
    assert_eq!(sent["x-auth-token"], "token-1");
    assert!(!sent.contains_key("content-range") && !sent.contains_key("transfer-encoding"));
}

#[tokio::test]
async fn an_unknown_size_travels_in_chunks() {
    let cloud = Cloud::start(3600, |request| {
        if !is_put(request) {
            return Reply::Default;
        }
        take(|mut tcp, mut data| async move {
            while !data.ends_with(b"0\r\n\r\n") {
                let mut part = [0; 4096];
                let n = tcp.read(&mut part).await.unwrap();
                data.extend_from_slice(&part[..n]);
            }
            tcp.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        })
    })
    .await;
    let body = stream::iter([Ok(Bytes::from_static(b"abc")), Ok(Bytes::from_static(b"def"))]);
    let done = cloud.glance().await.upload(ID, Upload::new(None, body.boxed())).await.unwrap();
    assert_eq!(done.bytes, 6);
    let sent = &cloud.seen("PUT", PUT)[0].headers;
    assert_eq!(sent["transfer-encoding"], "chunked");
    assert!(!sent.contains_key("x-openstack-image-size") && !sent.contains_key("content-length"));
}

/// Answers the first PUT with 401 before any of its body, and takes the second.
fn refuses_the_first_token(request: &Seen) -> Reply {
    if is_put(request) && request.token() == "token-1" {
        return take(|mut tcp, _| async move {
            let _ = tcp.write_all(&answer("401 Unauthorized", &[], "The token is gone")).await;
        });
    }
    Reply::Default
}

#[tokio::test]
async fn a_refused_token_costs_a_second_attempt_if_the_body_can_be_made_again() {
    let cloud = Cloud::start(3600, refuses_the_first_token).await;
    let glance = cloud.glance().await;
    let opened = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&opened);
    let upload = Upload::replayable(Some(3 << 20), move || {
        count.fetch_add(1, Ordering::SeqCst);
        stream::iter((0..48).map(|_| Ok(Bytes::from(vec![7; 64 << 10])))).boxed()
    });
    assert_eq!(glance.upload(ID, upload).await.unwrap().bytes, 3 << 20);
    assert_eq!((opened.load(Ordering::SeqCst), cloud.logins()), (2, 2));
    let tokens: Vec<_> = cloud.seen("PUT", PUT).iter().map(|put| put.token().to_owned()).collect();
    assert_eq!(tokens, ["token-1", "token-2"]);
}

#[tokio::test]
async fn a_refused_token_is_told_if_the_body_is_gone() {
    let cloud = Cloud::start(3600, refuses_the_first_token).await;
    let body = stream::iter([Ok(Bytes::from_static(b"abc"))]).boxed();
    let error = cloud.glance().await.upload(ID, Upload::new(Some(3), body)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(
        error.to_string().contains("The token is gone; the token was refused on the way"),
        "{error}"
    );
    assert_eq!(cloud.seen("PUT", PUT).len(), 1);
}

#[tokio::test]
async fn a_second_refusal_is_final() {
    let cloud = Cloud::start(3600, |request| {
        if is_put(request) {
            Reply::Send(answer("401 Unauthorized", &[], "no"))
        } else {
            Reply::Default
        }
    })
    .await;
    let error = cloud.glance().await.upload(ID, Upload::from_bytes("abc")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert_eq!(cloud.seen("PUT", PUT).len(), 2);
}

#[tokio::test]
async fn a_token_too_old_for_the_upload_is_renewed_before_it() {
    let cloud = Cloud::start(600, |_| Reply::Default).await;
    let glance = cloud.glance().await;
    glance
        .upload(ID, Upload::from_bytes("abc").with_estimate(Duration::from_secs(60)))
        .await
        .unwrap();
    assert_eq!(cloud.logins(), 1);
    // The tokens of this cloud do not live for an hour; a fresh one is as good as it gets.
    glance
        .upload(ID, Upload::from_bytes("abc").with_estimate(Duration::from_secs(3600)))
        .await
        .unwrap();
    assert_eq!(cloud.logins(), 1);
}

#[tokio::test]
async fn bad_data_never_becomes_a_whole_body() {
    let got = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&got);
    let cloud = Cloud::start(3600, move |request| {
        if !is_put(request) {
            return Reply::Default;
        }
        let count = Arc::clone(&count);
        take(move |mut tcp, data| async move {
            let mut sum = data.len();
            let mut part = [0; 4096];
            while let Ok(n) = tcp.read(&mut part).await {
                if n == 0 {
                    break;
                }
                sum += n;
            }
            count.store(sum as u64, Ordering::SeqCst);
        })
    })
    .await;
    let glance = cloud.glance().await;
    let piece = || Ok(Bytes::from(vec![0; 1000]));
    let failed = || Err(std::io::Error::other("the export task failed"));
    for (len, body, words) in [
        (Some(3000), vec![piece(), piece()], "ended after 2000 of the declared 3000"),
        (Some(2000), vec![piece(), piece(), piece()], "longer than the declared 2000"),
        (Some(2000), vec![piece(), piece(), failed()], "the export task failed"),
        (None, vec![piece(), piece(), failed()], "the export task failed"),
    ] {
        let error =
            glance.upload(ID, Upload::new(len, stream::iter(body).boxed())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Source, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(got.load(Ordering::SeqCst) < 2000, "the server has all bytes of {words}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_told_with_how_far_it_came() {
    let cloud = Cloud::start(3600, |request| {
        if is_put(request) { take(|tcp, _| async move { drop(tcp) }) } else { Reply::Default }
    })
    .await;
    let error = cloud.glance().await.upload(ID, Endless::new().upload(None)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transport);
    assert!(
        error.is_retryable() && error.to_string().contains("bytes were on their way"),
        "{error}"
    );
    assert!(error.to_string().starts_with(&format!("image {ID}: upload: ")), "{error}");
}

#[tokio::test]
async fn a_cancelled_or_stalled_upload_ends() {
    let cloud = Cloud::start(3600, |request| {
        if !is_put(request) {
            return Reply::Default;
        }
        take(|tcp, _| async move {
            tokio::time::sleep(Duration::from_secs(60)).await;
            drop(tcp);
        })
    })
    .await;
    let glance = cloud.glance().await;
    let cancel = Arc::new(AtomicBool::new(false));
    let source = Endless::new();
    let upload = glance.upload(ID, source.upload(None).with_cancel(Arc::clone(&cancel)));
    let (result, ()) = tokio::join!(upload, async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cancel.store(true, Ordering::Relaxed);
    });
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(source.dropped.load(Ordering::SeqCst));

    let short = Duration::from_millis(300);
    let stuck = stream::iter([Ok(Bytes::from(vec![0; 1024]))]).chain(stream::pending()).boxed();
    let error =
        glance.upload(ID, Upload::new(None, stuck).with_stall_timeout(short)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("no data has moved"), "{error}");
    let error =
        glance.upload(ID, Upload::from_bytes("abc").with_answer_timeout(short)).await.unwrap_err();
    assert!(error.to_string().contains("has not answered after the last byte"), "{error}");
}

#[tokio::test]
async fn nothing_is_sent_to_an_image_that_cannot_take_it() {
    let cloud = Cloud::start(3600, |request| match request.path.as_str() {
        "/v2/images/1" => Reply::Send(json("200 OK", &image("active"))),
        "/v2/images/2" => Reply::Send(answer("404 Not Found", &[], "no")),
        _ => Reply::Default,
    })
    .await;
    let glance = cloud.glance().await;
    let kind = async |id: &str, data: &'static [u8]| {
        glance.upload(id, Upload::from_bytes(data)).await.unwrap_err().kind()
    };
    assert_eq!(kind("1", b"abc").await, ErrorKind::Conflict);
    assert_eq!(kind("2", b"abc").await, ErrorKind::NotFound);
    assert_eq!(kind("3", b"QFI\xfb").await, ErrorKind::UnsupportedFormat);
    assert!(cloud.seen.lock().unwrap().iter().all(|request| request.method != "PUT"));
}

#[tokio::test]
async fn a_success_before_the_end_is_not_believed() {
    let cloud = Cloud::start(3600, |request| {
        if is_put(request) {
            Reply::Send(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec())
        } else {
            Reply::Default
        }
    })
    .await;
    let error =
        cloud.glance().await.upload(ID, Endless::new().upload(Some(1 << 40))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(error.to_string().contains("before it had all"), "{error}");
}

#[tokio::test]
async fn an_image_whose_data_was_refused_is_told_to_be_used_up() {
    // As Glance does it: 415 after the body; the image is queued again, with its store, and the next upload fails.
    let cloud = Cloud::start(3600, |request| {
        let refused = request.path.contains("/images/2");
        match request.method.as_str() {
            "PUT" if refused => Reply::Send(answer("500 Internal Server Error", &[], "erred")),
            "PUT" => Reply::Send(answer("415 Unsupported Media Type", &[], "no")),
            "GET" if refused => {
                let mut record = image("queued");
                record["stores"] = "fast".into();
                Reply::Send(json("200 OK", &record))
            }
            _ => Reply::Default,
        }
    })
    .await;
    let glance = cloud.glance().await;
    for (id, kind) in [("1", ErrorKind::UnsupportedFormat), ("2", ErrorKind::Server)] {
        let error = glance.upload(id, Upload::from_bytes("abc")).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains("delete the image"), "{error}");
    }
    let error = glance.wait("2", &glance_client::image::WaitOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("make a new one"), "{error}");
}

#[tokio::test]
async fn a_source_that_begins_slowly_has_not_stalled() {
    let cloud = Cloud::start(3600, |_| Reply::Default).await;
    let glance = cloud.glance().await;
    let pieces = futures_util::stream::iter(0..8).then(|_| async {
        tokio::time::sleep(Duration::from_millis(250)).await;
        Ok(Bytes::from_static(b"piece"))
    });
    let upload =
        Upload::new(Some(40), pieces.boxed()).with_stall_timeout(Duration::from_millis(1500));
    assert_eq!(glance.upload(ID, upload).await.unwrap().bytes, 40);
}
