//! The client of RFB: a keyboard and a screen over any stream.

use std::fmt;
use std::time::Duration;

use bytes::BufMut as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::boot::{BootCommand, Step};
use super::decode::{COPY_RECT, DESKTOP_SIZE, Decoder, RAW, Told};
use super::handshake::{self, RfbVersion};
use super::keys::KeyEvent;
use super::pipe::{Pipe, after, late};
use super::screen::{Screen, Screenshot};
use crate::error::Result;

/// Settings of an [`Rfb`] connection.
#[derive(Clone, Debug)]
#[must_use]
#[non_exhaustive]
pub struct RfbOptions {
    highest: RfbVersion,
    key_interval: Duration,
    answer_timeout: Duration,
}

impl RfbOptions {
    /// 3.8 at most, 100 ms after each change of a key as Packer has it, 30 s for an answer.
    pub fn new() -> Self {
        Self {
            highest: RfbVersion::V3_8,
            key_interval: Duration::from_millis(100),
            answer_timeout: Duration::from_secs(30),
        }
    }

    /// Speaks no higher version than this, also with servers that could.
    pub fn with_highest_version(mut self, version: RfbVersion) -> Self {
        self.highest = version;
        self
    }

    /// The pause after each change of a key; a character is two changes, four with Shift. Guests
    /// lose keys that come faster than they read them: 10 ms is for a quiet machine.
    pub fn with_key_interval(mut self, interval: Duration) -> Self {
        self.key_interval = interval;
        self
    }

    /// How long the handshake, an answer, and the sending of a key may take.
    pub fn with_answer_timeout(mut self, timeout: Duration) -> Self {
        self.answer_timeout = timeout;
        self
    }
}

impl Default for RfbOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// A guest's keyboard and screen: a client of the protocol RFB (VNC), as
/// [RFC 6143](https://www.rfc-editor.org/rfc/rfc6143) has it.
///
/// It speaks 3.3, 3.7 and 3.8 without security of its own, and asks for pictures as raw pixels,
/// copied rectangles and changes of the size. The picture is kept in memory, 4 bytes a pixel, at
/// most 8192 x 8192. Whatever a server sends that is not of the protocol is an error of kind
/// [`Protocol`](crate::ErrorKind::Protocol) or [`TooLarge`](crate::ErrorKind::TooLarge), after which the
/// connection is of no use.
///
/// Every future may be dropped: what was begun to be sent is sent with the next. Keys that a
/// dropped [`run`](Self::run) held stay down until [`release_keys`](Self::release_keys); servers
/// let them go when the connection ends.
///
/// ```no_run
/// use std::time::Duration;
/// use xenapi::console::{BootCommand, RfbOptions};
/// use xenapi::{Ref, Session, vm::Vm};
///
/// async fn log_in(session: &Session, vm: &Ref<Vm>) -> Result<(), xenapi::Error> {
///     let patience = Duration::from_secs(120);
///     let mut console = session.open_rfb(vm, &RfbOptions::new(), patience).await?;
///     console.wait_stable(Duration::from_secs(3), patience).await?;
///     console.run(&BootCommand::parse("root<enter><wait2>")?).await?;
///     console.type_text("the password\n").await?;
///     std::fs::write("screen.png", console.screenshot().await?.to_png()?).unwrap();
///     Ok(())
/// }
/// ```
pub struct Rfb<S> {
    pipe: Pipe<S>,
    decoder: Decoder,
    screen: Screen,
    name: String,
    version: RfbVersion,
    /// Whether the server owes us an update.
    asked: bool,
    /// How many updates have come.
    updates: u64,
    /// Keysyms of the keys that are down, in the order in which they went down.
    held: Vec<u32>,
    options: RfbOptions,
}

