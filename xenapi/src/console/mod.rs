//! Class `console`: its record and its calls; with the feature `console` also what a person would
//! do there: type, look, wait, read.
//!
//! A running guest has a console of protocol `rfb`, a screen with a keyboard; a guest without
//! hardware emulation (PV, PVH) has a second one of protocol `vt100`, a line of text in both
//! directions.
#![cfg_attr(
    feature = "console",
    doc = "
| | |
|---|---|
| [`BootCommand`] | what to type, in the words of Packer's `boot_command`; read without I/O |
| [`Rfb`] | keys and pictures over any stream that speaks RFB 3.3, 3.7 or 3.8 |
| [`Screenshot`] | a picture, as pixels or as PNG |"
)]

pub use crate::api::console::*;

#[cfg(feature = "console")]
mod boot;
#[cfg(feature = "console")]
mod decode;
#[cfg(feature = "console")]
mod handshake;
#[cfg(feature = "console")]
mod keys;
#[cfg(feature = "console")]
mod open;
#[cfg(feature = "console")]
mod pipe;
#[cfg(feature = "console")]
mod rfb;
#[cfg(feature = "console")]
mod screen;
#[cfg(feature = "console")]
mod terminal;

#[cfg(feature = "console")]
pub use boot::{BootCommand, BootCommandError, Step};
#[cfg(feature = "console")]
pub use handshake::RfbVersion;
#[cfg(feature = "console")]
pub use keys::{Key, KeyEvent, SpecialKey};
#[cfg(feature = "console")]
pub use rfb::{Rfb, RfbOptions};
#[cfg(feature = "console")]
pub use screen::Screenshot;
#[cfg(feature = "console")]
pub use terminal::Terminal;

#[cfg(feature = "console")]
pub use crate::transfer::ConsoleStream;
