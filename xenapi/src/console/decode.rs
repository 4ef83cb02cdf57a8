//! What a server of RFB says after the handshake, read piece by piece (RFC 6143, section 7.6).
//!
//! The reader takes bytes and needs no socket. It holds no more than a header: pixels go to the
//! screen as they come, and texts are passed over.

use bytes::{Buf as _, BytesMut};

use super::screen::{Area, Screen};
use crate::error::{Error, ErrorKind, Result};

/// The encodings that we ask for.
pub(super) const RAW: i32 = 0;
pub(super) const COPY_RECT: i32 = 1;
pub(super) const DESKTOP_SIZE: i32 = -223;

/// What a piece of the stream brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// An update of the screen is complete.
    Update,
    /// The screen has another size now, and nothing is known of it.
    Resized,
}

/// Where in the stream we are.
#[derive(Clone, Copy, Debug)]
enum State {
    Message,
    /// So many rectangles of an update are to come.
    Rectangles(u16),
    /// In the pixels of a rectangle; `done` of them were read. Then so many rectangles.
    Pixels {
        area: Area,
        done: usize,
        then: u16,
    },
    /// In something that is of no use; so many bytes of it are to come.
    Skip(u64),
}

#[derive(Debug)]
pub(super) struct Decoder {
    state: State,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { state: State::Message }
    }

    /// Whether nothing was begun.
    pub(super) fn is_between_messages(&self) -> bool {
        matches!(self.state, State::Message)
    }

    /// Reads on; `None` when more bytes are needed. What was read is gone from `input`.
    pub(super) fn read(
        &mut self,
        input: &mut BytesMut,
        screen: &mut Screen,
    ) -> Result<Option<Told>> {
        loop {
            let (next, told) = match self.state {
                State::Message => match message(input)? {
                    None => return Ok(None),
                    Some(next) => (next, None),
                },
                State::Rectangles(0) => (State::Message, Some(Told::Update)),
                State::Rectangles(n) => match rectangle(input, screen, n - 1)? {
                    None => return Ok(None),
                    Some(found) => found,
                },
                State::Pixels { area, done, then } => {
                    let whole = input.len() / 4;
                    let now = whole.min(area.pixels() - done);
                    screen.write(area, done, &input.split_to(now * 4));
                    let done = done + now;
                    self.state = State::Pixels { area, done, then };
                    if done < area.pixels() {
                        return Ok(None);
                    }
                    (State::Rectangles(then), None)
                }
                State::Skip(left) => {
                    let now = left.min(input.len() as u64);
                    input.advance(usize::try_from(now).unwrap_or(0));
                    self.state = State::Skip(left - now);
                    if now < left {
                        return Ok(None);
                    }
                    (State::Message, None)
                }
            };
            self.state = next;
            if told.is_some() {
                return Ok(told);
            }
        }
    }
}

/// Reads the head of a message.
fn message(input: &mut BytesMut) -> Result<Option<State>> {
    let Some(kind) = input.first().copied() else { return Ok(None) };
    let length = match kind {
        0 => 4,
        // We ask for true colour, and a server may still send its map.
        1 => 6,
        2 => 1,
        3 => 8,
        other => {
            let words = format!("the console's server sends a message of the unknown type {other}");
            return Err(Error::new(ErrorKind::Protocol, words));
        }
    };
    if input.len() < length {
        return Ok(None);
    }
    let mut head = input.split_to(length);
    Ok(Some(match kind {
        0 => {
            head.advance(2);
            State::Rectangles(head.get_u16())
        }
        1 => {
            head.advance(4);
            State::Skip(6 * u64::from(head.get_u16()))
        }
        2 => State::Message,
        _ => {
            head.advance(4);
            State::Skip(u64::from(head.get_u32()))
        }
    }))
}

