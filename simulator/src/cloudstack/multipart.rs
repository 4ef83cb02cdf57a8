//! `multipart/form-data` as a stream: finds the first part that is a file and gives its bytes
//! on as they come.

use bytes::{Bytes, BytesMut};
use memchr::memmem;

/// The longest head of a part.
const HEAD: usize = 16 << 10;

/// The parameter `boundary` of a content type.
pub(super) fn boundary(content_type: &str) -> Option<String> {
    let mut words = content_type.split(';');
    if !words.next()?.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let value = words.find_map(|word| {
        let (name, value) = word.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then_some(value.trim())
    })?;
    let value = value.trim_matches('"');
    (!value.is_empty() && value.len() <= 200).then(|| value.to_owned())
}

#[derive(Debug, PartialEq, Eq)]
enum At {
    /// Before the first boundary or in a part that is no file.
    Skipped,
    /// Behind a boundary, in front of the part's head.
    Head,
    /// In the file.
    File,
    /// Behind the file: the rest does not matter.
    Done,
}

/// The parser; it keeps no more than the head of a part, or the length of a boundary.
#[derive(Debug)]
pub(super) struct Multipart {
    /// `\r\n--boundary`
    delimiter: Vec<u8>,
    /// What was not looked at yet. It begins as if a line had ended.
    buffer: BytesMut,
    at: At,
    name: Option<String>,
}

impl Multipart {
    pub(super) fn new(boundary: &str) -> Self {
        let delimiter = format!("\r\n--{boundary}").into_bytes();
        Self { delimiter, buffer: BytesMut::from(&b"\r\n"[..]), at: At::Skipped, name: None }
    }

    /// The name of the file, once its head is there.
    pub(super) fn file_name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// True when the file is there to its last byte.
    pub(super) fn is_complete(&self) -> bool {
        self.at == At::Done
    }

    /// Takes a block of the body; what of it belongs to the file comes back, in order.
    ///
    /// # Errors
    /// A sentence, when the head of a part is too long or is no text.
    pub(super) fn feed(&mut self, block: &[u8]) -> Result<Vec<Bytes>, String> {
        let mut found = Vec::new();
        if self.at == At::Done {
            return Ok(found);
        }
        self.buffer.extend_from_slice(block);
        loop {
            match self.at {
                At::Done => return Ok(found),
                At::Head => {
                    if self.buffer.starts_with(b"--") {
                        // The last boundary, and no file.
                        self.at = At::Skipped;
                        continue;
                    }
                    let Some(end) = memmem::find(&self.buffer, b"\r\n\r\n") else {
                        if self.buffer.len() > HEAD {
                            return Err("the head of a part is too long".to_owned());
                        }
                        return Ok(found);
                    };
                    let head = self.buffer.split_to(end + 4);
                    self.name = file_name(&head);
                    self.at = if self.name.is_some() { At::File } else { At::Skipped };
                }
                At::Skipped | At::File => {
                    let Some(end) = memmem::find(&self.buffer, &self.delimiter) else {
                        let keep = self.delimiter.len() - 1;
                        let safe = self.buffer.len().saturating_sub(keep);
                        let block = self.buffer.split_to(safe).freeze();
                        if self.at == At::File && !block.is_empty() {
                            found.push(block);
                        }
                        return Ok(found);
                    };
                    let block = self.buffer.split_to(end).freeze();
                    let _ = self.buffer.split_to(self.delimiter.len());
                    if self.at == At::File {
                        if !block.is_empty() {
                            found.push(block);
                        }
                        self.at = At::Done;
                    } else {
                        self.at = At::Head;
                    }
                }
            }
        }
    }
}

/// The parameter `filename` of a part's `Content-Disposition`.
fn file_name(head: &[u8]) -> Option<String> {
    let head = String::from_utf8_lossy(head);
    let line = head.lines().find(|line| {
        line.split(':').next().is_some_and(|name| name.eq_ignore_ascii_case("content-disposition"))
    })?;
    let value = line.split(';').find_map(|word| {
        let (name, value) = word.split_once('=')?;
        name.trim().eq_ignore_ascii_case("filename").then_some(value.trim())
    })?;
    Some(value.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"preamble\r\n--xx\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n\
        value\r\n--xx\r\ncontent-disposition: form-data; name=\"files[]\"; filename=\"a.vhd\"\r\n\
        Content-Type: application/octet-stream\r\n\r\nli\r\n--x\r\nne\r\n--xx--\r\n";

    #[test]
    fn the_file_is_found_however_the_body_is_cut() {
        for size in 1..BODY.len() {
            let mut parser = Multipart::new("xx");
            let mut file = Vec::new();
            for block in BODY.chunks(size) {
                assert!(!parser.is_complete() || block.len() < 9);
                file.extend(parser.feed(block).unwrap().concat());
            }
            assert!(parser.is_complete());
            assert_eq!(parser.file_name(), Some("a.vhd"));
            assert_eq!(file, b"li\r\n--x\r\nne", "in blocks of {size}");
        }
    }

    #[test]
    fn no_file_or_no_end() {
        let mut parser = Multipart::new("xx");
        parser
            .feed(b"--xx\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nb\r\n--xx--")
            .unwrap();
        assert!(parser.file_name().is_none() && !parser.is_complete());
        let mut parser = Multipart::new("xx");
        let cut = &BODY[..BODY.len() - 9];
        parser.feed(cut).unwrap();
        assert!(parser.file_name().is_some() && !parser.is_complete());
        assert!(
            Multipart::new("xx")
                .feed(&[b"--xx\r\n".to_vec(), vec![b'a'; 20_000]].concat())
                .is_err()
        );
    }

    #[test]
    fn boundaries() {
        assert_eq!(boundary("multipart/form-data; boundary=\"a b\"").as_deref(), Some("a b"));
        assert_eq!(boundary("Multipart/Form-Data; charset=x; boundary=ab").as_deref(), Some("ab"));
        assert_eq!(boundary("multipart/mixed; boundary=ab"), None);
        assert_eq!(boundary("multipart/form-data"), None);
    }
}
