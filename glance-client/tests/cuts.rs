//! An upload whose connection is cut once, at every stage of it, by something that stands before the server.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use glance_client::image::{ContainerFormat, DiskFormat, NewImage, StoreOptions};
use glance_client::keystone::{Domain, EndpointQuery, Principal, Scope, Session};
use glance_client::{CloudConfig, Glance, Upload, WaitOptions};
use simulator::openstack::{OpenStack, OpenStackConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const SIZE: u64 = 300_000;

/// Where a connection ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    /// As soon as it is there.
    Early,
    /// After so many bytes of the request.
    Request(u64),
    /// After so many bytes of its body.
    Body(u64),
    /// After so many bytes of the answer.
    Answer(u64),
}

/// A relay to `server` that cuts the first connection with a PUT; gives its address.
async fn relay(server: String, cut: Cut) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let is_cut = Arc::new(AtomicBool::new(false));
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let (server, is_cut) = (server.clone(), Arc::clone(&is_cut));
            tokio::spawn(async move { pass(client, &server, cut, &is_cut).await });
        }
    });
    address
}

async fn pass(mut client: TcpStream, server: &str, cut: Cut, is_cut: &AtomicBool) {
    let mut head = Vec::new();
    while head.len() < 4 {
        if client.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let cut = (head.starts_with(b"PUT ") && !is_cut.swap(true, Ordering::SeqCst)).then_some(cut);
    if cut == Some(Cut::Early) {
        return;
    }
    while cut.is_some() && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        client.read_buf(&mut head).await.unwrap();
    }
    let head_len = head.windows(4).position(|end| end == b"\r\n\r\n").map_or(0, |at| at as u64 + 4);
    let (up, down) = match cut {
        Some(Cut::Request(bytes)) => (bytes, u64::MAX),
        Some(Cut::Body(bytes)) => (head_len + bytes, u64::MAX),
        Some(Cut::Answer(bytes)) => (u64::MAX, bytes),
        _ => (u64::MAX, u64::MAX),
    };
    let (mut from, mut to) = client.split();
    let mut server = TcpStream::connect(server).await.unwrap();
    let (mut answers, mut requests) = server.split();
    let mut request = head.as_slice().chain(&mut from);
    // Whoever ends first ends both.
    tokio::select! {
        () = copy(&mut request, &mut requests, up) => {}
        () = copy(&mut answers, &mut to, down) => {}
    }
}

/// Copies so many bytes at most. What ends of itself may still be answered.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    mut left: u64,
) {
    let mut piece = vec![0; 8192];
    while left > 0 {
        let room = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match from.read(&mut piece[..room]).await {
            Ok(n) if n > 0 && to.write_all(&piece[..n]).await.is_ok() => left -= n as u64,
            _ => return,
        }
    }
}

#[tokio::test]
async fn the_data_arrive_wherever_the_connection_is_cut() {
    let cuts = [
        Cut::Early,
        Cut::Request(1),
        Cut::Request(100),
        Cut::Body(0),
        Cut::Body(1),
        Cut::Body(SIZE / 2),
        Cut::Body(SIZE - 1),
        Cut::Body(SIZE),
        Cut::Answer(0),
        Cut::Answer(5),
        Cut::Answer(40),
    ];
    for cut in cuts {
        let cloud = OpenStack::start(OpenStackConfig::new()).await.unwrap();
        let named = |name: &str| Principal::named(name, Domain::default());
        let config = CloudConfig::builder(cloud.auth_url())
            .with_password(named(cloud.config().username()), cloud.config().password())
            .with_scope(Scope::Project(named(cloud.config().project())))
            .build()
            .unwrap();
        let session = Session::connect(&config).await.unwrap();
        let mut url = session.endpoint(&EndpointQuery::new("image")).unwrap();
        let server = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
        let at = relay(server, cut).await;
        url.set_port(at.rsplit(':').next().unwrap().parse().ok()).unwrap();
        let glance = Glance::connect_at(&session, url).await.unwrap();

        let data: Vec<u8> = (0..SIZE).map(|n| (n * n % 251) as u8 | 1).collect();
        let wait =
            WaitOptions::default().with_pauses(Duration::from_millis(5), Duration::from_millis(20));
        let options = StoreOptions::default().with_pause(Duration::from_millis(5)).with_wait(wait);
        let new = NewImage::new("cut", DiskFormat::Raw, ContainerFormat::Bare);
        let stored = glance.store(&new, Upload::from_bytes(data.clone()), &options).await;
        let stored = stored.unwrap_or_else(|error| panic!("{cut:?}: {error}"));
        assert_eq!((stored.bytes, stored.compared.as_str()), (SIZE, "sha512"), "{cut:?}");
        assert_eq!(cloud.images().len(), 1, "{cut:?}");
        assert!(std::fs::read(cloud.image_path(&stored.image.id).unwrap()).unwrap() == data);
        cloud.stop().await;
    }
}
