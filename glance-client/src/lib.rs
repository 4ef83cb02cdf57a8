//! OpenStack Keystone v3 sessions and Glance v2 images: verified streaming upload with the size declared first.
//!
//! A [`CloudConfig`] says where a cloud is and who we are there; a [`keystone::Session`] logs in, keeps the token fresh
//! and knows the catalogue; [`Glance`] makes images, sends their data, waits for them and compares what was stored. The
//! session serves every other OpenStack service as well: it knows none in particular.
//!
//! # Example
//!
//! A cloud in miniature plays the server here; for a real one the configuration would be
//! [`CloudConfig::from_env`], which reads `OS_CLOUD` with `clouds.yaml`, or `OS_AUTH_URL` and so on.
//!
//! ```
//! use glance_client::image::{self, ContainerFormat, Digests, DiskFormat, NewImage};
//! use glance_client::keystone::{Domain, Principal, Scope, Session};
//! use glance_client::{CloudConfig, Glance, Upload, WaitOptions};
//! # use simulator::openstack::{OpenStack, OpenStackConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! # let server = OpenStack::start(OpenStackConfig::new()).await?;
//! # let (auth_url, user, password) = (server.auth_url(), server.config().username(), server.config().password());
//! # let project = server.config().project();
//! let domain = || Domain::Name("Default".into());
//! let cloud = CloudConfig::builder(auth_url)
//!     .with_password(Principal::named(user, domain()), password)
//!     .with_scope(Scope::Project(Principal::named(project, domain())))
//!     .build()?;
//! let session = Session::connect(&cloud).await?;
//! let glance = Glance::connect(&session).await?;
//!
//! let image = NewImage::new("hello", DiskFormat::Raw, ContainerFormat::Bare)
//!     .with_id("9b4b0a5c-6d41-4f3b-9d6f-0b1e5a6a2c11")
//!     .with_property("os_type", "linux");
//! let image = glance.create(&image).await?;
//!
//! glance.upload(&image.id, Upload::from_bytes("abc")).await?;
//! let image = glance.wait(&image.id, &WaitOptions::default()).await?;
//! let sent = Digests::new().with_md5("900150983cd24fb0d6963f7d28e17f72");
//! image::verify(&image, &sent, 3)?;
//!
//! glance.call(image::delete(&image.id)).await?;
//! # server.stop().await;
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! # What an upload does
//!
//! [`Glance::upload`] looks at the image first (is it `queued`, is the token good), compares the first bytes with the
//! declared formats ([`image::preflight`](image::preflight())), renews a token that would not outlive the upload, and
//! declares the size to the store. It reads the answer *while* it sends: a server that refuses (quota, format, state) ends
//! the upload at once, and its words are in the error. The last piece of the data leaves only after the producer has ended
//! without an error. A body that can be made again ([`Upload::replayable`]) survives a refused token.
//!
//! Glance cannot resume: after a failure the image is `queued` again and takes the whole data anew.
//!
//! # Data that the cloud fetches, and data on their way back
//!
//! [`Glance::import`] lets the cloud take data from its stage ([`Glance::stage`]), a URL, another store or another region, into
//! one store or several, and waits as long as it moves. [`Glance::download`] compares what comes with the multihash, holds the
//! last piece back until that is right, and goes on by `Range` where a connection broke. [`Glance::images`] is a list as a
//! stream. Sharing is in [`image::member`], tags and locks are calls in [`image`](mod@image), stores, import methods and quotas
//! in [`info`], tasks in [`task`].
//!
//! # Calls are values
//!
//! Every operation is a [`Call`]: it can be looked at, and its answer parsed, without a socket. Calls of other services
//! are made the same way and sent with [`keystone::ServiceClient::call`].
//!
//! ```
//! use glance_client::image::{ListQuery, SortDirection, SortKey, list};
//! let query = ListQuery::new().with_name("web01").with_sort(SortKey::CreatedAt, SortDirection::Descending);
//! assert_eq!(list(&query).path(), "images?name=web01&sort=created_at%3Adesc");
//! ```
//!
//! # Features
//!
//! | feature | default | what |
//! |---|---|---|
//! | `tracing` | no | a debug event for every answer: method, path, status, request id; never a header or a body |
//!
//! TLS is rustls with ring; there is no OpenSSL.
//!
//! # Errors
//!
//! Everything fails with [`Error`]: a [kind](ErrorKind) to decide on, one line for people, the HTTP status, and the
//! server's request id. Passwords, tokens and secrets are in no error, no `Debug` text and no log line, even if a server
//! sends them back.
//!
//! # Not here
//!
//! Signatures, metadata definitions, the cache of images; federated logins; vendor profiles of
//! `clouds.yaml`. There is no retry beyond the renewal of a token and a second try of a read whose connection
//! broke: what else may be tried again is told by [`Error::is_retryable`].

mod call;
mod error;
mod glance;
pub mod image;
pub mod info;
pub mod keystone;
mod secret;
mod take;
pub mod task;
mod transport;
mod words;

pub use call::{Answer, Call, segment};
pub use error::{Error, ErrorKind, Result};
pub use glance::Glance;
pub use image::{Upload, WaitOptions};
pub use keystone::CloudConfig;
pub use secret::Secret;
pub use transport::{Body, BodyStream, HttpTransport, TlsOptions, Transport, body_of};
