//! The tests of `glance-client` for every cloud, run against the real Keystone and Glance.

use std::path::Path;
use std::time::Duration;

use super::report::Entry;
use super::{Context, Stop, Verdict, ensure};
use crate::process;
use crate::tools;

/// All of them, with tokens that live for an hour.
pub(crate) fn all(context: &Context<'_>, folder: &Path, entry: &mut Entry) -> Verdict {
    let clouds = context.cloud()?.clouds();
    tests(&clouds, folder, entry, &["conformance", "identity"], "")
}

/// Those that see tokens end, with tokens of two seconds, and those that see a cap, with one of 4 MiB.
pub(crate) fn narrow(context: &Context<'_>, folder: &Path, entry: &mut Entry) -> Verdict {
    let cloud = context.cloud()?;
    if !cloud.is_ours() {
        let why = "the servers ran before, so they are not restarted with other settings";
        return Err(Stop::Skip(why.to_owned()));
    }
    cloud.restart(&[("OS_TOKEN_TTL", "2"), ("GLANCE_SIZE_CAP", "4194304")])?;
    let clouds = cloud.clouds();
    let tested = tests(&clouds, folder, entry, &["conformance"], "real_cloud::an_expired")
        .and_then(|()| tests(&clouds, folder, entry, &["conformance"], "real_cloud::a_size_over"))
        .and_then(|()| tests(&clouds, folder, entry, &["identity"], "real_cloud::a_polling"));
    // The scenarios that follow want the usual one.
    cloud.restart(&[])?;
    tested
}

/// Runs the tests of these files whose name begins with `filter`, or all for the real cloud.
fn tests(clouds: &Path, folder: &Path, entry: &mut Entry, files: &[&str], filter: &str) -> Verdict {
    let mut cargo = tools::cargo("test");
    cargo.args(["--locked", "-p", "glance-client", "--no-fail-fast"]);
    for file in files {
        cargo.args(["--test", file]);
    }
    cargo.args(["--", "--nocapture"]);
    cargo.arg(if filter.is_empty() { "real_cloud" } else { filter });
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OS_") {
            cargo.env_remove(&name);
        }
    }
    cargo.env("OS_CLIENT_CONFIG_FILE", clouds).env("OS_CLOUD", "demo");
    cargo.env("MIGRATE_E2E_OPENSTACK", "1");
    let log = folder.join(format!("{}.log", files.join("-")));
    let done = process::run(&mut cargo, &log, Duration::from_secs(1800))?;
    // A test that the cloud cannot serve says so and passes: that must be seen.
    let said = std::fs::read_to_string(&log).unwrap_or_default() + &done.stdout;
    for line in said.lines().filter_map(|line| line.trim().strip_prefix("skipped: ")) {
        entry.skip("conformance", line);
    }
    let passed: u64 = done.stdout.lines().filter_map(passed).sum();
    let what = if filter.is_empty() { "tests" } else { filter };
    entry.figure(what, passed);
    done.success()?;
    Ok(ensure(passed > 0, || format!("no test is called {filter:?}"))?)
}

/// The number in `test result: ok. 12 passed; …`.
fn passed(line: &str) -> Option<u64> {
    let (before, _) = line.trim().strip_prefix("test result: ")?.split_once(" passed")?;
    before.rsplit(' ').next()?.parse().ok()
}
