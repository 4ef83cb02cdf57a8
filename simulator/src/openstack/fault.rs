//! Faults that a test or `--fault NAME=ARG` switches on.

use std::str::FromStr;
use std::time::Duration;

use crate::fault::{self, Entry, ParseFaultError};

/// One misbehaviour of the double. Its text form, for `--fault`, is `NAME` or `NAME=ARG`; a
/// trailing `@TIMES` limits how often it strikes (`upload-close=4096@1`), without it the fault
/// stays until [`Faults::clear`].
///
/// ```
/// use simulator::openstack::Fault;
///
/// let fault: Fault = "upload-fails=503:1048576".parse().unwrap();
/// assert_eq!(fault, Fault::UploadFails { status: 503, after: 1 << 20 });
/// assert!("no-such-fault".parse::<Fault>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// `token-ttl=SECONDS` (a fraction is allowed): tokens issued from now on live so long.
    TokenTtl(Duration),
    /// `expire-after=N`: a token is good for N image requests, then it is 401.
    ExpireAfter(u64),
    /// `quota=BYTES`: what the images of the project may hold together; more is 413.
    Quota(u64),
    /// `size-cap=BYTES`: the largest image; more is 413, at once where the size is declared.
    SizeCap(u64),
    /// `upload-fails=STATUS[:BYTES]`: an upload is answered with this status after so many bytes
    /// of its body were read (0: before the body); the image returns to `queued`.
    UploadFails {
        /// The HTTP status of the answer, 400 to 599.
        status: u16,
        /// How many bytes of the body are taken first.
        after: u64,
    },
    /// `image-killed`: the upload is answered with 204, and the image is `killed`.
    ImageKilled,
    /// `image-back-to-queued`: the upload is answered with 204, and the image is `queued` again,
    /// with the checksums of the lost data still shown.
    ImageBackToQueued,
    /// `hash-mismatch`: the digests that the image shows are not those of the data.
    HashMismatch,
    /// `slow-activate=MILLISECONDS`: after the upload the image stays `saving` so long.
    SlowActivate(Duration),
    /// `stuck-saving`: after the upload the image stays `saving` for ever.
    StuckSaving,
    /// `upload-close=BYTES`: the server drops the connection after so many bytes of the body.
    UploadClose(u64),
    /// `create-500-after-store`: a create stores the image and is answered with 500.
    Create500AfterStore,
    /// `fail-nth=N:METHOD PATHPREFIX[ STATUS]`: the Nth matching request from now on has no
    /// effect and is answered with STATUS, 500 unless given. The prefix may be given with or
    /// without the service's mount (`/image/v2/images` or `/v2/images`).
    FailNth(Nth),
    /// `drop-after-effect[=[N:]METHOD PATHPREFIX]`: the Nth (first) matching request takes full
    /// effect, then the connection is dropped instead of an answer. Without an argument it is
    /// the first image request that changes anything.
    DropAfterEffect(Nth),
    /// `two-regions`: the catalogue lists a second region, with an image service of its own.
    TwoRegions,
    /// `no-image-endpoint`: the catalogue has no image service.
    NoImageEndpoint,
    /// `catalogue-v2-suffix`: the image endpoint ends in `/v2`, as some clouds have it.
    CatalogueV2Suffix,
    /// `catalogue-slash`: the image endpoint ends in a slash, as some clouds have it.
    CatalogueSlash,
    /// `sha256-multihash`: `os_hash_algo` is `sha256`.
    Sha256Multihash,
    /// `no-checksum`: `checksum` stays null, as on a server in FIPS mode.
    NoChecksum,
    /// `no-size-header`: `x-openstack-image-size` is ignored, as before 2025.2.
    NoSizeHeader,
    /// `no-format-check`: bare images are not inspected, as before 2025.
    NoFormatCheck,
    /// `no-import`: the cloud takes uploads only.
    NoImport,
    /// `one-store`: the cloud tells of no stores, and registers no locations.
    OneStore,
    /// `import-fails`: an import gets no data, and its task says no more than that it failed.
    ImportFails,
    /// `store-fails=STORE`: an import fails in this store, and all of it unless it may be partial.
    StoreFails(String),
    /// `slow-import=MILLISECONDS`: an import takes so long.
    SlowImport(Duration),
    /// `stuck-import`: an import never ends, and never moves.
    StuckImport,
    /// `refuse-loopback`: URLs to this machine are refused, as a server does by default.
    RefuseLoopback,
    /// `no-image-tasks`: the tasks of an image are not shown, as before 2020.3.
    NoImageTasks,
    /// `download-close=BYTES`: the server drops the connection after so many bytes of a download.
    DownloadClose(u64),
    /// `no-range`: a range is ignored, and all of the data come.
    NoRange,
}

