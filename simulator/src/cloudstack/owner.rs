//! Who asks, whose something is, and who sees it.
//!
//! All accounts and projects are in one domain. A list shows what is the caller's own; what belongs to a project only
//! if it is asked for (`projectid`, -1 for all); what is another account's only to an administrator who asks for it
//! (`listall`, or `account` with `domainid`) or who names it by its id.

use serde_json::{Map, Value, json};

use super::error::{ApiError, ApiResult};
use super::fixture;
use super::params::Params;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) account: &'static str,
    pub(super) is_admin: bool,
}

/// Whose something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// Nobody's: it came with the cloud.
    System,
    Account(&'static str),
    /// A project, by its name.
    Project(&'static str),
}

/// What a list shows.
#[derive(Clone, Copy, Debug)]
enum Scope {
    Of(Owner),
    Projects,
    Accounts,
}

impl Caller {
    /// Whether something of this owner is the caller's business.
    pub(super) fn may_use(self, owner: Owner) -> bool {
        match owner {
            Owner::System => self.is_admin,
            Owner::Account(account) => self.is_admin || account == self.account,
            Owner::Project(name) => self.is_admin || fixture::is_member(name, self.account),
        }
    }
}

impl Owner {
    /// How rows name it.
    pub(super) fn show(self) -> Map<String, Value> {
        let row = match self {
            Self::System => json!({"account": "system"}),
            Self::Account(account) => json!({"account": account}),
            Self::Project(name) => json!({"project": name, "projectid": fixture::project_id(name)}),
        };
        let mut row = row.as_object().cloned().unwrap_or_default();
        row.insert("domainid".to_owned(), json!(fixture::domain_id()));
        row.insert("domain".to_owned(), json!("ROOT"));
        row
    }
}

impl Params {
    /// Refuses what is another's.
    pub(super) fn check_use(&self, owner: Owner, id: &str) -> ApiResult<()> {
        if self.caller.may_use(owner) {
            return Ok(());
        }
        let account = self.caller.account;
        Err(ApiError::denied(format!(
            "Acct[{}-{account}] does not have permission to operate with resource [{id}]",
            fixture::account_id(account)
        )))
    }

    /// Whose it will be what is made.
    pub(super) fn owner(&self) -> ApiResult<Owner> {
        match self.scope()? {
            Scope::Of(owner) => Ok(owner),
            Scope::Projects => Err(ApiError::invalid("Unable to find project by id -1")),
            Scope::Accounts => Ok(Owner::Account(self.caller.account)),
        }
    }

    /// Whose rows a list shows.
    pub(super) fn sees(&self) -> ApiResult<impl Fn(Owner) -> bool + use<>> {
        let (scope, caller) = (self.scope()?, self.caller);
        let by_id = caller.is_admin && self.get("id").is_some();
        Ok(move |owner: Owner| match (scope, owner) {
            (Scope::Of(Owner::Account(_)), Owner::Account(_)) if by_id => true,
            (Scope::Of(wanted), owner) => wanted == owner,
            (Scope::Projects, Owner::Project(_)) => caller.may_use(owner),
            (Scope::Accounts, Owner::Account(_)) => true,
            _ => false,
        })
    }

    fn scope(&self) -> ApiResult<Scope> {
        let caller = self.caller;
        match (self.get("projectid"), self.get("account")) {
            (Some(_), Some(_)) => {
                Err(ApiError::invalid("Account and projectId can't be specified together"))
            }
            (Some("-1"), None) => Ok(Scope::Projects),
            (Some(id), None) => {
                let found = fixture::PROJECTS.iter().find(|one| fixture::project_id(one.0) == id);
                let unknown = || ApiError::no_such(&self.command, "projectid", id);
                let owner = Owner::Project(found.ok_or_else(unknown)?.0);
                self.check_use(owner, id).map(|()| Scope::Of(owner))
            }
            (None, Some(name)) => {
                if self.get("domainid") != Some(fixture::domain_id().as_str()) {
                    return Err(ApiError::invalid("Account must be specified with its domain id"));
                }
                let found = fixture::ACCOUNTS.iter().find(|one| **one == name);
                let unknown = || ApiError::invalid(format!("Unable to find account {name}"));
                let owner = Owner::Account(found.ok_or_else(unknown)?);
                self.check_use(owner, name).map(|()| Scope::Of(owner))
            }
            (None, None) if caller.is_admin && self.flag("listall") == Some(true) => {
                Ok(Scope::Accounts)
            }
            (None, None) => Ok(Scope::Of(Owner::Account(caller.account))),
        }
    }
}