/// A picture, as far as two have to be told apart.
type Look = (usize, usize, u64);

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Rfb<S> {
    /// Begins the protocol on a stream that leads to a server of it.
    ///
    /// # Errors
    /// - [`Authentication`](crate::ErrorKind::Authentication): the server wants a password or worse;
    /// - [`Connect`](crate::ErrorKind::Connect): it refuses, with its reason;
    /// - [`Transport`](crate::ErrorKind::Transport): the stream ended or broke;
    /// - [`Timeout`](crate::ErrorKind::Timeout), [`Protocol`](crate::ErrorKind::Protocol),
    ///   [`TooLarge`](crate::ErrorKind::TooLarge).
    pub async fn connect(mut stream: S, options: &RfbOptions) -> Result<Self> {
        let limit = options.answer_timeout;
        let beginning = handshake::begin(&mut stream, options.highest);
        let begun = tokio::time::timeout(limit, beginning)
            .await
            .map_err(|_| late("the console's server does not finish its greeting", limit))??;
        let mut rfb = Self {
            pipe: Pipe::new(stream, begun.input),
            decoder: Decoder::new(),
            screen: begun.screen,
            name: begun.name,
            version: begun.version,
            asked: false,
            updates: 0,
            held: Vec::new(),
            options: options.clone(),
        };
        rfb.set_up();
        rfb.flush().await?;
        Ok(rfb)
    }

    /// What the server calls itself, at most 256 characters of it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version that is spoken.
    #[must_use]
    pub fn version(&self) -> RfbVersion {
        self.version
    }

    /// Width and height of the screen in pixels, as the server said last.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        self.screen.size()
    }

    /// Sends one change of one key, without a pause.
    ///
    /// # Errors
    /// [`Transport`](crate::ErrorKind::Transport) when the console is closed, and
    /// [`Timeout`](crate::ErrorKind::Timeout).
    pub async fn key(&mut self, event: KeyEvent) -> Result<()> {
        self.pipe.output.put_u8(4);
        self.pipe.output.put_u8(u8::from(event.down));
        self.pipe.output.put_u16(0);
        self.pipe.output.put_u32(event.keysym);
        self.held.retain(|keysym| *keysym != event.keysym);
        if event.down {
            self.held.push(event.keysym);
        }
        self.flush().await
    }

    /// Types text as it stands: no expression in it is understood. A line end is Return, a
    /// tabulator Tab. Shift is held where a US keyboard needs it; a guest with another keyboard
    /// layout sees other characters.
    ///
    /// # Errors
    /// As [`key`](Self::key).
    pub async fn type_text(&mut self, text: &str) -> Result<()> {
        self.run(&BootCommand::literal(text)).await
    }

    /// Does what a boot command says.
    ///
    /// # Errors
    /// As [`key`](Self::key). A console closes when its guest reboots, and that is noticed also in
    /// a pause: a command that reboots the guest best ends with the key that does it.
    pub async fn run(&mut self, command: &BootCommand) -> Result<()> {
        for step in command.steps() {
            if let Step::Wait(time) = step {
                self.pause(*time).await?;
            }
            for event in step.events() {
                self.key(event).await?;
                self.pause(self.options.key_interval).await?;
            }
        }
        Ok(())
    }

    /// Lets every key go that is down, the last one first.
    ///
    /// # Errors
    /// As [`key`](Self::key).
    pub async fn release_keys(&mut self) -> Result<()> {
        while let Some(keysym) = self.held.last().copied() {
            self.key(KeyEvent::up(keysym)).await?;
        }
        Ok(())
    }

    /// Asks for the whole screen, and gives it as it is now.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout) when the server does not tell every pixel in time,
    /// [`Transport`](crate::ErrorKind::Transport) when the console is closed, and what
    /// [hostile servers](Self) can do.
    pub async fn screenshot(&mut self) -> Result<Screenshot> {
        self.refresh(after(self.options.answer_timeout)).await?;
        Ok(self.screen.picture())
    }

    /// Waits until the screen has shown nothing new for the time `quiet`; for `limit` at most.
    ///
    /// Two pictures that take turns are nothing new: the cursor of a text screen blinks.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout) when it does not come to rest, and as
    /// [`screenshot`](Self::screenshot).
    pub async fn wait_stable(&mut self, quiet: Duration, limit: Duration) -> Result<()> {
        let deadline = after(limit);
        self.refresh(deadline).await?;
        let mut seen = [self.look(); 2];
        let mut since = Instant::now();
        loop {
            if !self.asked {
                self.ask(true);
            }
            let before = self.updates;
            let end = since.checked_add(quiet).map_or(deadline, |end| end.min(deadline));
            self.drive(end, move |me| me.updates != before && me.is_whole()).await?;
            let look = self.look();
            if !seen.contains(&look) {
                seen = [seen[1], look];
                since = Instant::now();
            } else if since.elapsed() >= quiet {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(late("the screen of the console does not come to rest", limit));
            }
        }
    }

    /// Does nothing for a time, but takes in what the server sends.
    async fn pause(&mut self, time: Duration) -> Result<()> {
        self.drive(after(time), |_| false).await.map(drop)
    }

    async fn refresh(&mut self, deadline: Instant) -> Result<()> {
        let begin = Instant::now();
        self.screen.forget();
        self.ask(false);
        if self.drive(deadline, Self::is_whole).await? {
            return Ok(());
        }
        Err(late("the console's server does not tell the whole screen", deadline - begin))
    }

    fn is_whole(&self) -> bool {
        self.screen.is_known() && self.decoder.is_between_messages()
    }

    fn look(&self) -> Look {
        let (width, height) = self.screen.size();
        (width, height, self.screen.digest())
    }

    /// Queues what has to be said once.
    fn set_up(&mut self) {
        self.pipe.output.put_slice(&[0, 0, 0, 0]);
        // 32 bits a pixel, 24 of them colour, little-endian, true colour.
        self.pipe.output.put_slice(&[32, 24, 0, 1]);
        self.pipe.output.put_slice(&[0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0]);
        let encodings = [COPY_RECT, RAW, DESKTOP_SIZE];
        self.pipe.output.put_slice(&[2, 0, 0, 3]);
        encodings.iter().for_each(|encoding| self.pipe.output.put_i32(*encoding));
    }

    /// Queues a request for the screen, or for what has changed since.
    fn ask(&mut self, incremental: bool) {
        let (width, height) = self.screen.size();
        self.pipe.output.put_slice(&[3, u8::from(incremental), 0, 0, 0, 0]);
        for side in [width, height] {
            self.pipe.output.put_u16(u16::try_from(side).unwrap_or(u16::MAX));
        }
        self.asked = true;
    }

    async fn flush(&mut self) -> Result<()> {
        let limit = self.options.answer_timeout;
        let flushed = |me: &Self| me.pipe.is_flushed();
        if self.drive(after(limit), flushed).await? {
            return Ok(());
        }
        Err(late("the console's server takes nothing", limit))
    }

    /// Sends and receives until `done`, which gives true, or until a time, which gives false.
    async fn drive(&mut self, until: Instant, done: impl Fn(&Self) -> bool + Send) -> Result<bool> {
        let mut is_time = true;
        loop {
            self.absorb()?;
            if done(self) {
                return Ok(true);
            }
            if !is_time {
                return Ok(false);
            }
            is_time = self.pipe.moved_until(until).await?;
        }
    }

    /// Takes in what has come.
    fn absorb(&mut self) -> Result<()> {
        while let Some(told) = self.decoder.read(&mut self.pipe.input, &mut self.screen)? {
            match told {
                Told::Update => {
                    self.asked = false;
                    self.updates += 1;
                }
                Told::Resized => self.ask(false),
            }
        }
        Ok(())
    }
}

impl<S> fmt::Debug for Rfb<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rfb")
            .field("name", &self.name)
            .field("version", &self.version)
            .field("screen", &self.screen)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "rfb_tests.rs"]
mod tests;
