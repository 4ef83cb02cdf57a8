//! What stands on the desk in front of a guest: a keyboard and a screen of text.

/// Characters in a row, and rows.
const COLUMNS: usize = 80;
const ROWS: usize = 25;
/// Pixels of a character, in both directions.
const CELL: usize = 8;

/// How bright a lit pixel is.
pub(crate) const GREY: u8 = 0xaa;

/// The keys of a US keyboard, without and with Shift.
const PLAIN: &str = "`1234567890-=qwertyuiop[]\\asdfghjkl;'zxcvbnm,./ ";
const SHIFTED: &str = "~!@#$%^&*()_+QWERTYUIOP{}|ASDFGHJKL:\"ZXCVBNM<>? ";

/// Keys that write no character, by keysym.
const NAMED: &[(u32, &str)] = &[
    (0xff08, "bs"),
    (0xff09, "tab"),
    (0xff1b, "esc"),
    (0xff50, "home"),
    (0xff51, "left"),
    (0xff52, "up"),
    (0xff53, "right"),
    (0xff54, "down"),
    (0xff55, "pageUp"),
    (0xff56, "pageDown"),
    (0xff57, "end"),
    (0xff63, "insert"),
    (0xff67, "menu"),
    (0xffff, "del"),
];

/// A screen of text, and whether its picture is new.
#[derive(Debug)]
pub(crate) struct Screen {
    cells: Vec<u8>,
    at: usize,
    /// Moves on with each change.
    pub(crate) version: u64,
}

impl Default for Screen {
    fn default() -> Self {
        Self { cells: vec![b' '; COLUMNS * ROWS], at: 0, version: 0 }
    }
}

impl Screen {
    /// Writes a character, as a terminal does.
    pub(crate) fn put(&mut self, c: char) {
        match c {
            '\n' => self.at = (self.at / COLUMNS + 1) * COLUMNS,
            c => {
                let byte = u8::try_from(c).ok().filter(u8::is_ascii_graphic).unwrap_or(b' ');
                if let Some(cell) = self.cells.get_mut(self.at) {
                    *cell = byte;
                }
                self.at += 1;
            }
        }
        if self.at >= self.cells.len() {
            self.cells.drain(..COLUMNS);
            self.cells.resize(COLUMNS * ROWS, b' ');
            self.at -= COLUMNS;
        }
        self.version += 1;
    }

    /// The rows, without the blanks at their ends.
    pub(crate) fn text(&self) -> String {
        let rows = self.cells.chunks(COLUMNS).map(|row| String::from_utf8_lossy(row));
        rows.map(|row| row.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    }

    /// Width and height in pixels.
    pub(crate) fn size() -> (usize, usize) {
        (COLUMNS * CELL, ROWS * CELL)
    }

    /// Whether a pixel is lit. A character's second row of pixels is its code; the others are that
    /// turned, so that no two characters look alike.
    pub(crate) fn is_lit(&self, x: usize, y: usize) -> bool {
        let cell = self.cells.get(y / CELL * COLUMNS + x / CELL).copied().unwrap_or(b' ');
        let row = match y % CELL {
            _ if cell == b' ' => 0,
            0 => 0,
            row => cell.rotate_left(u32::try_from(row - 1).unwrap_or(0)),
        };
        row & (0x80 >> (x % CELL)) != 0
    }
}

/// A keyboard and a screen, with a log of what was typed.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    pub(crate) screen: Screen,
    /// Every change of a key: its keysym, and whether it went down.
    pub(crate) events: Vec<(u32, bool)>,
    /// What the guest understood: characters, a line end for Return, names in angle brackets.
    pub(crate) typed: String,
    shift: bool,
    control: bool,
}

impl Desk {
    /// A key goes down or comes up. As with QEMU, a keysym only says which key it is: without
    /// Shift, the key of `A` writes `a`.
    pub(crate) fn key(&mut self, keysym: u32, down: bool) {
        self.events.push((keysym, down));
        match keysym {
            0xffe1 | 0xffe2 => self.shift = down,
            0xffe3 | 0xffe4 => self.control = down,
            _ if !down => {}
            0xff0d => self.write('\n'),
            0xffbe..=0xffc9 => self.typed += &format!("<f{}>", keysym - 0xffbd),
            _ => match self.character(keysym) {
                Some(c) if self.control => self.typed += &format!("<ctrl-{c}>"),
                Some(c) => self.write(c),
                None => {
                    let named = NAMED.iter().find(|(k, _)| *k == keysym).map(|(_, name)| *name);
                    self.typed += &format!("<{}>", named.unwrap_or("?"));
                }
            },
        }
    }

    /// A byte from a text console; gives what to write back.
    pub(crate) fn hear(&mut self, byte: u8) -> String {
        let c = if byte == b'\r' { '\n' } else { char::from(byte) };
        self.write(c);
        if c == '\n' { "\r\n".to_owned() } else { c.to_string() }
    }

    fn character(&self, keysym: u32) -> Option<char> {
        let c = char::from_u32(keysym)?;
        let key = PLAIN.find(c).or_else(|| SHIFTED.find(c))?;
        let row = if self.shift { SHIFTED } else { PLAIN };
        row.get(key..)?.chars().next()
    }

    fn write(&mut self, c: char) {
        self.typed.push(c);
        self.screen.put(c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_rows_of_the_keyboard_fit() {
        assert!(PLAIN.is_ascii() && SHIFTED.is_ascii());
        assert_eq!(PLAIN.len(), SHIFTED.len());
    }

    #[test]
    fn a_forgotten_shift_shows() {
        let mut desk = Desk::default();
        desk.key(u32::from('A'), true);
        desk.key(0xffe1, true);
        desk.key(u32::from('A'), true);
        desk.key(u32::from('1'), true);
        desk.key(0xffe1, false);
        desk.key(0xff0d, true);
        desk.key(0xffbf, true);
        assert_eq!(desk.typed, "aA!\n<f2>");
        assert_eq!(desk.screen.text().trim_end(), "aA!");
    }

    #[test]
    fn the_screen_scrolls() {
        let mut screen = Screen::default();
        (0..30).for_each(|n| format!("line {n}\n").chars().for_each(|c| screen.put(c)));
        assert!(screen.text().starts_with("line 6\n"), "{}", screen.text());
    }
}
