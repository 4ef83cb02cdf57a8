//! Keys as the protocol names them: X11 keysyms (RFC 6143, section 7.5.4).

use std::fmt;

/// One change of one key: what a `KeyEvent` message of RFB says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct KeyEvent {
    /// The X11 keysym of the key.
    pub keysym: u32,
    /// Whether the key goes down; else it comes up.
    pub down: bool,
}

impl KeyEvent {
    /// A key that goes down.
    #[must_use]
    pub fn down(keysym: u32) -> Self {
        Self { keysym, down: true }
    }

    /// A key that comes up.
    #[must_use]
    pub fn up(keysym: u32) -> Self {
        Self { keysym, down: false }
    }
}

/// A key: one that writes a character, or one with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Key {
    /// The key that writes this character on a US keyboard.
    Char(char),
    /// A key with a name.
    Special(SpecialKey),
}

impl Key {
    /// The X11 keysym. Characters up to U+00FF are their own keysym, all others have bit 24 set.
    ///
    /// Control characters become the keys that write them (a line end is Return, a tabulator Tab),
    /// because servers know no key for keysyms below 0x20.
    #[must_use]
    pub fn keysym(self) -> u32 {
        match self {
            Self::Special(key) => key.keysym(),
            Self::Char('\n' | '\r') => SpecialKey::Return.keysym(),
            Self::Char('\t') => SpecialKey::Tab.keysym(),
            Self::Char('\u{8}') => SpecialKey::Backspace.keysym(),
            Self::Char('\u{1b}') => SpecialKey::Escape.keysym(),
            Self::Char('\u{7f}') => SpecialKey::Delete.keysym(),
            Self::Char(c) if u32::from(c) <= 0xff => u32::from(c),
            Self::Char(c) => 0x0100_0000 | u32::from(c),
        }
    }

    /// Whether Shift has to be held for it on a US keyboard.
    ///
    /// QEMU looks up which key has the keysym and takes nothing of Shift from it: without Shift,
    /// `A` arrives as `a` and `!` as `1`.
    #[must_use]
    pub fn needs_shift(self) -> bool {
        const SHIFTED: &str = "~!@#$%^&*()_+{}|:\"<>?";
        matches!(self, Self::Char(c) if c.is_uppercase() || SHIFTED.contains(c))
    }

    /// What to send to hold the key down: Shift first, if it needs Shift.
    #[must_use]
    pub fn press(self) -> Vec<KeyEvent> {
        let shift = self.needs_shift().then(|| KeyEvent::down(SpecialKey::LeftShift.keysym()));
        shift.into_iter().chain([KeyEvent::down(self.keysym())]).collect()
    }

    /// What to send to let the key go: Shift last, if it needs Shift.
    #[must_use]
    pub fn release(self) -> Vec<KeyEvent> {
        let shift = self.needs_shift().then(|| KeyEvent::up(SpecialKey::LeftShift.keysym()));
        [KeyEvent::up(self.keysym())].into_iter().chain(shift).collect()
    }

    /// What to send to strike the key once.
    #[must_use]
    pub fn strike(self) -> Vec<KeyEvent> {
        let mut events = self.press();
        events.extend(self.release());
        events
    }
}

macro_rules! special_keys {
    ($($variant:ident $name:literal $keysym:literal $what:literal,)*) => {
        /// A key with a name in Packer's boot commands.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum SpecialKey {
            $(#[doc = concat!("`<", $name, ">`: ", $what, ", keysym `", stringify!($keysym), "`.")]
            $variant,)*
        }

        impl SpecialKey {
            /// All of them, a name that begins another one after that: the first that fits is it.
            pub(super) const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in a boot command, in Packer's spelling. Any case is understood.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The X11 keysym.
            #[must_use]
            pub fn keysym(self) -> u32 {
                match self { $(Self::$variant => $keysym,)* }
            }
        }
    };
}

