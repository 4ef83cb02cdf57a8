//! The picture that a server tells us, kept up to date.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// The widest and the highest screen that is accepted, in pixels. What a server announces is
/// allocated: 4 bytes for each pixel.
const LONGEST_SIDE: u16 = 8192;

/// Set in a pixel once the server has told it since the last [`Screen::forget`].
const KNOWN: u32 = 1 << 24;
const COLOUR: u32 = 0x00ff_ffff;

/// A rectangle that lies on the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) x: usize,
    pub(super) y: usize,
    pub(super) width: usize,
    pub(super) height: usize,
}

impl Area {
    pub(super) fn pixels(self) -> usize {
        self.width * self.height
    }
}

/// Pixels as `known << 24 | r << 16 | g << 8 | b`.
pub(super) struct Screen {
    width: usize,
    height: usize,
    pixels: Vec<u32>,
    /// How many pixels the server has still to tell.
    unknown: usize,
    digest: u64,
}

impl Screen {
    pub(super) fn new(width: u16, height: u16) -> Result<Self> {
        if width > LONGEST_SIDE || height > LONGEST_SIDE {
            let words = format!(
                "the console's server announces a screen of {width}x{height}; \
                 {LONGEST_SIDE}x{LONGEST_SIDE} is the most that is accepted"
            );
            return Err(Error::new(ErrorKind::TooLarge, words));
        }
        let (width, height) = (usize::from(width), usize::from(height));
        let unknown = width * height;
        // Zeroed memory is only lent by the system until a pixel is told.
        Ok(Self { width, height, pixels: vec![0; unknown], unknown, digest: 0 })
    }

    pub(super) fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// Whether every pixel was told.
    pub(super) fn is_known(&self) -> bool {
        self.unknown == 0
    }

    /// Wants every pixel to be told again. The picture stays.
    pub(super) fn forget(&mut self) {
        for pixel in &mut self.pixels {
            *pixel &= COLOUR;
        }
        self.unknown = self.pixels.len();
    }

    /// A number that is the same for the same picture. It follows each pixel that changes, so that
    /// comparing pictures costs nothing.
    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    /// The area, if it lies on the screen.
    pub(super) fn area(&self, x: u16, y: u16, width: u16, height: u16) -> Result<Area> {
        let [x, y, width, height] = [x, y, width, height].map(usize::from);
        if x + width > self.width || y + height > self.height {
            let words = format!(
                "the console's server draws {width}x{height} at {x},{y}, outside its screen of \
                 {}x{}",
                self.width, self.height
            );
            return Err(Error::new(ErrorKind::Protocol, words));
        }
        Ok(Area { x, y, width, height })
    }

    /// Writes pixels (blue, green, red, nothing) into an area, row by row, from its pixel number
    /// `from` on. Pixels beyond the area are ignored.
    pub(super) fn write(&mut self, area: Area, from: usize, data: &[u8]) {
        let told = data.chunks_exact(4).take(area.pixels().saturating_sub(from));
        for (n, bgrx) in told.enumerate() {
            let (row, column) = ((from + n) / area.width, (from + n) % area.width);
            let at = (area.y + row) * self.width + area.x + column;
            if let [b, g, r, _] = *bgrx {
                self.set(at, KNOWN | u32::from_be_bytes([0, r, g, b]));
            }
        }
    }

    /// Copies a part of the screen to another place on it; they may overlap.
    pub(super) fn copy(&mut self, from: Area, to: Area) {
        let mut rows: Vec<usize> = (0..to.height).collect();
        if from.y < to.y {
            // Downwards: the lower rows first, or they would be overwritten before they are read.
            rows.reverse();
        }
        for row in rows {
            let source = (from.y + row) * self.width + from.x;
            let target = (to.y + row) * self.width + to.x;
            let line: Vec<u32> =
                self.pixels.get(source..source + to.width).map(<[u32]>::to_vec).unwrap_or_default();
            for (n, pixel) in line.into_iter().enumerate() {
                self.set(target + n, pixel);
            }
        }
    }

    fn set(&mut self, at: usize, new: u32) {
        let Some(pixel) = self.pixels.get_mut(at) else { return };
        let old = std::mem::replace(pixel, new);
        if old & COLOUR != new & COLOUR {
            self.digest ^= mix(at, old & COLOUR) ^ mix(at, new & COLOUR);
        }
        match (old & KNOWN != 0, new & KNOWN != 0) {
            (false, true) => self.unknown -= 1,
            (true, false) => self.unknown += 1,
            _ => {}
        }
    }

    pub(super) fn picture(&self) -> Screenshot {
        let rgb = self.pixels.iter().flat_map(|pixel| {
            let [_, r, g, b] = pixel.to_be_bytes();
            [r, g, b]
        });
        Screenshot { width: self.width, height: self.height, rgb: rgb.collect() }
    }
}

