//! Digests of data on their way.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use md5::Md5;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::body::Producer;
use super::verify::Digests;
use super::workers;

/// How many chunks may wait for a digest: what is held in memory besides what the connection holds.
const AHEAD: usize = 2;
/// So few bytes are hashed sooner than a thread is woken.
const LITTLE: usize = 16 << 10;

/// One digest.
pub(super) enum Hasher {
    Md5(Md5),
    Sha224(Sha224),
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Box<Sha512>),
}

impl Hasher {
    /// The one that a cloud calls so, if it can be computed.
    pub(super) fn of(name: &str) -> Option<Self> {
        Some(match canonical(name).as_str() {
            "md5" => Self::Md5(Md5::new()),
            "sha224" => Self::Sha224(Sha224::new()),
            "sha256" => Self::Sha256(Sha256::new()),
            "sha384" => Self::Sha384(Sha384::new()),
            "sha512" => Self::Sha512(Box::default()),
            _ => return None,
        })
    }

    pub(super) fn update(&mut self, piece: &[u8]) {
        match self {
            Self::Md5(digest) => digest.update(piece),
            Self::Sha224(digest) => digest.update(piece),
            Self::Sha256(digest) => digest.update(piece),
            Self::Sha384(digest) => digest.update(piece),
            Self::Sha512(digest) => digest.update(piece),
        }
    }

    /// In hexadecimal.
    pub(super) fn finish(self) -> String {
        match self {
            Self::Md5(digest) => hex::encode(digest.finalize()),
            Self::Sha224(digest) => hex::encode(digest.finalize()),
            Self::Sha256(digest) => hex::encode(digest.finalize()),
            Self::Sha384(digest) => hex::encode(digest.finalize()),
            Self::Sha512(digest) => hex::encode(digest.finalize()),
        }
    }
}

/// The name of an algorithm, however it is spelt: `SHA-512` is `sha512`.
pub(super) fn canonical(name: &str) -> String {
    name.to_ascii_lowercase().replace('-', "")
}

/// A digest that is computed beside the data: where these go, and what comes of them. It ends when all who have the first
/// are gone.
///
/// Hashing is slower than sending, so it is done by [threads](workers) beside those of the runtime; but each takes only what
/// there is, and none waits for data.
pub(super) fn lane(hasher: Hasher) -> (mpsc::Sender<Bytes>, Lane) {
    let (queue, chunks) = mpsc::channel(AHEAD);
    (queue, Lane(tokio::spawn(hash(hasher, chunks))))
}

/// The way of a digest.
pub(super) struct Lane(JoinHandle<Option<Hasher>>);

impl Lane {
    /// The digest, in hexadecimal; `None` if the runtime ended first.
    pub(super) async fn finish(self) -> Option<String> {
        self.0.await.ok().flatten().map(Hasher::finish)
    }
}

/// Hashes what comes, as much as has come at a time.
async fn hash(mut hasher: Hasher, mut chunks: mpsc::Receiver<Bytes>) -> Option<Hasher> {
    let mut batch = Vec::with_capacity(AHEAD);
    while chunks.recv_many(&mut batch, AHEAD).await > 0 {
        if batch.iter().map(Bytes::len).sum::<usize>() <= LITTLE {
            batch.drain(..).for_each(|chunk: Bytes| hasher.update(&chunk));
            continue;
        }
        let work = move || {
            batch.drain(..).for_each(|chunk| hasher.update(&chunk));
            (hasher, batch)
        };
        (hasher, batch) = workers::run(work).await?;
    }
    Some(hasher)
}

/// The digests of a stream that is on its way.
pub(super) struct Hashing {
    md5: Lane,
    sha512: Lane,
}

/// The same stream, and the digests of what it gives.
pub(super) fn hashing(producer: Producer) -> (Producer, Hashing) {
    let (to_md5, md5) = lane(Hasher::Md5(Md5::new()));
    let (to_sha512, sha512) = lane(Hasher::Sha512(Box::default()));
    let state = (producer, [to_md5, to_sha512]);
    let stream = stream::unfold(state, |(mut producer, queues)| async move {
        let chunk = producer.next().await?;
        if let Ok(chunk) = &chunk {
            for queue in &queues {
                // It ends early only with the runtime.
                let _ = queue.send(chunk.clone()).await;
            }
        }
        Some((chunk, (producer, queues)))
    });
    (stream.boxed(), Hashing { md5, sha512 })
}

impl Hashing {
    /// The digests, once the stream has come to its end.
    pub(super) async fn finish(self) -> Digests {
        let mut digests = Digests::new();
        digests.md5 = self.md5.finish().await;
        digests.sha512 = self.sha512.finish().await;
        digests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_digests_are_those_of_what_went_through() {
        let chunks = (0..100).map(|_| Ok(Bytes::from_static(&[b'a'; 10_000])));
        let (stream, hashing) = hashing(stream::iter(chunks).boxed());
        let sent = stream.fold(0, |sum, chunk| async move { sum + chunk.unwrap().len() }).await;
        assert_eq!(sent, 1_000_000);
        let digests = hashing.finish().await;
        // `head -c 1000000 /dev/zero | tr '\0' a | md5sum`, and the same with sha512sum.
        assert_eq!(digests.md5.as_deref(), Some("7707d6ae4e027c70eea2a935c2296f21"));
        assert_eq!(
            digests.sha512.as_deref(),
            Some(
                "e718483d0ce769644e2e42c7bc15b4638e1f98b13b2044285632a803afa973eb\
                 de0ff244877ea60a4cb0432ce577c31beb009c5c2c49aa2e4eadb217ad8cc09b"
            )
        );
    }
}
