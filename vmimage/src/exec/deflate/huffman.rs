//! Prefix codes: lengths from frequencies, and codes from lengths.

/// The longest code that deflate knows.
pub(super) const LIMIT: usize = 15;

/// Code lengths for the symbols of `counts`, none above `limit`, 0 for what does not occur.
///
/// At least two symbols get a code, whether they occur or not: a code of one symbol is incomplete,
/// and not every decoder takes that. The counts' sum must fit in 32 bits.
pub(super) fn lengths<const N: usize>(counts: &[u32; N], limit: usize) -> [u8; N] {
    // The symbol in the low bits makes all keys different: equal frequencies are in the same
    // order on every machine.
    let mut keys = [0_u64; N];
    let mut used = 0;
    for (symbol, &count) in counts.iter().enumerate() {
        if count > 0 {
            keys[used] = u64::from(count) << 16 | symbol as u64;
            used += 1;
        }
    }
    for (symbol, &count) in counts.iter().enumerate().take(2) {
        if used < 2 && count == 0 {
            keys[used] = 1 << 16 | symbol as u64;
            used += 1;
        }
    }
    let keys = &mut keys[..used];
    keys.sort_unstable();

    let mut depths = [0_u32; N];
    let depths = &mut depths[..used];
    for (depth, key) in depths.iter_mut().zip(keys.iter()) {
        *depth = (key >> 16) as u32;
    }
    depths_in_place(depths);
    let mut leaves = [0_u32; LIMIT + 1];
    for &depth in depths.iter() {
        leaves[(depth as usize).min(limit)] += 1;
    }
    shorten(&mut leaves, limit);

    // The rarest symbols get the longest codes.
    let mut lengths = [0_u8; N];
    let mut keys = keys.iter();
    for length in (1..=limit).rev() {
        for key in keys.by_ref().take(leaves[length] as usize) {
            lengths[(key & 0xffff) as usize] = length as u8;
        }
    }
    lengths
}

/// Turns two or more ascending frequencies into the depths of their leaves (Moffat and
/// Katajainen, "In-Place Calculation of Minimum-Redundancy Codes", 1995).
fn depths_in_place(a: &mut [u32]) {
    let n = a.len();
    // Frequencies give way to the sums of inner nodes, and these to the index of their parent.
    let (mut leaf, mut root) = (0, 0);
    for next in 0..n - 1 {
        let mut sum = 0;
        for _ in 0..2 {
            if leaf >= n || (root < next && a[root] < a[leaf]) {
                sum += a[root];
                a[root] = next as u32;
                root += 1;
            } else {
                sum += a[leaf];
                leaf += 1;
            }
        }
        a[next] = sum;
    }
    // Parents become the depths of inner nodes, the last of which is the root.
    a[n - 2] = 0;
    for node in (0..n - 2).rev() {
        a[node] = a[a[node] as usize] + 1;
    }
    // What is not an inner node on a level is a leaf.
    let (mut places, mut depth, mut inner, mut next) = (1, 0, n - 1, n);
    while places > 0 {
        let mut nodes = 0;
        while inner > 0 && a[inner - 1] == depth {
            nodes += 1;
            inner -= 1;
        }
        for _ in nodes..places {
            next -= 1;
            a[next] = depth;
        }
        places = 2 * nodes;
        depth += 1;
    }
}

/// Mends a code that is over-full because deeper leaves were raised to `limit`: each step hangs
/// one of them beside the deepest leaf above, which moves down by one. That costs a little more
/// than the optimum, in the rare case that a code is so deep.
fn shorten(leaves: &mut [u32; LIMIT + 1], limit: usize) {
    let mut total: u32 = (1..=limit).map(|length| leaves[length] << (limit - length)).sum();
    while total > 1 << limit {
        let Some(above) = (1..limit).rev().find(|&length| leaves[length] > 0) else { return };
        leaves[limit] -= 1;
        leaves[above] -= 1;
        leaves[above + 1] += 2;
        total -= 1;
    }
}

/// The codes that belong to `lengths` (RFC 1951, 3.2.2), with their first bit lowest.
pub(super) fn codes<const N: usize>(lengths: &[u8; N]) -> [u16; N] {
    let mut per_length = [0_u16; LIMIT + 1];
    for &length in lengths {
        per_length[usize::from(length)] += u16::from(length > 0);
    }
    let mut next = [0_u16; LIMIT + 1];
    for length in 1..=LIMIT {
        next[length] = (next[length - 1] + per_length[length - 1]) << 1;
    }
    let mut codes = [0; N];
    for (code, &length) in codes.iter_mut().zip(lengths) {
        if length > 0 {
            let next = &mut next[usize::from(length)];
            *code = next.reverse_bits() >> (16 - length);
            *next += 1;
        }
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Complete, within the limit, and codes where they are needed.
    fn check<const N: usize>(counts: &[u32; N], limit: usize) -> [u8; N] {
        let lengths = lengths(counts, limit);
        let used: Vec<_> = lengths.iter().filter(|&&l| l > 0).collect();
        assert!(used.len() >= 2);
        assert!(used.iter().all(|&&l| usize::from(l) <= limit));
        assert_eq!(
            used.iter().map(|&&l| 1_u32 << (LIMIT - usize::from(l))).sum::<u32>(),
            1 << LIMIT
        );
        for (count, length) in counts.iter().zip(&lengths) {
            assert!(*count == 0 || *length > 0);
        }
        let mut all: Vec<_> = lengths
            .iter()
            .zip(codes(&lengths))
            .filter(|(l, _)| **l > 0)
            .map(|(l, code)| (code.reverse_bits(), 1_u32 << (16 - l)))
            .collect();
        // As ranges of 16-bit numbers the codes lie side by side: none is another's beginning.
        all.sort_unstable();
        let mut at = 0;
        for (from, len) in all {
            assert_eq!(u32::from(from), at);
            at += len;
        }
        assert_eq!(at, 1 << 16);
        lengths
    }

    #[test]
    fn rare_symbols_get_long_codes() {
        assert_eq!(check(&[45, 13, 12, 16, 9, 5], 15), [1, 3, 3, 3, 4, 4]);
        assert_eq!(check(&[1; 8], 7), [3; 8]);
    }

    #[test]
    fn fibonacci_frequencies_stay_within_the_limit() {
        let mut counts = [1_u32; 32];
        for n in 2..32 {
            counts[n] = counts[n - 1] + counts[n - 2];
        }
        // Unlimited, the first two would be 31 bits long.
        for limit in [5, 7, 14, 15] {
            let lengths = check(&counts, limit);
            assert_eq!(usize::from(lengths[0]), limit);
            assert!(lengths.is_sorted_by(|a, b| a >= b), "{lengths:?}");
        }
        let mut counts = [0; 19];
        counts[..19].copy_from_slice(&std::array::from_fn::<u32, 19, _>(|n| 1 << n));
        check(&counts, 7);
    }

    #[test]
    fn fewer_than_two_symbols_become_two() {
        assert_eq!(check(&[0; 4], 15), [1, 1, 0, 0]);
        assert_eq!(check(&[7, 0, 0, 0], 15), [1, 1, 0, 0]);
        assert_eq!(check(&[0, 7, 0, 0], 15), [1, 1, 0, 0]);
        assert_eq!(check(&[0, 0, 0, 7], 15), [1, 0, 0, 1]);
    }

    #[test]
    fn all_symbols_alike() {
        check(&[1; 288], 14);
        check(&[u32::MAX / 288; 288], 14);
        assert_eq!(check(&[3; 256], 15), [8; 256]);
    }
}
