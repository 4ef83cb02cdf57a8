//! Parent locators: where a differencing disk's writer saw the parent.

use super::{Fields, SECTOR, put};

/// What a locator's text is, four bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PlatformCode([u8; 4]);

impl PlatformCode {
    /// A Windows path relative to the child, UTF-16 little-endian.
    pub const W2RU: Self = Self(*b"W2ru");
    /// An absolute Windows path, UTF-16 little-endian.
    pub const W2KU: Self = Self(*b"W2ku");
    /// A `file:` URL, UTF-8.
    pub const MACX: Self = Self(*b"MacX");

    /// The code of these bytes.
    pub fn new(bytes: [u8; 4]) -> Self {
        Self(bytes)
    }

    /// The bytes of the code.
    pub fn bytes(self) -> [u8; 4] {
        self.0
    }
}

impl std::fmt::Display for PlatformCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// One of the header's eight locator entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Locator {
    /// What the text is.
    pub code: PlatformCode,
    /// The room for the text: sectors by the specification, bytes in practice.
    pub data_space: u32,
    /// The length of the text in bytes.
    pub data_len: u32,
    /// Where the text lies in the file, in bytes.
    pub data_offset: u64,
}

impl Locator {
    /// The length of an entry in bytes.
    pub const LEN: usize = 24;
    /// Texts beyond this length are not read; Windows paths end at 32,767 characters.
    pub const MAX_TEXT: u32 = 65_536;

    /// An entry.
    pub fn new(code: PlatformCode, data_space: u32, data_len: u32, data_offset: u64) -> Self {
        Self { code, data_space, data_len, data_offset }
    }

    /// Parses the 24 bytes of an entry; `None` if it is empty.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let code: [u8; 4] = bytes.array_at(0);
        (code != [0; 4]).then(|| Self {
            code: PlatformCode(code),
            data_space: bytes.u32_at(4),
            data_len: bytes.u32_at(8),
            data_offset: bytes.u64_at(16),
        })
    }

    /// The 24 bytes of the entry.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        put(&mut out, 0, &self.code.0);
        put(&mut out, 4, &self.data_space.to_be_bytes());
        put(&mut out, 8, &self.data_len.to_be_bytes());
        put(&mut out, 16, &self.data_offset.to_be_bytes());
        out
    }

    /// The room for the text in bytes: a small number counts sectors, as the specification says,
    /// any other bytes, as Windows and blktap write it.
    pub fn space_bytes(&self) -> u64 {
        let space = u64::from(self.data_space);
        if space < SECTOR { space * SECTOR } else { space }
    }

    /// The text of the locator as a path with `/` between its components, from the bytes at
    /// [`data_offset`](Self::data_offset); `None` for codes that name no path.
    pub fn path(&self, text: &[u8]) -> Option<String> {
        let path = match self.code {
            PlatformCode::W2RU | PlatformCode::W2KU => utf16(text).replace('\\', "/"),
            PlatformCode::MACX => {
                let url = String::from_utf8_lossy(text);
                let url = url.trim_end_matches('\0');
                let rest = url.strip_prefix("file://").unwrap_or(url);
                percent_decoded(rest.strip_prefix("localhost").unwrap_or(rest))
            }
            _ => return None,
        };
        (!path.is_empty()).then_some(path)
    }
}

/// UTF-16 up to the first null; little-endian as Windows writes it, unless a byte order mark says
/// otherwise or the text only makes sense the other way round.
fn utf16(text: &[u8]) -> String {
    let pairs = text.as_chunks::<2>().0;
    let (big, pairs) = match pairs {
        [[0xff, 0xfe], rest @ ..] => (false, rest),
        [[0xfe, 0xff], rest @ ..] => (true, rest),
        _ => {
            let big = pairs.iter().all(|&[a, _]| a == 0) && pairs.iter().any(|&[_, b]| b != 0);
            (big, pairs)
        }
    };
    let units = pairs
        .iter()
        .map(|&pair| if big { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) })
        .take_while(|&unit| unit != 0);
    char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

fn percent_decoded(text: &str) -> String {
    let mut rest = text.as_bytes();
    let mut out = Vec::with_capacity(rest.len());
    while let Some((&byte, tail)) = rest.split_first() {
        let digit = |i: usize| tail.get(i).and_then(|&d| char::from(d).to_digit(16));
        if let (b'%', Some(high), Some(low)) = (byte, digit(0), digit(1)) {
            out.push((high * 16 + low) as u8);
            rest = &tail[2..];
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn le(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    #[test]
    fn texts_become_paths() {
        let locator = |code| Locator::new(code, 1, 0, 0);
        let ru = locator(PlatformCode::W2RU);
        assert_eq!(ru.path(&le(".\\sub\\bäse.vhd")).unwrap(), "./sub/bäse.vhd");
        let big: Vec<u8> = "a.vhd".encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert_eq!(ru.path(&big).unwrap(), "a.vhd");
        assert_eq!(ru.path(&le("a\0b")).unwrap(), "a");
        assert_eq!(ru.path(&le("\u{feff}.\\a")).unwrap(), "./a");
        assert_eq!(ru.path(&[0xfe, 0xff, 0x4e, 0x2d]).unwrap(), "中");
        assert_eq!(ru.path(&[]), None);
        let mac = locator(PlatformCode::MACX);
        assert_eq!(mac.path(b"file://./p.vhd").unwrap(), "./p.vhd");
        assert_eq!(mac.path(b"file://localhost/a%20b%zz%4").unwrap(), "/a b%zz%4");
        assert_eq!(locator(PlatformCode::new(*b"Wi2k")).path(b"x"), None);
    }

    #[test]
    fn the_room_is_in_sectors_or_bytes() {
        assert_eq!(Locator::new(PlatformCode::W2KU, 8, 0, 0).space_bytes(), 4096);
        assert_eq!(Locator::new(PlatformCode::W2KU, 4096, 0, 0).space_bytes(), 4096);
    }
}
