//! Client for the Apache CloudStack API: signed calls, jobs that survive a restart, and images by streamed upload or by URL.
//!
//! A [`Client`] signs calls and sends them; what it can send are values, made in the modules by subject. A template, a
//! volume or an ISO comes in one of two ways: its data is [uploaded](Client::upload) with a ticket, or the cloud
//! fetches it from a URL, for which [`serve`] opens a small server of one file.
//!
//! # Example
//!
//! A cloud in miniature plays the server here.
//!
//! ```
//! use cloudstack_client::templates::{self, Format, NewTemplate};
//! use cloudstack_client::{Client, Credentials, Upload, WaitOptions, os_types, zones};
//! # use simulator::cloudstack::{CloudStack, CloudStackConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! # let server = CloudStack::start(CloudStackConfig::new()).await?;
//! # let (endpoint, key, secret) = (server.endpoint(), server.config().key(), server.config().secret());
//! # let mut vhd = vec![0u8; 2048];
//! # vhd[..8].copy_from_slice(b"conectix");
//! # vhd[63] = 3;
//! let client = Client::builder(endpoint).credentials(Credentials::new(key, secret)).build()?;
//! let zone = client.call_all(zones::list()).await?.remove(0);
//! let os = client.call_all(os_types::list()).await?.remove(0);
//!
//! let template = NewTemplate::new("web01", "XenServer", Format::Vhd, &zone.id)
//!     .with_os_type(&os.id)
//!     .with_password_enabled(true)
//!     .with_detail("hypervisortoolsversion", "xenserver61");
//! let ticket = client.call(templates::upload_params(&template)).await?;
//! let id = client.upload(ticket, Upload::from_bytes(vhd)).await?.template_id;
//! let template = client.wait_ready(&id, &[&zone.id], &WaitOptions::default()).await?;
//! assert!(template.is_ready());
//!
//! client.run(templates::delete(&id), &WaitOptions::default()).await?;
//! # server.stop().await;
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! # What an upload does
//!
//! The length of the whole form is computed before the first byte, because storage VMs take no chunked bodies.
//! The start of the data is compared with the format: of a fixed VHD CloudStack would record a wrong size, of a
//! differencing one the parent would be missing. The answer is read *while* the data is sent, so a refusal ends the
//! upload at once with the server's words. The last piece leaves only after the producer has ended without an error.
//! A [ticket](UploadTicket) is good for one attempt, which its type says: after a failure delete the template.
//!
//! # The signature
//!
//! CloudStack authenticates a command by an HMAC over its parameters. The rules look simple and are not: which
//! characters are escaped, that names are sorted *before* everything is lowered and are not escaped at all, that `~`
//! is escaped and `*` is not. [`sign()`] follows the server (`ApiServer.verifyRequest` and Java's `URLEncoder`), and is
//! tested against the answers of a real one's runtime. It can be used without a [`Client`]:
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
//! The client sends everything by `POST`: keys and parameters stay out of access logs, and newer servers can demand it.
//! Signatures are valid for ten minutes, by the clock of this computer or, [told so](ClientBuilder::follow_server_clock), by the
//! server's; servers before 4.11 read another [spelling](Spelling) of the time.
//!
//! # Calls are values
//!
//! ```
//! let call = cloudstack_client::networks::list().with("zoneid", "z1");
//! assert!(call.is_read());
//! let answer = call.parse(http::StatusCode::OK, br#"{"listnetworksresponse":{"count":1,"network":[{"id":7,"new":{}}]}}"#)?;
//! assert_eq!(answer.items[0].id, "7");
//! # Ok::<(), cloudstack_client::Error>(())
//! ```
//!
//! Calls for nearly a hundred commands are made by functions, in a module for each subject:
//!
//! | module | what |
//! |---|---|
//! | [`templates`], [`isos`], [`volumes`] | made by upload, by URL, of a disk or a snapshot; listed, copied, shared, attached, downloaded, deleted |
//! | [`virtual_machines`], [`snapshots`], [`ssh_keys`] | deployed, started, stopped, changed, destroyed |
//! | [`networks`], [`addresses`], [`load_balancers`], [`firewall`] | what leads to machines |
//! | [`zones`], [`hypervisors`], [`os_types`], [`offerings`] | what a cloud has to choose from |
//! | [`accounts`], [`capabilities`], [`tags`], [`job`] | who may have how much, what the server can do, words on objects, jobs |
//! | [`commands`] | what is known of all 915 commands |
//!
//! Any other parameter is added by [`with`](Call::with). Any other command is sent by [`command`], [`start`] or [`rows`], which
//! know from the table whether it starts a job, which key is around its answer, and whether it may be repeated. Fields
//! that a server leaves out, sends as text, or has new are no error; a word that is not known here is kept.
//!
//! Lists are read whole, by [`Client::call_all`] or as a [stream](Client::stream): a plain list is silently cut off by the
//! server. The size of pages follows what the server allows.
//!
//! # Jobs
//!
//! Asynchronous commands give a [`Job`], which [`Client::job`] waits for; [`Client::run`] does both. A job can be kept as a
//! line of text and waited for by another process. With a [job id of ours](Call::with_new_job_id) a lost answer is survived:
//! the job is looked for, and nothing is sent again before the first call can no longer arrive, so that nothing is made twice
//! ([`Client::run`] tells how, and what remains). Commands that answer at once, as [`templates::register`], have no such id:
//! after a lost answer look for what they may have made by its name.
//!
//! ```
//! use cloudstack_client::templates::{self, DiskSource, TemplateFilter, TemplateFromDisk};
//! use cloudstack_client::virtual_machines::{self, NewVirtualMachine};
//! use cloudstack_client::{Client, Credentials, WaitOptions, offerings, os_types, volumes, zones};
//! # use simulator::cloudstack::{CloudStack, CloudStackConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! # let server = CloudStack::start(CloudStackConfig::new()).await?;
//! # let keys = Credentials::new(server.config().key(), server.config().secret());
//! # let client = Client::builder(server.endpoint()).credentials(keys).build()?;
//! # let zone = client.call_all(zones::list()).await?.remove(0).id;
//! # let size = client.call_all(offerings::services()).await?.remove(0).id;
//! # let os = client.call_all(os_types::list()).await?.remove(0).id;
//! # let ready = client.call_all(templates::list(TemplateFilter::Featured)).await?.remove(0).id;
//! # server.faults().set_str("drop-after-effect=createTemplate@1")?;
//! let wait = WaitOptions::default().with_progress(|last, waited| println!("{waited:?}: {last}"));
//! let machine = NewVirtualMachine::new(&zone, &size, &ready).with_name("web02");
//! let machine = client.run(virtual_machines::deploy(&machine), &wait).await?;
//! client.run(virtual_machines::stop(&machine.id), &wait).await?;
//!
//! // A template of its root disk. This answer gets lost on the way, and there is one template all the same.
//! let root = client.call_all(volumes::root_of(&machine.id)).await?.remove(0);
//! let golden = TemplateFromDisk::new("golden", &os, DiskSource::Volume(&root.id));
//! let golden = client.run(templates::create(&golden).with_new_job_id()?, &wait).await?;
//! assert_eq!(client.call_all(templates::named("golden")).await?[0].id, golden.id);
//! # server.stop().await;
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! # Before anything is made
//!
//! [`Client::preflight`] compares a plan with the permissions, the release and the limits of the account, and with the
//! networks that the cloud may fetch from; see [`preflight`].
//!
//! # Beside other clients
//!
//! | | this crate | cloudstack-go 4.22.1 | `cs` 5.2.0 | cloudmonkey 6.4 | libcloud 3.9.1 |
//! |---|---|---|---|---|---|
//! | language | Rust | Go | Python | command line | Python |
//! | typed commands | 96 | 828 | none | none | 88 |
//! | right signatures, of 22 that OpenJDK made | 22 | 21 | 21 | 21 | 17 |
//! | signatures expire | yes, 10 min | yes, 15 min | yes, 10 min | no | no |
//! | calls with keys are sent by | POST | POST for changes | one method for all | GET | GET |
//! | reads all pages | yes, of the size the server allows | no | yes, of 500 | no | no |
//! | waits for jobs | for each call | by a mode of the client | for each call | yes | yes |
//! | tries again | 429, 503, and what only looks after a lost connection | no | if told to: lists after a lost connection | no | if told to: everything after 429 or a lost connection |
//! | errors | kind, status, `cserrorcode` | text | dictionary | text | text |
//! | uploads to the storage VM | yes | no | no | no | no |
//! | waits for a template in each zone | yes | no | no | no | no |
//!
//! What the others sign wrongly are values with `~`, in libcloud also brackets and some names in mixed case. The
//! column of libcloud is its drivers for machines and for load balancers. `cs` and
//! libcloud drive this crate's test double as independent witnesses of its rules.
//!
//! # Features
//!
//! | feature | default | what |
//! |---|---|---|
//! | `tracing` | no | a debug event for every answer: command, status, size; never a parameter, a header or a body |
//!
//! TLS is rustls with ring; there is no OpenSSL.
//!
//! # Errors
//!
//! Everything fails with [`Error`]: a [kind](ErrorKind) to decide on, one line for people with the remedy, and CloudStack's
//! codes, of which the number of the [exception](CsErrorCode) is the finer one. A refused signature is told with the difference of the clocks, where that is the cause. Secrets, signatures
//! and the addresses of served files are in no error, no `Debug` text and no log line, even if a server sends them back.
//!
//! # Not here
//!
//! Logins with a password; webhooks; uploads in pieces (CloudStack has none); HTTPS for the server of one file.

pub mod accounts;
pub mod addresses;
mod call;
pub mod capabilities;
mod client;
mod codes;
pub mod commands;
mod error;
pub mod firewall;
pub mod hypervisors;
pub mod isos;
pub mod job;
pub mod load_balancers;
mod meter;
pub mod networks;
pub mod offerings;
pub mod os_types;
mod pages;
pub mod preflight;
mod random;
mod record;
mod request;
pub mod serve;
mod sign;
pub mod snapshots;
pub mod ssh_keys;
pub mod tags;
pub mod templates;
mod transport;
mod value;
pub mod virtual_machines;
pub mod volumes;
mod wait;
mod zoned;
pub mod zones;

pub use call::{Answer, Call, List, Record, command, rows, start};
pub use client::{Client, ClientBuilder};
pub use codes::CsErrorCode;
pub use error::{Error, ErrorKind, Result};
pub use job::Job;
pub use record::{Password, Row};
pub use sign::{
    Credentials, Expires, SignedQuery, Spelling, VALIDITY, sign, signature, string_to_sign,
};
pub use templates::{Upload, UploadTicket};
pub use transport::{Body, BodyStream, HttpTransport, Transport, Trust, body_of};
pub use wait::WaitOptions;
