//! Data that lies in a file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::task::{JoinHandle, spawn_blocking};

use super::body::Producer;
use super::preflight::TAIL_LEN;
use super::upload::Upload;
use crate::error::{Error, ErrorKind, Result};

const PIECE: usize = 256 << 10;
/// How many pieces are read at a time.
const BATCH: usize = 2;

impl Upload {
    /// The data of a regular file, read in pieces of 256 KiB beside the runtime's own threads. It can be sent again, its length is
    /// declared, and the format check looks at its end too.
    ///
    /// The file must not change until the upload has ended: another length is found, another content is not.
    ///
    /// # Errors
    /// [`ErrorKind::Source`] if the file cannot be opened, or is none.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let (len, tail) = look(&path).map_err(|error| {
            let text = format!("{} cannot be sent: {error}", path.display());
            Error::new(ErrorKind::Source, text).with_source(error)
        })?;
        Ok(Self::replayable(Some(len), move || pieces(path.clone())).with_tail(tail))
    }
}

/// The length of a file, and its end.
fn look(path: &Path) -> io::Result<(u64, Bytes)> {
    // Looked at first: to open a pipe is to wait for who writes to it.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut tail = Vec::with_capacity(TAIL_LEN);
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL_LEN as u64)))?;
    file.take(TAIL_LEN as u64).read_to_end(&mut tail)?;
    Ok((len, tail.into()))
}

/// The file from its start, opened anew for each attempt. While one batch is handed out the next one is read; between two
/// of them no thread waits.
fn pieces(path: PathBuf) -> Producer {
    let open = move || read(File::open(path)?);
    stream::unfold(Next::Start(open), |next| async {
        let job = match next {
            Next::Start(open) => spawn_blocking(open),
            Next::Reading(job) => job,
            Next::End => return None,
        };
        Some(match job.await.map_err(io::Error::other).flatten() {
            Ok((file, batch)) if !batch.is_empty() => {
                (Ok(batch), Next::Reading(spawn_blocking(move || read(file))))
            }
            Ok(_) => (Ok(Vec::new()), Next::End),
            Err(error) => (Err(error), Next::End),
        })
    })
    .map_ok(|batch| stream::iter(batch.into_iter().map(Ok)))
    .try_flatten()
    .boxed()
}

/// What is done when the batch that there is has been handed out.
enum Next<F> {
    Start(F),
    Reading(JoinHandle<io::Result<(File, Vec<Bytes>)>>),
    End,
}

/// The next pieces of a file; none at its end.
fn read(mut file: File) -> io::Result<(File, Vec<Bytes>)> {
    let mut batch = Vec::with_capacity(BATCH);
    while batch.len() < BATCH {
        let mut piece = Vec::with_capacity(PIECE);
        if (&mut file).take(PIECE as u64).read_to_end(&mut piece)? == 0 {
            break;
        }
        batch.push(Bytes::from(piece));
    }
    Ok((file, batch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_read_from_its_start_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let data: Vec<u8> = (0..PIECE * 2 + 77).map(|n| (n % 251) as u8).collect();
        std::fs::write(&path, &data).unwrap();
        let (len, tail) = look(&path).unwrap();
        assert_eq!((len, &tail[..]), (data.len() as u64, &data[data.len() - 512..]));
        for _ in 0..2 {
            let read: Vec<_> = pieces(path.clone()).map(|piece| piece.unwrap()).collect().await;
            assert_eq!(read.len(), 3);
            assert!(read.concat() == data);
        }
        std::fs::write(&path, b"abc").unwrap();
        assert_eq!(look(&path).unwrap(), (3, Bytes::from_static(b"abc")));
        assert!(Upload::from_file(dir.path()).unwrap_err().to_string().contains("regular file"));
        let gone = Upload::from_file(dir.path().join("no")).unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::Source);
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_is_no_file_and_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let (done, result) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(Upload::from_file(path).err().unwrap().to_string()));
        let text = result.recv_timeout(std::time::Duration::from_secs(10)).unwrap();
        assert!(text.contains("regular file"), "{text}");
    }

    #[tokio::test]
    async fn a_file_that_vanishes_is_a_failure_of_the_data() {
        let mut pieces = pieces("/nowhere/at/all".into());
        assert!(pieces.next().await.unwrap().is_err());
        assert!(pieces.next().await.is_none());
    }
}
