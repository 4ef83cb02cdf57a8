//! What the double remembers: users, tokens, application credentials, images.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use md5::{Digest, Md5};
use tokio::sync::watch;
use uuid::Uuid;

use super::image::Image;
use super::task::Task;
use super::{Fault, Faults, OpenStackConfig};

/// Everything that connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: OpenStackConfig,
    pub(super) faults: Faults,
    /// Image data lie here; removed with the double.
    pub(super) dir: PathBuf,
    pub(super) users: Vec<User>,
    pub(super) projects: Vec<Project>,
    pub(super) stopped: watch::Receiver<bool>,
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) tokens: HashMap<String, Token>,
    pub(super) credentials: Vec<Credential>,
    /// Oldest first.
    pub(super) images: Vec<Image>,
    /// Ids of deleted images: a row stays behind, so such an id is never free again.
    pub(super) deleted: HashSet<String>,
    /// Oldest first.
    pub(super) tasks: Vec<Task>,
}

#[derive(Debug, Clone)]
pub(super) struct Project {
    pub(super) id: String,
    pub(super) name: String,
}

#[derive(Debug, Clone)]
pub(super) struct User {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) roles: &'static [&'static str],
    /// Index into `Shared::projects`; the only project where the user has roles.
    pub(super) project: usize,
}

impl User {
    pub(super) fn is_admin(&self) -> bool {
        self.roles.contains(&"admin")
    }
}

/// What a token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Unscoped,
    Project,
    /// The one domain.
    Domain,
    System,
}

#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) user: usize,
    pub(super) scope: Scope,
    pub(super) methods: Vec<String>,
    pub(super) issued: Timestamp,
    pub(super) expires: Timestamp,
    pub(super) audit: Vec<String>,
    pub(super) credential: Option<String>,
    /// Image requests made with it.
    pub(super) uses: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Credential {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) secret: String,
    pub(super) description: Option<String>,
    pub(super) user: usize,
    pub(super) expires: Option<Timestamp>,
    pub(super) unrestricted: bool,
}

impl Shared {
    pub(super) fn new(
        config: OpenStackConfig,
        dir: PathBuf,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        let projects = [config.project.as_str(), "admin", "other"]
            .map(|name| Project { id: stable_id("project", name), name: name.to_owned() });
        let user = |name: &str, roles, project| User {
            id: stable_id("user", name),
            name: name.to_owned(),
            roles,
            project,
        };
        let users = vec![
            user(&config.username, &["member", "reader"], 0),
            user("admin", &["admin", "manager", "member", "reader"], 1),
            user("other", &["member", "reader"], 2),
        ];
        Self {
            config,
            faults: Faults::default(),
            dir,
            users,
            projects: projects.to_vec(),
            stopped,
            tables: Mutex::default(),
        }
    }

    pub(super) fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn token_ttl(&self) -> Duration {
        let fault = |fault: &Fault| match fault {
            Fault::TokenTtl(ttl) => Some(*ttl),
            _ => None,
        };
        self.faults.peek(fault).unwrap_or(self.config.token_ttl)
    }

    /// A token that is known and not expired.
    pub(super) fn live_token(&self, id: &str) -> Option<Token> {
        let tables = self.tables();
        let token = tables.tokens.get(id).cloned()?;
        (token.expires > Timestamp::now() && !tables.is_orphan(&token)).then_some(token)
    }

    /// True for a token whose application credential was deleted.
    pub(super) fn is_orphan(&self, id: &str) -> bool {
        let tables = self.tables();
        tables.tokens.get(id).is_some_and(|token| tables.is_orphan(token))
    }

    /// As [`live_token`](Self::live_token), counting a use by the image service.
    pub(super) fn spend_token(&self, id: &str) -> Option<Token> {
        let limit = self.faults.peek(|fault| match fault {
            Fault::ExpireAfter(uses) => Some(*uses),
            _ => None,
        });
        let mut tables = self.tables();
        let token = tables.tokens.get_mut(id)?;
        token.uses += 1;
        let spent = limit.is_some_and(|limit| token.uses > limit);
        let token = token.clone();
        if spent {
            tables.tokens.remove(id);
        }
        let live = token.expires > Timestamp::now() && !tables.is_orphan(&token);
        (!spent && live).then_some(token)
    }
}

impl Tables {
    fn is_orphan(&self, token: &Token) -> bool {
        let known = |id: &String| self.credentials.iter().any(|one| one.id == *id);
        token.credential.as_ref().is_some_and(|id| !known(id))
    }
}

/// A token's text: as long as a Fernet token of the real server and just as opaque.
pub(super) fn new_token_id() -> String {
    let noise: Vec<u8> = (0..9).flat_map(|_| *Uuid::new_v4().as_bytes()).take(132).collect();
    format!("gAAAAAB{}", URL_SAFE_NO_PAD.encode(noise))
}

pub(super) fn new_audit_id() -> String {
    URL_SAFE_NO_PAD.encode(Uuid::new_v4().as_bytes())
}

pub(super) fn new_hex_id() -> String {
    Uuid::new_v4().simple().to_string()
}

/// A 32-digit id that is the same in every run, so that logs of two runs compare.
pub(super) fn stable_id(kind: &str, name: &str) -> String {
    hex::encode(Md5::digest(format!("{kind}:{name}")))
}

/// Keystone's way to write a time.
pub(super) fn keystone_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Glance's way to write a time.
pub(super) fn glance_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
