//! Packer's boot commands, read without I/O.
//!
//! The grammar is `bootcommand/boot_command.pigeon` of Packer's plugin SDK
//! (<https://github.com/hashicorp/packer-plugin-sdk>); what Packer's documentation says about it
//! is in `bootcommand/config.go` beside it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::keys::{Key, KeyEvent, SpecialKey};
use crate::error::{Error, ErrorKind, Result};

/// What to do at a console, as Packer's `boot_command` says it: keys to strike, to hold and to
/// let go, and pauses.
///
/// | text | meaning |
/// |---|---|
/// | any character | strike its key; Shift is held for it where a US keyboard needs that |
/// | `<enter>`, `<f12>`, `<leftCtrl>` … | strike the key of that name: [`SpecialKey`] lists them |
/// | `<leftShiftOn>`, `<leftShiftOff>` | hold a key with a name, let it go |
/// | `<aOn>`, `<aOff>` | the same for any character |
/// | `<wait>`, `<wait5>` | a pause of 1 s, of 5 s |
/// | `<wait1m30s>`, `<wait0.5s>` | a pause as Go writes durations: units `ns us µs ms s m h` |
///
/// Names, `On` and `Off` are understood in any case; `wait` is lower-case. As in Packer, what is
/// none of these is typed as it stands, `<foo>`, `<Wait>` and `<wait05>` included:
/// [`parse_strict`](Self::parse_strict) refuses what looks like a mistake.
///
/// Templates such as `{{ .HTTPIP }}` are not expanded: do that before, or they are typed.
///
/// ```
/// use std::time::Duration;
/// use xenapi::console::{BootCommand, Key, SpecialKey, Step};
///
/// let command = BootCommand::parse("<esc><wait5>ks<enter>")?;
/// assert_eq!(command.steps()[0], Step::Strike(Key::Special(SpecialKey::Escape)));
/// assert_eq!(command.steps()[1], Step::Wait(Duration::from_secs(5)));
/// assert_eq!(command.waits(), Duration::from_secs(5));
///
/// let e = BootCommand::parse("login<wait0>").unwrap_err();
/// assert!(e.to_string().contains("byte 5"));
/// assert!(BootCommand::parse_strict("root<etner>").is_err());
/// # Ok::<(), xenapi::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootCommand {
    steps: Vec<Step>,
}

/// One thing to do at a console.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// Press a key and let it go.
    Strike(Key),
    /// Press a key and hold it.
    Hold(Key),
    /// Let a key go.
    Release(Key),
    /// Do nothing for a time, which is longer than zero.
    Wait(Duration),
}

impl Step {
    /// What the step sends; nothing for a pause.
    #[must_use]
    pub fn events(self) -> Vec<KeyEvent> {
        match self {
            Self::Strike(key) => key.strike(),
            Self::Hold(key) => key.press(),
            Self::Release(key) => key.release(),
            Self::Wait(_) => Vec::new(),
        }
    }
}

/// Where a boot command is wrong, and what should be there: the [source](std::error::Error::source)
/// of the [`Error`] that [`BootCommand::parse`] gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootCommandError {
    offset: usize,
    expected: &'static str,
}

impl BootCommandError {
    /// Where the wrong expression begins, in bytes from the start of the text.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// What could stand there.
    #[must_use]
    pub fn expected(&self) -> &str {
        self.expected
    }
}

impl fmt::Display for BootCommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "boot command, byte {}: expected {}", self.offset, self.expected)
    }
}

impl std::error::Error for BootCommandError {}

impl BootCommand {
    /// Reads a boot command, as Packer does.
    ///
    /// # Errors
    /// Of kind [`Config`](ErrorKind::Config), with a [`BootCommandError`] as source: a pause that
    /// is not longer than zero, or longer than Go can count (292 years).
    pub fn parse(text: &str) -> Result<Self> {
        Self::read(text, false)
    }

