//! Data on their way back: parts, breaks, wrong bytes; and stores.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use glance_client::image::{DownloadOptions, ImageStatus, ListQuery, get, remove_from_store};
use glance_client::{CloudConfig, ErrorKind, Upload};

use super::help::{Line, Trouble, data, digests, glance, glance_as, raw, read, remove};

pub(crate) async fn parts_are_read_by_range(config: &CloudConfig) {
    let glance = glance(config).await;
    let image = glance.create(&raw("range")).await.unwrap();
    let id = image.id.as_str();
    let none = glance.download(id, &DownloadOptions::new().with_range(5, None)).await.unwrap_err();
    assert!(none.is_not_found(), "{none}");
    let all = data(200_000);
    glance.upload(id, Upload::from_bytes(all.clone())).await.unwrap();
    for (start, len) in [
        (0, Some(1)),
        (0, Some(200_000)),
        (1, None),
        (70_000, Some(70_001)),
        (199_999, None),
        (199_999, Some(1 << 40)),
    ] {
        let options = DownloadOptions::new().with_range(start, len);
        let part = glance.download(id, &options).await.unwrap();
        let from = usize::try_from(start).unwrap();
        let count = len.map_or(usize::MAX, |len| usize::try_from(len).unwrap());
        let expected = &all[from..][..count.min(all.len() - from)];
        assert_eq!((part.len, part.total), (Some(expected.len() as u64), Some(200_000)));
        assert_eq!(part.verified_by, None);
        assert!(read(part).await.unwrap() == expected, "{start} {len:?}");
    }
    let behind = DownloadOptions::new().with_range(200_000, None);
    let error = glance.download(id, &behind).await.unwrap_err();
    assert_eq!(error.status().map(|status| status.as_u16()), Some(416), "{error}");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    remove(&glance, &[id]).await;
}

pub(crate) async fn a_broken_download_goes_on_where_it_broke(config: &CloudConfig) {
    let (glance, line) = Line::glance(config, Trouble::Breaks { after: 250_000, times: 3 }).await;
    let image = glance.create(&raw("broken")).await.unwrap();
    let id = image.id.as_str();
    let all = data(1_000_000);
    glance.upload(id, Upload::from_bytes(all.clone())).await.unwrap();
    let whole = glance.download(id, &DownloadOptions::new()).await.unwrap();
    assert_eq!((whole.len, whole.verified_by.as_deref()), (Some(1_000_000), Some("sha512")));
    assert!(read(whole).await.unwrap() == all, "the pieces do not fit together");
    assert_eq!(line.answers(), 4);

    // A part goes on as well; and who wants no second try gets the error.
    let (glance, line) = Line::glance(config, Trouble::Breaks { after: 1000, times: 1 }).await;
    let options = DownloadOptions::new().with_range(500_000, Some(10_000));
    let part = glance.download(id, &options).await.unwrap();
    assert!(read(part).await.unwrap() == all[500_000..510_000]);
    assert_eq!(line.answers(), 2);
    let (glance, _) = Line::glance(config, Trouble::Breaks { after: 1000, times: 1 }).await;
    let whole = glance.download(id, &DownloadOptions::new().with_resumes(0)).await.unwrap();
    let error = read(whole).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transport);
    assert!(error.to_string().contains("1000 bytes had come"), "{error}");
    remove(&glance, &[id]).await;
}

pub(crate) async fn a_token_is_renewed_on_the_way_down(config: &CloudConfig) {
    let (glance, line) = Line::glance(config, Trouble::Breaks { after: 1000, times: 1 }).await;
    let image = glance.create(&raw("renewed")).await.unwrap();
    let id = image.id.as_str();
    glance.upload(id, Upload::from_bytes(data(100_000))).await.unwrap();
    let whole = glance.download(id, &DownloadOptions::new()).await.unwrap();
    let before = glance.session().current();
    glance.session().revoke().await.unwrap();
    assert!(read(whole).await.unwrap() == data(100_000));
    assert_ne!(before.secret(), glance.session().current().secret());
    assert!(line.answers() > 2, "the one that broke, a 401, and the rest");
    remove(&glance, &[id]).await;
}

