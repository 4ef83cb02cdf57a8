//! Where an upload's bytes go: a file, two digests and the format check, on threads beside the
//! connection, with a bounded number of blocks between them.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use md5::Md5;
use sha2::{Digest, Sha256, Sha512};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::inspect::HEAD;

/// Blocks in flight; hyper's blocks are at most about 400 KiB.
const BLOCKS: usize = 4;

/// What an upload turned out to be.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) size: u64,
    pub(super) md5: String,
    /// Algorithm and value.
    pub(super) hash: (&'static str, String),
    pub(super) head: Vec<u8>,
}

/// An upload in progress.
#[derive(Debug)]
pub(super) struct Sink {
    blocks: mpsc::Sender<Bytes>,
    work: JoinHandle<io::Result<Stored>>,
}

impl Sink {
    pub(super) fn start(path: PathBuf, sha256: bool) -> Self {
        let (blocks, receive) = mpsc::channel(BLOCKS);
        let work = tokio::task::spawn_blocking(move || {
            if sha256 {
                take_in::<Sha256>(&path, receive, "sha256")
            } else {
                take_in::<Sha512>(&path, receive, "sha512")
            }
        });
        Self { blocks, work }
    }

    /// Hands over a block; false when the file could not be written, which `finish` explains.
    pub(super) async fn write(&self, block: Bytes) -> bool {
        self.blocks.send(block).await.is_ok()
    }

    pub(super) async fn finish(self) -> io::Result<Stored> {
        drop(self.blocks);
        self.work.await.map_err(io::Error::other)?
    }
}

fn take_in<D: Digest>(
    path: &PathBuf,
    mut blocks: mpsc::Receiver<Bytes>,
    algorithm: &'static str,
) -> io::Result<Stored> {
    let mut file = File::create(path)?;
    std::thread::scope(|scope| {
        let (send, receive) = sync_channel::<Bytes>(BLOCKS);
        let second = scope.spawn(move || {
            let mut digest = D::new();
            for block in receive {
                digest.update(&block);
            }
            hex::encode(digest.finalize())
        });
        let (mut size, mut md5, mut head) = (0, Md5::new(), Vec::new());
        while let Some(block) = blocks.blocking_recv() {
            if send.send(block.clone()).is_err() {
                break;
            }
            file.write_all(&block)?;
            md5.update(&block);
            let wanted = (HEAD - head.len()).min(block.len());
            head.extend_from_slice(&block[..wanted]);
            size += block.len() as u64;
        }
        drop(send);
        let value = second.join().map_err(|_| io::Error::other("the digest thread panicked"))?;
        Ok(Stored { size, md5: hex::encode(md5.finalize()), hash: (algorithm, value), head })
    })
}
