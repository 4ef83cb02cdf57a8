//! What random disks become: every source by every way into every target, under every fault,
//! against a model that knows each byte and decoders that share nothing with the crate.
//!
//! A few cases run by default; `PROPTEST_CASES=2000` runs so many of each property.

#![allow(clippy::unwrap_used)]

#[path = "properties/archives.rs"]
mod archives;
#[allow(dead_code)] // Its generator of numbers is used, and its sums.
#[path = "read/builder.rs"]
mod builder;
mod common;
#[path = "properties/decode.rs"]
mod decode;
#[path = "properties/doubles.rs"]
mod doubles;
#[path = "properties/ends.rs"]
mod ends;
#[path = "properties/faults.rs"]
mod faults;
#[path = "properties/feeds.rs"]
mod feeds;
#[allow(dead_code)] // The judges of other tests ask it for more.
#[path = "dialects/forge.rs"]
mod forge;
#[path = "properties/matrix.rs"]
mod matrix;
#[path = "properties/model.rs"]
mod model;
#[path = "properties/qcow2.rs"]
mod qcow2;

/// So many cases, unless the environment asks for another number.
fn cases(usual: u32) -> proptest::test_runner::Config {
    let given = proptest::test_runner::Config::default();
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    proptest::test_runner::Config {
        cases: if asked { given.cases } else { usual },
        failure_persistence: None,
        max_shrink_iters: 300,
        ..given
    }
}
