//! Who logs in, for what, and the request that says so.

use http::Method;
use serde_json::{Value, json};

use super::token::Token;
use crate::call::Call;
use crate::error::{Error, Result};
use crate::secret::Secret;

/// A domain, by id or by name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Domain {
    /// By id; the usual one is `default`.
    Id(String),
    /// By name; the usual one is `Default`.
    Name(String),
}

impl Default for Domain {
    fn default() -> Self {
        Self::Id("default".to_owned())
    }
}

/// A user or a project: by id, or by a name within a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Principal {
    /// By id, which needs no domain.
    Id(String),
    /// By name.
    Named {
        /// The name.
        name: String,
        /// The domain in which the name is unique.
        domain: Domain,
    },
}

impl Principal {
    /// By id.
    pub fn id(id: impl Into<String>) -> Self {
        Self::Id(id.into())
    }

    /// By name within `domain`.
    pub fn named(name: impl Into<String>, domain: Domain) -> Self {
        Self::Named { name: name.into(), domain }
    }

    fn json(&self) -> Value {
        match self {
            Self::Id(id) => json!({ "id": id }),
            Self::Named { name, domain } => json!({ "name": name, "domain": domain.json() }),
        }
    }
}

impl Domain {
    fn json(&self) -> Value {
        match self {
            Self::Id(id) => json!({ "id": id }),
            Self::Name(name) => json!({ "name": name }),
        }
    }
}

/// What proves who we are.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Auth {
    /// A user and its password.
    Password {
        /// The user.
        user: Principal,
        /// The password.
        password: Secret,
    },
    /// An application credential by its id. It brings its own project.
    ApplicationCredential {
        /// The id.
        id: String,
        /// The secret.
        secret: Secret,
    },
    /// An application credential by its name and its owner.
    NamedApplicationCredential {
        /// The name.
        name: String,
        /// The owner.
        user: Principal,
        /// The secret.
        secret: Secret,
    },
    /// A token that somebody else got. What is made of it ends when it ends: an exchange is not a renewal.
    Token(Secret),
}

impl Auth {
    /// Whether a new token can be had when this one has expired.
    #[must_use]
    pub fn is_renewable(&self) -> bool {
        !matches!(self, Self::Token(_))
    }

    pub(crate) fn secret(&self) -> &Secret {
        match self {
            Self::Password { password, .. } => password,
            Self::ApplicationCredential { secret, .. }
            | Self::NamedApplicationCredential { secret, .. } => secret,
            Self::Token(token) => token,
        }
    }
}

/// What the token is to be valid for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scope {
    /// Say nothing: Keystone takes the user's default project, or the project of the application credential.
    #[default]
    Unspecified,
    /// A project.
    Project(Principal),
    /// A domain.
    Domain(Domain),
    /// The whole deployment.
    System,
    /// A trust, by id.
    Trust(String),
    /// Nothing: such a token has no catalogue.
    Unscoped,
}

/// The request for a token: `POST auth/tokens` below Keystone's v3 endpoint (Identity API v3, "Authentication and
/// token management").
///
/// # Errors
/// [`ErrorKind::Config`](crate::ErrorKind::Config) for an application credential with a scope.
pub fn auth_request(auth: &Auth, scope: &Scope) -> Result<Call<Token>> {
    let (method, proof) = match auth {
        Auth::Password { user, password } => {
            let mut user = user.json();
            user["password"] = password.expose().into();
            ("password", json!({ "user": user }))
        }
        Auth::ApplicationCredential { id, secret } => {
            ("application_credential", json!({ "id": id, "secret": secret.expose() }))
        }
        Auth::NamedApplicationCredential { name, user, secret } => (
            "application_credential",
            json!({ "name": name, "user": user.json(), "secret": secret.expose() }),
        ),
        Auth::Token(token) => ("token", json!({ "id": token.expose() })),
    };
    let scope = match scope {
        Scope::Unspecified => None,
        Scope::Project(project) => Some(json!({ "project": project.json() })),
        Scope::Domain(domain) => Some(json!({ "domain": domain.json() })),
        Scope::System => Some(json!({ "system": { "all": true } })),
        Scope::Trust(id) => Some(json!({ "OS-TRUST:trust": { "id": id } })),
        Scope::Unscoped => Some(json!("unscoped")),
    };
    let mut body = json!({ "auth": { "identity": { "methods": [method], method: proof } } });
    if let Some(scope) = scope {
        if method == "application_credential" {
            return Err(Error::config(
                "an application credential belongs to one project and cannot be used with a scope: remove project, \
                 domain and system_scope from the configuration",
            ));
        }
        body["auth"]["scope"] = scope;
    }
    Ok(Call::new("log in", Method::POST, "auth/tokens", Token::parse).with_json(&body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn body(auth: &Auth, scope: &Scope) -> Value {
        serde_json::from_slice(auth_request(auth, scope).unwrap().body()).unwrap()
    }

    #[test]
    fn password_with_every_scope() {
        let auth = Auth::Password {
            user: Principal::named("demo", Domain::default()),
            password: "pw".into(),
        };
        let identity = json!({"methods": ["password"], "password": {"user":
            {"name": "demo", "domain": {"id": "default"}, "password": "pw"}}});
        for (scope, expected) in [
            (Scope::Unspecified, Value::Null),
            (Scope::Project(Principal::id("p1")), json!({"project": {"id": "p1"}})),
            (
                Scope::Project(Principal::named("p", Domain::Name("D".into()))),
                json!({"project": {"name": "p", "domain": {"name": "D"}}}),
            ),
            (Scope::Domain(Domain::Name("D".into())), json!({"domain": {"name": "D"}})),
            (Scope::System, json!({"system": {"all": true}})),
            (Scope::Trust("t".into()), json!({"OS-TRUST:trust": {"id": "t"}})),
            (Scope::Unscoped, json!("unscoped")),
        ] {
            let body = body(&auth, &scope);
            assert_eq!(body["auth"]["identity"], identity);
            assert_eq!(body["auth"].get("scope").cloned().unwrap_or_default(), expected);
        }
    }

    #[test]
    fn application_credentials_and_tokens() {
        let by_id = Auth::ApplicationCredential { id: "ac".into(), secret: "s".into() };
        assert_eq!(
            body(&by_id, &Scope::Unspecified)["auth"]["identity"],
            json!({"methods": ["application_credential"], "application_credential": {"id": "ac", "secret": "s"}})
        );
        let by_name = Auth::NamedApplicationCredential {
            name: "ci".into(),
            user: Principal::named("demo", Domain::default()),
            secret: "s".into(),
        };
        assert_eq!(
            body(&by_name, &Scope::Unspecified)["auth"]["identity"]["application_credential"],
            json!({"name": "ci", "user": {"name": "demo", "domain": {"id": "default"}}, "secret": "s"})
        );
        let error = auth_request(&by_id, &Scope::System).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("cannot be used with a scope"), "{error}");
        assert_eq!(
            body(&Auth::Token("tok".into()), &Scope::Project(Principal::id("p")))["auth"]["identity"],
            json!({"methods": ["token"], "token": {"id": "tok"}})
        );
    }

    #[test]
    fn no_secret_is_printed() {
        let auth = Auth::Password { user: Principal::id("u"), password: "hunter2".into() };
        let call = auth_request(&auth, &Scope::Unscoped).unwrap();
        assert!(!format!("{auth:?} {call:?}").contains("hunter2"));
    }
}
