//! A storage double: files in memory whose machine dies at a chosen write.
//!
//! After the death [`World::killed`] gives what a killed process leaves (every write up to there,
//! the last one torn), and [`World::powerless`] what a loss of power leaves: what was synced, and
//! of the rest an arbitrary part.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Store;
use crate::ReadAt;

/// The machine on which the files are.
#[derive(Debug, Default)]
pub(crate) struct World {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: Vec<FileState>,
    /// Changes so far.
    ops: u64,
    /// The change during which the machine dies, and how it tears: at multiples of this.
    death: Option<(u64, usize)>,
    dead: bool,
    seed: u64,
}

#[derive(Debug, Default, Clone)]
struct FileState {
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Op>,
}

#[derive(Debug, Clone)]
enum Op {
    Write(u64, Vec<u8>),
    Len(u64),
}

/// One file of a [`World`].
#[derive(Debug, Clone)]
pub(crate) struct Double {
    world: Arc<World>,
    index: usize,
}

impl World {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        let world = Self::default();
        world.state().seed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        Arc::new(world)
    }

    /// A file with these bytes, which are durable.
    pub(crate) fn file(self: &Arc<Self>, bytes: &[u8]) -> Double {
        let mut state = self.state();
        state.files.push(FileState {
            now: bytes.to_vec(),
            durable: bytes.to_vec(),
            pending: Vec::new(),
        });
        Double { world: Arc::clone(self), index: state.files.len() - 1 }
    }

    /// The machine dies during the change `op`, of which a part of whole multiples of `grain`
    /// bytes is done.
    pub(crate) fn die_at(&self, op: u64, grain: usize) {
        self.state().death = Some((op, grain));
    }

    pub(crate) fn ops(&self) -> u64 {
        self.state().ops
    }

    /// The files as a killed process leaves them.
    pub(crate) fn killed(&self) -> Vec<Vec<u8>> {
        self.state().files.iter().map(|f| f.now.clone()).collect()
    }

    /// The files as a loss of power leaves them; writes are torn at multiples of `grain`.
    pub(crate) fn powerless(&self, grain: usize) -> Vec<Vec<u8>> {
        let mut state = self.state();
        let mut seed = state.seed;
        let files = state.files.iter().map(|file| file.powerless(&mut seed, grain)).collect();
        state.seed = seed;
        files
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, index: usize, op: Op) -> io::Result<()> {
        let mut state = self.state();
        if state.dead {
            return Err(io::Error::other("the machine is dead"));
        }
        state.ops += 1;
        let mut op = op;
        if let Some((death, grain)) = state.death
            && state.ops == death
        {
            state.dead = true;
            if let Op::Write(offset, bytes) = &mut op {
                let cut = random(&mut state.seed) as usize % (bytes.len() + 1);
                // Tears are at multiples of the grain within the file, not within the write.
                let end = (*offset as usize + cut) / grain * grain;
                bytes.truncate(end.saturating_sub(*offset as usize));
            } else if random(&mut state.seed).is_multiple_of(2) {
                return Err(io::Error::other("the machine died before it"));
            }
        }
        let dead = state.dead;
        let file = &mut state.files[index];
        op.apply(&mut file.now);
        file.pending.push(op);
        if dead { Err(io::Error::other("the machine died")) } else { Ok(()) }
    }
}

impl FileState {
    fn powerless(&self, seed: &mut u64, grain: usize) -> Vec<u8> {
        let mut out = self.durable.clone();
        for op in &self.pending {
            match (random(seed) % 3, op) {
                (0, _) => {}
                (1, op) => op.apply(&mut out),
                (_, Op::Len(_)) => {}
                (_, Op::Write(offset, bytes)) => {
                    let (mut at, mut rest) = (*offset, bytes.as_slice());
                    while !rest.is_empty() {
                        let n = (grain - at as usize % grain).min(rest.len());
                        if random(seed).is_multiple_of(2) {
                            Op::Write(at, rest[..n].to_vec()).apply(&mut out);
                        }
                        (at, rest) = (at + n as u64, &rest[n..]);
                    }
                }
            }
        }
        out
    }
}

impl Op {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Len(len) => bytes.resize(*len as usize, 0),
            Self::Write(_, new) if new.is_empty() => {}
            Self::Write(offset, new) => {
                let (from, to) = (*offset as usize, *offset as usize + new.len());
                bytes.resize(bytes.len().max(to), 0);
                bytes[from..to].copy_from_slice(new);
            }
        }
    }
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 8
}

impl ReadAt for Double {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.world.state().files[self.index].now.read_exact_at(buf, offset)
    }

    fn byte_len(&self) -> io::Result<u64> {
        Ok(self.world.state().files[self.index].now.len() as u64)
    }
}

impl Store for Double {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.world.change(self.index, Op::Write(offset, bytes.to_vec()))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.world.change(self.index, Op::Len(len))
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.world.state();
        if state.dead {
            return Err(io::Error::other("the machine is dead"));
        }
        let file = &mut state.files[self.index];
        file.durable = file.now.clone();
        file.pending.clear();
        Ok(())
    }
}
