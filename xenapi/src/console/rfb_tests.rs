use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::*;
use crate::ErrorKind;

const GREETING: &[u8] = b"RFB 003.003\n\0\0\0\x01\0\x04\0\x03................\0\0\0\0";
/// Version, shared, pixel format, encodings.
const HEARD: usize = 12 + 1 + 20 + 16;

fn options() -> RfbOptions {
    RfbOptions::new().with_key_interval(Duration::ZERO).with_answer_timeout(Duration::from_secs(5))
}

/// A client, and the server's end behind the greeting.
async fn pair(buffer: usize) -> (Rfb<DuplexStream>, DuplexStream) {
    let (near, mut far) = tokio::io::duplex(buffer);
    let greeting = async {
        far.write_all(GREETING).await.unwrap();
        let mut heard = [0; HEARD];
        far.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard[13..17], [0, 0, 0, 0], "the pixel format");
        assert_eq!(heard[17..29], [32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8]);
        assert_eq!(heard[33..], [2, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0, 255, 255, 255, 33]);
    };
    let options = options();
    let (rfb, ()) = tokio::join!(Rfb::connect(near, &options), greeting);
    (rfb.unwrap(), far)
}

fn full(colour: u8) -> Vec<u8> {
    let head = [0, 0, 0, 1, 0, 0, 0, 0, 0, 4, 0, 3, 0, 0, 0, 0];
    [&head[..], &[colour; 48]].concat()
}

fn events(bytes: &[u8]) -> Vec<(u32, bool)> {
    bytes
        .chunks(8)
        .map(|event| {
            assert_eq!((event[0], event[2], event[3]), (4, 0, 0));
            (u32::from_be_bytes(event[4..].try_into().unwrap()), event[1] == 1)
        })
        .collect()
}

#[tokio::test]
async fn keys_are_sent_in_order_and_let_go() {
    let (mut rfb, mut far) = pair(1 << 16).await;
    rfb.type_text("aB\n").await.unwrap();
    rfb.run(&BootCommand::parse("<leftCtrlOn><leftAltOn><del>").unwrap()).await.unwrap();
    rfb.release_keys().await.unwrap();
    rfb.release_keys().await.unwrap();
    drop(rfb);
    let mut heard = Vec::new();
    far.read_to_end(&mut heard).await.unwrap();
    let struck = |keysym| [(keysym, true), (keysym, false)];
    let mut expected = struck(0x61).to_vec();
    expected.extend([(0xffe1, true), (0x42, true), (0x42, false), (0xffe1, false)]);
    expected.extend(struck(0xff0d));
    expected.extend([(0xffe3, true), (0xffe9, true)]);
    expected.extend(struck(0xffff));
    expected.extend([(0xffe9, false), (0xffe3, false)]);
    assert_eq!(events(&heard), expected);
}

#[tokio::test(start_paused = true)]
async fn keys_keep_their_distance_and_pauses_their_length() {
    let (mut rfb, _far) = pair(1 << 16).await;
    rfb.options = options().with_key_interval(Duration::from_millis(100));
    let begin = Instant::now();
    rfb.run(&BootCommand::parse("aA<wait1m30s>").unwrap()).await.unwrap();
    let time = begin.elapsed();
    assert!(time >= Duration::from_millis(90_600) && time < Duration::from_secs(91), "{time:?}");
}

#[tokio::test]
async fn a_dropped_send_is_finished_by_the_next() {
    // The server reads nothing yet, and its side of the stream holds 20 bytes: two keys and a half.
    let (mut rfb, mut far) = pair(20).await;
    for keysym in 1..=3 {
        let sending = rfb.key(KeyEvent::down(keysym));
        let _ = tokio::time::timeout(Duration::from_millis(20), sending).await;
    }
    let mut heard = [0; 32];
    let (read, sent) = tokio::join!(far.read_exact(&mut heard), rfb.key(KeyEvent::up(3)));
    read.unwrap();
    sent.unwrap();
    assert_eq!(events(&heard), [(1, true), (2, true), (3, true), (3, false)]);
}

#[tokio::test]
async fn pictures_are_taken_in_while_keys_cannot_be_sent() {
    let (mut rfb, mut far) = pair(64).await;
    // A server that sends before it reads: with one direction at a time both would wait for ever.
    let server = async {
        for _ in 0..50 {
            far.write_all(&full(7)).await.unwrap();
        }
        let mut heard = vec![0; 40 * 16];
        far.read_exact(&mut heard).await.unwrap();
        far
    };
    let text = "x".repeat(40);
    let (typed, _far) = tokio::join!(rfb.type_text(&text), server);
    typed.unwrap();
    assert!(rfb.screen.is_known());
}

