//! Data that lies in a file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;

use super::body::Producer;
use super::preflight::TAIL_LEN;
use super::upload::Upload;
use crate::error::{Error, ErrorKind, Result};

const PIECE: usize = 256 << 10;
/// How many pieces are read ahead.
const AHEAD: usize = 4;

impl Upload {
    /// The data of a regular file, read 256 KiB at a time on a thread of its own. It can be sent again, its length is
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

/// The file from its start. Opened anew for each attempt; the thread ends when nobody wants more.
fn pieces(path: PathBuf) -> Producer {
    let start = stream::once(async move {
        let (queue, pieces) = mpsc::channel(AHEAD);
        tokio::task::spawn_blocking(move || read(&path, &queue));
        pieces
    });
    start
        .flat_map(|pieces| {
            stream::unfold(pieces, |mut pieces| async move {
                pieces.recv().await.map(|piece| (piece, pieces))
            })
        })
        .boxed()
}

fn read(path: &Path, queue: &mpsc::Sender<io::Result<Bytes>>) {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) => {
            let _ = queue.blocking_send(Err(error));
            return;
        }
    };
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        let result = (&mut file).take(PIECE as u64).read_to_end(&mut piece);
        let (piece, last) = match result {
            Ok(0) => return,
            Ok(_) => (Ok(Bytes::from(piece)), false),
            Err(error) => (Err(error), true),
        };
        if queue.blocking_send(piece).is_err() || last {
            return;
        }
    }
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
