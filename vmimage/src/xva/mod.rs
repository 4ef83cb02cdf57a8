//! XVA: what XenServer makes of a virtual machine when it exports it.
//!
//! A tar archive: `ova.xml` describes the machine ([`Ova`]), then each disk follows as members
//! `Ref:7/00000000`, `Ref:7/00000001`, … of 1 MiB, each with a member that holds its checksum.
//! Chunks of zeros are left out. The `tar` export of a single VDI is the same without `ova.xml`.
//! There is no specification; the layout is that of `ocaml/xapi/stream_vdi.ml` in
//! <https://github.com/xapi-project/xen-api>, whose importer decides where writers differ.
//!
//! - [`XvaFile`] indexes a plain archive and gives its disks as [`Disk`](crate::Disk)s.
//! - [`XvaStream`] reads one disk of an archive that passes by, compressed or not, as a
//!   [`Scan`](crate::Scan).
//! - [`XvaParser`] is what both are made of, without I/O: bytes in, events out.

mod check;
mod digest;
mod disk;
mod index;
mod machine;
mod member;
mod ova;
mod ova_read;
mod ova_write;
mod parser;
mod stream;
mod walk;
mod xml;

pub use check::examine;
pub use digest::DigestKind;
pub use disk::{XvaDisk, XvaFile};
pub use machine::ChunkHead;
pub use ova::{MAX_OVA, Ova, OvaDisk, OvaObject, OvaVersion, Vbd, Vdi, Vif, Vm};
pub use parser::{XvaEvent, XvaParser};
pub use stream::{DiskChoice, XvaStream};

/// The longest chunk that is read, in bytes. XenServer writes chunks of 1 MiB.
pub const MAX_CHUNK: u64 = 4 << 20;

/// How many disks an archive may hold.
pub const MAX_DISKS: usize = 1024;

/// Whether a file that begins with these bytes (512 or more) is a plain XVA, or the `tar` export
/// of a VDI.
pub fn probe(start: &[u8]) -> bool {
    let Some(block) = start.first_chunk::<{ crate::archive::BLOCK }>() else { return false };
    match crate::archive::TarHeader::parse(block) {
        Ok(Some(header)) => !matches!(member::Member::of(&header.name), member::Member::Unknown),
        _ => false,
    }
}