/// Which request a [`Fault::FailNth`] or [`Fault::DropAfterEffect`] strikes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Nth {
    /// Counts matching requests from 1.
    pub nth: u64,
    /// The method, upper case; `*` matches every method that changes something.
    pub method: String,
    /// What the path starts with.
    pub prefix: String,
    /// The status of the answer, where there is one.
    pub status: u16,
}

impl Nth {
    /// The `nth` (from 1) request with this method whose path starts with `prefix`; status 500.
    #[must_use]
    pub fn new(nth: u64, method: &str, prefix: &str) -> Self {
        Self { nth, method: method.to_ascii_uppercase(), prefix: prefix.to_owned(), status: 500 }
    }

    /// Answers with this status.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    fn matches(&self, method: &str, path: &str) -> bool {
        let method_fits = match self.method.as_str() {
            "*" => !matches!(method, "GET" | "HEAD"),
            given => given == method,
        };
        let inner = path.get(1..).and_then(|rest| rest.find('/').map(|at| &rest[at..]));
        method_fits
            && (path.starts_with(&self.prefix)
                || inner.is_some_and(|inner| inner.starts_with(&self.prefix)))
    }
}

/// Name and shape of every fault, for messages and `--help`.
const SHAPES: [(&str, &str); 32] = [
    ("token-ttl", "=SECONDS"),
    ("expire-after", "=REQUESTS"),
    ("quota", "=BYTES"),
    ("size-cap", "=BYTES"),
    ("upload-fails", "=STATUS[:BYTES]"),
    ("image-killed", ""),
    ("image-back-to-queued", ""),
    ("hash-mismatch", ""),
    ("slow-activate", "=MILLISECONDS"),
    ("stuck-saving", ""),
    ("upload-close", "=BYTES"),
    ("create-500-after-store", ""),
    ("fail-nth", "=N:METHOD PATHPREFIX[ STATUS]"),
    ("drop-after-effect", "[=[N:]METHOD PATHPREFIX]"),
    ("two-regions", ""),
    ("no-image-endpoint", ""),
    ("catalogue-v2-suffix", ""),
    ("catalogue-slash", ""),
    ("sha256-multihash", ""),
    ("no-checksum", ""),
    ("no-size-header", ""),
    ("no-format-check", ""),
    ("no-import", ""),
    ("one-store", ""),
    ("import-fails", ""),
    ("store-fails", "=STORE"),
    ("slow-import", "=MILLISECONDS"),
    ("stuck-import", ""),
    ("refuse-loopback", ""),
    ("no-image-tasks", ""),
    ("download-close", "=BYTES"),
    ("no-range", ""),
];

impl Fault {
    /// The names of all faults, each with the shape of its argument (`quota=BYTES`).
    #[must_use]
    pub fn shapes() -> Vec<String> {
        fault::written(&SHAPES)
    }

    /// True when `text` (`NAME` or `NAME=ARG`) names a fault of this double, however wrong its
    /// argument is: a program with several doubles sends the text to the right one.
    #[must_use]
    pub fn knows(text: &str) -> bool {
        let name = text.split(['=', '@']).next().unwrap_or_default();
        SHAPES.iter().any(|(known, _)| *known == name)
    }

