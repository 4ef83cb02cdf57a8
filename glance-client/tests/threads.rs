//! Uploads and downloads where there are few threads for blocking work: none may wait for the threads of another.

#![allow(clippy::unwrap_used)]

mod support;

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt, stream};
use glance_client::image::DownloadOptions;
use glance_client::{Glance, Upload};
use support::{Cloud, ID, Reply, answer, image, json};

const SIZE: usize = 4 << 20;
/// `head -c 4194304 /dev/zero | tr '\0' a | md5sum`, and the same with sha512sum.
const MD5: &str = "bdbcf02ee0aa977795a79d25fcfdccb1";
const SHA512: &str = "71bcbc3c7ebc8f42624eafee00f74ff46f28f44e1a46cbc71d4610d4724a780be5f7dcd7212d79549562f760a9c63c6dfbf4db0ede8e197198c2454235c76bd8";

/// A runtime that is as small as it can be. What has not ended after minutes never will.
fn with_threads<T>(blocking: usize, work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(blocking)
        .enable_all()
        .build()
        .unwrap();
    let result =
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(120), work).await });
    // Threads that wait for each other would be waited for.
    runtime.shutdown_background();
    result.unwrap_or_else(|_| panic!("they wait for each other on {blocking} blocking threads"))
}

fn file() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    std::fs::write(&path, vec![b'a'; SIZE]).unwrap();
    (folder, path)
}

async fn cloud() -> Cloud {
    let mut active = image("active");
    active["size"] = SIZE.into();
    active["os_hash_algo"] = "sha512".into();
    active["os_hash_value"] = SHA512.into();
    let body = "a".repeat(SIZE);
    Cloud::start(3600, move |request| match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/v2/images/stored") => Reply::Send(json("200 OK", &active)),
        ("GET", "/v2/images/stored/file") => Reply::Send(answer("200 OK", &[], &body)),
        _ => Reply::Default,
    })
    .await
}

async fn send(glance: &Glance, upload: Upload) {
    let sent = glance.upload(ID, upload.with_digests()).await.unwrap();
    assert_eq!(sent.bytes, SIZE as u64);
    assert_eq!(sent.digests.md5.as_deref(), Some(MD5));
    assert_eq!(sent.digests.sha512.as_deref(), Some(SHA512));
}

/// Data whose pieces take a blocking thread each, as a disk image that is converted does.
fn converted() -> Upload {
    let pieces = stream::iter(0..16).then(|_| async {
        let piece = tokio::task::spawn_blocking(|| Bytes::from(vec![b'a'; SIZE / 16]));
        Ok(piece.await.unwrap())
    });
    Upload::new(Some(SIZE as u64), pieces.boxed())
}

/// Data of a blocking thread that is kept as long as the upload lasts, because its reader is not asynchronous.
fn bridged() -> Upload {
    let (queue, pieces) = tokio::sync::mpsc::channel(1);
    tokio::task::spawn_blocking(move || {
        for _ in 0..16 {
            let piece = Ok(Bytes::from(vec![b'a'; SIZE / 16]));
            queue.blocking_send(piece).unwrap();
        }
    });
    let pieces = stream::unfold(pieces, |mut pieces| async move {
        pieces.recv().await.map(|piece| (piece, pieces))
    });
    Upload::new(Some(SIZE as u64), pieces.boxed())
}

async fn receive(glance: &Glance) {
    let download = glance.download("stored", &DownloadOptions::new()).await.unwrap();
    assert_eq!(download.verified_by.as_deref(), Some("sha512"));
    let pieces: Vec<Bytes> = download.stream.try_collect().await.unwrap();
    assert_eq!(pieces.iter().map(Bytes::len).sum::<usize>(), SIZE);
}

#[test]
fn one_upload_of_a_file_needs_no_three_threads() {
    let (_folder, path) = file();
    for blocking in [2, 1] {
        with_threads(blocking, async {
            let cloud = cloud().await;
            send(&cloud.glance().await, Upload::from_file(&path).unwrap()).await;
        });
    }
}

#[test]
fn uploads_and_downloads_at_the_same_time_do_not_wait_for_each_other() {
    let (_folder, path) = file();
    for blocking in [2, 1] {
        with_threads(blocking, async {
            let cloud = cloud().await;
            let glance = cloud.glance().await;
            let files = (0..6).map(|_| send(&glance, Upload::from_file(&path).unwrap()));
            let made = (0..6).map(|_| send(&glance, converted()));
            let received = (0..6).map(|_| receive(&glance));
            tokio::join!(join_all(files), join_all(made), join_all(received));
        });
    }
}

#[test]
fn threads_that_are_all_taken_by_the_data_are_not_waited_for() {
    for blocking in [1, 2] {
        with_threads(blocking, async {
            let cloud = cloud().await;
            let glance = cloud.glance().await;
            join_all((0..blocking).map(|_| send(&glance, bridged()))).await;
        });
    }
}
