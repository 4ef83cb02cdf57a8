//! What becomes of an image under every fault of a server: the data arrive and are compared, or nothing is left.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use glance_client::image::{ContainerFormat, DiskFormat, NewImage, StoreOptions, Stored};
use glance_client::keystone::{Domain, Principal, Scope, Session};
use glance_client::{CloudConfig, Error, ErrorKind, Glance, Upload, WaitOptions};
use simulator::openstack::{OpenStack, OpenStackConfig};

const SIZE: usize = 1_000_000;

async fn cloud(faults: &[&str]) -> (OpenStack, Glance) {
    let cloud = OpenStack::start(OpenStackConfig::new()).await.unwrap();
    let named = |name: &str| Principal::named(name, Domain::default());
    let config = CloudConfig::builder(cloud.auth_url())
        .with_password(named(cloud.config().username()), cloud.config().password())
        .with_scope(Scope::Project(named(cloud.config().project())))
        .build()
        .unwrap();
    let glance = Glance::connect(&Session::connect(&config).await.unwrap()).await.unwrap();
    for fault in faults {
        cloud.faults().set_str(fault).unwrap();
    }
    (cloud, glance)
}

fn image() -> NewImage {
    NewImage::new("web01", DiskFormat::Raw, ContainerFormat::Bare)
        .with_id(uuid::Uuid::new_v4().to_string())
}

fn data() -> Vec<u8> {
    (0..SIZE).map(|n| (n * n % 251) as u8 | 1).collect()
}

/// Data in pieces, which can be made again.
fn upload() -> Upload {
    Upload::replayable(Some(SIZE as u64), || {
        let pieces = data().chunks(10_000).map(Bytes::copy_from_slice).map(Ok).collect::<Vec<_>>();
        stream::iter(pieces).boxed()
    })
}

fn options() -> StoreOptions {
    let wait = WaitOptions::default()
        .with_timeout(Duration::from_secs(5))
        .with_pauses(Duration::from_millis(5), Duration::from_millis(20));
    StoreOptions::default().with_pause(Duration::from_millis(5)).with_wait(wait)
}

async fn store(glance: &Glance) -> Result<Stored, Error> {
    glance.store(&image(), upload(), &options()).await
}

#[tokio::test]
async fn what_may_pass_is_sent_again_into_the_same_image() {
    for (fault, attempts) in [
        ("no-checksum", 1),
        ("slow-activate=50", 1),
        ("upload-close=300000@1", 2),
        ("upload-close=300000@2", 3),
        ("upload-fails=503:300000@1", 2),
        ("upload-fails=500:0@1", 2),
        ("fail-nth=1:PUT /v2/images 502", 2),
        // The answers are lost, and nothing is made or sent twice.
        ("drop-after-effect=PUT /v2/images", 1),
        ("drop-after-effect=POST /v2/images", 1),
        ("create-500-after-store@1", 1),
        ("fail-nth=1:POST /v2/images 503", 1),
    ] {
        let (cloud, glance) = cloud(&[fault]).await;
        let stored = store(&glance).await.unwrap_or_else(|error| panic!("{fault}: {error}"));
        assert_eq!(stored.attempts, attempts, "{fault}");
        assert_eq!((stored.bytes, stored.compared.as_str()), (SIZE as u64, "sha512"), "{fault}");
        let held = cloud.images();
        assert_eq!(held.len(), 1, "{fault}");
        assert_eq!(
            (held[0]["id"].as_str(), held[0]["status"].as_str()),
            (Some(stored.image.id.as_str()), Some("active"))
        );
        assert!(std::fs::read(cloud.image_path(&stored.image.id).unwrap()).unwrap() == data());
        cloud.stop().await;
    }
}

