//! The metrics that each host records of itself, its machines and its storage: what the processors,
//! the memory, the disks and the networks did, in steps of 5 s, 1 min, 1 h and 1 day
//! ([`Session::rrd_updates`]).
//!
//! ```no_run
//! use xenapi::metrics::{Consolidation, RrdQuery};
//! use xenapi::{Ref, Session, host::Host};
//!
//! async fn load(session: &Session, host: Ref<Host>, vm_uuid: &str) -> Result<(), xenapi::Error> {
//!     // The last ten minutes, by the host's clock.
//!     let query = RrdQuery::since(-600)
//!         .with_consolidation(Consolidation::Average)
//!         .of_vm(vm_uuid)
//!         .on_host(host);
//!     let updates = session.rrd_updates(&query).await?;
//!     if let Some(column) = updates.column(vm_uuid, "cpu0") {
//!         for (time, value) in updates.series(column) {
//!             println!("{time}: {:.0} %", value * 100.0);
//!         }
//!     }
//!     Ok(())
//! }
//! ```
//!
//! The whole record of one machine, host or storage is an XML file of `rrdtool`:
//! `HandlerRequest::new("/vm_rrd").with_param("uuid", …)`, `/host_rrd`, `/sr_rrd`.

mod decode;

use std::fmt;
use std::time::Duration;

use crate::error::Result;
use crate::host::Host;
use crate::live::Session;
use crate::refs::Ref;
use crate::transfer::HandlerRequest;

/// A thousand machines with a hundred metrics each in ten rows have less.
const LARGEST: usize = 64 << 20;

/// How the values of a step were made into one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Consolidation {
    /// Their average.
    Average,
    /// The least; recorded only where the pool was told to.
    Min,
    /// The greatest; recorded only where the pool was told to.
    Max,
    /// The last one.
    Last,
    /// One that this crate does not know.
    Other(String),
}

impl Consolidation {
    /// The server's name of it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Average => "AVERAGE",
            Self::Min => "MIN",
            Self::Max => "MAX",
            Self::Last => "LAST",
            Self::Other(name) => name,
        }
    }

    fn parse(name: &str) -> Self {
        [Self::Average, Self::Min, Self::Max, Self::Last]
            .into_iter()
            .find(|known| known.as_str() == name)
            .unwrap_or_else(|| Self::Other(name.to_owned()))
    }
}

impl fmt::Display for Consolidation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which of several.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Which {
    All,
    None,
    One(String),
}

/// What to ask for, as a value.
#[derive(Clone, Debug)]
#[must_use]
#[non_exhaustive]
pub struct RrdQuery {
    start: i64,
    consolidation: Option<Consolidation>,
    interval: Option<Duration>,
    of_host: bool,
    vms: Which,
    srs: Which,
    host: Option<Ref<Host>>,
}

impl RrdQuery {
    /// What was recorded since `start`, in seconds since 1970 by the host's clock; a negative
    /// number counts back from the newest value, where the server knows that. Of all machines that
    /// run on the host, and of nothing else unless told otherwise.
    ///
    /// The server gives the finest steps that reach so far back: 5 s for 10 minutes, 1 min for 2
    /// hours, 1 h for a week, 1 day for a year.
    pub fn since(start: i64) -> Self {
        Self {
            start,
            consolidation: None,
            interval: None,
            of_host: false,
            vms: Which::All,
            srs: Which::None,
            host: None,
        }
    }

    /// Only the values that were made so; else all there are, each in a column of its own.
    pub fn with_consolidation(mut self, consolidation: Consolidation) -> Self {
        self.consolidation = Some(consolidation);
        self
    }

    /// Steps of at least this, in whole seconds.
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = Some(interval);
        self
    }

    /// The metrics of the host as well.
    pub fn with_host(mut self) -> Self {
        self.of_host = true;
        self
    }

    /// Of the machines only the one with this UUID.
    pub fn of_vm(mut self, uuid: impl Into<String>) -> Self {
        self.vms = Which::One(uuid.into());
        self
    }

    /// Of no machine.
    pub fn without_vms(mut self) -> Self {
        self.vms = Which::None;
        self
    }

    /// The metrics of the storage with this UUID as well; since XenServer 7.0.
    pub fn with_sr(mut self, uuid: impl Into<String>) -> Self {
        self.srs = Which::One(uuid.into());
        self
    }

    /// The metrics of all storage as well; since XenServer 7.0.
    pub fn with_srs(mut self) -> Self {
        self.srs = Which::All;
        self
    }

    /// Asks this host in place of the pool's master: each one has the metrics of itself and of the
    /// machines that run on it.
    pub fn on_host(mut self, host: Ref<Host>) -> Self {
        self.host = Some(host);
        self
    }

    /// The request. Servers look at the presence of some parameters, whatever their value, and
    /// older ones know fewer values; what a server does unasked is not said.
    fn request(&self) -> HandlerRequest {
        let mut request = HandlerRequest::new("/rrd_updates")
            .with_param("start", self.start.to_string())
            .with_param("json", "true");
        if let Some(consolidation) = &self.consolidation {
            request = request.with_param("cf", consolidation.as_str());
        }
        if let Some(interval) = self.interval {
            request = request.with_param("interval", interval.as_secs().to_string());
        }
        if self.of_host {
            request = request.with_param("host", "true");
        }
        request = match &self.vms {
            Which::All => request,
            Which::None => request.with_param("vm_uuid", "none"),
            Which::One(uuid) => request.with_param("vm_uuid", uuid),
        };
        request = match &self.srs {
            Which::All => request.with_param("sr_uuid", "all"),
            Which::None => request,
            Which::One(uuid) => request.with_param("sr_uuid", uuid),
        };
        match &self.host {
            Some(host) => request.on_host(host.clone()),
            None => request,
        }
    }
}

