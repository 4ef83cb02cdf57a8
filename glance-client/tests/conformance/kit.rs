//! The expectations.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use glance_client::image::{
    ContainerFormat, Digests, DiskFormat, DownloadOptions, Image, ImagePatch, ImageStatus,
    ListQuery, NewImage, Preflight, StoreOptions, Visibility, create, delete, get, list, preflight,
    profile, update, verify,
};
use glance_client::keystone::{Auth, EndpointQuery, Principal, Scope, Session};
use glance_client::{Call, CloudConfig, ErrorKind, Glance, Upload, WaitOptions};
use serde_json::{Value, json};

use super::help::{data, digests, glance, raw, unique};

pub(crate) async fn log_in_and_find_services(config: &CloudConfig) {
    let session = Session::connect(config).await.unwrap();
    let token = session.current();
    assert!(token.project.as_ref().is_some_and(|project| !project.id.is_empty()));
    assert!(!token.user.id.is_empty() && !token.roles.is_empty());
    assert!(token.lifetime() > Duration::ZERO);
    session.endpoint(&EndpointQuery::new("image")).unwrap();
    let error = session.endpoint(&EndpointQuery::new("no-such-service")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Catalog);
    let error =
        session.endpoint(&EndpointQuery::new("image").with_region("no-such-region")).unwrap_err();
    assert!(error.to_string().contains("it has"), "{error}");

    let glance = Glance::connect(&session).await.unwrap();
    assert!(glance.version().is_some_and(|(major, minor)| major == 2 && minor > 0));

    // Keystone is found from its root as well as from its version.
    let mut root = config.clone();
    let path = config.auth_url.path().trim_end_matches('/').trim_end_matches("/v3").to_owned();
    for ending in ["", "/", "/v3/", "/v2.0"] {
        root.auth_url.set_path(&format!("{path}{ending}"));
        let found = Session::connect(&root).await.unwrap();
        assert_eq!(
            found.identity_url().path().trim_end_matches('/'),
            session.identity_url().path()
        );
    }
}

pub(crate) async fn wrong_credentials_are_refused(config: &CloudConfig) {
    let mut wrong = config.clone();
    let Auth::Password { user, .. } = &config.auth else { panic!("the tests need a password") };
    wrong.auth = Auth::Password { user: user.clone(), password: "not-the-password".into() };
    let error = Session::connect(&wrong).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    assert!(!format!("{error} {error:?}").contains("not-the-password"));

    let mut elsewhere = config.clone();
    elsewhere.scope = Scope::Project(Principal::id("0123456789abcdef0123456789abcdef"));
    assert_eq!(Session::connect(&elsewhere).await.unwrap_err().kind(), ErrorKind::Unauthorized);

    let mut unscoped = config.clone();
    unscoped.scope = Scope::Unscoped;
    let session = Session::connect(&unscoped).await.unwrap();
    let error = session.endpoint(&EndpointQuery::new("image")).unwrap_err();
    assert!(error.to_string().contains("log in with a project"), "{error}");
}

pub(crate) async fn a_revoked_token_is_replaced(config: &CloudConfig) {
    let session = Session::connect(config).await.unwrap();
    let glance = Glance::connect(&session).await.unwrap();
    let before = session.current();
    session.revoke().await.unwrap();
    glance.call(list(&ListQuery::new().with_limit(1))).await.unwrap();
    let after = session.current();
    assert_ne!(before.secret(), after.secret());
    glance.call(list(&ListQuery::new().with_limit(1))).await.unwrap();
    assert_eq!(after.secret(), session.current().secret());
}

