//! A server of RFB that shows a desk's screen: 3.8 as QEMU has it, 3.3 for guests without hardware
//! emulation.

use std::io;
use std::time::Instant;

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::console::{self, Place};
use super::desk::{GREY, Screen};
use super::fault::Absurd;
use super::pool::Pool;

/// What the server says first.
pub(crate) fn banner(place: &Place) -> &'static [u8] {
    if place.pv { b"RFB 003.003\n" } else { b"RFB 003.008\n" }
}

/// How the client wants its pixels: where its colours are, of 32 bits.
#[derive(Debug, Clone, Copy)]
struct Format {
    shifts: [u8; 3],
    big_endian: bool,
}

const NATIVE: Format = Format { shifts: [16, 8, 0], big_endian: false };

/// What the client wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Nothing,
    Changes,
    Everything,
}

/// Serves one client, from behind the banner to its end.
pub(crate) async fn serve<S>(
    pool: &Pool,
    conn: &mut S,
    buffer: &mut BytesMut,
    place: &Place,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    greet(conn, buffer, place).await?;
    let mut shown = pool.screens();
    let (mut format, mut wish, mut seen) = (NATIVE, Wish::Nothing, None);
    loop {
        while let Some(message) = read(buffer)? {
            match message {
                Message::Format(wanted) => format = wanted,
                Message::Wish(wanted) => wish = wanted,
                Message::Key(keysym, down) => press(pool, place, keysym, down),
                Message::Other => {}
            }
        }
        if wish != Wish::Nothing {
            let update = pool.with(|state| {
                let screen = &state.desk(&place.vm).screen;
                let new = wish == Wish::Everything || seen != Some(screen.version);
                seen = Some(screen.version);
                new.then(|| picture(screen, format))
            });
            if let Some(update) = update {
                wish = Wish::Nothing;
                let absurd = pool.faults.plan().console_absurd;
                conn.write_all(&absurd.map_or(update, nonsense)).await?;
                conn.flush().await?;
            }
        }
        tokio::select! {
            changed = shown.changed() => if changed.is_err() { return Ok(()) },
            read = conn.read_buf(buffer) => if read? == 0 { return Ok(()) },
        }
    }
}

/// A key for the guest; one may be the last before it reboots.
fn press(pool: &Pool, place: &Place, keysym: u32, down: bool) {
    let reboots = pool.faults.guest_reboots();
    let too_soon = pool.faults.plan().key_loss;
    pool.with(|state| {
        let before = state.last_keys.insert(place.vm.clone(), Instant::now());
        let lost = before.zip(too_soon).is_some_and(|(before, limit)| before.elapsed() < limit);
        if !lost {
            state.desk(&place.vm).key(keysym, down);
        }
        if reboots {
            console::remove(state, &place.vm);
            console::create(state, &place.vm);
        }
    });
    pool.screen_changed();
}

async fn greet<S>(conn: &mut S, buffer: &mut BytesMut, place: &Place) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let answer = take(conn, buffer, 12).await?;
    match (&answer[..], place.pv) {
        (b"RFB 003.003\n" | b"RFB 003.004\n", _) => conn.write_all(&[0, 0, 0, 1]).await?,
        (b"RFB 003.007\n" | b"RFB 003.008\n", false) => {
            conn.write_all(&[1, 1]).await?;
            conn.flush().await?;
            if take(conn, buffer, 1).await?[0] != 1 {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if &answer[..] == b"RFB 003.008\n" {
                conn.write_all(&[0; 4]).await?;
            }
        }
        // The screen of a PV guest disconnects whoever answers with more than it offers.
        _ => return Err(io::ErrorKind::InvalidData.into()),
    }
    conn.flush().await?;
    take(conn, buffer, 1).await?;
    let (width, height) = Screen::size();
    let name = b"a guest of the simulator";
    let mut init = BytesMut::new();
    init.put_u16(u16::try_from(width).unwrap_or(0));
    init.put_u16(u16::try_from(height).unwrap_or(0));
    init.put_slice(&[32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0]);
    init.put_u32(u32::try_from(name.len()).unwrap_or(0));
    init.put_slice(name);
    conn.write_all(&init).await?;
    conn.flush().await
}

