//! What is known of every command of CloudStack's API: 915 of them, up to release 4.22.
//!
//! The table is what [`command`](crate::command), [`start`](crate::start) and [`rows`](crate::rows) go by, so that
//! commands which have no function of their own here are sent, repeated and read as rightly as the others.
//!
//! ```
//! use cloudstack_client::commands::{self, Repeat};
//!
//! let deploy = commands::find("deployVirtualMachine").unwrap();
//! assert!(deploy.is_async() && deploy.makes_object());
//! assert_eq!(deploy.method(), http::Method::POST);
//! assert_eq!(deploy.repeat(), Repeat::WithJobId);
//!
//! // Root keys are mostly made of the command's name, but not always.
//! assert_eq!(deploy.root_key(), "deployvirtualmachineresponse");
//! assert_eq!(commands::find("checkVolume").unwrap().root_key(), "checkandrepairvolumeresponse");
//! assert_eq!(commands::all().len(), 915);
//! assert!(commands::find("makeCoffee").is_none());
//! ```

mod table;

use std::borrow::Cow;

use http::Method;

/// One command of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Command {
    name: &'static str,
    flags: u8,
    root: &'static str,
    list: &'static str,
    since: &'static str,
}

/// Whether a command may be sent again when nobody knows whether it has reached the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Repeat {
    /// It only looks: as often as one likes.
    Always,
    /// It starts a job. With a [job id of ours](crate::Call::with_job_id) one can ask whether it has arrived, and
    /// send it again if it has not and no longer can, as [`Client::run`](crate::Client::run) does.
    WithJobId,
    /// It changes something at once: only after a look at what has become of it.
    Never,
}

mod flags {
    pub(super) const NONE: u8 = 0;
    pub(super) const ASYNC: u8 = 1;
    pub(super) const CREATES: u8 = 2;
    pub(super) const POST: u8 = 4;
    pub(super) const PAGED: u8 = 8;
    pub(super) const READS: u8 = 16;
}

impl Command {
    const fn new(
        name: &'static str,
        flags: u8,
        root: &'static str,
        list: &'static str,
        since: &'static str,
    ) -> Self {
        Self { name, flags, root, list, since }
    }

    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Its name, as it is sent: `listZones`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.name
    }

    /// Whether it starts a job, whose result comes later.
    #[must_use]
    pub fn is_async(self) -> bool {
        self.has(flags::ASYNC)
    }

    /// Whether the first answer already has the id of the object that its job makes. The server makes a row for that
    /// object before it looks at the job's id.
    #[must_use]
    pub fn makes_object(self) -> bool {
        self.has(flags::CREATES)
    }

    /// The method that a server asks for if it is set to enforce one. Every command can also be sent by `POST`, which
    /// keeps it out of access logs; the [`Client`](crate::Client) does that.
    #[must_use]
    pub fn method(self) -> Method {
        if self.has(flags::POST) { Method::POST } else { Method::GET }
    }

    /// Whether it gives a list in pages.
    #[must_use]
    pub fn is_paged(self) -> bool {
        self.has(flags::PAGED)
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_read(self) -> bool {
        self.has(flags::READS)
    }

    /// Whether it may be sent again after a lost answer.
    #[must_use]
    pub fn repeat(self) -> Repeat {
        if self.is_read() {
            Repeat::Always
        } else if self.is_async() {
            Repeat::WithJobId
        } else {
            Repeat::Never
        }
    }

    /// The key around its answer.
    #[must_use]
    pub fn root_key(self) -> Cow<'static, str> {
        if self.root.is_empty() { regular(self.name).into() } else { self.root.into() }
    }

    /// Whether the key around its answer is not made of its name.
    #[must_use]
    pub fn is_irregular(self) -> bool {
        !self.root.is_empty()
    }

    /// The key of the list in its answer, if it lists something.
    #[must_use]
    pub fn list_key(self) -> Option<&'static str> {
        Some(self.list).filter(|list| !list.is_empty())
    }

    /// The release in which it came, where that is known: `4.6.0`.
    #[must_use]
    pub fn since(self) -> Option<&'static str> {
        Some(self.since).filter(|since| !since.is_empty())
    }
}

/// All commands by name.
#[must_use]
pub fn all() -> &'static [Command] {
    &table::TABLE
}

/// What is known of a command. The server minds the case of its letters.
#[must_use]
pub fn find(name: &str) -> Option<Command> {
    let found = table::TABLE.binary_search_by(|command| command.name.cmp(name));
    found.ok().map(|at| table::TABLE[at])
}

/// The root key of the answer to a command, also of one that came after the table was made.
pub(crate) fn root_key(name: &str) -> Cow<'static, str> {
    find(name).map_or_else(|| regular(name).into(), Command::root_key)
}

/// Whether a command changes nothing; of one that is not in the table its name decides.
pub(crate) fn is_read(name: &str) -> bool {
    let looks = || ["list", "get", "query", "find"].iter().any(|verb| name.starts_with(verb));
    let makes = || name.starts_with("getUploadParams");
    find(name).map_or_else(|| looks() && !makes(), Command::is_read)
}

fn regular(name: &str) -> String {
    format!("{}response", name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_every_command_is_found() {
        assert!(all().windows(2).all(|pair| pair[0].name < pair[1].name));
        assert!(all().iter().all(|command| find(command.name) == Some(*command)));
        assert_eq!(all().iter().filter(|command| command.is_async()).count(), 370);
        assert_eq!(all().iter().filter(|command| command.makes_object()).count(), 53);
        assert_eq!(all().iter().filter(|command| command.is_irregular()).count(), 68);
        assert_eq!(find("listzones"), None);
    }

    #[test]
    fn what_only_looks_is_told_from_what_changes() {
        for name in ["listZones", "queryAsyncJobResult", "findHostsForMigration", "quotaSummary"] {
            assert_eq!(find(name).unwrap().repeat(), Repeat::Always, "{name}");
        }
        for name in ["getDiagnosticsData", "deployVirtualMachine", "deleteTemplate"] {
            assert_eq!(find(name).unwrap().repeat(), Repeat::WithJobId, "{name}");
        }
        let never = ["getUploadParamsForTemplate", "registerTemplate", "updateTemplate"];
        let odd = ["listAndSwitchSamlAccount", "getUploadParamsForKubernetesSupportedVersion"];
        for name in never.into_iter().chain(odd) {
            assert_eq!(find(name).unwrap().repeat(), Repeat::Never, "{name}");
        }
        // What starts a job or makes an object is never taken for a look, whatever its name.
        assert!(all().iter().all(|c| !(c.is_read() && (c.is_async() || c.makes_object()))));
        assert!(is_read("listThingsOfTomorrow") && !is_read("getUploadParamsForTomorrow"));
        assert_eq!(root_key("listThingsOfTomorrow"), "listthingsoftomorrowresponse");
    }
}