    /// As [`parse`](Self::parse), but refuses what Packer would type and nobody means: a word in
    /// angle brackets that is no key, no pause and no `On` or `Off`.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and for such a word.
    pub fn parse_strict(text: &str) -> Result<Self> {
        Self::read(text, true)
    }

    /// Reads the list of texts that Packer's templates have. They are one text to it, so that an
    /// expression may begin in one and end in the next; offsets in errors count from the first.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_list<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<Self> {
        let whole: String = texts.into_iter().map(|text| text.as_ref().to_owned()).collect();
        Self::parse(&whole)
    }

    /// Strikes the key of each character and understands nothing else: for text that may hold
    /// angle brackets, such as a password.
    #[must_use]
    pub fn literal(text: &str) -> Self {
        Self { steps: text.chars().map(|c| Step::Strike(Key::Char(c))).collect() }
    }

    /// What to do, in order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The sum of its pauses.
    #[must_use]
    pub fn waits(&self) -> Duration {
        let waits = self.steps.iter().map(|step| match step {
            Step::Wait(time) => *time,
            _ => Duration::ZERO,
        });
        waits.fold(Duration::ZERO, Duration::saturating_add)
    }

    fn read(text: &str, strict: bool) -> Result<Self> {
        let mut steps = Vec::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let offset = text.len() - rest.len();
            let (step, after) = match expression(rest) {
                Some(Ok(found)) => found,
                Some(Err(expected)) => return Err(refuse(offset, expected)),
                None if strict && looks_like_a_name(rest) => return Err(refuse(offset, NAME)),
                None => (Step::Strike(Key::Char(first)), &rest[first.len_utf8()..]),
            };
            steps.push(step);
            rest = after;
        }
        Ok(Self { steps })
    }
}

impl FromStr for BootCommand {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

const NAME: &str = "the name of a key (such as <enter>, <f2>, <leftCtrlOn>), <wait>, or <wait> \
                    with a time (such as <wait10> or <wait1m30s>)";
const POSITIVE: &str = "a wait that is longer than zero, such as <wait500ms>";
const COUNTABLE: &str = "a wait of at most 292 years, without a sign inside";

fn refuse(offset: usize, expected: &'static str) -> Error {
    let source = BootCommandError { offset, expected };
    Error::new(ErrorKind::Config, source.to_string()).with_source(source)
}

/// A step, and the text behind it.
type Found<'a> = (Step, &'a str);

/// The expression in angle brackets that the text begins with. The order matters: `<aOn>` is
/// looked for before the names, as Packer does.
fn expression(text: &str) -> Option<Result<Found<'_>, &'static str>> {
    let inside = text.strip_prefix('<')?;
    wait(inside)
        .or_else(|| toggled_character(inside).map(Ok))
        .or_else(|| special_key(inside).map(Ok))
}

fn toggled_character(text: &str) -> Option<Found<'_>> {
    let c = text.chars().next()?;
    let (make, rest) = toggle(&text[c.len_utf8()..])?;
    Some((make(Key::Char(c)), rest.strip_prefix('>')?))
}

fn special_key(text: &str) -> Option<Found<'_>> {
    let (key, rest) = SpecialKey::ALL
        .iter()
        .find_map(|key| strip_ignoring_case(text, key.name()).map(|rest| (*key, rest)))?;
    let (make, rest) = toggle(rest).unwrap_or((Step::Strike, rest));
    Some((make(Key::Special(key)), rest.strip_prefix('>')?))
}

/// What a key becomes.
type Make = fn(Key) -> Step;

/// `On` or `Off`.
fn toggle(text: &str) -> Option<(Make, &str)> {
    if let Some(rest) = strip_ignoring_case(text, "on") {
        return Some((Step::Hold, rest));
    }
    strip_ignoring_case(text, "off").map(|rest| (Step::Release as Make, rest))
}

fn strip_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

