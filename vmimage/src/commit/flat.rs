//! The merge into a fixed VHD or a raw file: each sector has one place.

use super::held::Held;
use super::journal::{Journal, Pair};
use super::{Done, Task, merge};
use crate::vhd::Footer;
use crate::{Error, Result};

/// How far one look at the child's bitmaps goes.
const STEP: u64 = 64 << 20;

/// What kind of file the parent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flat {
    /// A fixed VHD whose disk has so many bytes.
    Fixed(u64),
    Raw,
}

/// Merges the child of `task` into its flat parent.
pub(super) fn run(task: &Task<'_>, pair: &Pair, flat: Flat) -> Result<Done> {
    let size = task.child.size();
    let len = task.parent.len()?;
    if let Flat::Fixed(parent) = flat {
        if parent != size {
            return Err(Error::unsupported(format!(
                "the child's disk has {size} bytes and its fixed parent {parent}, which cannot be \
                 resized in place; flatten the chain into a new image instead"
            )));
        }
        if len < size + Footer::LEN as u64 - 1 {
            return Err(Error::truncated("the fixed parent is shorter than its disk"));
        }
    }
    let mut held = Held::new(task.child)?;
    let mut done = Done::default();
    each(
        task,
        &mut held,
        |task, run, done| {
            done.bytes_total += run.end - run.start;
            task.hooks.check()
        },
        &mut done,
    )?;
    let resumed = Journal::resume(&task.journal, pair).map_err(|e| task.at_journal(e))?;
    done.resumed = resumed.is_some();
    if resumed.is_none() {
        Journal::begin(&task.journal, pair, 0).map_err(|e| task.at_journal(e))?;
    }
    if flat == Flat::Raw && len < size {
        task.parent.set_len(size)?;
        done.grown_from = Some(len);
    }
    let mut buf = vec![0; 256 * 1024];
    each(
        task,
        &mut held,
        |task, run, done| {
            task.hooks.check()?;
            merge::copy(task, &mut buf, &run, run.start, done)
        },
        &mut done,
    )?;
    task.parent.sync()?;
    Ok(done)
}

/// Gives each run that the child holds to `look`, in ascending order.
fn each(
    task: &Task<'_>,
    held: &mut Held<'_>,
    mut look: impl FnMut(&Task<'_>, super::held::Run, &mut Done) -> Result<()>,
    done: &mut Done,
) -> Result<()> {
    let size = task.child.size();
    let mut at = 0;
    while let Some(from) = held.next_stored(at)?.filter(|&from| from < size) {
        let end = (from + STEP).min(size);
        for run in held.runs(from, end)? {
            look(task, run, done)?;
        }
        at = end;
    }
    Ok(())
}
