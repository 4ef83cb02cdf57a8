//! A look at the first bytes before anything is sent.

use super::format::{Compression, Format};
use crate::error::{Error, ErrorKind, Result};

/// How many bytes [`preflight`](preflight()) wants to see: a VHD's footer.
pub const HEAD_LEN: usize = 512;

/// Compares the first bytes of the file `name` with what CloudStack will make of it.
///
/// CloudStack takes the size of a VHD from the copy of the footer at its start. A fixed VHD has no such copy, and would
/// be recorded with a wrong size; of a differencing VHD the parent would be missing.
///
/// # Errors
/// [`ErrorKind::UnsupportedFormat`] with what is wrong and what to do.
pub fn preflight(format: &Format, name: &str, head: &[u8]) -> Result<()> {
    let refuse = |text: String| Err(Error::new(ErrorKind::UnsupportedFormat, text));
    let Some(compression) = format.of_file(name) else {
        return refuse(format!("the server does not take a file named {name:?} for {format}"));
    };
    let magic: &[u8] = match compression {
        Compression::None => &[],
        Compression::Gzip => b"\x1f\x8b",
        Compression::Bzip2 => b"BZh",
        Compression::Zip => b"PK",
    };
    if !head.starts_with(magic) {
        return refuse(format!("the data of {name:?} is not compressed as the name says"));
    }
    if compression != Compression::None {
        return Ok(());
    }
    match format {
        Format::Vhd if !head.starts_with(b"conectix") => refuse(
            "the data is no dynamic VHD (CloudStack would record a wrong size of a fixed one): convert it to a dynamic VHD"
                .into(),
        ),
        Format::Vhd if head.get(60..64) == Some(&[0, 0, 0, 4]) => refuse(
            "the data is a differencing VHD, whose parent CloudStack would not have: collapse the chain".into(),
        ),
        Format::Qcow2 if !head.starts_with(b"QFI\xfb") => refuse("the data is no qcow2 image".into()),
        Format::Iso if [&b"conectix"[..], b"QFI\xfb", b"\x1f\x8b", b"BZh"].iter().any(|m| head.starts_with(m)) => {
            refuse("the data is a disk image or compressed, and no ISO".into())
        }
        Format::Raw if head.starts_with(b"conectix") || head.starts_with(b"QFI\xfb") => {
            refuse("the data is a VHD or a qcow2 image and not raw".into())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_and_name_must_fit() {
        let mut dynamic = [0; HEAD_LEN];
        dynamic[..8].copy_from_slice(b"conectix");
        dynamic[63] = 3;
        let mut differencing = dynamic;
        differencing[63] = 4;
        let zeros = [0; HEAD_LEN];
        for (format, name, head, fits) in [
            (Format::Vhd, "a.vhd", &dynamic[..], true),
            (Format::Vhd, "a.vhd", &differencing, false),
            (Format::Vhd, "a.vhd", &zeros, false),
            (Format::Vhd, "a.vhd", b"", false),
            (Format::Vhd, "a.raw", &dynamic, false),
            (Format::Vhd, "a.vhd.gz", b"\x1f\x8b\x08", true),
            (Format::Vhd, "a.vhd.gz", &dynamic, false),
            (Format::Qcow2, "a.qcow2", b"QFI\xfb", true),
            (Format::Qcow2, "a.qcow2", &zeros, false),
            (Format::Iso, "a.iso", &zeros, true),
            (Format::Iso, "a.iso", &dynamic, false),
            (Format::Raw, "a.raw", &zeros, true),
            (Format::Raw, "a.raw", &dynamic, false),
            (Format::Other("OVA".into()), "a.ova", &zeros, true),
        ] {
            assert_eq!(preflight(&format, name, head).is_ok(), fits, "{format} {name}");
        }
    }
}