#[tokio::test]
async fn what_cannot_pass_is_told_and_cleaned_up() {
    for (fault, kind, words) in [
        ("upload-close=300000", ErrorKind::Transport, "sent 3 times"),
        ("upload-fails=503:300000", ErrorKind::Server, "sent 3 times"),
        ("size-cap=500000", ErrorKind::TooLarge, "size limit"),
        ("quota=500000", ErrorKind::TooLarge, "quota"),
        ("hash-mismatch", ErrorKind::Mismatch, "sha512 differs"),
        ("upload-fails=415:500000", ErrorKind::UnsupportedFormat, "declared formats"),
        ("upload-fails=409:500000", ErrorKind::Conflict, "409"),
        ("upload-fails=410:500000", ErrorKind::NotFound, "410"),
        ("image-killed", ErrorKind::Failed, "killed"),
        ("image-back-to-queued", ErrorKind::Failed, "queued"),
        ("stuck-saving", ErrorKind::Timeout, "saving"),
    ] {
        let (cloud, glance) = cloud(&[fault]).await;
        let error =
            glance.store(&image(), upload(), &options().with_wait(quick())).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{fault}: {error}");
        assert!(error.to_string().contains(words), "{fault}: {error}");
        assert!(cloud.images().is_empty(), "{fault} left an image: {error}");
        cloud.stop().await;
    }
}

fn quick() -> WaitOptions {
    options().wait.with_timeout(Duration::from_millis(300))
}

