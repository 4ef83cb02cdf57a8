//! Client for the Apache CloudStack API. So far: its signature.
//!
//! CloudStack authenticates a command by an HMAC over its parameters. The rules look simple and are not: which
//! characters are escaped, that names are sorted *before* everything is lowered and are not escaped at all, that `~`
//! is escaped and `*` is not. [`sign()`] follows the server (`ApiServer.verifyRequest` and Java's `URLEncoder`), and is
//! tested against the answers of a real one's runtime.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//! use cloudstack_client::{Credentials, sign};
//!
//! let credentials = Credentials::new("my-api-key", "my-secret-key");
//! let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_553_445);
//! let signed = sign(&credentials, [("command", "listTemplates"), ("templatefilter", "self")], expires)?;
//! assert_eq!(
//!     signed.as_str(),
//!     "apikey=my-api-key&command=listTemplates&expires=2030-01-02T03%3A04%3A05%2B0000&response=json\
//!      &signatureVersion=3&templatefilter=self&signature=78HNw5RQRTf1%2FmuonsW9mkU%2Bwxo%3D"
//! );
//! # Ok::<(), cloudstack_client::Error>(())
//! ```
//!
//! The text is a query (`GET endpoint?…`) and a form body (`POST endpoint`) alike. Prefer `POST` for everything that
//! changes something: parameters then stay out of access logs, and newer servers can demand it.
//!
//! # Features
//! None.
//!
//! # Errors
//! [`Error`], of the [`ErrorKind`]s there. An error names a parameter and never its value.

mod call;
pub mod capabilities;
mod client;
mod error;
pub mod hypervisors;
pub mod job;
mod meter;
pub mod os_types;
mod random;
pub mod serve;
mod sign;
pub mod tags;
pub mod templates;
mod transport;
mod value;
mod wait;
pub mod zones;

pub use call::{Answer, Call, List, Record, command};
pub use client::{Client, ClientBuilder};
pub use error::{Error, ErrorKind, Result};
pub use job::Job;
pub use sign::{Credentials, SignedQuery, VALIDITY, sign, signature, string_to_sign};
pub use templates::{Upload, UploadTicket};
pub use transport::{Body, BodyStream, HttpTransport, Transport, Trust, body_of};
pub use wait::WaitOptions;
