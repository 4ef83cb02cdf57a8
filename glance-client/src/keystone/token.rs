//! A token and what Keystone said with it.

use std::time::{Duration, Instant, SystemTime};

use http::header::DATE;
use http::{HeaderValue, Method};
use serde::Deserialize;

use super::auth::{Auth, Domain, Principal, Scope};
use super::catalog::{Catalog, CatalogService};
use super::config::CloudConfig;
use crate::call::{Answer, Call};
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::take::{each, lenient};

/// A token with its expiry, its owner, its scope and the catalogue.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Token {
    secret: Secret,
    received: Instant,
    lifetime: Duration,
    /// How old it was when it came; not zero for one that was looked up.
    age: Duration,
    user_domain: Named,
    project_domain: Named,
    /// The application credential that it was got with.
    credential: Option<Named>,
    /// When it ends, by Keystone's clock.
    pub expires_at: SystemTime,
    /// The user.
    pub user: Named,
    /// The project of the scope; `None` for a domain, system or unscoped token.
    pub project: Option<Named>,
    /// The domain of the scope.
    pub domain: Option<Named>,
    /// Whether the scope is the whole deployment.
    pub system: bool,
    /// The names of the roles.
    pub roles: Vec<String>,
    /// The services.
    pub catalog: Catalog,
}

/// Something with an id and a name, as tokens mention it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Named {
    /// The id.
    #[serde(default, deserialize_with = "lenient")]
    pub id: String,
    /// The name.
    #[serde(default, deserialize_with = "lenient")]
    pub name: String,
}

impl Named {
    fn is(&self, principal: &Principal, own_domain: &Self) -> bool {
        match principal {
            Principal::Id(id) => self.id == *id,
            Principal::Named { name, domain } => self.name == *name && own_domain.is_domain(domain),
        }
    }

    fn is_domain(&self, domain: &Domain) -> bool {
        match domain {
            Domain::Id(id) => self.id == *id,
            Domain::Name(name) => self.name == *name,
        }
    }
}

#[derive(Deserialize)]
struct Envelope {
    token: Wire,
}

#[derive(Default, Deserialize)]
struct Owned {
    #[serde(flatten)]
    named: Named,
    #[serde(default, deserialize_with = "lenient")]
    domain: Named,
}

#[derive(Deserialize)]
struct Wire {
    #[serde(default, deserialize_with = "lenient")]
    expires_at: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    issued_at: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    user: Owned,
    #[serde(default, deserialize_with = "lenient")]
    project: Option<Owned>,
    #[serde(default, deserialize_with = "lenient")]
    domain: Option<Named>,
    system: Option<serde_json::Value>,
    #[serde(default, deserialize_with = "lenient")]
    application_credential: Option<Named>,
    #[serde(default, deserialize_with = "each")]
    roles: Vec<Named>,
    #[serde(default, deserialize_with = "each")]
    catalog: Vec<CatalogService>,
}

