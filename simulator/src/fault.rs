//! The table of faults that the doubles of the clouds share: how a fault is written, how often it
//! strikes. What the faults of a cloud are, and what they do, is the cloud's own.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A text that names no fault, or whose argument does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseFaultError {
    text: String,
    wanted: String,
}

impl fmt::Display for ParseFaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no fault '{}': {}", self.text, self.wanted)
    }
}

impl std::error::Error for ParseFaultError {}

/// Name and shape of the argument of every fault of a cloud.
pub(crate) type Shapes = [(&'static str, &'static str)];

/// The shapes as one writes them: `quota=BYTES`.
pub(crate) fn written(shapes: &Shapes) -> Vec<String> {
    shapes.iter().map(|(name, arg)| format!("{name}{arg}")).collect()
}

/// Takes `NAME[=ARG]` apart and has the cloud `parse` it; without an `=`, ARG is empty.
pub(crate) fn parse<F>(
    text: &str,
    shapes: &Shapes,
    parse: impl FnOnce(&str, &str) -> Option<F>,
) -> Result<F, ParseFaultError> {
    let (name, arg) = text.split_once('=').unwrap_or((text, ""));
    parse(name, arg).ok_or_else(|| {
        let wanted = shapes.iter().find(|(known, _)| *known == name).map_or_else(
            || format!("the names are {}", written(shapes).join(", ")),
            |(name, arg)| format!("it is written {name}{arg}"),
        );
        ParseFaultError { text: text.to_owned(), wanted }
    })
}

/// Seconds, with a fraction if one likes.
pub(crate) fn seconds(arg: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(arg.parse().ok()?).ok()
}

/// A status that is an error.
pub(crate) fn status(arg: &str) -> Option<u16> {
    arg.parse().ok().filter(|code| (400..600).contains(code))
}

/// `STATUS[:BYTES]`; no bytes are 0.
pub(crate) fn status_after(arg: &str) -> Option<(u16, u64)> {
    let (code, after) = arg.split_once(':').unwrap_or((arg, "0"));
    Some((status(code)?, after.parse().ok()?))
}

/// `[N:]WHAT`, counted from 1; no number is the first.
pub(crate) fn nth(word: &str) -> Option<(u64, &str)> {
    match word.split_once(':') {
        Some((nth, what)) => Some((nth.parse().ok().filter(|nth| *nth > 0)?, what)),
        None => Some((1, word)),
    }
}

/// A fault that was switched on.
#[derive(Debug)]
pub(crate) struct Entry<F> {
    pub(crate) fault: F,
    pub(crate) times: Times,
}

/// How often a fault struck and still may.
#[derive(Debug)]
pub(crate) struct Times {
    /// How often it may still strike; `None` means always.
    left: Option<u64>,
    /// Matching requests seen, for the faults that count.
    seen: u64,
}

impl Times {
    /// Counts a matching request; how many there were.
    pub(crate) fn count(&mut self) -> u64 {
        self.seen += 1;
        self.seen
    }

    /// Counts a matching request; true for the `nth`, and with `@TIMES` for the ones after it.
    pub(crate) fn count_to(&mut self, nth: u64) -> bool {
        let last = nth.saturating_add(self.left.unwrap_or(1).saturating_sub(1));
        (nth..=last).contains(&self.count())
    }
}

/// The faults of one double; clones share one set.
#[derive(Clone, Debug)]
pub struct Faults<F> {
    set: Arc<Mutex<Vec<Entry<F>>>>,
}

impl<F> Default for Faults<F> {
    fn default() -> Self {
        Self { set: Arc::default() }
    }
}

impl<F> Faults<F> {
    /// Switches a fault on until [`clear`](Self::clear).
    pub fn set(&self, fault: F) {
        self.push(fault, None);
    }

    /// Switches a fault on for the next `times` occasions at which it would strike.
    pub fn set_times(&self, fault: F, times: u64) {
        self.push(fault, Some(times));
    }

    /// Switches a fault on from its text `NAME[=ARG][@TIMES]`, as `--fault` gives it.
    ///
    /// # Errors
    ///
    /// One sentence when the name is unknown or the argument does not fit.
    pub fn set_str(&self, text: &str) -> Result<(), ParseFaultError>
    where
        F: FromStr<Err = ParseFaultError>,
    {
        match text.rsplit_once('@').map(|(fault, times)| (fault, times.parse::<u64>())) {
            Some((fault, Ok(times))) => self.set_times(fault.parse()?, times),
            _ => self.set(text.parse()?),
        }
        Ok(())
    }

    /// Switches every fault off.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn push(&self, fault: F, left: Option<u64>) {
        self.lock().push(Entry { fault, times: Times { left, seen: 0 } });
    }

    /// Every fault that was switched on, in that order.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Vec<Entry<F>>> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `pick` finds in the faults that are on, without using one up.
    pub(crate) fn peek<T>(&self, pick: impl Fn(&F) -> Option<T>) -> Option<T> {
        let set = self.lock();
        set.iter().rev().filter(|entry| entry.times.left != Some(0)).find_map(|e| pick(&e.fault))
    }

    /// What `pick` finds, using up one time of a fault that was set for some times.
    pub(crate) fn take<T>(&self, pick: impl Fn(&F) -> Option<T>) -> Option<T> {
        let mut set = self.lock();
        for Entry { fault, times } in set.iter_mut().rev().filter(|e| e.times.left != Some(0)) {
            if let Some(found) = pick(fault) {
                times.left = times.left.map(|left| left - 1);
                return Some(found);
            }
        }
        None
    }
}

impl<F: PartialEq> Faults<F> {
    pub(crate) fn on(&self, fault: &F) -> bool {
        self.peek(|set| (set == fault).then_some(())).is_some()
    }

    pub(crate) fn strikes(&self, fault: &F) -> bool {
        self.take(|set| (set == fault).then_some(())).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_times_the_nth_and_the_ones_after_it_are_hit() {
        let hits = |left| {
            let mut times = Times { left, seen: 0 };
            [(); 4].map(|()| times.count_to(2))
        };
        assert_eq!(hits(None), [false, true, false, false]);
        assert_eq!(hits(Some(1)), [false, true, false, false]);
        assert_eq!(hits(Some(2)), [false, true, true, false]);
        assert_eq!(hits(Some(u64::MAX)), [false, true, true, true]);
    }

    #[test]
    fn arguments_are_read_to_their_end() {
        assert_eq!((status_after("503:7"), status_after("400")), (Some((503, 7)), Some((400, 0))));
        assert_eq!((status_after("503:"), status_after("600")), (None, None));
        assert_eq!((nth("2:x"), nth("x"), nth("0:x")), (Some((2, "x")), Some((1, "x")), None));
        assert_eq!((seconds("0.5"), seconds("-1")), (Some(Duration::from_millis(500)), None));
    }
}