special_keys! {
    Backspace "bs" 0xff08 "Backspace",
    Delete "del" 0xffff "Delete",
    Enter "enter" 0xff0d "Return",
    Escape "esc" 0xff1b "Escape",
    F10 "f10" 0xffc7 "F10",
    F11 "f11" 0xffc8 "F11",
    F12 "f12" 0xffc9 "F12",
    F1 "f1" 0xffbe "F1",
    F2 "f2" 0xffbf "F2",
    F3 "f3" 0xffc0 "F3",
    F4 "f4" 0xffc1 "F4",
    F5 "f5" 0xffc2 "F5",
    F6 "f6" 0xffc3 "F6",
    F7 "f7" 0xffc4 "F7",
    F8 "f8" 0xffc5 "F8",
    F9 "f9" 0xffc6 "F9",
    Return "return" 0xff0d "Return",
    Tab "tab" 0xff09 "Tab",
    Up "up" 0xff52 "the arrow up",
    Down "down" 0xff54 "the arrow down",
    Spacebar "spacebar" 0x0020 "the space bar",
    Insert "insert" 0xff63 "Insert",
    Home "home" 0xff50 "Home",
    End "end" 0xff57 "End",
    PageUp "pageUp" 0xff55 "the page up",
    PageDown "pageDown" 0xff56 "the page down",
    LeftAlt "leftAlt" 0xffe9 "the left Alt",
    LeftCtrl "leftCtrl" 0xffe3 "the left Control",
    LeftMeta "leftMeta" 0xffe7 "the left Meta",
    LeftShift "leftShift" 0xffe1 "the left Shift",
    RightAlt "rightAlt" 0xffea "the right Alt",
    RightCtrl "rightCtrl" 0xffe4 "the right Control",
    RightMeta "rightMeta" 0xffe8 "the right Meta",
    RightShift "rightShift" 0xffe2 "the right Shift",
    LeftSuper "leftSuper" 0xffeb "the left Windows key",
    RightSuper "rightSuper" 0xffec "the right Windows key",
    LeftCommand "leftCommand" 0xffe9 "the left Command of a Mac, sent as Alt",
    RightCommand "rightCommand" 0xffea "the right Command of a Mac, sent as Alt",
    LeftOption "leftOption" 0xffe7 "the left Option of a Mac, sent as Meta",
    RightOption "rightOption" 0xffe8 "the right Option of a Mac, sent as Meta",
    Left "left" 0xff51 "the arrow left",
    Right "right" 0xff53 "the arrow right",
    Menu "menu" 0xff67 "Menu",
}

impl fmt::Display for SpecialKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keysyms_of_characters() {
        for (key, keysym) in [
            ('a', 0x61),
            ('A', 0x41),
            (' ', 0x20),
            ('~', 0x7e),
            ('ä', 0xe4),
            ('€', 0x0100_20ac),
            ('😀', 0x0101_f600),
            ('\n', 0xff0d),
            ('\t', 0xff09),
        ] {
            assert_eq!(Key::Char(key).keysym(), keysym, "{key:?}");
        }
    }

    #[test]
    fn shift_is_held_for_exactly_the_upper_half_of_a_us_keyboard() {
        let pairs = "`~1!2@3#4$5%6^7&8*9(0)-_=+[{]}\\|;:'\",<.>/?aAzZ";
        for (i, c) in pairs.chars().enumerate() {
            assert_eq!(Key::Char(c).needs_shift(), i % 2 == 1, "{c}");
        }
        assert!(!Key::Special(SpecialKey::Enter).needs_shift());
        let (shift, a) = (0xffe1, 0x41);
        assert_eq!(
            Key::Char('A').strike(),
            [KeyEvent::down(shift), KeyEvent::down(a), KeyEvent::up(a), KeyEvent::up(shift)]
        );
    }

    #[test]
    fn no_name_hides_a_longer_one() {
        for (i, first) in SpecialKey::ALL.iter().enumerate() {
            for later in &SpecialKey::ALL[i + 1..] {
                assert!(!later.name().starts_with(first.name()), "{first} hides {later}");
            }
        }
    }
}
