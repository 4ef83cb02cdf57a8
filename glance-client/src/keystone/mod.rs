//! Keystone v3 sessions and the service catalogue, for any OpenStack service.
//!
//! [`CloudConfig`] says where and as whom (`clouds.yaml`, `OS_*`, or a builder); [`Session::connect`] logs in and
//! keeps the token fresh; [`Session::endpoint`] finds a service in the [`Catalog`]; [`Session::service`] gives a
//! [`ServiceClient`] that sends [`Call`](crate::Call)s of that service with the token. Nothing in this module knows a
//! particular service.

mod access;
mod auth;
mod catalog;
mod config;
mod discovery;
mod environment;
mod exchange;
mod login;
mod service;
mod session;
mod token;

pub use auth::{Auth, Domain, Principal, Scope, auth_request};
pub use catalog::{Catalog, CatalogService, Endpoint, EndpointQuery, Interface};
pub use config::{CloudConfig, CloudConfigBuilder};
pub use discovery::{ApiVersion, join_version, parse_versions, without_version};
pub use environment::Environment;
pub use service::ServiceClient;
pub use session::Session;
pub use token::{Named, Token};

pub(crate) use access::Access;
pub(crate) use discovery::versions;
pub(crate) use token::{http_date, timestamp};
