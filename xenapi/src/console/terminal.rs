//! A text console: bytes in both directions, shown on a screen of characters.

use std::fmt;
use std::num::NonZeroU16;
use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::pipe::{Pipe, after, late};
use crate::error::Result;

const ROWS: NonZeroU16 = NonZeroU16::MIN.saturating_add(23);
const COLUMNS: NonZeroU16 = NonZeroU16::MIN.saturating_add(79);
/// How long the other side may take nothing.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// A guest's text console (protocol `vt100`): what it writes is shown on a screen of 80 x 24
/// characters, as a DEC VT100 and its successors would (ECMA-48).
///
/// The screen is empty at first: a console tells what is written from now on. Send a line end to
/// see a prompt. Every future may be dropped: what was begun to be sent is sent with the next.
pub struct Terminal<S> {
    pipe: Pipe<S>,
    parser: vt100::Parser,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Terminal<S> {
    /// Takes a stream that leads to a text console.
    #[must_use]
    pub fn new(stream: S) -> Self {
        let parser = vt100::Parser::new(ROWS, COLUMNS, 0);
        Self { pipe: Pipe::new(stream, BytesMut::new()), parser }
    }

    /// Sends text; a line end as the Return key does it, by a carriage return.
    ///
    /// # Errors
    /// [`Transport`](crate::ErrorKind::Transport) when the console is closed, and
    /// [`Timeout`](crate::ErrorKind::Timeout) when the other side takes nothing.
    pub async fn send_text(&mut self, text: &str) -> Result<()> {
        self.pipe.output.put_slice(text.replace("\r\n", "\r").replace('\n', "\r").as_bytes());
        if self.drive(after(SEND_TIMEOUT), |me| me.pipe.is_flushed()).await? {
            return Ok(());
        }
        Err(late("the console takes nothing", SEND_TIMEOUT))
    }

    /// The screen as far as it is known: lines without the blanks at their ends. Call
    /// [`listen`](Self::listen) or [`wait_for`](Self::wait_for) to hear what is new.
    #[must_use]
    pub fn screen_text(&self) -> String {
        self.parser.screen().contents()
    }

    /// Takes in what comes, for a time.
    ///
    /// # Errors
    /// [`Transport`](crate::ErrorKind::Transport) when the console is closed.
    pub async fn listen(&mut self, time: Duration) -> Result<()> {
        self.drive(after(time), |_| false).await.map(drop)
    }

    /// Waits until the screen shows a text; for `limit` at most.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout) when it does not, and as [`listen`](Self::listen).
    pub async fn wait_for(&mut self, text: &str, limit: Duration) -> Result<()> {
        let shown = |me: &Self| me.parser.screen().contents().contains(text);
        if self.drive(after(limit), shown).await? {
            return Ok(());
        }
        Err(late(&format!("the console does not show {text:?}"), limit))
    }

    /// Waits until nothing has come for the time `quiet`; for `limit` at most.
    ///
    /// # Errors
    /// As [`wait_for`](Self::wait_for).
    pub async fn wait_stable(&mut self, quiet: Duration, limit: Duration) -> Result<()> {
        let deadline = after(limit);
        loop {
            let end = after(quiet).min(deadline);
            let before = self.parser.screen().contents();
            let news = move |me: &Self| me.parser.screen().contents() != before;
            if !self.drive(end, news).await? && Instant::now() < deadline {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(late("the console does not come to rest", limit));
            }
        }
    }

    /// Sends and receives until `done`, which gives true, or until a time, which gives false.
    async fn drive(&mut self, until: Instant, done: impl Fn(&Self) -> bool + Send) -> Result<bool> {
        let mut is_time = true;
        loop {
            let came = self.pipe.input.split();
            self.parser.process(&came);
            if done(self) {
                return Ok(true);
            }
            if !is_time {
                return Ok(false);
            }
            is_time = self.pipe.moved_until(until).await?;
        }
    }
}

impl<S> fmt::Debug for Terminal<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminal").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};

    use super::*;
    use crate::ErrorKind;

    #[tokio::test]
    async fn a_login_is_read_and_answered() {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let mut terminal = Terminal::new(near);
        let guest = async {
            far.write_all(b"\x1b[2J\x1b[1;1H\x1b[1mDebian\x1b[0m 12\r\n\r\nweb01 lo")
                .await
                .unwrap();
            far.write_all(b"gin: ").await.unwrap();
            let mut heard = [0; 5];
            far.read_exact(&mut heard).await.unwrap();
            far.write_all(b"\x1b[3;1H\x1b[Kwelcome").await.unwrap();
            (far, heard)
        };
        let user = async {
            let limit = Duration::from_secs(10);
            terminal.wait_for("login:", limit).await.unwrap();
            assert_eq!(terminal.screen_text(), "Debian 12\n\nweb01 login: ");
            terminal.send_text("root\n").await.unwrap();
            terminal.wait_for("welcome", limit).await.unwrap();
            assert_eq!(terminal.screen_text(), "Debian 12\n\nwelcome");
        };
        let ((_far, heard), ()) = tokio::join!(guest, user);
        assert_eq!(&heard, b"root\r");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_a_timeout_and_rest() {
        let (near, far) = tokio::io::duplex(64);
        let mut terminal = Terminal::new(near);
        let (quiet, limit) = (Duration::from_secs(1), Duration::from_secs(5));
        terminal.wait_stable(quiet, limit).await.unwrap();
        assert_eq!(terminal.wait_for("x", limit).await.unwrap_err().kind(), ErrorKind::Timeout);
        drop(far);
        assert_eq!(terminal.listen(quiet).await.unwrap_err().kind(), ErrorKind::Transport);
    }

    /// Has always more to give, for two seconds.
    struct Flood(Instant);

    impl AsyncRead for Flood {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if self.0.elapsed() < Duration::from_secs(2) {
                buffer.put_slice(b"more ");
            }
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_flood_does_not_outlast_the_limit() {
        let stream = tokio::io::join(Flood(Instant::now()), tokio::io::sink());
        let mut terminal = Terminal::new(stream);
        let limit = Duration::from_millis(50);
        terminal.listen(limit).await.unwrap();
        let late = terminal.wait_for("less", limit).await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Timeout);
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_no_clock_holds_is_none() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut terminal = Terminal::new(near);
        far.write_all(b"login: ").await.unwrap();
        terminal.wait_for("login:", Duration::MAX).await.unwrap();
        terminal.wait_stable(Duration::from_secs(1), Duration::MAX).await.unwrap();
        drop(far);
        terminal.listen(Duration::MAX).await.unwrap_err();
    }

    proptest! {
        #[test]
        fn no_output_is_a_panic(bytes in proptest::collection::vec(
            prop_oneof![Just(0x1b), Just(b'['), Just(b';'), Just(b'?'), b'0'..=b'9', b'@'..=b'~', any::<u8>()],
            0..400,
        )) {
            let mut parser = vt100::Parser::new(ROWS, COLUMNS, 0);
            parser.process(&bytes);
            prop_assert!(parser.screen().contents().lines().count() <= usize::from(ROWS.get()));
        }
    }
}