async fn take<S>(conn: &mut S, buffer: &mut BytesMut, length: usize) -> io::Result<BytesMut>
where
    S: AsyncRead + Send + Unpin,
{
    while buffer.len() < length {
        if conn.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(buffer.split_to(length))
}

/// What a client says.
#[derive(Debug)]
enum Message {
    Format(Format),
    Wish(Wish),
    Key(u32, bool),
    /// What makes no difference here.
    Other,
}

/// The next message, if it is whole.
fn read(buffer: &mut BytesMut) -> io::Result<Option<Message>> {
    let word = |at: usize| buffer.get(at..at + 2).map(|mut bytes| usize::from(bytes.get_u16()));
    let length = match buffer.first() {
        None => return Ok(None),
        Some(0) => 20,
        Some(2) => match word(2) {
            Some(count) => 4 + 4 * count,
            None => return Ok(None),
        },
        Some(3) => 10,
        Some(4) => 8,
        Some(5) => 6,
        Some(_) => return Err(io::ErrorKind::InvalidData.into()),
    };
    if buffer.len() < length {
        return Ok(None);
    }
    let message = buffer.split_to(length);
    Ok(Some(match &message[..] {
        // Only what a client of today asks for: 32 bits of true colour.
        [0, _, _, _, 32, _, big, 1, 0, 255, 0, 255, 0, 255, red, green, blue, ..] => {
            if [red, green, blue].into_iter().any(|shift| *shift > 24) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            Message::Format(Format { shifts: [*red, *green, *blue], big_endian: *big != 0 })
        }
        [0, ..] => return Err(io::ErrorKind::InvalidData.into()),
        [3, 0, ..] => Message::Wish(Wish::Everything),
        [3, ..] => Message::Wish(Wish::Changes),
        [4, down, _, _, keysym @ ..] => {
            let keysym = keysym.iter().fold(0, |all, byte| all << 8 | u32::from(*byte));
            Message::Key(keysym, *down != 0)
        }
        _ => Message::Other,
    }))
}

/// The whole screen as one rectangle of raw pixels.
fn picture(screen: &Screen, format: Format) -> Vec<u8> {
    let (width, height) = Screen::size();
    let mut update = rectangle(0, 0, width, height, 0);
    let lit = format.shifts.iter().fold(0, |all, shift| all | u32::from(GREY) << shift);
    for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
        let pixel = if screen.is_lit(x, y) { lit } else { 0 };
        let bytes = if format.big_endian { pixel.to_be_bytes() } else { pixel.to_le_bytes() };
        update.extend_from_slice(&bytes);
    }
    update
}

/// An update of one rectangle, without its content.
fn rectangle(x: usize, y: usize, width: usize, height: usize, encoding: i32) -> Vec<u8> {
    let mut update = vec![0, 0, 0, 1];
    for number in [x, y, width, height] {
        update.put_u16(u16::try_from(number).unwrap_or(u16::MAX));
    }
    update.put_i32(encoding);
    update
}

/// What no server should send.
fn nonsense(absurd: Absurd) -> Vec<u8> {
    let (width, height) = Screen::size();
    let huge = usize::from(u16::MAX);
    match absurd {
        Absurd::Outside => rectangle(width - 1, height - 1, 2, 2, 0),
        Absurd::Huge => rectangle(huge, huge, huge, huge, 0),
        Absurd::Resize => rectangle(0, 0, huge, huge, -223),
        Absurd::Encoding => rectangle(0, 0, 1, 1, 16),
        Absurd::Copy => [rectangle(0, 0, 8, 8, 1), vec![0xff; 4]].concat(),
    }
}