#[tokio::test]
async fn a_cloud_with_another_digest_costs_another_pass_and_no_image() {
    let (cloud, glance) = cloud(&["sha256-multihash", "no-checksum"]).await;
    let stored = store(&glance).await.unwrap();
    assert_eq!((stored.compared.as_str(), stored.attempts), ("sha256", 1));
    assert_eq!(stored.digests.sha256, stored.image.os_hash_value);
    // Data that cannot be made again cannot be compared.
    let once = Upload::new(Some(3), stream::iter([Ok(Bytes::from_static(b"abc"))]).boxed());
    let error = glance.store(&image(), once, &options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    cloud.stop().await;
    // And what was stored is compared, not believed.
    let (cloud, glance) = self::cloud(&["sha256-multihash", "no-checksum", "hash-mismatch"]).await;
    let error = store(&glance).await.unwrap_err();
    assert!(error.to_string().contains("sha256 differs"), "{error}");
    cloud.stop().await;
}

#[tokio::test]
async fn an_image_that_stays_is_named() {
    let (cloud, glance) = cloud(&["size-cap=500000"]).await;
    let new = image();
    let id = new.id.clone().unwrap();
    let kept = glance.store(&new, upload(), &options().with_keep_failed(true)).await.unwrap_err();
    assert!(kept.to_string().contains(&id), "{kept}");
    assert_eq!(cloud.images()[0]["status"], "queued");
    // The image takes data once the cap is gone.
    cloud.faults().clear();
    assert_eq!(glance.fill(&id, upload(), &options()).await.unwrap().image.id, id);

    cloud.faults().set_str("size-cap=500000").unwrap();
    cloud.faults().set_str("fail-nth=1:DELETE /v2/images 503").unwrap();
    let new = image();
    let left = glance.store(&new, upload(), &options()).await.unwrap_err();
    assert_eq!(left.kind(), ErrorKind::TooLarge);
    assert!(left.to_string().contains(new.id.as_ref().unwrap()), "{left}");
    assert!(left.to_string().contains("could not be deleted"), "{left}");
    cloud.stop().await;
}

#[tokio::test]
async fn an_image_of_somebody_else_is_left_alone() {
    let (cloud, glance) = cloud(&[]).await;
    let new = image();
    glance.create(&new).await.unwrap();
    let error = glance.store(&new, upload(), &options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(cloud.images()[0]["status"], "queued");
    cloud.stop().await;
}

#[tokio::test]
async fn data_that_can_be_made_once_are_sent_once() {
    let (cloud, glance) = cloud(&["upload-close=300000@1"]).await;
    let once = Upload::new(Some(SIZE as u64), stream::iter([Ok(Bytes::from(data()))]).boxed());
    let error = glance.store(&image(), once, &options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transport, "{error}");
    assert!(cloud.images().is_empty());
    cloud.stop().await;
}

#[tokio::test]
async fn bad_data_and_a_cancelled_upload_leave_nothing() {
    let (cloud, glance) = cloud(&[]).await;
    let broken = || {
        let pieces = [Ok(Bytes::from(vec![7; 40_000])), Err(std::io::Error::other("cut"))];
        stream::iter(pieces).boxed()
    };
    for upload in [Upload::replayable(None, broken), Upload::replayable(Some(9), broken)] {
        let error = glance.store(&image(), upload, &options()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Source, "{error}");
        assert!(cloud.images().is_empty());
    }
    let (cancel, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (flag, count) = (Arc::clone(&cancel), Arc::clone(&sent));
    let endless = Upload::replayable(None, || {
        stream::repeat_with(|| Ok(Bytes::from(vec![7; 65_536]))).boxed()
    });
    let endless = endless.with_cancel(cancel).with_progress(move |bytes| {
        count.store(bytes, Ordering::SeqCst);
        flag.store(bytes > 1 << 20, Ordering::SeqCst);
    });
    let error = glance.store(&image(), endless, &options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    assert!(sent.load(Ordering::SeqCst) > 1 << 20);
    assert!(cloud.images().is_empty());
    cloud.stop().await;
}

#[tokio::test]
async fn a_cancelled_upload_is_not_waited_for() {
    use support::{ID, Reply, answer, json, take};
    // The image stays in this state after the data, or after they broke off; or the server cannot take them now.
    for (state, breaks, status) in
        [("saving", false, "204"), ("saving", true, ""), ("queued", false, "503")]
    {
        let cancel = Arc::new(AtomicBool::new(false));
        let (flag, sent) = (Arc::clone(&cancel), Arc::new(AtomicBool::new(false)));
        let cloud = support::Cloud::start(3600, move |request| match request.method.as_str() {
            "POST" if request.path == "/v2/images" => {
                Reply::Send(json("201 Created", &support::image("queued")))
            }
            "GET" if request.path.ends_with("/schemas/image") => {
                Reply::Send(answer("200 OK", &[], "{}"))
            }
            "GET" if request.path.ends_with(ID) && sent.load(Ordering::SeqCst) => {
                flag.store(true, Ordering::SeqCst);
                Reply::Send(json("200 OK", &support::image(state)))
            }
            "PUT" => {
                sent.store(true, Ordering::SeqCst);
                match breaks {
                    true => take(|tcp, _| async move { drop(tcp) }),
                    false => Reply::Send(answer(status, &[], "")),
                }
            }
            "DELETE" => Reply::Send(answer("204 No Content", &[], "")),
            _ => Reply::Default,
        })
        .await;
        let glance = cloud.glance().await;
        let long = Duration::from_secs(3600);
        let options = StoreOptions::default()
            .with_pause(long)
            .with_wait(WaitOptions::default().with_timeout(long));
        let upload = Upload::from_bytes("abc").with_cancel(cancel);
        let new = image().with_id(ID);
        let work = glance.store(&new, upload, &options);
        let result = tokio::time::timeout(Duration::from_secs(20), work).await;
        let error = result.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
        assert_eq!(cloud.seen("DELETE", &format!("/v2/images/{ID}")).len(), 1);
    }
}

/// An image that takes the data `abc`, answers the PUT with `status`, and shows these states one after the other once it
/// has the data.
async fn late(status: &'static str, states: &'static [&'static str]) -> support::Cloud {
    use support::{ID, Reply, answer, json, take};
    let looks = AtomicU64::new(0);
    let sent = Arc::new(AtomicBool::new(false));
    support::Cloud::start(3600, move |request| match request.method.as_str() {
        "POST" if request.path == "/v2/images" => {
            Reply::Send(json("201 Created", &support::image("queued")))
        }
        "GET" if request.path.ends_with("/schemas/image") => {
            Reply::Send(answer("200 OK", &[], "{}"))
        }
        "GET" if request.path.ends_with(ID) && sent.load(Ordering::SeqCst) => {
            let look = looks.fetch_add(1, Ordering::SeqCst) as usize;
            let mut record = support::image(states[look.min(states.len() - 1)]);
            record["size"] = 3.into();
            record["checksum"] = "900150983cd24fb0d6963f7d28e17f72".into();
            Reply::Send(json("200 OK", &record))
        }
        "PUT" => {
            let sent = Arc::clone(&sent);
            take(move |mut tcp, mut data| async move {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                while data.len() < 3 {
                    tcp.read_buf(&mut data).await.unwrap();
                }
                sent.store(true, Ordering::SeqCst);
                tcp.write_all(&answer(status, &[], "")).await.unwrap();
            })
        }
        "DELETE" => Reply::Send(answer("204 No Content", &[], "")),
        _ => Reply::Default,
    })
    .await
}

#[tokio::test]
async fn data_that_arrive_late_have_arrived() {
    for (status, timeout, states, attempts) in [
        // The time is up while the store still works on the data.
        ("204 No Content", Duration::ZERO, &["saving", "active"][..], 1),
        // A proxy gives up on the server, which takes its time.
        ("504 Gateway Timeout", Duration::from_secs(60), &["saving", "saving", "active"], 1),
        // A proxy that has all of the data gives up, and sends them on afterwards.
        ("504 Gateway Timeout", Duration::from_secs(60), &["queued", "saving", "active"], 1),
    ] {
        let cloud = late(status, states).await;
        let wait = options().wait.with_timeout(timeout);
        let new = image().with_id(support::ID);
        let glance = cloud.glance().await;
        let stored =
            glance.store(&new, Upload::from_bytes("abc"), &options().with_wait(wait)).await;
        let stored = stored.unwrap_or_else(|error| panic!("{states:?}: {error}"));
        assert_eq!((stored.compared.as_str(), stored.attempts), ("md5", attempts), "{states:?}");
        let path = format!("/v2/images/{}", support::ID);
        assert!(cloud.seen("DELETE", &path).is_empty());
        assert_eq!(cloud.seen("PUT", &format!("{path}/file")).len(), attempts as usize);
    }
    // What somebody else has put there is not ours.
    let cloud = late("504 Gateway Timeout", &["queued", "active"]).await;
    let glance = cloud.glance().await;
    let new = image().with_id(support::ID);
    let error = glance.store(&new, Upload::from_bytes("xyz"), &options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
}

#[tokio::test]
async fn a_file_is_looked_at_from_both_ends_before_anything_is_sent() {
    let (cloud, glance) = cloud(&[]).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    std::fs::write(&path, data()).unwrap();
    let stored =
        glance.store(&image(), Upload::from_file(&path).unwrap(), &options()).await.unwrap();
    assert_eq!(stored.bytes, SIZE as u64);

    let mut footer = [0; 512];
    footer[..8].copy_from_slice(b"conectix");
    footer[63] = 2;
    let sum: u32 = footer.iter().map(|byte| u32::from(*byte)).sum();
    footer[64..68].copy_from_slice(&(!sum).to_be_bytes());
    std::fs::write(&path, [&data()[..], &footer].concat()).unwrap();
    for format in [DiskFormat::Raw, DiskFormat::Vhd] {
        let new = NewImage::new("fixed", format, ContainerFormat::Bare);
        let error =
            glance.store(&new, Upload::from_file(&path).unwrap(), &options()).await.unwrap_err();
        assert_eq!((error.kind(), error.status()), (ErrorKind::UnsupportedFormat, None), "{error}");
        assert!(error.to_string().contains("fixed VHD"), "{error}");
    }
    assert_eq!(cloud.images().len(), 1);

    // The end of a stream is seen when it comes, and its last piece stays here.
    let fixed = [&data()[..], &footer].concat();
    for len in [None, Some(fixed.len() as u64)] {
        for piece in [700, 65_536, fixed.len()] {
            let pieces: Vec<_> = fixed.chunks(piece).map(Bytes::copy_from_slice).map(Ok).collect();
            let stream = Upload::new(len, stream::iter(pieces).boxed());
            let error = glance.store(&image(), stream, &options()).await.unwrap_err();
            assert_eq!(
                (error.kind(), error.status()),
                (ErrorKind::UnsupportedFormat, None),
                "{error}"
            );
            assert!(error.to_string().contains("fixed VHD"), "{error}");
        }
    }
    assert_eq!(cloud.images().len(), 1);
    cloud.stop().await;
}