impl fmt::Debug for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (width, height) = (self.width, self.height);
        f.debug_struct("Screen").field("width", &width).field("height", &height).finish()
    }
}

/// Spreads a pixel and its place over 64 bits (the finisher of SplitMix64). Black is nothing, so
/// that a screen begins with the digest of what it shows.
fn mix(at: usize, colour: u32) -> u64 {
    if colour == 0 {
        return 0;
    }
    let mut z = (at as u64) << 24 | u64::from(colour);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A picture of a screen.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Screenshot {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Red, green and blue of each pixel, row by row from the top left: `3 * width * height` bytes.
    pub rgb: Vec<u8>,
}

impl Screenshot {
    /// The picture as a PNG file.
    ///
    /// # Errors
    /// Of kind [`Config`](ErrorKind::Config) if the picture is empty or `rgb` does not have the
    /// size that it should.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        let fail = |e: png::EncodingError| {
            let words = format!("no PNG can be made of {self:?}");
            Error::new(ErrorKind::Config, words).with_source(e)
        };
        let side = |n: usize| u32::try_from(n).unwrap_or(0);
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, side(self.width), side(self.height));
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().map_err(fail)?;
        writer.write_image_data(&self.rgb).map_err(fail)?;
        writer.finish().map_err(fail)?;
        Ok(file)
    }
}

impl fmt::Debug for Screenshot {
    /// The size only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Screenshot({}x{}, {} bytes)", self.width, self.height, self.rgb.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest_of(screen: &Screen) -> u64 {
        screen.pixels.iter().enumerate().fold(0, |all, (at, p)| all ^ mix(at, p & COLOUR))
    }

    #[test]
    fn pixels_are_told_once_and_forgotten() {
        let mut screen = Screen::new(3, 2).unwrap();
        assert!(!screen.is_known());
        let all = screen.area(0, 0, 3, 2).unwrap();
        screen.write(all, 0, &[1, 2, 3, 9].repeat(4));
        assert!(!screen.is_known());
        screen.write(all, 4, &[4, 5, 6, 9].repeat(5));
        assert!(screen.is_known());
        assert_eq!(screen.picture().rgb[9..], [3, 2, 1, 6, 5, 4, 6, 5, 4]);
        assert_eq!(screen.digest(), digest_of(&screen));
        screen.forget();
        assert!(!screen.is_known());
        assert_eq!(screen.digest(), digest_of(&screen));
    }

    #[test]
    fn copies_may_overlap_in_every_direction() {
        for (fx, fy, tx, ty) in
            [(0, 0, 1, 1), (1, 1, 0, 0), (1, 0, 0, 1), (0, 1, 1, 0), (0, 0, 1, 0), (1, 0, 0, 0)]
        {
            let mut screen = Screen::new(4, 4).unwrap();
            let all = screen.area(0, 0, 4, 4).unwrap();
            screen.write(all, 0, &(0..64).collect::<Vec<u8>>());
            let before = screen.picture().rgb;
            let (from, to) =
                (screen.area(fx, fy, 3, 3).unwrap(), screen.area(tx, ty, 3, 3).unwrap());
            screen.copy(from, to);
            let after = screen.picture().rgb;
            for (row, column) in (0..3).flat_map(|row| (0..3).map(move |column| (row, column))) {
                let at = |area: Area| 3 * ((area.y + row) * 4 + area.x + column);
                assert_eq!(after[at(to)..][..3], before[at(from)..][..3], "{fx},{fy} {tx},{ty}");
            }
            assert_eq!(screen.digest(), digest_of(&screen));
            assert!(screen.is_known());
        }
    }

    #[test]
    fn sizes_are_bounded() {
        assert_eq!(Screen::new(8193, 1).unwrap_err().kind(), ErrorKind::TooLarge);
        assert_eq!(Screen::new(1, u16::MAX).unwrap_err().kind(), ErrorKind::TooLarge);
        let screen = Screen::new(8192, 8192).unwrap();
        assert!(screen.area(8191, 8191, 1, 1).is_ok());
        for (x, y, w, h) in [(8191, 0, 2, 1), (0, 8192, 1, 1), (u16::MAX, 0, u16::MAX, 1)] {
            assert_eq!(screen.area(x, y, w, h).unwrap_err().kind(), ErrorKind::Protocol);
        }
    }

    #[test]
    fn a_png_is_read_back() {
        let rgb: Vec<u8> = (0..5 * 7 * 3).collect();
        let shot = Screenshot { width: 5, height: 7, rgb: rgb.clone() };
        let file = shot.to_png().unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut data = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut data).unwrap();
        assert_eq!((info.width, info.height, data), (5, 7, rgb));
        for broken in [
            Screenshot { width: 0, height: 0, rgb: Vec::new() },
            Screenshot { width: 2, height: 1, rgb: vec![0; 5] },
        ] {
            assert_eq!(broken.to_png().unwrap_err().kind(), ErrorKind::Config);
        }
    }
}