impl Token {
    /// The token itself, as it goes into `X-Auth-Token`.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// How long it is valid in all: the difference of two times of Keystone's clock, so that a clock of ours that is
    /// wrong does no harm.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// How long it is still valid.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.lifetime.saturating_sub(self.age).saturating_sub(self.received.elapsed())
    }

    /// Whether it is of the user and for the scope that a configuration wants, as far as the configuration tells.
    pub(super) fn is_for(&self, config: &CloudConfig) -> bool {
        // A credential has a project of its own, which the configuration does not name.
        let credential = self.credential.as_ref();
        let user = match &config.auth {
            Auth::Password { user, .. } => self.user.is(user, &self.user_domain),
            Auth::NamedApplicationCredential { name, user, .. } => {
                self.user.is(user, &self.user_domain)
                    && credential.is_some_and(|credential| credential.name == *name)
            }
            Auth::ApplicationCredential { id, .. } => {
                credential.is_some_and(|credential| credential.id == *id)
            }
            Auth::Token(_) => true,
        };
        let project = self.project.as_ref();
        user && match &config.scope {
            Scope::Unspecified => true,
            Scope::Project(wanted) => {
                project.is_some_and(|project| project.is(wanted, &self.project_domain))
            }
            Scope::Domain(wanted) => self.domain.as_ref().is_some_and(|own| own.is_domain(wanted)),
            Scope::System => self.system,
            // A token does not tell its trust to us.
            Scope::Trust(_) => false,
            Scope::Unscoped => project.is_none() && self.domain.is_none() && !self.system,
        }
    }

    /// What may be the reason if a service refuses the token although it is new. Services say nothing of access rules, but
    /// that the password may be wrong.
    pub(super) fn why_refused(&self) -> &'static str {
        match self.credential {
            Some(_) => {
                "a new token was refused as well: the application credential may have access rules that do not allow this"
            }
            None => "a new token was refused as well: does this service belong to that Keystone?",
        }
    }

    pub(super) fn header(&self) -> Result<HeaderValue> {
        let mut value = HeaderValue::try_from(self.secret.expose()).map_err(|_| {
            Error::protocol("the token that Keystone gave cannot be sent in a header")
        })?;
        value.set_sensitive(true);
        Ok(value)
    }

    pub(super) fn parse(answer: &Answer<'_>) -> Result<Self> {
        let token = answer.headers.get("x-subject-token").and_then(|value| value.to_str().ok());
        let token = token.filter(|token| !token.is_empty()).ok_or_else(|| {
            Error::protocol(
                "log in: the answer has no X-Subject-Token; is auth_url that of a Keystone?",
            )
            .with_answer(answer.status, answer.headers)
        })?;
        let wire = answer.json::<Envelope>()?.token;
        let expires_at = wire.expires_at.as_deref().and_then(timestamp).ok_or_else(|| {
            Error::protocol("log in: the token has no readable expires_at")
                .with_answer(answer.status, answer.headers)
        })?;
        let issued_at =
            wire.issued_at.as_deref().and_then(timestamp).unwrap_or_else(SystemTime::now);
        let (project, project_domain) =
            wire.project.map(|project| (project.named, project.domain)).unzip();
        let project_domain = project_domain.unwrap_or_default();
        Ok(Self {
            secret: Secret::new(token),
            received: Instant::now(),
            age: Duration::ZERO,
            lifetime: expires_at.duration_since(issued_at).unwrap_or_default(),
            expires_at,
            user: wire.user.named,
            user_domain: wire.user.domain,
            project,
            project_domain,
            credential: wire.application_credential,
            domain: wire.domain,
            system: wire.system.is_some(),
            roles: wire.roles.into_iter().map(|role| role.name).collect(),
            catalog: Catalog::new(wire.catalog),
        })
    }
}

/// Asks Keystone about a token, by that token: `GET auth/tokens` (Identity API v3, "Validate and show information for
/// token").
pub(super) fn look_up(token: &Secret) -> Call<Token> {
    Call::new("look the token up", Method::GET, "auth/tokens", |answer| {
        let mut token = Token::parse(answer)?;
        let now = answer.headers.get(DATE).and_then(|date| http_date(date.to_str().ok()?));
        let now = now.unwrap_or_else(SystemTime::now);
        let left = token.expires_at.duration_since(now).unwrap_or_default();
        token.age = token.lifetime.saturating_sub(left);
        Ok(token)
    })
    .with_header("x-auth-token", token.expose())
    .with_header("x-subject-token", token.expose())
    // Without this Keystone says 404 of a token whose application credential has access rules.
    .with_header("openstack-identity-access-rules", "1.0")
}

/// A time in a header, such as that of an answer by the server's clock.
pub(crate) fn http_date(text: &str) -> Option<SystemTime> {
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(date.into())
}

