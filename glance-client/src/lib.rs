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
//! # Logins
//!
//! | [`Auth`](keystone::Auth) | project | domain | system | none | what it may say |
//! |---|---|---|---|---|---|
//! | password | yes | yes | yes | yes | [`Scope`](keystone::Scope); without one Keystone takes the user's default project |
//! | application credential, by id, or by name and user | its own | – | – | – | no scope: it brings its project |
//! | token | yes | yes | yes | yes | exchanged for a token that ends with it |
//!
//! A session replaces a token that gets old, and one that a service refuses; many callers at once cause one login. Where
//! the configuration has only a token, nothing can. A tool that is run often keeps its token:
//!
//! ```
//! # use glance_client::CloudConfig;
//! # use glance_client::keystone::{Domain, Principal, Scope, Session};
//! # use simulator::openstack::{OpenStack, OpenStackConfig};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! # let server = OpenStack::start(OpenStackConfig::new()).await?;
//! # let cloud = CloudConfig::builder(server.auth_url())
//! #     .with_password(Principal::named("demo", Domain::default()), server.config().password())
//! #     .with_scope(Scope::Project(Principal::named("demo", Domain::default())))
//! #     .build()?;
//! let session = Session::connect(&cloud).await?;
//! let kept = session.current().secret().clone();
//! // In the next run: no login, unless the token is old, refused, or of another user or scope.
//! let next = Session::resume(&cloud, &kept).await?;
//! assert_eq!(next.current().secret(), &kept);
//! # server.stop().await;
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! # Where a cloud is described
//!
//! [`CloudConfig::from_env`] and [`CloudConfig::named`] read what the other OpenStack clients read: `clouds.yaml` with
//! `secure.yaml` over it and the `profile` of `clouds-public.yaml` below it, from the current folder, the user's and the
//! system's; or `OS_*`. [`Environment`](keystone::Environment) does the same for variables and folders of one's own:
//!
//! ```
//! use glance_client::keystone::{Environment, Scope};
//! let cloud = Environment::new([
//!     ("OS_AUTH_URL", "https://cloud.example:5000"),
//!     ("OS_USERNAME", "admin"),
//!     ("OS_PASSWORD", "secret"),
//!     ("OS_USER_DOMAIN_NAME", "Default"),
//!     ("OS_SYSTEM_SCOPE", "all"),
//!     ("OS_IMAGE_ENDPOINT_OVERRIDE", "https://images.example"),
//!     ("OS_CACERT", "/etc/ssl/cloud.pem"),
//! ])
//! .load(None)?;
//! assert_eq!(cloud.scope, Scope::System);
//! assert_eq!(cloud.endpoint_overrides["image"].host_str(), Some("images.example"));
//! # Ok::<(), glance_client::Error>(())
//! ```
//!
//! `verify: false` (or [`danger_accept_any_certificate`](keystone::CloudConfigBuilder::danger_accept_any_certificate))
//! trusts everybody, `cacert` a file in place of the system's authorities; `cert` and `key` are shown to servers that ask
//! for a certificate. A catalogue that leads from a Keystone with TLS to a service without it is
//! [refused](keystone::Session::endpoint): name the right URL (`image_endpoint_override`, `OS_IMAGE_ENDPOINT_OVERRIDE`), or this
//! one. Proxies come from the environment or are [named](Proxy).
//!
//! # What an upload does
//!
//! [`Glance::upload`] looks at the image first (is it `queued`, is the token good), compares the first bytes with the
//! declared formats ([`image::preflight`](image::preflight())), renews a token that would not outlive the upload, and
//! declares the size to the store. It reads the answer *while* it sends: a server that refuses (quota, format, state) ends
//! the upload at once, and its words are in the error. The last piece of the data leaves only after the producer has ended
//! without an error, and its end was looked at too. A body that can be made again ([`Upload::replayable`]) survives a
//! refused token.
//!
//! [`Glance::store`] goes all the way: it makes the image, computes digests while it sends, sends again what was lost on
//! the way, waits, compares, and deletes what did not arrive.
//!
//! Glance cannot resume: after a failure the image is `queued` again and takes the whole data anew.
//!
//! ```
//! # use glance_client::CloudConfig;
//! # use glance_client::keystone::{Domain, Principal, Scope, Session};
//! # use simulator::openstack::{OpenStack, OpenStackConfig};
//! use glance_client::image::profile::{self, Guest, OsType, VirtMode};
//! use glance_client::image::{ContainerFormat, DiskFormat, NewImage, StoreOptions};
//! use glance_client::{Glance, Upload};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! # let server = OpenStack::start(OpenStackConfig::new()).await?;
//! # let cloud = CloudConfig::builder(server.auth_url())
//! #     .with_password(Principal::named("demo", Domain::default()), server.config().password())
//! #     .with_scope(Scope::Project(Principal::named("demo", Domain::default())))
//! #     .build()?;
//! # let session = Session::connect(&cloud).await?;
//! # let folder = tempfile::tempdir()?;
//! # let disk = folder.path().join("web01.raw");
//! # std::fs::write(&disk, vec![7; 3 << 20])?;
//! # // The connection breaks in the first attempt.
//! # server.faults().set_str("upload-close=1048576@1")?;
//! let glance = Glance::connect(&session).await?;
//! let guest = Guest::new(VirtMode::Hvm)
//!     .with_os_type(OsType::Linux)
//!     .with_os_distro("debian")
//!     .with_disk_bytes(std::fs::metadata(&disk)?.len());
//! let new = NewImage::new("web01", DiskFormat::Raw, ContainerFormat::Bare)
//!     .with_profile(&profile::kvm(&guest));
//! let stored = glance.store(&new, Upload::from_file(&disk)?, &StoreOptions::default()).await?;
//! assert_eq!(stored.image.size, Some(3 << 20));
//! assert_eq!(stored.image.properties["hw_disk_bus"], "virtio");
//! # server.stop().await;
//! # Ok(())
//! # })
//! # }
//! ```
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
//! # Peers
//!
//! What others do for the same job, by the sources of the versions named (November 2026). gophercloud stands for Go.
//!
//! | | this crate | openstacksdk 4.22 | python-glanceclient 4.13 | gophercloud 2 | `openstack` 0.6 (Rust) |
//! |---|---|---|---|---|---|
//! | logins | password, token, application credential | these, TOTP, federation, OAuth, Kerberos… | those of its caller's session | these, TOTP, EC2, OAuth 1 | these |
//! | reads `clouds.yaml` | yes, with `secure.yaml` and `clouds-public.yaml` | the same, and knows vendors | no | yes | yes, with `secure.yaml` and `clouds-public.yaml` |
//! | sends image data | a stream of any origin | a file object or an iterator | a file object | an `io.Reader` | no: reads records only |
//! | declares the size (`x-openstack-image-size`) | where it is known | where it is known | where it is given | no | – |
//! | digests of what is sent | in the same pass | in a pass before it, if asked | no | no | – |
//! | compares them with what was stored | size and multihash, else MD5 | MD5, if asked | no | no | – |
//! | looks at the format before sending | yes | no | no | no | – |
//! | a 401 | a new token; data is sent again from its start | a new token; a file object is sent on from where it stands | that of its session | a new token; data is sent again from its start if it can seek | an error; tokens are renewed ten minutes before their end |
//! | the connection breaks | sent again to the same image | an error; `create_image` deletes the image | an error | an error | – |
//! | verifies a download | multihash, else MD5; goes on where a connection broke | multihash, else MD5 | multihash, else MD5 | no | – |
//! | other OpenStack services | by calls of one's own | most | no | most | several |
//!
//! # Not here
//!
//! Federated logins and several factors; built-in profiles of vendors; signatures of images, metadata definitions,
//! the cache of images. A call is not sent again but
//! for the renewal of a token and a second try of a read or a login whose connection broke (and for the data of
//! [`Glance::store`]): what else may be tried again is told by [`Error::is_retryable`], and when by [`Error::retry_after`].

mod call;
mod error;
mod glance;
pub mod image;
pub mod info;
pub mod keystone;
mod poll;
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
pub use poll::Pace;
pub use secret::Secret;
pub use transport::{Body, BodyStream, HttpTransport, Proxy, TlsOptions, Transport, body_of};
