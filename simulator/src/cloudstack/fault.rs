//! Faults that a test or `--fault NAME=ARG` switches on.

use std::str::FromStr;
use std::time::Duration;

use crate::fault::{self, Entry, ParseFaultError};

/// One misbehaviour of the double. Its text form, for `--fault`, is `NAME` or `NAME=ARG`; a
/// trailing `@TIMES` limits how often it strikes (`upload-close=4096@1`), without it the fault
/// stays until [`Faults::clear`].
///
/// ```
/// use simulator::cloudstack::Fault;
///
/// let fault: Fault = "upload-fails=503:1048576".parse().unwrap();
/// assert_eq!(fault, Fault::UploadFails { status: 503, after: 1 << 20 });
/// assert!("no-such-fault".parse::<Fault>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// `quota=BYTES`: the account's secondary storage. A registration by URL that would not fit
    /// is 535; a ticket is refused (530) when it is full already, and an upload that would not
    /// fit is 400.
    Quota(u64),
    /// `template-quota[=N]`: how many templates the account may have, none without a number.
    /// One more is 535 at `registerTemplate`, but 530 at `getUploadParamsForTemplate`.
    TemplateQuota(u64),
    /// `size-cap=BYTES`: the largest upload; more is 400 before the body.
    SizeCap(u64),
    /// `upload-unreachable`: nobody listens where tickets point to.
    UploadUnreachable,
    /// `upload-fails=STATUS[:BYTES]`: an upload is answered with this status after so many bytes
    /// of its body were read (0: before the body); the template is in error.
    UploadFails {
        /// The HTTP status of the answer, 400 to 599.
        status: u16,
        /// How many bytes of the body are taken first.
        after: u64,
    },
    /// `upload-close=BYTES`: the connection is dropped after so many bytes of an upload.
    UploadClose(u64),
    /// `ticket-ttl=SECONDS`: tickets from now on are good for so long (an hour otherwise).
    TicketTtl(Duration),
    /// `template-error[=TEXT]`: the data arrive well, and the template ends in error all the
    /// same, with this text as its status.
    TemplateError(String),
    /// `slow-template=MILLISECONDS`: a template is installed for so long after its data came.
    SlowTemplate(Duration),
    /// `stuck-template`: a template is never ready.
    StuckTemplate,
    /// `expired-key`: the API key is not accepted any more.
    ExpiredKey,
    /// `expire-after=N`: the API key is accepted for N commands from now on.
    ExpireAfter(u64),
    /// `clock-skew=SECONDS` (may be negative): the server's clock is so far ahead.
    ClockSkew(i64),
    /// `old-expires`: the time of expiry is read as before 4.11, with a `Z` before its offset.
    OldExpires,
    /// `enforce-post`: the setting `enforce.post.requests.and.timestamps` of 4.21.
    EnforcePost,
    /// `page-size=N`: the setting `default.page.size`.
    PageSize(u64),
    /// `two-zones`: there is a second zone.
    TwoZones,
    /// `refuse-loopback`: URLs to this machine are refused, as a server does by default.
    RefuseLoopback,
    /// `allowed-sites=NETWORKS`: the setting `secstorage.allowed.internal.sites`, which the account may
    /// read then: what is registered by URL is fetched from these networks only.
    AllowedSites(String),
    /// `denied=COMMAND`: the account's role is without this command.
    Denied(String),
    /// `stringly`: numbers and truth values are texts in every answer, and there is something unknown
    /// in it.
    Stringly,
    /// `no-capacity`: a machine that is deployed finds no host.
    NoCapacity,
    /// `late-effect=MILLISECONDS:COMMAND`: the connection is dropped at once instead of an answer, and
    /// the command takes effect so much later.
    LateEffect {
        /// How much later.
        after: Duration,
        /// The command.
        command: String,
    },
    /// `late-arrival=MILLISECONDS:COMMAND`: the connection is dropped at once instead of an answer, and
    /// the request arrives so much later: its signature and its time are looked at only then.
    LateArrival {
        /// How much later.
        after: Duration,
        /// The command.
        command: String,
    },
    /// `job-fails=COMMAND`: the jobs of this command fail, without effect.
    JobFails(String),
    /// `slow-job=MILLISECONDS`: jobs take so long.
    SlowJob(Duration),
    /// `fail-nth=N:COMMAND[ STATUS]`: the Nth such command from now on has no effect and is
    /// answered with STATUS, 530 unless given.
    FailNth(Nth),
    /// `drop-after-effect=[N:]COMMAND`: the Nth (first) such command takes full effect, then the
    /// connection is dropped instead of an answer.
    DropAfterEffect(Nth),
}