pub(crate) async fn a_wrong_byte_is_found(config: &CloudConfig) {
    let (glance, _) = Line::glance(config, Trouble::Flips).await;
    let image = glance.create(&raw("flipped")).await.unwrap();
    let id = image.id.as_str();
    let all = data(300_000);
    glance.upload(id, Upload::from_bytes(all.clone())).await.unwrap();
    let mut whole = glance.download(id, &DownloadOptions::new()).await.unwrap();
    let (mut came, mut end) = (0, None);
    while let Some(piece) = whole.stream.next().await {
        match piece {
            Ok(piece) => came += piece.len(),
            Err(error) => end = Some(error),
        }
    }
    let error = end.unwrap();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert!(error.to_string().contains("sha512 differs"), "{error}");
    // The last piece is held back, so a reader that counts does not take it for whole either.
    assert!(came < all.len());
    let unverified = DownloadOptions::new().with_verify(false);
    assert_eq!(read(glance.download(id, &unverified).await.unwrap()).await.unwrap().len(), 300_000);
    remove(&glance, &[id]).await;
}

pub(crate) async fn a_cancelled_upload_leaves_a_queued_image(config: &CloudConfig) {
    let glance = glance(config).await;
    let image = glance.create(&raw("cancelled")).await.unwrap();
    let cancel = Arc::new(AtomicBool::new(false));
    let piece = Bytes::from(data(1 << 16));
    let mut sent = 0;
    let flag = Arc::clone(&cancel);
    let endless = stream::repeat_with(move || {
        sent += 1;
        if sent == 100 {
            flag.store(true, Ordering::SeqCst);
        }
        Ok(piece.clone())
    });
    let slow = endless.then(|piece| async move {
        tokio::time::sleep(Duration::from_millis(2)).await;
        piece
    });
    let upload = Upload::new(None, slow.boxed()).with_cancel(cancel);
    let error = glance.upload(&image.id, upload).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    for _ in 0..100 {
        if glance.call(get(&image.id)).await.unwrap().status == ImageStatus::Queued {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let all = data(100_000);
    glance.upload(&image.id, Upload::from_bytes(all.clone())).await.unwrap();
    let stored = glance.call(get(&image.id)).await.unwrap();
    glance_client::image::verify(&stored, &digests(&all), 100_000).unwrap();
    remove(&glance, &[&image.id]).await;
}

pub(crate) async fn data_go_to_the_store_that_is_named(config: &CloudConfig) {
    let glance = glance(config).await;
    let stores = glance.call(glance_client::info::stores()).await.unwrap();
    let second = stores.iter().find(|store| !store.is_default && !store.read_only).unwrap();
    let image = glance.create(&raw("store")).await.unwrap();
    let id = image.id.as_str();
    let wrong = Upload::from_bytes(data(1000)).with_store("no-such-store");
    let error = glance.upload(id, wrong).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    glance.upload(id, Upload::from_bytes(data(1000)).with_store(&second.id)).await.unwrap();
    let stored = glance.call(get(id)).await.unwrap();
    assert_eq!(stored.stores, [second.id.as_str()]);
    let options = DownloadOptions::new().with_store(&second.id);
    assert_eq!(read(glance.download(id, &options).await.unwrap()).await.unwrap(), data(1000));
    if let Some(admin) = glance_as(config, "admin").await {
        let error = admin.call(remove_from_store(id, &second.id)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
        assert!(error.to_string().contains("only store"), "{error}");
    }
    let error = glance.call(remove_from_store(id, "no-such-store")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(!glance.list_all(&ListQuery::new().with_ids(&[id]), 1).await.unwrap().is_empty());
    remove(&glance, &[id]).await;
}
