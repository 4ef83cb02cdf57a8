//! How a connection of RFB begins (RFC 6143, sections 7.1 to 7.3).

use std::fmt;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::pipe::{broken, closed};
use super::screen::Screen;
use crate::error::{Error, ErrorKind, Result};

/// A version of the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RfbVersion {
    /// 3.3: what XenServer's own consoles of PV guests speak, and what its idle timeout for
    /// consoles understands.
    V3_3,
    /// 3.7.
    V3_7,
    /// 3.8: what QEMU speaks.
    #[default]
    V3_8,
}

impl RfbVersion {
    /// The version to answer a server's banner with: never a higher one. A version between those
    /// that were published is treated as 3.3, as the RFC says.
    fn of_banner(banner: &[u8]) -> Option<Self> {
        let text = banner.strip_prefix(b"RFB ")?.strip_suffix(b"\n")?;
        let number = |digits: &[u8]| -> Option<u32> {
            let all = digits.len() == 3 && digits.iter().all(u8::is_ascii_digit);
            std::str::from_utf8(digits).ok().filter(|_| all)?.parse().ok()
        };
        let (major, minor) = (number(text.get(..3)?)?, number(text.get(4..)?)?);
        match (major, minor, text.get(3)?) {
            (3, 7, b'.') => Some(Self::V3_7),
            (3, 8.., b'.') | (4.., _, b'.') => Some(Self::V3_8),
            (3, _, b'.') => Some(Self::V3_3),
            _ => None,
        }
    }

    fn banner(self) -> &'static [u8; 12] {
        match self {
            Self::V3_3 => b"RFB 003.003\n",
            Self::V3_7 => b"RFB 003.007\n",
            Self::V3_8 => b"RFB 003.008\n",
        }
    }
}

impl fmt::Display for RfbVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V3_3 => "3.3",
            Self::V3_7 => "3.7",
            Self::V3_8 => "3.8",
        })
    }
}

/// What the handshake brought.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) version: RfbVersion,
    pub(super) screen: Screen,
    pub(super) name: String,
    /// What came behind the handshake.
    pub(super) input: BytesMut,
}

/// How much of a server's text is kept for people, and how long it may be at all.
const KEPT: usize = 256;
const LONGEST_NAME: u32 = 64 * 1024;

/// No security: the way to the console was the place for that.
const NONE: u8 = 1;

/// Speaks with the server until both know the screen.
pub(super) async fn begin<S>(stream: &mut S, highest: RfbVersion) -> Result<Begun>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut input = Input { stream, buffer: BytesMut::new() };
    let banner = input.take(12).await?;
    let offered = RfbVersion::of_banner(&banner).ok_or_else(|| {
        let words = format!(
            "this is no console of protocol rfb: it begins with {}",
            crate::wire::excerpt(&banner)
        );
        Error::new(ErrorKind::Protocol, words)
    })?;
    let version = offered.min(highest);
    input.send(version.banner()).await?;
    security(&mut input, version).await?;
    // Shared: whoever looks at the same console keeps it.
    input.send(&[1]).await?;
    let mut head = input.take(24).await?;
    let (width, height) = (head.get_u16(), head.get_u16());
    // The server's own pixel format; we set ours.
    head.advance(16);
    let length = head.get_u32();
    if length > LONGEST_NAME {
        let words = format!("the console's server has a name of {length} bytes");
        return Err(Error::new(ErrorKind::TooLarge, words));
    }
    let name = input.take(usize::try_from(length).unwrap_or(0)).await?;
    let name = String::from_utf8_lossy(&name).chars().take(KEPT).collect();
    Ok(Begun { version, screen: Screen::new(width, height)?, name, input: input.buffer })
}

async fn security<S>(input: &mut Input<'_, S>, version: RfbVersion) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if version == RfbVersion::V3_3 {
        return match input.take(4).await?.get_u32() {
            0 => Err(input.refusal(ErrorKind::Connect, "the console's server refuses").await),
            1 => Ok(()),
            other => Err(unusable(&other.to_string())),
        };
    }
    let count = input.take(1).await?.get_u8();
    if count == 0 {
        return Err(input.refusal(ErrorKind::Connect, "the console's server refuses").await);
    }
    let kinds = input.take(usize::from(count)).await?;
    if !kinds.contains(&NONE) {
        let list: Vec<String> = kinds.iter().map(u8::to_string).collect();
        return Err(unusable(&list.join(", ")));
    }
    input.send(&[NONE]).await?;
    // Up to 3.7 nothing is said about "none".
    if version == RfbVersion::V3_8 && input.take(4).await?.get_u32() != 0 {
        let words = "the console's server refuses after the choice of security";
        return Err(input.refusal(ErrorKind::Authentication, words).await);
    }
    Ok(())
}

fn unusable(offered: &str) -> Error {
    let words = format!(
        "the console's server wants security of type {offered}, and only type 1 (none) is \
         spoken here; a console that is reached through a pool needs no other"
    );
    Error::new(ErrorKind::Authentication, words)
}