    fn parse(name: &str, arg: &str) -> Option<Self> {
        let number = || arg.parse::<u64>().ok();
        Some(match name {
            "token-ttl" => Self::TokenTtl(fault::seconds(arg)?),
            "expire-after" => Self::ExpireAfter(number()?),
            "quota" => Self::Quota(number()?),
            "size-cap" => Self::SizeCap(number()?),
            "upload-fails" => {
                let (status, after) = fault::status_after(arg)?;
                Self::UploadFails { status, after }
            }
            "slow-activate" => Self::SlowActivate(Duration::from_millis(number()?)),
            "upload-close" => Self::UploadClose(number()?),
            "slow-import" => Self::SlowImport(Duration::from_millis(number()?)),
            "download-close" => Self::DownloadClose(number()?),
            "store-fails" if !arg.is_empty() => Self::StoreFails(arg.to_owned()),
            "fail-nth" => Self::FailNth(parse_nth(arg)?),
            "drop-after-effect" if arg.is_empty() => {
                Self::DropAfterEffect(Nth::new(1, "*", "/v2/images"))
            }
            "drop-after-effect" => Self::DropAfterEffect(parse_nth(arg)?),
            _ if !arg.is_empty() => return None,
            "image-killed" => Self::ImageKilled,
            "image-back-to-queued" => Self::ImageBackToQueued,
            "hash-mismatch" => Self::HashMismatch,
            "stuck-saving" => Self::StuckSaving,
            "create-500-after-store" => Self::Create500AfterStore,
            "two-regions" => Self::TwoRegions,
            "no-image-endpoint" => Self::NoImageEndpoint,
            "catalogue-v2-suffix" => Self::CatalogueV2Suffix,
            "catalogue-slash" => Self::CatalogueSlash,
            "sha256-multihash" => Self::Sha256Multihash,
            "no-checksum" => Self::NoChecksum,
            "no-size-header" => Self::NoSizeHeader,
            "no-format-check" => Self::NoFormatCheck,
            "no-import" => Self::NoImport,
            "one-store" => Self::OneStore,
            "import-fails" => Self::ImportFails,
            "stuck-import" => Self::StuckImport,
            "refuse-loopback" => Self::RefuseLoopback,
            "no-image-tasks" => Self::NoImageTasks,
            "no-range" => Self::NoRange,
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

/// `[N:]METHOD PATHPREFIX[ STATUS]`.
fn parse_nth(arg: &str) -> Option<Nth> {
    let mut words = arg.split_whitespace();
    let (nth, method) = fault::nth(words.next()?)?;
    let prefix = words.next().filter(|prefix| prefix.starts_with('/'))?;
    let mut parsed = Nth::new(nth, method, prefix);
    if let Some(status) = words.next() {
        parsed.status = fault::status(status)?;
    }
    (words.next().is_none() && !method.is_empty()).then_some(parsed)
}

/// The faults of one [`OpenStack`](super::OpenStack) double; clones share one set.
pub type Faults = fault::Faults<Fault>;

impl Faults {
    /// Counts a request against the `Nth` faults and says what has been hit: the status of a
    /// failure, and whether the connection is to be dropped after the effect.
    pub(super) fn count(&self, method: &str, path: &str) -> (Option<u16>, bool) {
        let (mut fails, mut drops) = (None, false);
        for Entry { fault, times } in self.lock().iter_mut() {
            match fault {
                Fault::FailNth(nth) if nth.matches(method, path) => {
                    fails = times.count_to(nth.nth).then_some(nth.status).or(fails);
                }
                Fault::DropAfterEffect(nth) if nth.matches(method, path) => {
                    drops |= times.count_to(nth.nth);
                }
                _ => {}
            }
        }
        (fails, drops)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_parses_with_a_fitting_argument() {
        for (name, shape) in SHAPES {
            let text = match shape {
                "" => name.to_owned(),
                "=STATUS[:BYTES]" => format!("{name}=503:7"),
                s if s.contains("METHOD") => format!("{name}=2:PUT /v2/images"),
                _ => format!("{name}=7"),
            };
            assert!(Fault::knows(&text), "{text}");
            text.parse::<Fault>().unwrap_or_else(|e| panic!("{e}"));
        }
    }

    #[test]
    fn wrong_arguments_are_refused_with_the_right_shape() {
        for text in ["quota=x", "quota", "upload-fails=200", "fail-nth=0:GET /", "image-killed=1"] {
            let said = text.parse::<Fault>().unwrap_err().to_string();
            assert!(said.contains("written"), "{said}");
        }
        assert!("x".parse::<Fault>().unwrap_err().to_string().contains("slow-activate="));
    }

    #[test]
    fn a_fault_set_for_some_times_is_used_up() {
        let faults = Faults::default();
        faults.set_str("image-killed@2").unwrap();
        assert!(faults.strikes(&Fault::ImageKilled));
        assert!(faults.strikes(&Fault::ImageKilled));
        assert!(!faults.strikes(&Fault::ImageKilled));
    }

    #[test]
    fn the_nth_match_is_hit_once_with_and_without_the_mount() {
        let faults = Faults::default();
        faults.set_str("fail-nth=2:GET /v2/images 503").unwrap();
        assert_eq!(faults.count("GET", "/image/v2/images"), (None, false));
        assert_eq!(faults.count("PUT", "/image/v2/images"), (None, false));
        assert_eq!(faults.count("GET", "/image/v2/images/1"), (Some(503), false));
        assert_eq!(faults.count("GET", "/image/v2/images"), (None, false));
        faults.set_str("drop-after-effect=POST /identity/v3").unwrap();
        assert_eq!(faults.count("POST", "/identity/v3/auth/tokens"), (None, true));
        assert_eq!(faults.count("POST", "/identity/v3/auth/tokens"), (None, false));
    }
}
