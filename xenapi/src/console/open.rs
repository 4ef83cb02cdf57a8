//! The way to a guest's console, also to that of a guest which is just starting.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::pipe::after;
use super::rfb::{Rfb, RfbOptions};
use super::terminal::Terminal;
use super::{Console, ConsoleStream};
use crate::enums::ConsoleProtocol;
use crate::error::{Error, ErrorKind, Result};
use crate::live::Session;
use crate::refs::Ref;
use crate::vm::{self, Vm};

/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

impl Session {
    /// The console of a guest for a protocol, if it has one at the moment.
    ///
    /// Only guests that run have consoles, and every start makes new ones.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn find_console(
        &self,
        vm: &Ref<Vm>,
        protocol: &ConsoleProtocol,
    ) -> Result<Option<Ref<Console>>> {
        for console in self.call(vm::get_record(vm)).await?.consoles {
            match self.call(super::get_record(&console)).await {
                Ok(record) if record.protocol == *protocol => return Ok(Some(console)),
                // It went between the two questions.
                Err(e) if !e.is_not_found() => return Err(e),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Opens the keyboard and the screen of a guest, and tries again for the time `patience` while
    /// there is none.
    ///
    /// Call it again when a connection has ended with [`Transport`](ErrorKind::Transport): a guest
    /// that reboots has another console then. Hosts say yes to a console before they reach it, so
    /// that this counts as open only when the server of the console has greeted.
    ///
    /// # Errors
    /// - the last error, when the time is over: [`Connect`](ErrorKind::Connect),
    ///   [`Timeout`](ErrorKind::Timeout) or [`Transport`](ErrorKind::Transport);
    /// - at once, what waiting does not mend: as [`open_console`](Self::open_console) and
    ///   [`Rfb::connect`].
    pub async fn open_rfb(
        &self,
        vm: &Ref<Vm>,
        options: &RfbOptions,
        patience: Duration,
    ) -> Result<Rfb<ConsoleStream>> {
        let deadline = after(patience);
        loop {
            let attempt = async {
                let stream = self.open_console_of(vm, &ConsoleProtocol::Rfb).await?;
                Rfb::connect(stream, options).await
            };
            match within(deadline, attempt).await {
                Err(e) if may_mend(&e, deadline) => tokio::time::sleep(PAUSE).await,
                other => return other.map_err(|e| e.context(format!("screen of VM {vm}"))),
            }
        }
    }

    /// Opens the text console of a guest without hardware emulation (PV, PVH), and tries again for
    /// the time `patience` while there is none.
    ///
    /// # Errors
    /// As [`open_rfb`](Self::open_rfb). A guest with hardware emulation (HVM) has no such console.
    pub async fn open_terminal(
        &self,
        vm: &Ref<Vm>,
        patience: Duration,
    ) -> Result<Terminal<ConsoleStream>> {
        let deadline = after(patience);
        loop {
            match within(deadline, self.open_console_of(vm, &ConsoleProtocol::Vt100)).await {
                Err(e) if may_mend(&e, deadline) => tokio::time::sleep(PAUSE).await,
                Err(e) => return Err(e.context(format!("terminal of VM {vm}"))),
                Ok(stream) => return Ok(Terminal::new(stream)),
            }
        }
    }

    async fn open_console_of(
        &self,
        vm: &Ref<Vm>,
        protocol: &ConsoleProtocol,
    ) -> Result<ConsoleStream> {
        match self.find_console(vm, protocol).await? {
            Some(console) => self.open_console(&console).await.map_err(|e| {
                // The console went while it was opened. The guest may have another one soon.
                if e.is_not_found() { e.with_kind(ErrorKind::Connect) } else { e }
            }),
            None => {
                let words =
                    format!("the guest has no console of protocol {protocol}; does it run?");
                Err(Error::new(ErrorKind::Connect, words))
            }
        }
    }
}

async fn within<T>(deadline: Instant, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
    timeout_at(deadline, work).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Timeout, "the console could not be opened in the time given"))
    })
}

/// Whether to try again: the error is of the moment, and there is time left for another attempt.
fn may_mend(error: &Error, deadline: Instant) -> bool {
    error.is_retryable() && Instant::now() + PAUSE < deadline
}