/// The stream, and what was read of it and not used.
struct Input<'a, S> {
    stream: &'a mut S,
    buffer: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Input<'_, S> {
    /// Exactly so many bytes. The caller bounds the number.
    async fn take(&mut self, length: usize) -> Result<BytesMut> {
        while self.buffer.len() < length {
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(closed()),
                Ok(_) => {}
                Err(e) => return Err(broken(e)),
            }
        }
        Ok(self.buffer.split_to(length))
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).await.map_err(broken)?;
        self.stream.flush().await.map_err(broken)
    }

    /// The error with the reason that the server gives, or as much of it as comes.
    async fn refusal(&mut self, kind: ErrorKind, words: &str) -> Error {
        let reason = async {
            let length = self.take(4).await?.get_u32();
            self.take(KEPT.min(usize::try_from(length).unwrap_or(KEPT))).await
        };
        let reason = reason.await.map(|bytes| crate::wire::excerpt(&bytes));
        let reason = reason.unwrap_or_else(|_| "no reason".to_owned());
        Error::new(kind, format!("{words}: {reason}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn banners() {
        use RfbVersion::{V3_3, V3_7, V3_8};
        for (banner, version) in [
            ("RFB 003.003\n", Some(V3_3)),
            ("RFB 003.004\n", Some(V3_3)),
            ("RFB 003.005\n", Some(V3_3)),
            ("RFB 003.007\n", Some(V3_7)),
            ("RFB 003.008\n", Some(V3_8)),
            ("RFB 003.889\n", Some(V3_8)),
            ("RFB 004.001\n", Some(V3_8)),
            ("RFB 002.009\n", None),
            ("RFB 003_008\n", None),
            ("RFB 003.00\u{b2}\n", None),
            ("RFB +03.008\n", None),
            ("HTTP/1.1 200", None),
        ] {
            assert_eq!(RfbVersion::of_banner(banner.as_bytes()), version, "{banner:?}");
        }
    }

    /// Plays a server that says all at once, whatever it is told.
    async fn against(said: &[u8], highest: RfbVersion) -> (Result<Begun>, Vec<u8>) {
        let (mut near, far) = tokio::io::duplex(1 << 17);
        let (mut answers, mut speaks) = tokio::io::split(far);
        speaks.write_all(said).await.unwrap();
        speaks.shutdown().await.unwrap();
        let begun = begin(&mut near, highest).await;
        drop(near);
        let mut heard = Vec::new();
        answers.read_to_end(&mut heard).await.unwrap();
        (begun, heard)
    }

    fn server_init(name: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 4, 0, 3];
        bytes.extend([0; 16]);
        bytes.extend(u32::try_from(name.len()).unwrap().to_be_bytes());
        bytes.extend(name);
        bytes
    }

    #[tokio::test]
    async fn every_version_and_what_follows_is_kept() {
        for (banner, highest, security, heard) in [
            ("RFB 003.003\n", RfbVersion::V3_8, &[0, 0, 0, 1][..], "RFB 003.003\n\u{1}"),
            ("RFB 003.008\n", RfbVersion::V3_3, &[0, 0, 0, 1], "RFB 003.003\n\u{1}"),
            ("RFB 003.007\n", RfbVersion::V3_8, &[2, 2, 1], "RFB 003.007\n\u{1}\u{1}"),
            ("RFB 003.008\n", RfbVersion::V3_8, &[1, 1, 0, 0, 0, 0], "RFB 003.008\n\u{1}\u{1}"),
        ] {
            let said = [banner.as_bytes(), security, &server_init(b"guest"), &[2, 2]].concat();
            let (begun, answers) = against(&said, highest).await;
            let begun = begun.unwrap();
            assert_eq!(begun.screen.size(), (4, 3));
            assert_eq!((begun.name.as_str(), &begun.input[..]), ("guest", &[2, 2][..]));
            assert_eq!(answers, heard.as_bytes());
        }
    }

    #[tokio::test]
    async fn refusals_are_told_with_a_bounded_reason() {
        let reason = |text: &str| {
            [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
        };
        let long = "no\u{1b}[2J".to_owned() + &"x".repeat(5_000);
        for (said, kind, word) in [
            (
                [b"RFB 003.003\n\0\0\0\0", &reason("too many")[..]].concat(),
                ErrorKind::Connect,
                "too many",
            ),
            (
                [b"RFB 003.003\n\0\0\0\x02", &[0; 16][..]].concat(),
                ErrorKind::Authentication,
                "type 2",
            ),
            ([b"RFB 003.007\n\0", &reason(&long)[..]].concat(), ErrorKind::Connect, "xxx"),
            ([b"RFB 003.008\n\x02\x02\x13", &[][..]].concat(), ErrorKind::Authentication, "2, 19"),
            (
                [b"RFB 003.008\n\x01\x01\0\0\0\x01", &reason("go away")[..]].concat(),
                ErrorKind::Authentication,
                "go away",
            ),
            (
                [b"RFB 003.008\n\0\xff\xff\xff\xff", &b"cut"[..]].concat(),
                ErrorKind::Connect,
                "no reason",
            ),
            (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), ErrorKind::Protocol, "SSH"),
            (b"RFB 003".to_vec(), ErrorKind::Transport, "closed"),
            (Vec::new(), ErrorKind::Transport, "closed"),
        ] {
            let (begun, _) = against(&said, RfbVersion::V3_8).await;
            let e = begun.unwrap_err();
            assert_eq!(e.kind(), kind, "{e}");
            let text = e.to_string();
            assert!(text.contains(word) && text.len() < 500 && !text.contains('\u{1b}'), "{text}");
        }
    }

    #[tokio::test]
    async fn sizes_and_names_are_bounded() {
        let head = b"RFB 003.003\n\0\0\0\x01";
        let mut huge = server_init(b"");
        huge[..4].fill(0xff);
        let mut named = server_init(b"");
        named[20..].fill(0xff);
        for init in [huge, named] {
            let (begun, _) = against(&[head, &init[..]].concat(), RfbVersion::V3_8).await;
            assert_eq!(begun.unwrap_err().kind(), ErrorKind::TooLarge);
        }
        let long = "n".repeat(60_000);
        let said = [head, &server_init(long.as_bytes())[..]].concat();
        assert_eq!(against(&said, RfbVersion::V3_8).await.0.unwrap().name.len(), KEPT);
    }
}