pub(crate) async fn a_token_is_exchanged_but_not_renewed(config: &CloudConfig) {
    let session = Session::connect(config).await.unwrap();
    let given = session.current();
    let mut by_token = config.clone();
    by_token.auth = Auth::Token(given.secret().clone());
    let exchanged = Session::connect(&by_token).await.unwrap();
    assert!(exchanged.current().expires_at <= given.expires_at, "an exchange keeps the end");
    let glance = Glance::connect(&exchanged).await.unwrap();
    glance.call(list(&ListQuery::new().with_limit(1))).await.unwrap();
    exchanged.revoke().await.unwrap();
    let error = glance.call(list(&ListQuery::new().with_limit(1))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
}

/// For clouds whose tokens live for seconds.
pub(crate) async fn an_expired_token_is_replaced(config: &CloudConfig) {
    let session = Session::connect(config).await.unwrap();
    let first = session.current();
    if first.lifetime() > Duration::from_secs(10) {
        eprintln!("skipped: the tokens of this cloud live too long to see one end");
        return;
    }
    let mut by_token = config.clone();
    by_token.auth = Auth::Token(first.secret().clone());
    let given = Glance::connect(&Session::connect(&by_token).await.unwrap()).await.unwrap();
    let glance = Glance::connect(&session).await.unwrap();
    let image = glance.create(&raw("expired")).await.unwrap();
    // The data takes longer than a token lives: the token is looked at before, and not during the upload.
    let piece = Bytes::from(data(100_000));
    let pieces = first.lifetime().as_secs() + 3;
    let slow = stream::unfold(0, move |sent| {
        let piece = piece.clone();
        async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            (sent < pieces).then(|| (Ok(piece), sent + 1))
        }
    });
    let sent = glance.upload(&image.id, Upload::new(Some(pieces * 100_000), slow.boxed())).await;
    eprintln!("an upload that outlives its token: {sent:?}");
    glance.call(list(&ListQuery::new().with_limit(1))).await.unwrap();
    assert_ne!(first.secret(), session.current().secret());
    let error = given.call(list(&ListQuery::new().with_limit(1))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(error.to_string().contains("cannot renew itself"), "{error}");
    let _ = glance.call(delete(&image.id)).await;
}

pub(crate) async fn application_credentials(config: &CloudConfig) {
    // Made by calls of our own: the session serves any service.
    let session = Session::connect(config).await.unwrap();
    let identity = session.service_at(session.identity_url().clone());
    let user = session.current().user.id.clone();
    let path = format!("users/{user}/application_credentials");
    let name = format!("conformance-{}", unique());
    let make =
        Call::new("application credential: create", http::Method::POST, path.clone(), |answer| {
            answer.json::<Value>()
        })
        .with_json(&json!({"application_credential": {"name": name}}));
    let made = match identity.call(make).await {
        Ok(made) => made["application_credential"].clone(),
        Err(error) if error.is_not_found() => {
            eprintln!("skipped: this cloud makes no application credentials");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    let mut by_id = config.clone();
    by_id.scope = Scope::Unspecified;
    by_id.auth = Auth::ApplicationCredential { id: text("id"), secret: text("secret").into() };
    let mut by_name = by_id.clone();
    by_name.auth = Auth::NamedApplicationCredential {
        name,
        user: Principal::id(&user),
        secret: text("secret").into(),
    };
    for config in [&by_id, &by_name] {
        let glance = glance(config).await;
        assert_eq!(glance.session().current().project, session.current().project);
        glance.call(list(&ListQuery::new().with_limit(1))).await.unwrap();
    }
    let mut scoped = by_id.clone();
    scoped.scope.clone_from(&config.scope);
    assert_eq!(Session::connect(&scoped).await.unwrap_err().kind(), ErrorKind::Config);
    let path = format!("{path}/{}", text("id"));
    identity
        .call(Call::new("application credential: delete", http::Method::DELETE, path, |_| Ok(())))
        .await
        .unwrap();
    // A real Keystone calls a deleted one unknown, and not refused.
    let gone = Session::connect(&by_id).await.unwrap_err().kind();
    assert!(matches!(gone, ErrorKind::NotFound | ErrorKind::Unauthorized), "{gone:?}");
}

pub(crate) async fn images_are_made_changed_and_deleted(config: &CloudConfig) {
    let glance = glance(config).await;
    let id = unique();
    let guest = profile::Guest::new(profile::VirtMode::Hvm)
        .with_firmware(profile::Firmware::Uefi)
        .with_os_type(profile::OsType::Linux)
        .with_disk_bytes(5 << 30);
    let new = raw("conformance")
        .with_id(&id)
        .with_profile(&profile::kvm(&guest))
        .with_min_ram(256)
        .with_protected(true)
        .with_hidden(true)
        .with_tag("a tag")
        .with_property("odd/na~me", "a \"value\" ä");
    let made = glance.create(&new).await.unwrap();
    let read = glance.call(get(&id)).await.unwrap();
    for image in [&made, &read] {
        assert_eq!((image.id.as_str(), &image.status), (id.as_str(), &ImageStatus::Queued));
        assert_eq!(image.visibility, Some(Visibility::Private));
        assert_eq!(
            (image.min_disk, image.min_ram, image.protected, image.hidden),
            (5, 256, true, true)
        );
        assert_eq!(image.tags, ["a tag"]);
        assert_eq!(image.properties["odd/na~me"], "a \"value\" ä");
        assert_eq!(image.properties["hw_firmware_type"], "uefi");
        assert!(image.created_at.is_some() && image.owner.is_some());
    }
    let again = glance.call(create(&raw("again").with_id(&id))).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Conflict);
    assert!(again.request_id().is_some() && !again.to_string().contains('<'), "{again}");

    let protected = glance.call(delete(&id)).await.unwrap_err();
    assert_eq!(protected.kind(), ErrorKind::Forbidden);
    let patch = ImagePatch::new()
        .with("protected", false)
        .with("os_hidden", false)
        .with("name", "changed")
        .with("visibility", "shared")
        .with("tags", json!(["b"]))
        .with("odd/na~me", "changed")
        .with("new", "1")
        .without("hw_machine_type");
    let changed = glance.call(update(&id, &patch)).await.unwrap();
    assert_eq!((changed.name.as_deref(), changed.protected), (Some("changed"), false));
    assert_eq!(
        (&changed.visibility, changed.tags.as_slice()),
        (&Some(Visibility::Shared), &["b".to_owned()][..])
    );
    assert_eq!(
        (changed.properties["odd/na~me"].as_str(), changed.properties["new"].as_str()),
        ("changed", "1")
    );
    assert!(!changed.properties.contains_key("hw_machine_type"));
    let missing =
        glance.call(update(&id, &ImagePatch::new().without("no_such"))).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Conflict);
    let forbidden =
        glance.call(update(&id, &ImagePatch::new().with("status", "active"))).await.unwrap_err();
    assert_eq!(forbidden.kind(), ErrorKind::Forbidden);

    let waiting = glance.wait(&id, &WaitOptions::default()).await.unwrap_err();
    assert_eq!(waiting.kind(), ErrorKind::Failed);
    assert!(glance.download(&id, &DownloadOptions::new()).await.unwrap_err().is_not_found());
    glance.call(delete(&id)).await.unwrap();
    assert!(glance.call(get(&id)).await.unwrap_err().is_not_found());
    assert!(glance.call(delete(&id)).await.unwrap_err().is_not_found());
}

pub(crate) async fn lists_come_in_pages(config: &CloudConfig) {
    let glance = glance(config).await;
    let tag = format!("run {}", unique());
    let mut made = Vec::new();
    for index in 0..5 {
        let image =
            raw(&format!("page {index}")).with_tag(&tag).with_property("index", index.to_string());
        made.push(glance.create(&image).await.unwrap().id);
    }
    let query = ListQuery::new().with_tag(&tag).with_limit(2);
    let first = glance.call(list(&query)).await.unwrap();
    assert_eq!(first.images.len(), 2);
    assert!(first.next.is_some());
    let mut all: Vec<_> =
        glance.list_all(&query, 100).await.unwrap().into_iter().map(|image| image.id).collect();
    all.sort();
    made.sort();
    assert_eq!(all, made);
    let one = glance
        .list_all(&ListQuery::new().with_tag(&tag).with_filter("index", "3"), 10)
        .await
        .unwrap();
    assert_eq!(one.iter().map(|image| image.name.as_deref()).collect::<Vec<_>>(), [Some("page 3")]);
    let named =
        glance.list_all(&ListQuery::new().with_tag(&tag).with_name("page 1"), 10).await.unwrap();
    assert_eq!(named.len(), 1);
    assert!(glance.list_all(&query, 3).await.is_err());
    for id in &made {
        glance.call(delete(id)).await.unwrap();
    }
    assert!(glance.list_all(&query, 100).await.unwrap().is_empty());
}

pub(crate) async fn formats_are_known_before_anything_is_made(config: &CloudConfig) {
    let glance = glance(config).await;
    let schema = glance.schema().await.unwrap();
    assert!(
        schema.disk_formats.contains(&DiskFormat::Vhd)
            && schema.container_formats.contains(&ContainerFormat::Ovf)
    );
    let tgz = NewImage::new("tgz", DiskFormat::from("tgz"), ContainerFormat::Bare);
    let error = glance.create(&tgz).await.unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::UnsupportedFormat, None));
    let error = glance.call(create(&tgz)).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.status().map(|status| status.as_u16())),
        (ErrorKind::Invalid, Some(400))
    );
}