/// Reads the head of a rectangle, and the whole of one without pixels.
fn rectangle(
    input: &mut BytesMut,
    screen: &mut Screen,
    then: u16,
) -> Result<Option<(State, Option<Told>)>> {
    const HEAD: usize = 12;
    let Some(mut head) = input.get(..HEAD) else { return Ok(None) };
    let [x, y, width, height] = std::array::from_fn(|_| head.get_u16());
    let encoding = head.get_i32();
    match encoding {
        RAW => {
            let area = screen.area(x, y, width, height)?;
            input.advance(HEAD);
            Ok(Some((State::Pixels { area, done: 0, then }, None)))
        }
        COPY_RECT => {
            let Some(mut source) = input.get(HEAD..HEAD + 4) else { return Ok(None) };
            let (from_x, from_y) = (source.get_u16(), source.get_u16());
            let from = screen.area(from_x, from_y, width, height)?;
            screen.copy(from, screen.area(x, y, width, height)?);
            input.advance(HEAD + 4);
            Ok(Some((State::Rectangles(then), None)))
        }
        DESKTOP_SIZE => {
            *screen = Screen::new(width, height)?;
            input.advance(HEAD);
            Ok(Some((State::Rectangles(then), Some(Told::Resized))))
        }
        other => {
            let words = format!(
                "the console's server draws with encoding {other}, which it was not asked for"
            );
            Err(Error::new(ErrorKind::Protocol, words))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn update(rectangles: &[Vec<u8>]) -> Vec<u8> {
        let count = u16::try_from(rectangles.len()).unwrap().to_be_bytes();
        [vec![0, 0, count[0], count[1]], rectangles.concat()].concat()
    }

    fn rect(place: [u16; 4], encoding: i32, data: &[u8]) -> Vec<u8> {
        let mut bytes: Vec<u8> = place.iter().flat_map(|n| n.to_be_bytes()).collect();
        bytes.extend(encoding.to_be_bytes());
        bytes.extend(data);
        bytes
    }

    /// Feeds in pieces of a size; gives what was told and the picture.
    fn feed(bytes: &[u8], piece: usize) -> Result<(Vec<Told>, Vec<u8>)> {
        let (mut decoder, mut screen) = (Decoder::new(), Screen::new(4, 3)?);
        let (mut input, mut told) = (BytesMut::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            input.extend_from_slice(piece);
            while let Some(news) = decoder.read(&mut input, &mut screen)? {
                told.push(news);
            }
            assert!(input.len() < 16, "nothing but a header is held");
        }
        Ok((told, screen.picture().rgb))
    }

    #[test]
    fn every_message_in_pieces_of_every_size() {
        let mut bytes = update(&[
            rect([1, 1, 2, 2], RAW, &(1..=16).collect::<Vec<u8>>()),
            rect([0, 0, 2, 2], COPY_RECT, &[0, 1, 0, 1]),
            rect([3, 2, 0, 1], RAW, &[]),
        ]);
        bytes.extend([2]);
        bytes.extend([&[3, 0, 0, 0, 0, 0, 0, 5][..], b"hello"].concat());
        bytes.extend([&[1, 0, 0, 0, 0, 2][..], &[7; 12]].concat());
        bytes.extend(update(&[]));
        bytes.extend(update(&[
            rect([0, 0, 2, 1], DESKTOP_SIZE, &[]),
            rect([0, 0, 2, 1], RAW, &[1, 2, 3, 0, 4, 5, 6, 0]),
        ]));
        let whole = feed(&bytes, bytes.len()).unwrap();
        assert_eq!(whole.0, [Told::Update, Told::Update, Told::Resized, Told::Update]);
        assert_eq!(whole.1, [3, 2, 1, 6, 5, 4]);
        for piece in 1..bytes.len() {
            assert_eq!(feed(&bytes, piece).unwrap(), whole, "{piece}");
        }
    }

    #[test]
    fn what_no_server_should_send_is_an_error() {
        for (bytes, kind) in [
            (update(&[rect([3, 0, 2, 1], RAW, &[])]), ErrorKind::Protocol),
            (update(&[rect([0, 0, 65535, 65535], RAW, &[])]), ErrorKind::Protocol),
            (update(&[rect([65535, 65535, 1, 1], RAW, &[])]), ErrorKind::Protocol),
            (update(&[rect([0, 0, 2, 2], COPY_RECT, &[0, 3, 0, 0])]), ErrorKind::Protocol),
            (update(&[rect([3, 2, 2, 2], COPY_RECT, &[0, 0, 0, 0])]), ErrorKind::Protocol),
            (update(&[rect([0, 0, 65535, 65535], DESKTOP_SIZE, &[])]), ErrorKind::TooLarge),
            (update(&[rect([0, 0, 1, 1], 16, &[])]), ErrorKind::Protocol),
            (update(&[rect([0, 0, 1, 1], -239, &[])]), ErrorKind::Protocol),
            (vec![255], ErrorKind::Protocol),
        ] {
            assert_eq!(feed(&bytes, 7).unwrap_err().kind(), kind, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_stream_is_a_panic(
            bytes in proptest::collection::vec(prop_oneof![0_u8..5, any::<u8>()], 0..200),
            piece in 1_usize..30,
        ) {
            let _ = feed(&bytes, piece);
        }

        #[test]
        fn no_rectangle_is_a_panic(
            place in proptest::array::uniform4(0_u16..6),
            encoding in prop_oneof![Just(RAW), Just(COPY_RECT), Just(DESKTOP_SIZE), any::<i32>()],
            data in proptest::collection::vec(0_u8..4, 0..64),
        ) {
            let bytes = update(&[rect(place, encoding, &data), rect(place, RAW, &data)]);
            prop_assert_eq!(feed(&bytes, 1).is_ok(), feed(&bytes, bytes.len()).is_ok());
        }
    }
}
