//! What each fuzz target does with its input. A body says whether a reader took the input: every
//! seed of the corpus must be taken, or it teaches the fuzzer nothing.

mod convert;
mod disks;
mod files;
mod place;
mod streams;
mod tables;

/// What a target does with its input.
pub(crate) type Body = fn(&[u8]) -> bool;

/// All targets by name.
pub(crate) const ALL: [(&str, Body); 11] = [
    ("check", files::check),
    ("commit", files::commit),
    ("convert", convert::convert),
    ("decode", streams::decode),
    ("qcow2", disks::qcow2),
    ("repair", files::repair),
    ("tgz", files::tgz),
    ("vhd_disk", disks::vhd_disk),
    ("vhd_stream", streams::vhd_stream),
    ("vhd_tables", tables::vhd_tables),
    ("xva", streams::xva),
];