/// ISO 8601 as Keystone and Glance write it: with `Z`, or with nothing, which means UTC too.
pub(crate) fn timestamp(text: &str) -> Option<SystemTime> {
    let instant: jiff::Timestamp = text.parse().or_else(|_| format!("{text}Z").parse()).ok()?;
    Some(instant.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, StatusCode};

    #[test]
    fn a_token_is_read_and_never_printed() {
        let mut headers = HeaderMap::new();
        headers.insert("x-subject-token", "gAAAA-secret".parse().unwrap());
        let body = br#"{"token":{"methods":["password"],"user":{"domain":{"id":"default","name":"Default"},"id":"u1",
          "name":"demo","password_expires_at":null},"audit_ids":["x"],"expires_at":"2030-01-02T03:04:05.000000Z",
          "issued_at":"2030-01-02T02:04:05.000000Z","project":{"domain":{"id":"default"},"id":"p1","name":"demo"},
          "is_domain":false,"roles":[{"id":"r","name":"member"}],"catalog":[{"endpoints":[],"id":"s","type":"image",
          "name":"glance"}]}}"#;
        let answer =
            Answer { what: "log in", status: StatusCode::CREATED, headers: &headers, body };
        let token = Token::parse(&answer).unwrap();
        assert_eq!(token.secret().expose(), "gAAAA-secret");
        assert!(!format!("{token:?}{:?}", token.header().unwrap()).contains("gAAAA"));
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_553_445);
        assert_eq!(token.expires_at, end);
        // Whatever the year here is.
        assert_eq!(token.lifetime(), Duration::from_secs(3600));
        assert!(token.remaining() > Duration::from_secs(3000));
        assert_eq!(token.project.unwrap().id, "p1");
        assert_eq!(token.roles, ["member"]);

        let none = HeaderMap::new();
        let answer = Answer { what: "log in", status: StatusCode::OK, headers: &none, body };
        assert!(Token::parse(&answer).unwrap_err().to_string().contains("X-Subject-Token"));
    }

    #[test]
    fn what_is_odd_in_a_token_does_not_keep_anyone_from_logging_in() {
        let mut headers = HeaderMap::new();
        headers.insert("x-subject-token", "gAAAA".parse().unwrap());
        let read = |body: &[u8]| {
            Token::parse(&Answer {
                what: "log in",
                status: StatusCode::CREATED,
                headers: &headers,
                body,
            })
        };
        let token = read(
            br#"{"token":{"user":{"id":"u","name":null,"domain":null},"roles":[null,{"name":"member"}],"system":null,
            "project":{"id":"p","name":1,"domain":{"id":null,"name":"x"}},"domain":null,"issued_at":null,
            "expires_at":"2031-01-01T01:00:00Z","catalog":[null,3,{"type":"image","endpoints":[]}]}}"#,
        )
        .unwrap();
        assert_eq!((token.user.id.as_str(), token.project.unwrap().id.as_str()), ("u", "p"));
        assert_eq!((token.roles, token.catalog.services.len()), (vec!["member".to_owned()], 1));
        assert!(!token.system && token.domain.is_none());
        let bare = br#"{"token":{"user":null,"roles":null,"catalog":null,"expires_at":"2031-01-01T01:00:00Z"}}"#;
        assert!(read(bare).unwrap().catalog.services.is_empty());
        assert!(read(br#"{"token":{"expires_at":null}}"#).is_err());
    }

    #[test]
    fn a_token_that_is_looked_up_is_as_old_as_the_servers_clock_says() {
        let call = look_up(&Secret::new("gAAAA-secret"));
        let mut headers = HeaderMap::new();
        headers.insert("x-subject-token", "gAAAA-secret".parse().unwrap());
        headers.insert("date", "Wed, 02 Jan 2030 03:00:00 GMT".parse().unwrap());
        let body = br#"{"token":{"user":{"id":"u1","name":"demo"},"expires_at":"2030-01-02T03:04:05.000000Z",
          "issued_at":"2030-01-02T02:04:05.000000Z"}}"#;
        let token = call.parse(StatusCode::OK, &headers, body).unwrap();
        assert_eq!(token.lifetime(), Duration::from_secs(3600));
        let left = token.remaining();
        assert!(left <= Duration::from_secs(245) && left > Duration::from_secs(200), "{left:?}");
        headers.insert("date", "Wed, 02 Jan 2030 04:00:00 GMT".parse().unwrap());
        assert_eq!(call.parse(StatusCode::OK, &headers, body).unwrap().remaining(), Duration::ZERO);
    }

    #[test]
    fn timestamps_with_and_without_zone() {
        assert_eq!(timestamp("1970-01-01T00:00:01"), timestamp("1970-01-01T00:00:01.000000Z"));
        assert_eq!(timestamp("1970-01-01T01:00:01+01:00"), timestamp("1970-01-01T00:00:01Z"));
        assert_eq!(timestamp("soon"), None);
    }
}
