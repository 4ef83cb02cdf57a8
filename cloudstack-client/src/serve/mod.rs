//! A small HTTP server for one file, from which a cloud fetches a template that is
//! [registered](crate::templates::register()) by URL.
//!
//! It serves exactly one path, `/<128 random bits>/<file name>`, by `HEAD` and `GET` (with ranges), as long as the
//! [`Server`] lives; everything else is a 404. It binds to loopback unless told otherwise, and can be limited to a list
//! of peers. It speaks plain HTTP: on a network that is not trusted, upload the data instead, or give the template a
//! [checksum](crate::templates::NewTemplate::with_checksum) and accept that the content can be read on the way.
//!
//! Several servers ask for the file: the management server for its length, then the secondary storage VM of each zone for
//! the data, again from where it stopped if a connection broke. So the data comes from a factory of streams.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! use cloudstack_client::serve::{Content, Server};
//! use cloudstack_client::templates::{self, Format, NewTemplate};
//!
//! let content = Content::from_bytes("the bytes of a dynamic VHD");
//! let server = Server::builder("web01.vhd", content).start().await?;
//! // Only the server's own log may tell the address: who knows it can fetch the file.
//! let template = NewTemplate::new("web01", "XenServer", Format::Vhd, "zone-1");
//! let call = templates::register(&template, server.url().as_str());
//! assert!(call.parameter("url").unwrap().ends_with("/web01.vhd"));
//! server.stop().await;
//! # Ok(())
//! # })
//! # }
//! ```

mod answer;
mod content;
mod server;

pub use content::Content;
pub use server::{Server, ServerBuilder};
