//! The content root: one hash for the content of a disk, whatever container holds it.
//!
//! [`content_root`] has the definition. What follows from it:
//!
//! - The root depends on the bytes that the guest sees, not on the format, the chain, which
//!   zeros are stored, or the size of the disk. A disk without data has a root too.
//! - `leaf` of zeros and the subtrees over it are constants, so leaves without data are neither
//!   read nor hashed.
//! - `n` is hashed, so trees of different heights cannot be mistaken for each other; the tags
//!   keep leaves and nodes apart.

use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use crate::exec::fill::{ZEROS, is_zero};
use crate::exec::hex;
use crate::{Disk, Result, Watch};

const LEAF: u64 = 1 << 20;
/// Enough for any 64-bit size.
const MAX_HEIGHT: usize = 64;

type Hash = [u8; 32];

/// The content root of a disk: 64 lower-case hexadecimal digits that are the same for every
/// container of the same content. See [`stream`](crate::stream()) for a transfer that computes it
/// on the way.
///
/// # Definition (version 1)
///
/// A disk is an endless string of bytes: its guest-visible bytes, then zeros. Leaf `i` is the
/// 1 MiB from byte `i * 1048576` on. `n` is one more than the index of the last leaf that is
/// not all zeros, or 0 if there is none.
///
/// ```text
/// leaf(bytes)        = SHA-256( tag("vmimage content-root 1 leaf") || bytes )
/// node(left, right)  = SHA-256( tag("vmimage content-root 1 node") || left || right )
/// root(n, top)       = SHA-256( tag("vmimage content-root 1 root") || n as u64 big-endian || top )
/// ```
///
/// `tag(s)` is the ASCII text padded with zero bytes to 64 bytes. `top` is the root of the
/// binary tree over `2^h` leaves, where `h` is the least number with `2^h >= max(n, 1)`.
///
/// Leaves without data are neither read nor hashed: the cost follows the allocated bytes. The root of
/// a disk without data is `083a9af0eb812398f743ae57a9c010c65bcb6ccf370e62e505671f144adc57b5`.
///
/// ```
/// use std::sync::Arc;
/// use vmimage::RawDisk;
///
/// let short = RawDisk::new(Arc::new(b"content".to_vec()))?;
/// let mut tail = b"content".to_vec();
/// tail.resize(3 << 20, 0);
/// let long = RawDisk::new(Arc::new(tail))?;
/// assert_eq!(vmimage::content_root(&short)?, vmimage::content_root(&long)?);
/// # Ok::<(), vmimage::Error>(())
/// ```
///
/// # Errors
/// Those of reading the disk.
pub fn content_root(disk: &dyn Disk) -> Result<String> {
    content_root_watched(disk, &Watch::new())
}

/// As [`content_root`], watched: progress is the bytes of data that were read, of those that the
/// [block map](crate::BlockMap::allocated) has.
///
/// # Errors
/// Those of reading the disk, and [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled).
pub fn content_root_watched(disk: &dyn Disk, watch: &Watch) -> Result<String> {
    let mut done = 0;
    let mut root = RootBuilder::new(disk.virtual_size());
    let mut buf = vec![0; LEAF as usize];
    for run in disk.block_map()?.runs() {
        let mut at = run.start;
        while at < run.end {
            watch.check()?;
            // Reads end on leaves, so that no leaf is fed in more pieces than it must.
            let len = (run.end - at).min(LEAF - at % LEAF);
            let piece = &mut buf[..len as usize];
            disk.read_exact_at(piece, at)?;
            root.update(at, piece);
            at += len;
            done += len;
            watch.report(done);
        }
    }
    Ok(root.finish())
}

/// Computes a content root from guest data in ascending order; what is left out is zeros.
#[derive(Debug)]
pub(crate) struct RootBuilder {
    size: u64,
    leaf: u64,
    /// How many bytes of the current leaf are known.
    filled: u64,
    /// Present from the first byte that is not zero on.
    hash: Option<Sha256>,
    tree: Tree,
}

impl RootBuilder {
    pub(crate) fn new(size: u64) -> Self {
        Self { size, leaf: 0, filled: 0, hash: None, tree: Tree::default() }
    }

