//! Frames as the server's own proxy of WebSockets takes and makes them, for a client that should
//! not learn what RFC 6455 allows but what a pool does.
//!
//! Every frame is data but a close: a ping reaches the guest, and has no pong. A mask may be
//! missing. A length of 64 bits is read as one of 32, so that a frame of 64 KiB is nonsense from
//! there on. The end comes without a close frame.

use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::http::Conn;
use super::websocket::{LIMIT, PIECE};

const FINAL: u8 = 0x80;
const BINARY: u8 = 0x02;
const CLOSE: u8 = 0x08;

/// Carries bytes between a client and a guest, until one of them ends. `buffer` is what the client
/// sent together with its request.
pub(super) async fn relay(
    conn: &mut Conn,
    buffer: &mut BytesMut,
    guest: DuplexStream,
) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(conn);
    let (mut from_guest, mut to_guest) = tokio::io::split(guest);
    let up = async {
        let mut message = BytesMut::new();
        loop {
            while let Some((first, payload)) = take(buffer) {
                if first & 0x0f == CLOSE {
                    return Ok(());
                }
                message.extend_from_slice(&payload);
                if first & FINAL != 0 {
                    to_guest.write_all(&message.split()).await?;
                }
            }
            if message.len() + buffer.len() > LIMIT {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if from_client.read_buf(buffer).await? == 0 {
                return Ok(());
            }
        }
    };
    let down = async {
        let mut piece = [0; PIECE];
        loop {
            let length = from_guest.read(&mut piece).await?;
            let data = piece.get(..length).unwrap_or_default();
            if data.is_empty() {
                return Ok(());
            }
            to_client.write_all(&frame(data)).await?;
            to_client.flush().await?;
        }
    };
    tokio::select! {
        ended = up => ended,
        ended = down => ended,
    }
}

/// A piece of what the guest says, as one frame.
fn frame(data: &[u8]) -> Vec<u8> {
    let mut frame = vec![FINAL | BINARY];
    match u8::try_from(data.len()) {
        Ok(length @ ..126) => frame.push(length),
        _ => {
            frame.push(126);
            frame.extend(u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    frame.extend_from_slice(data);
    frame
}

/// The next frame, if it is whole: its first byte and what it carries.
fn take(buffer: &mut BytesMut) -> Option<(u8, BytesMut)> {
    let [first, second, rest @ ..] = &buffer[..] else { return None };
    let (first, masked) = (*first, second & 0x80 != 0);
    let (length, extra) = match second & 0x7f {
        126 => (usize::from(rest.get(..2)?.get_u16()), 2),
        127 => (rest.get(..4)?.get_u32() as usize, 4),
        short => (usize::from(short), 0),
    };
    let at: usize = 2 + extra + if masked { 4 } else { 0 };
    if buffer.len() < at.checked_add(length)? {
        return None;
    }
    let head = buffer.split_to(at);
    let mut payload = buffer.split_to(length);
    if masked {
        let mask = head.iter().skip(2 + extra).cycle();
        payload.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    }
    Some((first, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_kind_are_data() {
        // The examples of RFC 6455, 5.7: masked, unmasked, a ping.
        let mut buffer = BytesMut::from(
            &b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58\x81\x05Hello\x89\x05Hello\x82\x7e\x01"
                [..],
        );
        for first in [0x81, 0x81, 0x89] {
            assert_eq!(take(&mut buffer), Some((first, BytesMut::from(&b"Hello"[..]))));
        }
        assert_eq!(take(&mut buffer), None);
        assert_eq!(buffer.len(), 3);
    }

    #[test]
    fn a_length_of_64_bits_is_misread() {
        let mut buffer = BytesMut::from(&b"\x82\x7f\0\0\0\0\0\x01\0\0"[..]);
        assert_eq!(take(&mut buffer), Some((0x82, BytesMut::new())));
        assert_eq!(&buffer[..], b"\0\x01\0\0");
    }

    #[test]
    fn lengths_are_written_in_the_shortest_way() {
        assert_eq!(frame(&[7; 125])[..2], [0x82, 125]);
        assert_eq!(frame(&[7; 126])[..4], [0x82, 126, 0, 126]);
        assert_eq!(frame(&[7; 1024])[..4], [0x82, 126, 4, 0]);
    }
}
