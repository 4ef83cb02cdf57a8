//! Digests of the output, each on a thread of its own.

use std::fmt::Write as _;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use bytes::Bytes;
use md5::Md5;
use sha2::{Digest, Sha256, Sha512};

use super::QUEUE;
use crate::{Error, ErrorKind, Result};

/// Which digests of the output to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct DigestSet {
    pub(crate) md5: bool,
    pub(crate) sha256: bool,
    pub(crate) sha512: bool,
}

impl DigestSet {
    /// MD5, SHA-256 and SHA-512.
    pub const ALL: Self = Self { md5: true, sha256: true, sha512: true };
    /// None at all.
    pub const NONE: Self = Self { md5: false, sha256: false, sha512: false };

    /// With or without MD5 (the `checksum` of a Glance image).
    #[must_use]
    pub const fn with_md5(mut self, on: bool) -> Self {
        self.md5 = on;
        self
    }

    /// With or without SHA-256.
    #[must_use]
    pub const fn with_sha256(mut self, on: bool) -> Self {
        self.sha256 = on;
        self
    }

    /// With or without SHA-512 (the usual `os_hash_value` of a Glance image).
    #[must_use]
    pub const fn with_sha512(mut self, on: bool) -> Self {
        self.sha512 = on;
        self
    }

    /// Whether no digest is wanted.
    pub const fn is_empty(&self) -> bool {
        !(self.md5 || self.sha256 || self.sha512)
    }
}

/// Digests of the output in lower-case hexadecimal; `None` where it was not asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Digests {
    /// MD5, 32 digits.
    pub md5: Option<String>,
    /// SHA-256, 64 digits.
    pub sha256: Option<String>,
    /// SHA-512, 128 digits.
    pub sha512: Option<String>,
}

/// The digest threads of one transfer.
#[derive(Debug)]
pub(super) struct DigestThreads<'scope> {
    queues: Vec<SyncSender<Bytes>>,
    md5: Option<ScopedJoinHandle<'scope, String>>,
    sha256: Option<ScopedJoinHandle<'scope, String>>,
    sha512: Option<ScopedJoinHandle<'scope, String>>,
}

impl<'scope> DigestThreads<'scope> {
    pub(super) fn start<'env>(scope: &'scope Scope<'scope, 'env>, set: DigestSet) -> Self {
        let mut queues = Vec::new();
        Self {
            md5: set.md5.then(|| spawn::<Md5>(scope, &mut queues)),
            sha256: set.sha256.then(|| spawn::<Sha256>(scope, &mut queues)),
            sha512: set.sha512.then(|| spawn::<Sha512>(scope, &mut queues)),
            queues,
        }
    }

    /// Whether no digest is computed.
    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// The next bytes of the output. Waits for the slowest digest.
    pub(super) fn update(&self, bytes: &Bytes) -> Result<()> {
        for queue in &self.queues {
            queue.send(bytes.clone()).map_err(|_| thread_died("digest"))?;
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Digests> {
        drop(self.queues);
        Ok(Digests { md5: join(self.md5)?, sha256: join(self.sha256)?, sha512: join(self.sha512)? })
    }
}

fn spawn<'scope, D: Digest + Send>(
    scope: &'scope Scope<'scope, '_>,
    queues: &mut Vec<SyncSender<Bytes>>,
) -> ScopedJoinHandle<'scope, String> {
    let (queue, bytes): (_, Receiver<Bytes>) = sync_channel(QUEUE);
    queues.push(queue);
    scope.spawn(move || {
        let mut digest = D::new();
        for piece in bytes {
            digest.update(&piece);
        }
        hex(&digest.finalize())
    })
}

fn join(handle: Option<ScopedJoinHandle<'_, String>>) -> Result<Option<String>> {
    handle.map(|h| h.join().map_err(|_| thread_died("digest"))).transpose()
}

/// A worker panicked: a defect, but not a reason to take the caller's process down.
pub(super) fn thread_died(what: &str) -> Error {
    Error::new(ErrorKind::Io, format!("the {what} thread of the transfer ended unexpectedly"))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