pub(crate) async fn data_is_sent_verified_and_read_back(config: &CloudConfig) {
    let glance = glance(config).await;
    let data = data(3_000_001);
    let image = glance.create(&raw("data")).await.unwrap();
    let seen = Arc::new(AtomicU64::new(0));
    let progress = Arc::clone(&seen);
    let upload = Upload::from_bytes(data.clone())
        .with_progress(move |bytes| progress.store(bytes, Ordering::SeqCst));
    let sent = glance.upload(&image.id, upload).await.unwrap();
    assert_eq!((sent.bytes, seen.load(Ordering::SeqCst)), (3_000_001, 3_000_001));
    let stored = glance.wait(&image.id, &WaitOptions::default()).await.unwrap();
    assert_eq!(verify(&stored, &digests(&data), 3_000_001).unwrap(), "sha512");
    let only_md5 = Digests::new().with_md5(digests(&data).md5.unwrap());
    assert_eq!(verify(&stored, &only_md5, 3_000_001).unwrap(), "md5");
    assert_eq!(
        verify(&stored, &digests(b"other"), 3_000_001).unwrap_err().kind(),
        ErrorKind::Mismatch
    );

    let error = glance.upload(&image.id, Upload::from_bytes("again")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let mut download = glance.download(&image.id, &DownloadOptions::new()).await.unwrap();
    assert_eq!(download.len, Some(3_000_001));
    let mut back = Vec::new();
    while let Some(chunk) = download.stream.next().await {
        back.extend_from_slice(&chunk.unwrap());
    }
    assert!(back == data, "what comes back is not what was sent");
    glance.call(delete(&image.id)).await.unwrap();
}

pub(crate) async fn data_of_unknown_length_is_sent(config: &CloudConfig) {
    let glance = glance(config).await;
    let data = data(1_500_000);
    // The server chooses the id here.
    let image = glance
        .create(&NewImage::new("chunked", DiskFormat::Raw, ContainerFormat::Bare))
        .await
        .unwrap();
    assert_eq!(image.id.len(), 36);
    let chunks: Vec<_> =
        data.chunks(70_001).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    let sent =
        glance.upload(&image.id, Upload::new(None, stream::iter(chunks).boxed())).await.unwrap();
    let stored = glance.wait(&image.id, &WaitOptions::default()).await.unwrap();
    verify(&stored, &digests(&data), sent.bytes).unwrap();
    glance.call(delete(&image.id)).await.unwrap();
}

pub(crate) async fn an_empty_body_is_a_whole_image(config: &CloudConfig) {
    let glance = glance(config).await;
    for upload in [Upload::from_bytes(""), Upload::new(None, stream::empty().boxed())] {
        let image = glance.create(&raw("empty")).await.unwrap();
        assert_eq!(glance.upload(&image.id, upload).await.unwrap().bytes, 0);
        let stored = glance.wait(&image.id, &WaitOptions::default()).await.unwrap();
        verify(&stored, &digests(b""), 0).unwrap();
        glance.call(delete(&image.id)).await.unwrap();
    }
}

pub(crate) async fn a_short_body_leaves_a_queued_image_that_can_be_filled(config: &CloudConfig) {
    let glance = glance(config).await;
    let image = glance.create(&raw("short")).await.unwrap();
    for len in [Some(300_000), None] {
        let piece = || Ok(Bytes::from(data(100_000)));
        let cut = || Err(std::io::Error::other("the source broke"));
        let body = stream::iter([piece(), piece(), cut()]).boxed();
        let error = glance.upload(&image.id, Upload::new(len, body)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Source, "{error}");
        let after = settled(&glance, &image.id).await;
        assert_eq!(after.status, ImageStatus::Queued);
    }
    let whole = data(300_000);
    glance.upload(&image.id, Upload::from_bytes(whole.clone())).await.unwrap();
    let stored = glance.wait(&image.id, &WaitOptions::default()).await.unwrap();
    verify(&stored, &digests(&whole), 300_000).unwrap();
    glance.call(delete(&image.id)).await.unwrap();
}

/// The image once the server has noticed that an upload has ended.
async fn settled(glance: &Glance, id: &str) -> Image {
    for _ in 0..100 {
        let image = glance.call(get(id)).await.unwrap();
        if image.status != ImageStatus::Saving {
            return image;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the image stays in saving");
}

pub(crate) async fn a_size_over_the_cap_is_refused_while_sending(config: &CloudConfig) {
    let glance = glance(config).await;
    let image = glance.create(&raw("huge")).await.unwrap();
    let chunk = Bytes::from(data(1 << 16));
    let produced = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&produced);
    let endless = stream::repeat_with(move || {
        count.fetch_add(1 << 16, Ordering::SeqCst);
        Ok(chunk.clone())
    });
    // A PiB is over every cap in the field; the default is a TiB.
    let error =
        glance.upload(&image.id, Upload::new(Some(1 << 50), endless.boxed())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    assert!(error.request_id().is_some() && !error.to_string().contains('<'), "{error}");
    eprintln!("refused after {} KiB: {error}", produced.load(Ordering::SeqCst) >> 10);
    assert!(produced.load(Ordering::SeqCst) < 1 << 30);
    assert_eq!(settled(&glance, &image.id).await.status, ImageStatus::Queued);
    glance.call(delete(&image.id)).await.unwrap();
}

fn sector(entries: &[u8]) -> Vec<u8> {
    let mut disk = vec![0; 1 << 20];
    disk[446..446 + entries.len()].copy_from_slice(entries);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

/// Every verdict of the local check is put before the server, which must come to the same.
pub(crate) async fn the_local_format_check_agrees_with_the_server(config: &CloudConfig) {
    let glance = glance(config).await;
    let linux = [0x80, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 1, 0];
    let gpt = [0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0xff, 0xff, 0, 0];
    let mut fat = sector(&[]);
    (fat[0x10], fat[0x15]) = (2, 0xf8);
    let mut flag = linux;
    flag[0] = 1;
    let qcow2 = |backing: u8, features: u8| {
        let mut head = vec![0; 65536];
        head[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        (head[15], head[23], head[31], head[79]) = (backing, 16, 1, features);
        head
    };
    let mut both = qcow2(0, 0);
    both[510..512].copy_from_slice(&[0x55, 0xaa]);
    let disc = |start: &[u8]| {
        let mut disc = vec![0; 1 << 20];
        disc[..start.len()].copy_from_slice(start);
        disc[32768..32774].copy_from_slice(b"\x01CD001");
        disc
    };
    let description = |kind: &str, file: &str| {
        format!(
            "# Disk DescriptorFile\nversion=1\ncreateType=\"{kind}\"\nRW 2048 SPARSE \"{file}\"\nddb.x = \"1\"\n"
        )
    };
    let vmdk = |kind: &str, file: &str| {
        let (mut head, text) = (vec![0; 65536], description(kind, file));
        head[..5].copy_from_slice(b"KDMV\x01");
        (head[13], head[28], head[36]) = (8, 1, 20);
        head[512..512 + text.len()].copy_from_slice(text.as_bytes());
        head
    };
    let mut luks = vec![0; 65536];
    luks[..8].copy_from_slice(b"LUKS\xba\xbe\0\x02");
    let text = description("monolithicFlat", "a-flat.vmdk").repeat(3);
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x03\0\0\0\0\0\0\0\0\0".repeat(100);
    let cases: [(&str, DiskFormat, ContainerFormat, Vec<u8>); 25] = [
        ("zeros", DiskFormat::Raw, ContainerFormat::Bare, vec![0; 1 << 20]),
        ("MBR", DiskFormat::Raw, ContainerFormat::Bare, sector(&linux)),
        ("GPT", DiskFormat::Raw, ContainerFormat::Bare, sector(&gpt)),
        ("hybrid", DiskFormat::Raw, ContainerFormat::Bare, sector(&[gpt, linux].concat())),
        ("empty table", DiskFormat::Raw, ContainerFormat::Bare, sector(&[])),
        ("boot flag", DiskFormat::Raw, ContainerFormat::Bare, sector(&flag)),
        ("FAT", DiskFormat::Raw, ContainerFormat::Bare, fat),
        ("qcow2", DiskFormat::Qcow2, ContainerFormat::Bare, qcow2(0, 0)),
        ("qcow2, backing", DiskFormat::Qcow2, ContainerFormat::Bare, qcow2(1, 0)),
        ("qcow2, data file", DiskFormat::Qcow2, ContainerFormat::Bare, qcow2(0, 4)),
        ("qcow2, extended L2", DiskFormat::Qcow2, ContainerFormat::Bare, qcow2(0, 16)),
        ("zeros as qcow2", DiskFormat::Qcow2, ContainerFormat::Bare, vec![0; 1 << 20]),
        ("fixed VHD", DiskFormat::Vhd, ContainerFormat::Bare, vec![0; 1 << 20]),
        ("tgz as vhd", DiskFormat::Vhd, ContainerFormat::Bare, gzip.clone()),
        ("tgz in ovf", DiskFormat::Vhd, ContainerFormat::Ovf, gzip),
        ("disc", DiskFormat::Iso, ContainerFormat::Bare, disc(&[])),
        ("disc as raw", DiskFormat::Raw, ContainerFormat::Bare, disc(&[])),
        ("bootable disc", DiskFormat::Iso, ContainerFormat::Bare, disc(&sector(&linux)[..512])),
        ("zeros as disc", DiskFormat::Iso, ContainerFormat::Bare, vec![0; 1 << 20]),
        ("qcow2 with a table", DiskFormat::Qcow2, ContainerFormat::Bare, both),
        ("LUKS 2", DiskFormat::Raw, ContainerFormat::Bare, luks),
        ("VMDK", DiskFormat::Vmdk, ContainerFormat::Bare, vmdk("monolithicSparse", "a.vmdk")),
        ("VMDK, flat", DiskFormat::Vmdk, ContainerFormat::Bare, vmdk("monolithicFlat", "a.vmdk")),
        (
            "VMDK, path",
            DiskFormat::Vmdk,
            ContainerFormat::Bare,
            vmdk("monolithicSparse", "/etc/passwd"),
        ),
        ("VMDK, text", DiskFormat::Vmdk, ContainerFormat::Bare, text.into_bytes()),
    ];
    let mut disagreements = Vec::new();
    for (name, disk, container, data) in cases {
        let local = preflight(&disk, &container, &data).err();
        let image =
            glance.create(&NewImage::new(name, disk, container).with_id(unique())).await.unwrap();
        let refused = glance.upload(&image.id, Upload::from_bytes(data.clone())).await.err();
        assert_eq!(refused.is_some(), local.is_some(), "{name}: {refused:?}");
        if let Some(error) = refused.filter(|error| error.status().is_none()) {
            assert_eq!(error.kind(), ErrorKind::UnsupportedFormat);
            let sent = glance
                .upload(&image.id, Upload::from_bytes(data).with_preflight(Preflight::Off))
                .await;
            match sent {
                Err(error) if error.kind() == ErrorKind::UnsupportedFormat => {
                    assert_eq!(settled(&glance, &image.id).await.status, ImageStatus::Queued);
                }
                other => disagreements.push(format!("{name}: {local:?}, server: {other:?}")),
            }
        }
        glance.call(delete(&image.id)).await.unwrap();
    }
    assert!(disagreements.is_empty(), "{}", disagreements.join("\n"));
}

pub(crate) async fn data_is_stored_or_nothing_is_left(config: &CloudConfig) {
    let glance = glance(config).await;
    let data = data(2_000_003);
    let body = data.clone();
    let upload = Upload::replayable(Some(2_000_003), move || {
        let pieces: Vec<_> = body.chunks(50_000).map(Bytes::copy_from_slice).map(Ok).collect();
        stream::iter(pieces).boxed()
    });
    let new = raw("stored");
    let stored = glance.store(&new, upload, &StoreOptions::default()).await.unwrap();
    assert_eq!((stored.bytes, stored.compared.as_str(), stored.attempts), (2_000_003, "sha512", 1));
    assert_eq!(stored.digests, digests(&data));
    assert_eq!(stored.image.checksum, stored.digests.md5);
    glance.call(delete(&stored.image.id)).await.unwrap();

    // Refused by the server after the whole body, and while sending.
    let refused = raw("refused");
    let odd = Upload::from_bytes(sector(&[])).with_preflight(Preflight::Off);
    let error = glance.store(&refused, odd, &StoreOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnsupportedFormat, "{error}");
    let large = raw("large");
    let chunk = Bytes::from(vec![7; 1 << 16]);
    let endless = Upload::replayable(Some(1 << 50), move || {
        let chunk = chunk.clone();
        stream::repeat_with(move || Ok(chunk.clone())).boxed()
    });
    let error = glance.store(&large, endless, &StoreOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    for image in [refused, large] {
        assert!(glance.call(get(image.id.as_ref().unwrap())).await.unwrap_err().is_not_found());
    }
}