/// Which command a [`Fault::FailNth`] or [`Fault::DropAfterEffect`] strikes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Nth {
    /// Counts matching commands from 1.
    pub nth: u64,
    /// The command; `*` matches every command, `upload` is the upload of a template's data.
    pub command: String,
    /// The status of the answer, where there is one.
    pub status: u16,
}

impl Nth {
    /// The `nth` (from 1) such command; status 530.
    #[must_use]
    pub fn new(nth: u64, command: impl Into<String>) -> Self {
        Self { nth, command: command.into(), status: 530 }
    }

    /// Answers with this status.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    fn matches(&self, command: &str) -> bool {
        self.command == command || (self.command == "*" && command != UPLOAD)
    }
}

/// What `upload` is called where commands are counted.
pub(super) const UPLOAD: &str = "upload";

/// Name and shape of every fault, for messages and `--help`.
const SHAPES: [(&str, &str); 28] = [
    ("quota", "=BYTES"),
    ("template-quota", "[=N]"),
    ("size-cap", "=BYTES"),
    ("upload-unreachable", ""),
    ("upload-fails", "=STATUS[:BYTES]"),
    ("upload-close", "=BYTES"),
    ("ticket-ttl", "=SECONDS"),
    ("template-error", "[=TEXT]"),
    ("slow-template", "=MILLISECONDS"),
    ("stuck-template", ""),
    ("expired-key", ""),
    ("expire-after", "=N"),
    ("clock-skew", "=SECONDS"),
    ("old-expires", ""),
    ("enforce-post", ""),
    ("page-size", "=N"),
    ("two-zones", ""),
    ("refuse-loopback", ""),
    ("allowed-sites", "=NETWORKS"),
    ("denied", "=COMMAND"),
    ("stringly", ""),
    ("no-capacity", ""),
    ("late-effect", "=MILLISECONDS:COMMAND"),
    ("late-arrival", "=MILLISECONDS:COMMAND"),
    ("job-fails", "=COMMAND"),
    ("slow-job", "=MILLISECONDS"),
    ("fail-nth", "=N:COMMAND[ STATUS]"),
    ("drop-after-effect", "=[N:]COMMAND"),
];

impl Fault {
    /// The names of all faults, each with the shape of its argument (`quota=BYTES`).
    #[must_use]
    pub fn shapes() -> Vec<String> {
        fault::written(&SHAPES)
    }

    fn parse(name: &str, arg: &str) -> Option<Self> {
        let number = || arg.parse::<u64>().ok();
        Some(match name {
            "quota" => Self::Quota(number()?),
            "template-quota" if arg.is_empty() => Self::TemplateQuota(0),
            "template-quota" => Self::TemplateQuota(number()?),
            "size-cap" => Self::SizeCap(number()?),
            "upload-fails" => {
                let (status, after) = fault::status_after(arg)?;
                Self::UploadFails { status, after }
            }
            "upload-close" => Self::UploadClose(number()?),
            "ticket-ttl" => Self::TicketTtl(fault::seconds(arg)?),
            "template-error" if arg.is_empty() => {
                Self::TemplateError("Failed post download script: template is corrupted".to_owned())
            }
            "template-error" => Self::TemplateError(arg.to_owned()),
            "slow-template" => Self::SlowTemplate(Duration::from_millis(number()?)),
            "expire-after" => Self::ExpireAfter(number()?),
            "clock-skew" => Self::ClockSkew(arg.parse().ok().filter(|s: &i64| s.abs() < 1 << 32)?),
            "page-size" => Self::PageSize(number().filter(|size| *size > 0)?),
            "allowed-sites" if !arg.is_empty() => Self::AllowedSites(arg.to_owned()),
            "denied" => Self::Denied(Some(arg).filter(|arg| is_command(arg))?.to_owned()),
            "late-effect" | "late-arrival" => {
                let (after, command) = arg.split_once(':')?;
                let after = Duration::from_millis(after.parse().ok()?);
                let command = Some(command).filter(|command| is_command(command))?.to_owned();
                match name {
                    "late-effect" => Self::LateEffect { after, command },
                    _ => Self::LateArrival { after, command },
                }
            }
            "job-fails" => Self::JobFails(Some(arg).filter(|arg| is_command(arg))?.to_owned()),
            "slow-job" => Self::SlowJob(Duration::from_millis(number()?)),
            "fail-nth" => Self::FailNth(parse_nth(arg).filter(|_| arg.contains(':'))?),
            "drop-after-effect" => Self::DropAfterEffect(parse_nth(arg)?),
            _ if !arg.is_empty() => return None,
            "upload-unreachable" => Self::UploadUnreachable,
            "stuck-template" => Self::StuckTemplate,
            "expired-key" => Self::ExpiredKey,
            "old-expires" => Self::OldExpires,
            "enforce-post" => Self::EnforcePost,
            "two-zones" => Self::TwoZones,
            "stringly" => Self::Stringly,
            "no-capacity" => Self::NoCapacity,
            "refuse-loopback" => Self::RefuseLoopback,
            _ => return None,
        })
    }
}

