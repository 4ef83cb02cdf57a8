//! What only the end of the data tells.

use super::super::record::{ContainerFormat, DiskFormat};
use super::{detect, preflight, refused};
use crate::error::Result;

/// How many bytes of the end are looked at.
pub const TAIL_LEN: usize = 512;

/// [`preflight()`](super::preflight()), and what the last [`TAIL_LEN`] bytes show besides: a fixed VHD, which Glance does
/// not recognise as `vhd` and takes as `raw` with its footer in the disk, and a dynamic VHD that was cut off, which Glance
/// takes and nobody can read.
///
/// # Errors
/// [`ErrorKind::UnsupportedFormat`](crate::ErrorKind::UnsupportedFormat) with what was found and what to do.
///
/// ```
/// use glance_client::image::{ContainerFormat, DiskFormat, preflight_ends};
/// let mut footer = [0; 512];
/// footer[..8].copy_from_slice(b"conectix");
/// footer[63] = 2; // fixed
/// let sum: u32 = footer.iter().map(|byte| u32::from(*byte)).sum();
/// footer[64..68].copy_from_slice(&(!sum).to_be_bytes());
/// let error = preflight_ends(&DiskFormat::Raw, &ContainerFormat::Bare, &[0; 512], &footer).unwrap_err();
/// assert!(error.to_string().contains("fixed VHD"));
/// ```
pub fn preflight_ends(
    disk: &DiskFormat,
    container: &ContainerFormat,
    head: &[u8],
    tail: &[u8],
) -> Result<()> {
    let problem = match (container, disk) {
        (ContainerFormat::Bare, DiskFormat::Vhd | DiskFormat::Raw | DiskFormat::Gpt) => {
            ends(disk, head, tail)
        }
        _ => None,
    };
    // The end knows better what a fixed VHD is than the start, which has nothing of it.
    refused(disk, container, problem)?;
    preflight(disk, container, head)
}

fn ends(disk: &DiskFormat, head: &[u8], tail: &[u8]) -> Option<String> {
    let begins = detect(head) == Some("vhd");
    match (disk, begins, footer(tail)) {
        (DiskFormat::Vhd, false, Some(_)) => Some(
            "it is a fixed VHD, whose only footer is at the end, and Glance refuses it: send a dynamic VHD, or without its \
             last 512 bytes as raw"
                .to_owned(),
        ),
        (DiskFormat::Vhd, true, None) => {
            Some("the footer at its end is missing or damaged: the VHD was cut off".to_owned())
        }
        (DiskFormat::Raw | DiskFormat::Gpt, false, Some(FIXED)) => Some(
            "it is a fixed VHD, whose footer would become part of the disk: leave out the last 512 bytes, or send a dynamic \
             VHD as vhd"
                .to_owned(),
        ),
        _ => None,
    }
}

const FIXED: u32 = 2;

/// The type in the footer of a VHD, if there is one with a right checksum. Very old writers left out its last byte.
fn footer(tail: &[u8]) -> Option<u32> {
    const MAGIC: &[u8] = b"conectix";
    let whole = tail.len().checked_sub(512).map(|at| &tail[at..]);
    let old = tail.len().checked_sub(511).map(|at| &tail[at..]);
    let footer = [whole, old].into_iter().flatten().find(|footer| footer.starts_with(MAGIC))?;
    let word = |at: usize| Some(u32::from_be_bytes(footer.get(at..at + 4)?.try_into().ok()?));
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    (word(64)? == !(sum(&footer[..64]) + sum(&footer[68..]))).then(|| word(60))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{ContainerFormat::Bare, ContainerFormat::Ovf};

    fn vhd(kind: u8) -> [u8; 512] {
        let mut footer = [0; 512];
        footer[..8].copy_from_slice(b"conectix");
        footer[63] = kind;
        let sum: u32 = footer.iter().map(|byte| u32::from(*byte)).sum();
        footer[64..68].copy_from_slice(&(!sum).to_be_bytes());
        footer
    }

    #[test]
    fn both_ends_of_a_vhd() {
        let said = |disk: &DiskFormat, head: &[u8], tail: &[u8]| {
            preflight_ends(disk, &Bare, head, tail).err().map(|error| error.to_string())
        };
        let (fixed, dynamic, zeros) = (vhd(2), vhd(3), [0; 512]);
        assert_eq!(said(&DiskFormat::Vhd, &dynamic, &dynamic), None);
        assert_eq!(said(&DiskFormat::Raw, &zeros, &zeros), None);
        assert_eq!(said(&DiskFormat::Raw, &zeros, b""), None);
        for (disk, head, tail, words) in [
            (DiskFormat::Vhd, &zeros, &fixed[..], "without its last 512 bytes"),
            (DiskFormat::Vhd, &zeros, &fixed[..511], "without its last 512 bytes"),
            (DiskFormat::Vhd, &dynamic, &zeros, "cut off"),
            (DiskFormat::Vhd, &zeros, &zeros, "no VHD footer at the start"),
            (DiskFormat::Raw, &zeros, &fixed, "part of the disk"),
            (DiskFormat::Gpt, &zeros, &fixed, "part of the disk"),
        ] {
            let text = said(&disk, head, tail);
            assert!(text.as_ref().is_some_and(|text| text.contains(words)), "{words}: {text:?}");
        }
        // A sector that only begins like a footer is data.
        let mut damaged = fixed;
        damaged[100] = 1;
        assert_eq!(said(&DiskFormat::Raw, &zeros, &damaged), None);
        assert!(preflight_ends(&DiskFormat::Vhd, &Ovf, b"\x1f\x8b", &fixed).is_ok());
    }
}
