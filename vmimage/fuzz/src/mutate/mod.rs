//! Mutations that know the formats, and put right the checksums behind which a reader would not
//! look otherwise. Half of the time the fuzzer's own mutation is made.

mod packed;
mod qcow2;
mod tar;
mod vhd;

/// xorshift64*
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u32) -> Self {
        Self(u64::from(seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Below `n`, or 0.
    fn below(&mut self, n: usize) -> usize {
        ((self.next() >> 11) % n.max(1) as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// Changes `data[..size]`, to no more than `max_size` bytes; gives the new length. `default` is
/// the fuzzer's own mutation.
pub(crate) fn mutate(
    data: &mut [u8],
    size: usize,
    max_size: usize,
    seed: u32,
    default: impl Fn(&mut [u8], usize, usize) -> usize,
) -> usize {
    let mut rng = Rng::new(seed);
    if rng.one_in(2) {
        let size = default(data, size, max_size);
        // Half of these stay wrong: the refusals are code, too.
        if rng.one_in(2) {
            seal(&mut rng, &mut data[..size]);
        }
        return size;
    }
    let mut bytes = data[..size].to_vec();
    if !change(&mut rng, &mut bytes, 0) {
        return default(data, size, max_size);
    }
    bytes.truncate(max_size.min(data.len()));
    data[..bytes.len()].copy_from_slice(&bytes);
    bytes.len()
}

/// Where the image begins: the first byte may name the format, see `bodies::place::named`.
fn prefix(bytes: &[u8]) -> usize {
    usize::from(bytes.first().is_some_and(|b| (1..=5).contains(b)))
}

/// One to three changes by the format; false for a format that nothing is known of.
fn change(rng: &mut Rng, bytes: &mut Vec<u8>, depth: u32) -> bool {
    let mut image = bytes.split_off(prefix(bytes));
    let known = if packed::is_packed(&image) && depth == 0 {
        packed::change(rng, &mut image)
    } else if tar::is_tar(&image) {
        tar::change(rng, &mut image);
        true
    } else if qcow2::is_qcow2(&image) {
        qcow2::change(rng, &mut image);
        true
    } else if vhd::is_vhd(&image) {
        vhd::change(rng, &mut image);
        true
    } else if let Some(files) = chain(&image) {
        // The layers of a chain keep their lengths.
        files.into_iter().for_each(|range| vhd::change(rng, &mut image[range]));
        true
    } else if image.starts_with(UNDO) && image.len() > 64 {
        let at = 8 + rng.below(image.len() - 8 - 32);
        let len = rng.pick(&[1, 4, 8]);
        put(&mut image, at, interesting(rng, at as u64, 4096), len);
        seal_undo(&mut image);
        true
    } else {
        false
    };
    bytes.append(&mut image);
    known
}

/// Makes the checksums right.
fn seal(rng: &mut Rng, bytes: &mut [u8]) {
    let start = prefix(bytes);
    let image = &mut bytes[start..];
    if tar::is_tar(image) {
        tar::seal(rng, image);
    } else if vhd::is_vhd(image) {
        vhd::seal(image);
    } else if image.starts_with(UNDO) {
        seal_undo(image);
    } else if let Some(files) = chain(image) {
        files.into_iter().for_each(|range| vhd::seal(&mut image[range]));
    }
}

const UNDO: &[u8] = b"vmimgund";

fn seal_undo(bytes: &mut [u8]) {
    use sha2::Digest;
    let Some(end) = bytes.len().checked_sub(32) else { return };
    let sum = sha2::Sha256::digest(&bytes[..end]);
    bytes[end..].copy_from_slice(&sum);
}

/// The two files of an input of `vhd_disk` that is a chain.
fn chain(bytes: &[u8]) -> Option<[std::ops::Range<usize>; 2]> {
    let middle = (be(bytes, 0, 4)? as usize).checked_add(4)?;
    let (child, parent) = (bytes.get(4..middle)?, bytes.get(middle..)?);
    (vhd::is_vhd(child) && vhd::is_vhd(parent)).then_some([4..middle, middle..bytes.len()])
}

/// The number at `at`, if it is there.
fn be(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(len)?)?;
    Some(field.iter().fold(0, |n, &b| n << 8 | u64::from(b)))
}

/// Writes a number, cut to `len` bytes; nothing where it does not fit.
fn put(bytes: &mut [u8], at: usize, value: u64, len: usize) {
    let field = at.checked_add(len).and_then(|end| bytes.get_mut(at..end));
    if let Some(field) = field {
        field.copy_from_slice(&value.to_be_bytes()[8 - len..]);
    }
}

/// A number at which readers stumble. `own` is what stands there, or another number that would
/// be plausible; `len` is the length of the file.
fn interesting(rng: &mut Rng, own: u64, len: u64) -> u64 {
    match rng.below(12) {
        0 => 0,
        1 => 1,
        2 => u64::MAX,
        3 => u64::from(u32::MAX),
        4 => 1 << rng.below(64),
        5 => (1_u64 << rng.below(64)) - 1,
        6 => own.wrapping_add(1),
        7 => own.wrapping_sub(1),
        8 => own ^ 1 << rng.below(64),
        9 => len.wrapping_add(rng.below(1024) as u64).wrapping_sub(512),
        10 => len / 512 + rng.below(3) as u64,
        _ => rng.next() % len.max(1),
    }
}