#[tokio::test]
async fn a_screenshot_is_whole_also_across_a_resize() {
    let (mut rfb, mut far) = pair(1 << 16).await;
    let server = async {
        let mut request = [0; 10];
        far.read_exact(&mut request).await.unwrap();
        assert_eq!(request, [3, 0, 0, 0, 0, 0, 0, 4, 0, 3]);
        // A half of the old screen, then another size.
        far.write_all(&[0, 0, 0, 2, 0, 0, 0, 0, 0, 2, 0, 3, 0, 0, 0, 0]).await.unwrap();
        far.write_all(&[1; 24]).await.unwrap();
        far.write_all(&[0, 0, 0, 0, 0, 2, 0, 1, 255, 255, 255, 33]).await.unwrap();
        far.read_exact(&mut request).await.unwrap();
        assert_eq!(request, [3, 0, 0, 0, 0, 0, 0, 2, 0, 1]);
        far.write_all(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 2, 0, 1, 0, 0, 0, 0]).await.unwrap();
        far.write_all(&[1, 2, 3, 0, 4, 5, 6, 0]).await.unwrap();
        far
    };
    let (shot, _far) = tokio::join!(rfb.screenshot(), server);
    let shot = shot.unwrap();
    assert_eq!((shot.width, shot.height, &shot.rgb[..]), (2, 1, &[3, 2, 1, 6, 5, 4][..]));
}

/// Answers every request at once, with the picture that `colour` gives for the time.
async fn paint(mut far: DuplexStream, colour: impl Fn(Duration) -> u8) {
    let begin = Instant::now();
    let mut request = [0; 10];
    while far.read_exact(&mut request).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if far.write_all(&full(colour(begin.elapsed()))).await.is_err() {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_screen_is_stable_when_nothing_new_comes() {
    let (quiet, limit) = (Duration::from_secs(2), Duration::from_secs(30));
    type Colour = fn(Duration) -> u8;
    let cases: [(Colour, Option<u64>); 4] = [
        (|_| 5, Some(2)),
        // Five seconds of work, then a cursor that blinks.
        (
            |t| {
                if t.as_secs() < 5 {
                    (t.as_millis() / 100) as u8
                } else {
                    (t.as_millis() / 250 % 2) as u8
                }
            },
            Some(7),
        ),
        // A wheel of four spokes turns for ever.
        (|t| (t.as_millis() / 200 % 4) as u8, None),
        (|t| (t.as_secs() / 3) as u8, Some(2)),
    ];
    for (number, (colour, expected)) in cases.into_iter().enumerate() {
        let (mut rfb, far) = pair(1 << 16).await;
        let painting = tokio::spawn(paint(far, colour));
        let begin = Instant::now();
        match (rfb.wait_stable(quiet, limit).await, expected) {
            (Ok(()), Some(seconds)) => assert_eq!(begin.elapsed().as_secs(), seconds, "{number}"),
            (Err(e), None) => assert_eq!(e.kind(), ErrorKind::Timeout, "{number}"),
            (other, _) => panic!("{number}: {other:?}"),
        }
        painting.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn silence_and_the_end_are_errors() {
    let (mut rfb, far) = pair(1 << 16).await;
    assert_eq!(rfb.screenshot().await.unwrap_err().kind(), ErrorKind::Timeout);
    let stable = rfb.wait_stable(Duration::from_secs(1), Duration::from_secs(2)).await;
    assert_eq!(stable.unwrap_err().kind(), ErrorKind::Timeout);
    drop(far);
    let e = rfb.pause(Duration::from_secs(100)).await.unwrap_err();
    assert!(e.kind() == ErrorKind::Transport && e.is_retryable(), "{e}");
    assert_eq!(rfb.type_text("x").await.unwrap_err().kind(), ErrorKind::Transport);

    let (near, _far) = tokio::io::duplex(64);
    let e = Rfb::connect(near, &options()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Timeout);
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_no_clock_holds_is_none() {
    let (mut rfb, mut far) = pair(1 << 16).await;
    far.write_all(&full(7)).await.unwrap();
    rfb.wait_stable(Duration::from_secs(1), Duration::MAX).await.unwrap();
}
