//! Formats of templates and the names of their files.

use std::fmt;

/// The format of a template's disk. XenServer takes `VHD`, KVM `QCOW2`, `RAW`, `VHD` and `VMDK`, Hyper-V `VHD`
/// and `VHDX`, VMware `OVA`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// A dynamic VHD. Of a fixed one CloudStack would record a wrong size.
    Vhd,
    /// QCOW2.
    Qcow2,
    /// Every byte of the disk.
    Raw,
    /// An ISO 9660 image, for [ISOs](crate::isos).
    Iso,
    /// Any other by CloudStack's name for it.
    Other(String),
}

impl Format {
    /// CloudStack's name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Vhd => "VHD",
            Self::Qcow2 => "QCOW2",
            Self::Raw => "RAW",
            Self::Iso => "ISO",
            Self::Other(name) => name,
        }
    }

    /// The endings that a file's name may have.
    fn endings(&self) -> Vec<String> {
        match self {
            Self::Vhd => vec!["vhd".into()],
            Self::Qcow2 => vec!["qcow2".into(), "img".into()],
            Self::Raw => vec!["raw".into(), "img".into()],
            Self::Iso => vec!["iso".into()],
            Self::Other(name) => vec![name.to_ascii_lowercase()],
        }
    }

    /// Whether a file of this name is taken for this format, plain or compressed; upper and lower case are one.
    ///
    /// ```
    /// use cloudstack_client::templates::{Compression, Format};
    /// assert_eq!(Format::Vhd.of_file("web01.VHD.gz"), Some(Compression::Gzip));
    /// assert_eq!(Format::Vhd.of_file("web01.qcow2"), None);
    /// ```
    #[must_use]
    pub fn of_file(&self, name: &str) -> Option<Compression> {
        let name = name.to_ascii_lowercase();
        let compressions =
            [(".gz", Compression::Gzip), (".bz2", Compression::Bzip2), (".zip", Compression::Zip)];
        let (plain, compression) = compressions
            .into_iter()
            .find_map(|(ending, compression)| Some((name.strip_suffix(ending)?, compression)))
            .unwrap_or((&name, Compression::None));
        let fits = |ending: &String| {
            plain
                .strip_suffix(ending.as_str())
                .is_some_and(|stem| stem.len() > 1 && stem.ends_with('.'))
        };
        // An ISO is taken as it is only.
        let packed_iso = *self == Self::Iso && compression != Compression::None;
        (!packed_iso && self.endings().iter().any(fits)).then_some(compression)
    }

    /// A name for a file of this format.
    pub(crate) fn file_name(&self, stem: &str) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let stem: String = stem.chars().take(100).map(|c| if plain(c) { c } else { '_' }).collect();
        let ending = self.endings().into_iter().next().unwrap_or_default();
        let stem = match stem.trim_matches('.') {
            "" => "disk",
            stem => stem,
        };
        format!("{stem}.{ending}")
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a file is compressed. CloudStack unpacks it when it stores the template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    None,
    /// `.gz`
    Gzip,
    /// `.bz2`
    Bzip2,
    /// `.zip`
    Zip,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_are_the_servers() {
        for (format, name, fits) in [
            (Format::Vhd, "a.vhd", Some(Compression::None)),
            (Format::Vhd, "a.vhd.bz2", Some(Compression::Bzip2)),
            (Format::Vhd, "a.vhd.zip", Some(Compression::Zip)),
            (Format::Vhd, ".vhd", None),
            (Format::Vhd, "avhd", None),
            (Format::Vhd, "a.vhd.xz", None),
            (Format::Vhd, "a.vhdx", None),
            (Format::Qcow2, "a.img", Some(Compression::None)),
            (Format::Raw, "a.img.gz", Some(Compression::Gzip)),
            (Format::Iso, "a.iso", Some(Compression::None)),
            (Format::Iso, "a.iso.gz", None),
            (Format::Other("OVA".into()), "a.ova", Some(Compression::None)),
        ] {
            assert_eq!(format.of_file(name), fits, "{format} {name}");
        }
        assert_eq!(Format::Vhd.file_name("web 01/\"ä"), "web_01___.vhd");
        assert_eq!(Format::Qcow2.file_name(".."), "disk.qcow2");
    }
}
