//! Downloads from servers that fall silent, or send something else than the image.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use futures_util::TryStreamExt;
use glance_client::image::DownloadOptions;
use glance_client::{Error, ErrorKind};
use serde_json::json as value;
use support::{Cloud, ID, Reply, Seen, answer, json, take};
use tokio::io::AsyncWriteExt;

const DATA: &str = "0123456789";
/// `printf 0123456789 | md5sum`
const MD5: &str = "781e5e245d69b566979b86e28d23f2c7";

/// A cloud with one active image of ten bytes, whose data come as `file` says.
async fn cloud(file: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Cloud {
    Cloud::start(3600, move |request| match request.path.as_str() {
        path if path.ends_with("/file") => file(request),
        path if path.ends_with(ID) => Reply::Send(json(
            "200 OK",
            &value!({"id": ID, "status": "active", "size": 10, "checksum": MD5, "stores": "fast"}),
        )),
        _ => Reply::Default,
    })
    .await
}

async fn read(cloud: &Cloud, options: &DownloadOptions) -> Result<String, Error> {
    let options = options.clone().with_stall_timeout(Duration::from_millis(300)).with_resumes(2);
    let glance = cloud.glance().await;
    let work = async {
        let pieces: Vec<_> = glance.download(ID, &options).await?.stream.try_collect().await?;
        Ok(String::from_utf8(pieces.concat()).unwrap())
    };
    // Only so that a failure ends: what is tested has limits of its own.
    tokio::time::timeout(Duration::from_secs(60), work).await.unwrap()
}

fn unverified() -> DownloadOptions {
    DownloadOptions::new().with_verify(false)
}

fn range(request: &Seen) -> &str {
    request.headers.get("range").map_or("", String::as_str)
}

fn part(first: usize, last: usize, total: &str) -> Reply {
    let range = format!("bytes {first}-{last}/{total}");
    Reply::Send(answer("206 Partial Content", &[("Content-Range", &range)], &DATA[first..=last]))
}

/// Writes this, and closes or falls silent.
fn raw(text: &'static str, closes: bool) -> Reply {
    take(move |mut tcp, _| async move {
        tcp.write_all(text.as_bytes()).await.unwrap();
        if !closes {
            std::future::pending::<()>().await;
        }
    })
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let silent = cloud(|_| raw("", false)).await;
    let error = read(&silent, &DownloadOptions::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert_eq!(silent.seen("GET", &format!("/v2/images/{ID}/file")).len(), 3);

    let endless = cloud(|_| {
        raw("HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\nthe text that never en", false)
    })
    .await;
    let error = read(&endless, &DownloadOptions::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");

    // The same in the middle.
    let later = cloud(|request| match range(request) {
        "" => raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234", true),
        _ => raw("", false),
    })
    .await;
    let error = read(&later, &DownloadOptions::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
}

#[tokio::test]
async fn a_part_of_the_part_is_not_all_of_it() {
    let cloud = cloud(|request| match range(request) {
        "bytes=2-8" => part(2, 4, "10"),
        "bytes=5-8" => part(5, 5, "*"),
        "bytes=6-8" => part(6, 8, "10"),
        "bytes=7-" => part(7, 7, "10"),
        "bytes=8-" => part(8, 9, "10"),
        "bytes=4-99" => part(4, 4, "*"),
        "bytes=5-99" => part(5, 9, "*"),
        other => panic!("{other}"),
    })
    .await;
    let wanted = |start, len| unverified().with_range(start, len);
    assert_eq!(read(&cloud, &wanted(2, Some(7))).await.unwrap(), "2345678");
    assert_eq!(read(&cloud, &wanted(7, None)).await.unwrap(), "789");
    assert_eq!(read(&cloud, &wanted(4, Some(96))).await.unwrap(), "456789");
}

#[tokio::test]
async fn an_answer_without_a_length_is_as_long_as_the_image() {
    let cloud = cloud(|request| match range(request) {
        "" => raw("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n0123", true),
        "bytes=4-" => part(4, 9, "10"),
        other => panic!("{other}"),
    })
    .await;
    assert_eq!(read(&cloud, &unverified()).await.unwrap(), DATA);
    assert_eq!(read(&cloud, &DownloadOptions::new()).await.unwrap(), DATA);
}

#[tokio::test]
async fn data_of_another_length_are_not_the_image() {
    let short = cloud(|_| Reply::Send(answer("200 OK", &[], "012345"))).await;
    for options in [unverified(), DownloadOptions::new(), unverified().with_range(0, Some(3))] {
        let error = read(&short, &options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
        assert!(error.to_string().contains("6 bytes"), "{error}");
    }

    let changed = cloud(|request| match range(request) {
        "" => raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234", true),
        "bytes=1-" => raw(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 1-9/10\r\nContent-Length: 9\r\n\r\n1234",
            true,
        ),
        "bytes=5-" => part(5, 8, "9"),
        other => panic!("{other}"),
    })
    .await;
    for options in [unverified(), unverified().with_range(1, None)] {
        let error = read(&changed, &options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
        assert!(error.to_string().contains("9 bytes"), "{error}");
    }
}

#[tokio::test]
async fn a_part_behind_the_end_is_told_where_ranges_are_ignored() {
    let cloud = cloud(|_| Reply::Send(answer("200 OK", &[], DATA))).await;
    assert_eq!(read(&cloud, &unverified().with_range(8, Some(5))).await.unwrap(), "89");
    for start in [10, 11, u64::MAX] {
        let error = read(&cloud, &unverified().with_range(start, None)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("not so many bytes"), "{error}");
    }
}

#[tokio::test]
async fn a_token_that_the_server_repeats_is_in_no_error() {
    let cloud = cloud(|request| {
        Reply::Send(answer("403 Forbidden", &[], &format!("not for {}", request.token())))
    })
    .await;
    let error = read(&cloud, &DownloadOptions::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden);
    assert!(!format!("{error} {error:?}").contains("token-1"), "{error:?}");
}

#[tokio::test]
async fn a_part_as_long_as_a_number_can_be_is_refused() {
    let cloud = Cloud::start(3600, |request| match request.path.as_str() {
        path if path.ends_with("/file") => {
            let range = [("Content-Range", "bytes 0-18446744073709551615/*")];
            Reply::Send(answer("206 Partial Content", &range, DATA))
        }
        // The image does not tell its size either.
        path if path.ends_with(ID) => {
            Reply::Send(json("200 OK", &value!({"id": ID, "status": "active", "stores": "fast"})))
        }
        _ => Reply::Default,
    })
    .await;
    let error = read(&cloud, &unverified()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
}

#[tokio::test]
async fn a_token_that_is_refused_for_good_on_the_way_ends_it() {
    let cloud = cloud(|request| match range(request) {
        "" => raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234", true),
        _ => Reply::Send(answer("401 Unauthorized", &[], "your role is gone")),
    })
    .await;
    let error = read(&cloud, &unverified()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    // Each more would be a login more, and a few that fail lock a user out.
    assert_eq!((cloud.seen("GET", &format!("/v2/images/{ID}/file")).len(), cloud.logins()), (3, 2));
}