impl FromStr for Fault {
    type Err = ParseFaultError;

    fn from_str(text: &str) -> Result<Self, ParseFaultError> {
        fault::parse(text, &SHAPES, Self::parse)
    }
}

/// Commands are words of letters; what other servers call a method has dots or slashes.
fn is_command(text: &str) -> bool {
    text == "*" || (text.len() > 3 && text.chars().all(|c| c.is_ascii_alphanumeric()))
}

/// `[N:]COMMAND[ STATUS]`.
fn parse_nth(arg: &str) -> Option<Nth> {
    let mut words = arg.split_whitespace();
    let (nth, command) = fault::nth(words.next()?)?;
    let mut parsed = Nth::new(nth, Some(command).filter(|command| is_command(command))?);
    if let Some(status) = words.next() {
        parsed.status = fault::status(status)?;
    }
    words.next().is_none().then_some(parsed)
}

/// The faults of one [`CloudStack`](super::CloudStack) double; clones share one set.
pub type Faults = fault::Faults<Fault>;

/// What the counting faults do to one command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Struck {
    pub(super) fails: Option<u16>,
    pub(super) drops: bool,
    pub(super) key_expired: bool,
}

impl Faults {
    /// Counts a command (or an upload) and says what hits it.
    pub(super) fn count(&self, command: &str) -> Struck {
        let mut struck = Struck::default();
        for Entry { fault, times } in self.lock().iter_mut() {
            match fault {
                Fault::ExpireAfter(commands) if command != UPLOAD => {
                    struck.key_expired |= times.count() > *commands;
                }
                Fault::FailNth(nth) if nth.matches(command) => {
                    struck.fails = times.count_to(nth.nth).then_some(nth.status).or(struck.fails);
                }
                Fault::DropAfterEffect(nth) if nth.matches(command) => {
                    struck.drops |= times.count_to(nth.nth);
                }
                _ => {}
            }
        }
        struck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_parses_with_a_fitting_argument() {
        for (name, shape) in SHAPES {
            let text = match shape {
                "" | "[=N]" | "[=TEXT]" => name.to_owned(),
                "=STATUS[:BYTES]" => format!("{name}=503:7"),
                "=COMMAND" => format!("{name}=createTags"),
                "=NETWORKS" => format!("{name}=10.0.0.0/8"),
                s if s.contains("COMMAND") => format!("{name}=2:registerTemplate"),
                _ => format!("{name}=7"),
            };
            text.parse::<Fault>().unwrap_or_else(|e| panic!("{e}"));
        }
    }

    #[test]
    fn wrong_arguments_are_refused_with_the_right_shape() {
        for text in [
            "quota=x",
            "quota",
            "upload-fails=200",
            "fail-nth=0:listZones",
            "fail-nth=listZones",
            "fail-nth=1:VM.snapshot",
            "drop-after-effect=PUT /v2/images",
            "two-zones=1",
            "page-size=0",
        ] {
            let said = text.parse::<Fault>().unwrap_err().to_string();
            assert!(said.contains("written"), "{said}");
        }
        assert!("x".parse::<Fault>().unwrap_err().to_string().contains("slow-template="));
    }

    #[test]
    fn commands_are_counted() {
        let faults = Faults::default();
        faults.set_str("fail-nth=2:listZones 503").unwrap();
        faults.set_str("drop-after-effect=upload").unwrap();
        faults.set_str("expire-after=3").unwrap();
        let none = Struck::default();
        assert_eq!(faults.count("listZones"), none);
        assert_eq!(faults.count("listTemplates"), none);
        assert_eq!(faults.count("listZones"), Struck { fails: Some(503), ..none });
        assert_eq!(faults.count("upload"), Struck { drops: true, ..none });
        assert_eq!(faults.count("upload"), none);
        assert_eq!(faults.count("listZones"), Struck { key_expired: true, ..none });
    }

    #[test]
    fn a_fault_set_for_some_times_is_used_up() {
        let faults = Faults::default();
        faults.set_str("stuck-template@1").unwrap();
        assert!(faults.strikes(&Fault::StuckTemplate));
        assert!(!faults.strikes(&Fault::StuckTemplate));
    }
}