    /// Guest bytes at `offset`, which is not below the end of the previous ones. Bytes past the
    /// end of the disk are ignored: they are the container's padding.
    pub(crate) fn update(&mut self, mut offset: u64, bytes: &[u8]) {
        let len = (bytes.len() as u64).min(self.size.saturating_sub(offset));
        let mut bytes = &bytes[..len as usize];
        while !bytes.is_empty() {
            if offset / LEAF != self.leaf {
                self.end_leaf();
                self.leaf = offset / LEAF;
            }
            let within = offset % LEAF;
            let (now, later) = bytes.split_at(bytes.len().min((LEAF - within) as usize));
            self.feed(within, now);
            offset += now.len() as u64;
            bytes = later;
        }
    }

    pub(crate) fn finish(mut self) -> String {
        self.end_leaf();
        hex(&self.tree.finish())
    }

    fn feed(&mut self, within: u64, bytes: &[u8]) {
        if self.hash.is_none() {
            if is_zero(bytes) {
                return;
            }
            self.hash = Some(tagged(b"vmimage content-root 1 leaf"));
            self.filled = 0;
        }
        self.pad_to(within);
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
            self.filled = within + bytes.len() as u64;
        }
    }

    /// Hashes the zeros between what is known of the leaf and `within`.
    fn pad_to(&mut self, within: u64) {
        if let Some(hash) = &mut self.hash {
            hash.update(&ZEROS[..(within - self.filled) as usize]);
            self.filled = within;
        }
    }

    fn end_leaf(&mut self) {
        self.pad_to(LEAF);
        if let Some(hash) = self.hash.take() {
            self.tree.push(self.leaf, hash.finalize().into());
        }
        self.filled = 0;
    }
}

/// The left edge of a Merkle tree that grows to the right: complete subtrees, the largest
/// first.
#[derive(Debug, Default)]
struct Tree {
    /// The root of a complete subtree of `2^height` leaves; heights strictly descend.
    stack: Vec<(usize, Hash)>,
    leaves: u64,
}

impl Tree {
    /// Adds a leaf that is not zero; all between the last one and it are.
    fn push(&mut self, index: u64, leaf: Hash) {
        while self.leaves < index {
            // The largest aligned subtree of zeros that fits.
            let gap = index - self.leaves;
            let aligned = if self.leaves == 0 { 63 } else { self.leaves.trailing_zeros() };
            let height = aligned.min(gap.ilog2()) as usize;
            self.add(height, zero_subtree(height));
        }
        self.add(0, leaf);
    }

    fn add(&mut self, height: usize, hash: Hash) {
        self.leaves += 1 << height;
        let (mut height, mut hash) = (height, hash);
        while let Some((h, left)) = self.stack.last()
            && *h == height
        {
            hash = node(left, &hash);
            height += 1;
            self.stack.pop();
        }
        self.stack.push((height, hash));
    }

    fn finish(mut self) -> Hash {
        let n = self.leaves;
        // Fill up with zeros until one subtree is left.
        let mut top = self.stack.pop().unwrap_or_else(|| (0, zero_subtree(0)));
        while let Some((height, left)) = self.stack.pop() {
            while top.0 < height {
                top = (top.0 + 1, node(&top.1, &zero_subtree(top.0)));
            }
            top = (height + 1, node(&left, &top.1));
        }
        let mut root = tagged(b"vmimage content-root 1 root");
        root.update(n.to_be_bytes());
        root.update(top.1);
        root.finalize().into()
    }
}

fn node(left: &Hash, right: &Hash) -> Hash {
    let mut hash = tagged(b"vmimage content-root 1 node");
    hash.update(left);
    hash.update(right);
    hash.finalize().into()
}

/// The root of `2^height` leaves of zeros.
fn zero_subtree(height: usize) -> Hash {
    static ROOTS: OnceLock<Vec<Hash>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let mut leaf = tagged(b"vmimage content-root 1 leaf");
        leaf.update(ZEROS);
        let mut hash: Hash = leaf.finalize().into();
        (0..MAX_HEIGHT)
            .map(|_| {
                let this = hash;
                hash = node(&this, &this);
                this
            })
            .collect()
    });
    roots[height]
}

fn tagged(tag: &[u8]) -> Sha256 {
    let mut block = [0; 64];
    block[..tag.len()].copy_from_slice(tag);
    let mut hash = Sha256::new();
    hash.update(block);
    hash
}