/// A pause. `None` if the text is none; an error if it is one that cannot be.
fn wait(text: &str) -> Option<Result<Found<'_>, &'static str>> {
    let text = text.strip_prefix("wait")?;
    let (nanos, rest) = match duration(text) {
        Some((nanos, rest)) => (nanos, rest),
        None => match integer(text) {
            Some((digits, rest)) => (seconds(digits), rest),
            None => (Ok(SECOND), text),
        },
    };
    let rest = rest.strip_prefix('>')?;
    Some(nanos.and_then(|nanos| match u64::try_from(nanos) {
        Ok(0) => Err(POSITIVE),
        Ok(n) if n <= MOST_NANOS => Ok((Step::Wait(Duration::from_nanos(n)), rest)),
        _ => Err(COUNTABLE),
    }))
}

const SECOND: u128 = 1_000_000_000;
/// What a duration of Go can hold.
const MOST_NANOS: u64 = i64::MAX as u64;
/// Longer names first, as in the grammar: `ms` is no `m`.
const UNITS: [(&str, u128); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", SECOND),
    ("m", 60 * SECOND),
    ("h", 3_600 * SECOND),
];

fn seconds(digits: &str) -> Result<u128, &'static str> {
    digits.parse::<u64>().map(|n| u128::from(n) * SECOND).map_err(|_| COUNTABLE)
}

/// One or more numbers with units. The number of nanoseconds is an error if Go would refuse it.
fn duration(text: &str) -> Option<(Result<u128, &'static str>, &str)> {
    let (mut total, mut rest) = part(text)?;
    let mut first_sign = text.starts_with('-');
    while let Some((more, after)) = part(rest) {
        let inner_sign = rest.starts_with('-');
        total = match (total, more) {
            // Go knows a sign in front of the whole only.
            _ if inner_sign => Err(COUNTABLE),
            (Ok(a), Ok(b)) => Ok(a.saturating_add(b)),
            (Err(e), _) | (_, Err(e)) => Err(e),
        };
        first_sign &= !inner_sign;
        rest = after;
    }
    Some((if first_sign { Err(POSITIVE) } else { total }, rest))
}

/// A number with its unit. Its sign is left to the caller to look at.
fn part(text: &str) -> Option<(Result<u128, &'static str>, &str)> {
    let (whole, mut rest) = integer(text.strip_prefix('-').unwrap_or(text))?;
    let mut fraction = "";
    if let Some(after) = rest.strip_prefix('.') {
        let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        // A point without digits behind it belongs to nothing.
        (fraction, rest) = if end > 0 { after.split_at(end) } else { ("", rest) };
    }
    let (unit, rest) =
        UNITS.iter().find_map(|(name, unit)| Some((*unit, rest.strip_prefix(name)?)))?;
    Some((nanos(whole, fraction, unit), rest))
}

fn nanos(whole: &str, fraction: &str, unit: u128) -> Result<u128, &'static str> {
    let whole = u128::from(whole.parse::<u64>().map_err(|_| COUNTABLE)?);
    // 15 digits of an hour are finer than a nanosecond; what is behind them is nothing.
    let fraction = &fraction[..fraction.len().min(15)];
    let scale = (0..fraction.len()).fold(1_u128, |scale, _| scale * 10);
    let fraction = fraction.parse::<u128>().unwrap_or(0);
    Ok(whole * unit + fraction * unit / scale)
}

/// `0`, or digits that do not begin with it.
fn integer(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    match end {
        0 => None,
        _ if text.starts_with('0') => Some(text.split_at(1)),
        _ => Some(text.split_at(end)),
    }
}

/// A word in angle brackets, no longer than a name can be.
fn looks_like_a_name(text: &str) -> bool {
    const LONGEST: usize = 24;
    let Some(inside) = text.strip_prefix('<') else { return false };
    let end = inside.char_indices().take(LONGEST).find(|(_, c)| *c == '>').map(|(at, _)| at);
    let word = end.map_or("", |end| &inside[..end]);
    word.starts_with(|c: char| c.is_ascii_alphabetic())
        && word.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-'))
}

#[cfg(test)]
#[path = "boot_tests.rs"]
mod tests;
