//! A console over a WebSocket: the handshake as the server writes it, and messages by RFC 6455
//! between the client and the guest.

use std::future::pending;
use std::time::Duration;

use base64::Engine as _;
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use sha1::{Digest, Sha1};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

use super::http::{Conn, Head};

/// The longest message that is taken from a client, and the longest frame.
pub(super) const LIMIT: usize = 1 << 20;

/// The server's proxy reads this much of the guest at a time, and makes a frame of it.
pub(super) const PIECE: usize = 1024;

/// How long a client may take to see the end.
const PATIENCE: Duration = Duration::from_secs(1);

/// What RFC 6455 adds to a client's key.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The header block of the answer, if the request has a key. The server looks at nothing else: not
/// at `Upgrade`, nor at a version. It names the subprotocol `binary` also to those who offered none.
pub(super) fn switching(head: &Head) -> Option<String> {
    let accept = accept(head.header("sec-websocket-key")?);
    Some(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: binary\r\n\r\n"
    ))
}

fn accept(key: &str) -> String {
    let digest = Sha1::digest(format!("{key}{GUID}"));
    base64::engine::general_purpose::STANDARD.encode(digest)
}

/// Carries bytes between a client and a guest, until one of them ends. `buffer` is what the client
/// sent together with its request.
pub(super) async fn relay(conn: &mut Conn, buffer: &mut BytesMut, guest: DuplexStream) {
    let mut config = WebSocketConfig::default();
    (config.max_message_size, config.max_frame_size) = (Some(LIMIT), Some(LIMIT));
    (config.read_buffer_size, config.write_buffer_size) = (4 * PIECE, 0);
    let early = buffer.split().to_vec();
    let socket =
        WebSocketStream::from_partially_read(&mut *conn, early, Role::Server, Some(config)).await;
    let (mut to_client, mut from_client) = socket.split();
    let (mut from_guest, mut to_guest) = tokio::io::split(guest);

    // The two ways go on by themselves: a guest that draws does not listen.
    let up = async {
        while let Some(message) = from_client.next().await {
            let data = match message {
                Ok(Message::Binary(data)) => data,
                // The server takes any message for data.
                Ok(Message::Text(text)) => Bytes::from(text),
                // The library answers a ping, and a close.
                Ok(_) => continue,
                Err(error) => return blame(&error),
            };
            if to_guest.write_all(&data).await.is_err() {
                // The guest has ended. What it said before is still on its way to the client.
                return pending().await;
            }
        }
        None
    };
    let down = async {
        let mut piece = [0; PIECE];
        while let Ok(length @ 1..) = from_guest.read(&mut piece).await {
            let data = Bytes::copy_from_slice(piece.get(..length).unwrap_or_default());
            if to_client.send(Message::Binary(data)).await.is_err() {
                // The client has ended, and the other way sees how.
                return pending().await;
            }
        }
        CloseCode::Away
    };
    let end = tokio::select! {
        code = up => code,
        code = down => Some(code),
    };
    let Some(code) = end else { return };
    let farewell = CloseFrame { code, reason: reason(code).into() };
    let said = timeout(PATIENCE, to_client.send(Message::Close(Some(farewell)))).await;
    drop((to_client, from_client));
    if said.is_ok() {
        // To end while the client still sends would take the close frame away from it.
        let rest = async {
            conn.shutdown().await?;
            tokio::io::copy(conn, &mut tokio::io::sink()).await
        };
        let _ = timeout(PATIENCE, rest).await;
    }
}

/// The code for a client that did not keep to the protocol; `None` if there is none left to tell.
fn blame(error: &Error) -> Option<CloseCode> {
    match error {
        Error::Capacity(_) => Some(CloseCode::Size),
        Error::Utf8(_) => Some(CloseCode::Invalid),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        Error::Protocol(_) => Some(CloseCode::Protocol),
        _ => None,
    }
}

fn reason(code: CloseCode) -> &'static str {
    match code {
        CloseCode::Size => "messages of up to 1 MiB are taken",
        CloseCode::Invalid => "text must be UTF-8",
        CloseCode::Protocol => "this is against RFC 6455",
        _ => "the console has ended",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
