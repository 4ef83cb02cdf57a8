//! Calls of any command, by what is known of it.

use serde_json::Value;

use super::list::read_list;
use super::{Answer, Call, List};
use crate::commands;
use crate::job::Job;
use crate::record::Row;

/// Any command, with its content as JSON: for what this crate has no function for. Whether it only looks, and so may be
/// repeated, is [known](commands) of every command of today's servers; of others their names decide.
///
/// Of a command that starts a job this is the first answer; [`start`] gives a [`Job`].
///
/// ```
/// let call = cloudstack_client::command("listAccounts").with("listall", "true");
/// assert!(call.is_read());
/// assert!(!cloudstack_client::command("getUploadParamsForVolume").is_read(), "it makes a volume");
/// ```
#[must_use]
pub fn command(command: impl Into<String>) -> Call<Value> {
    let command = command.into();
    let parse = |answer: &Answer<'_>| Ok(answer.content.clone());
    if commands::is_read(&command) {
        Call::read(command.clone(), command, parse)
    } else {
        Call::change(command.clone(), command, parse)
    }
}

/// Any command that starts a job, whose result is JSON; to be waited for with [`Client::run`](crate::Client::run).
///
/// ```
/// # use cloudstack_client::{Credentials, start};
/// let call = start("restartNetwork").with("id", "n1");
/// let job = call.parse(http::StatusCode::OK, br#"{"restartnetworkresponse":{"jobid":"j1"}}"#)?;
/// assert_eq!(job.id, "j1");
///
/// // A command that answers at once is refused before anything is sent.
/// let keys = Credentials::new("key", "secret");
/// assert!(start("listZones").sign(&keys, std::time::SystemTime::now()).is_err());
/// # Ok::<(), cloudstack_client::Error>(())
/// ```
#[must_use]
pub fn start(command: impl Into<String>) -> Call<Job<Value>> {
    let command = command.into();
    let call = Call::start(command.clone(), command, |answer| Ok(answer.content.clone()));
    match commands::find(call.command()) {
        Some(known) if !known.is_async() => {
            call.with_problem("the command starts no job: use `command`")
        }
        _ => call,
    }
}

/// Any command that lists something, with its rows as JSON; all pages come with
/// [`Client::call_all`](crate::Client::call_all) or [`Client::stream`](crate::Client::stream).
///
/// ```
/// let call = cloudstack_client::rows("listVPCs").with("listall", "true");
/// let list = call.parse(http::StatusCode::OK, br#"{"listvpcsresponse":{"count":1,"vpc":[{"id":"v1","networkmask":8}]}}"#)?;
/// assert_eq!(list.items[0].text("id").as_deref(), Some("v1"));
/// # Ok::<(), cloudstack_client::Error>(())
/// ```
#[must_use]
pub fn rows(command: impl Into<String>) -> Call<List<Row>> {
    let command = command.into();
    let known = commands::find(&command);
    let key = known.and_then(commands::Command::list_key);
    let call = Call::read(command.clone(), command, move |answer| read_list(answer, key));
    match known {
        Some(known) if !known.is_read() => call.with_problem("the command does not list"),
        // A server that knows no pages of a newer list ignores that it is asked for them.
        Some(known) => Call { paged: known.is_paged(), ..call },
        None => Call { paged: true, ..call },
    }
}