/// What a column of values is about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// How the values of a step were made into one.
    pub consolidation: Consolidation,
    /// The class of what was measured: `vm`, `host` or `sr`.
    pub class: String,
    /// The UUID of what was measured.
    pub uuid: String,
    /// What was measured of it, such as `cpu0`, `memory_free_kib`, `vbd_xvda_read`.
    pub name: String,
}

impl Metric {
    /// Reads `AVERAGE:vm:UUID:cpu0`. What is something else is a name and nothing more.
    fn parse(entry: &str) -> Self {
        let mut parts = entry.splitn(4, ':');
        let mut next = || parts.next().unwrap_or_default();
        let (consolidation, class, uuid, name) = (next(), next(), next(), next());
        if name.is_empty() {
            return Self {
                consolidation: Consolidation::Other(String::new()),
                class: String::new(),
                uuid: String::new(),
                name: entry.to_owned(),
            };
        }
        Self {
            consolidation: Consolidation::parse(consolidation),
            class: class.to_owned(),
            uuid: uuid.to_owned(),
            name: name.to_owned(),
        }
    }
}

/// The values of all columns at one time.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RrdRow {
    /// The end of the step, in seconds since 1970 by the host's clock.
    pub time: i64,
    /// A value for each column. Where there was none it is NaN; it can be infinite as well.
    pub values: Vec<f64>,
}

/// What a host has recorded.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RrdUpdates {
    /// The time of the oldest row that was asked for, in seconds since 1970.
    pub start: i64,
    /// Seconds from row to row.
    pub step: i64,
    /// The time of the newest row; the next question starts here.
    pub end: i64,
    /// What the columns are.
    pub legend: Vec<Metric>,
    /// The rows, the newest first; each has a value for every entry of the legend.
    pub rows: Vec<RrdRow>,
}

impl RrdUpdates {
    /// Where the values of a metric are: the first column of this object with this name, whatever
    /// its consolidation.
    #[must_use]
    pub fn column(&self, uuid: &str, name: &str) -> Option<usize> {
        self.legend.iter().position(|metric| metric.uuid == uuid && metric.name == name)
    }

    /// The values of a column with their times, the newest first; none for a column that is not
    /// there.
    pub fn series(&self, column: usize) -> impl Iterator<Item = (i64, f64)> + '_ {
        self.rows.iter().filter_map(move |row| Some((row.time, *row.values.get(column)?)))
    }
}

impl Session {
    /// What a host has recorded since a time (`GET /rrd_updates`, since XenServer 5.0, role
    /// `read-only`).
    ///
    /// Asked for as JSON; the XML of servers that do not know it is understood, and so are their
    /// numbers that JSON does not have.
    ///
    /// # Errors
    /// [`Protocol`](crate::ErrorKind::Protocol) for an answer that is no such record (a server
    /// that has none for what was asked answers with status 500), and those of
    /// [`get_resource`](Self::get_resource).
    pub async fn rrd_updates(&self, query: &RrdQuery) -> Result<RrdUpdates> {
        let body = self.get_resource(&query.request()).await?.bytes(LARGEST).await?;
        decode::updates(&body).map_err(|error| error.context("GET /rrd_updates"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(query: &RrdQuery) -> Vec<String> {
        query.request().params().map(|(key, value)| format!("{key}={value}")).collect()
    }

    #[test]
    fn only_what_the_server_would_not_do_is_said() {
        assert_eq!(query(&RrdQuery::since(100)), ["start=100", "json=true"]);
        let all = RrdQuery::since(-600)
            .with_consolidation(Consolidation::Max)
            .with_interval(Duration::from_secs(60))
            .with_host()
            .without_vms()
            .with_srs();
        let expected = [
            "start=-600",
            "json=true",
            "cf=MAX",
            "interval=60",
            "host=true",
            "vm_uuid=none",
            "sr_uuid=all",
        ];
        assert_eq!(query(&all), expected);
        let one = RrdQuery::since(0).of_vm("a").with_sr("b");
        assert_eq!(query(&one)[2..], ["vm_uuid=a", "sr_uuid=b"]);
    }

    #[test]
    fn a_legend_is_read_in_four_parts() {
        let metric = Metric::parse("AVERAGE:vm:1-2-3:disk:odd");
        assert_eq!(metric.consolidation, Consolidation::Average);
        assert_eq!((&*metric.class, &*metric.uuid, &*metric.name), ("vm", "1-2-3", "disk:odd"));
        let metric = Metric::parse("MEDIAN:host:u:x");
        assert_eq!(metric.consolidation.to_string(), "MEDIAN");
        for odd in ["", "x", "AVERAGE:vm:u", "AVERAGE:vm:u:"] {
            let metric = Metric::parse(odd);
            assert_eq!((&*metric.name, &*metric.uuid), (odd, ""));
        }
    }
}
