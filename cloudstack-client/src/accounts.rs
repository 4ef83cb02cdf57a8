//! Accounts, projects and their limits.

use crate::call::{Call, List};
use crate::record::{record, words};

record! {
    /// A user of an account.
    User in "user" by id;
    /// The user's id.
    id: String = "id",
    /// The name of the login.
    name: String = "username",
    /// `enabled` or `disabled`.
    state: Option<String> = "state",
}

record! {
    /// An account. What is available of something is a number, or `Unlimited`.
    Account in "account" by id;
    /// Its id.
    id: String = "id",
    /// Its name.
    name: String = "name",
    /// `User`, `DomainAdmin`, `ResourceAdmin` or `Admin`.
    role_kind: Option<String> = "roletype",
    /// The name of its role.
    role: Option<String> = "rolename",
    /// The id of its domain.
    domain: Option<String> = "domainid",
    /// The name of its domain.
    domain_name: Option<String> = "domain",
    /// `enabled`, `disabled` or `locked`.
    state: Option<String> = "state",
    /// How many templates it has.
    templates: Option<u64> = "templatetotal",
    /// How many templates it can still have.
    templates_available: Option<String> = "templateavailable",
    /// How many volumes it can still have.
    volumes_available: Option<String> = "volumeavailable",
    /// How many machines it can still have.
    machines_available: Option<String> = "vmavailable",
    /// How much secondary storage it can still use, in GiB.
    secondary_storage_available: Option<String> = "secondarystorageavailable",
    /// How much primary storage it can still use, in GiB.
    primary_storage_available: Option<String> = "primarystorageavailable",
    /// Its users.
    users: Vec<User> = "user",
}

record! {
    /// A project: what several accounts share.
    Project in "project" by id;
    /// Its id.
    id: String = "id",
    /// Its name.
    name: String = "name",
    /// The text for people.
    display_text: Option<String> = "displaytext",
    /// `Active` or `Suspended`.
    state: Option<String> = "state",
    /// The id of its domain.
    domain: Option<String> = "domainid",
}

words! {
    /// What is limited.
    ResourceKind {
        /// Machines.
        VirtualMachine = "0",
        /// Public addresses.
        PublicAddress = "1",
        /// Volumes.
        Volume = "2",
        /// Snapshots.
        Snapshot = "3",
        /// Templates and ISOs.
        Template = "4",
        /// Projects.
        Project = "5",
        /// Networks.
        Network = "6",
        /// Private clouds.
        Vpc = "7",
        /// Processors.
        Cpu = "8",
        /// Memory in MiB.
        Memory = "9",
        /// Primary storage in GiB.
        PrimaryStorage = "10",
        /// Secondary storage in GiB.
        SecondaryStorage = "11",
    }
}

record! {
    /// A limit of an account.
    ResourceLimit in "resourcelimit" by kind_number, account;
    /// The number of what is limited.
    kind_number: String = "resourcetype",
    /// What is limited.
    kind: Option<ResourceKind> = "resourcetype",
    /// The name of what is limited, where the server tells it.
    kind_name: Option<String> = "resourcetypename",
    /// The most that is allowed; -1 is no limit.
    max: Option<i64> = "max",
    /// Whose limit it is.
    account: String = "account",
}

/// `listAccounts`: this account, or those that an administrator sees.
#[must_use]
pub fn list() -> Call<List<Account>> {
    Call::list("accounts: list", "listAccounts")
}

/// `listProjects` that this account is in.
#[must_use]
pub fn projects() -> Call<List<Project>> {
    Call::list("projects: list", "listProjects")
}

/// `listResourceLimits` of this account.
#[must_use]
pub fn limits() -> Call<List<ResourceLimit>> {
    Call::list("resource limits: list", "listResourceLimits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    #[test]
    fn limits_have_numbers_for_names() {
        let body = br#"{"listresourcelimitsresponse":{"count":2,"resourcelimit":[
            {"resourcetype":"4","max":20,"account":"a"},{"resourcetype":11,"max":"-1","account":"a"}]}}"#;
        let all = limits().parse(StatusCode::OK, body).unwrap().items;
        assert_eq!((&all[0].kind, all[0].max), (&Some(ResourceKind::Template), Some(20)));
        assert_eq!((&all[1].kind, all[1].max), (&Some(ResourceKind::SecondaryStorage), Some(-1)));
    }
}
