//! The expectations of `glance-client`, put before a real Keystone and Glance.

use std::path::Path;
use std::time::Duration;

use super::report::Entry;
use super::{Context, Stop, Verdict, ensure};
use crate::process::{self, Result};
use crate::tools;

/// All of them: what the simulator meets in `cargo test`, the real servers meet as well.
pub(crate) fn whole(context: &Context<'_>, folder: &Path, entry: &mut Entry) -> Verdict {
    let passed = run(context, folder, entry, "real_cloud")?;
    ensure(passed >= 30, || format!("only {passed} tests ran, where there are more"))?;
    Ok(())
}

/// The one for tokens that end while they are needed, with tokens of two seconds.
pub(crate) fn short_tokens(context: &Context<'_>, folder: &Path, entry: &mut Entry) -> Verdict {
    let cloud = context.cloud()?;
    if !cloud.is_ours() {
        let why = "the servers ran before, so they are not restarted with other tokens";
        return Err(Stop::Skip(why.to_owned()));
    }
    cloud.restart(&[("OS_TOKEN_TTL", "2")])?;
    let verdict = run(context, folder, entry, "real_cloud::an_expired_token_is_replaced");
    // The scenarios that follow want tokens that live.
    cloud.restart(&[])?;
    let passed = verdict?;
    ensure(passed == 1, || format!("{passed} tests ran instead of one"))?;
    Ok(())
}

/// Runs the tests whose name contains `filter`; how many passed.
fn run(
    context: &Context<'_>,
    folder: &Path,
    entry: &mut Entry,
    filter: &str,
) -> std::result::Result<u64, Stop> {
    let cloud = context.cloud()?;
    let mut command = tools::cargo("test");
    command.args(["--locked", "-p", "glance-client", "--test", "conformance", "--"]);
    command.args(["--nocapture", "--test-threads", "1", filter]);
    cloud.environment().apply(&mut command);
    command.env("MIGRATE_E2E_OPENSTACK", "1");
    let log = folder.join("conformance.log");
    let finished = process::run(&mut command, &log, Duration::from_secs(1800))?;
    if !finished.status.success() {
        return Err(Stop::Fail(format!(
            "{}: {}",
            failures(&finished.stdout),
            finished.complaint()
        )));
    }
    let passed = count(&finished.stdout)?;
    let said = std::fs::read_to_string(&finished.stderr).unwrap_or_default();
    let skipped: Vec<&str> = said.lines().filter(|line| line.starts_with("skipped: ")).collect();
    entry.figure("passed", passed - skipped.len() as u64);
    entry.figure("skipped", skipped);
    Ok(passed)
}

/// The number in libtest's last line.
fn count(stdout: &str) -> Result<u64> {
    let line = stdout.lines().rev().find(|line| line.starts_with("test result: "));
    let number = line.and_then(|line| line.split(". ").nth(1)?.split(' ').next()?.parse().ok());
    number.ok_or_else(|| "the tests have not told how many of them passed".to_owned())
}

/// The names of the tests that failed.
fn failures(stdout: &str) -> String {
    let list = stdout.rsplit("failures:").next().unwrap_or_default();
    let names: Vec<&str> =
        list.lines().map(str::trim).filter(|line| line.starts_with("real_cloud::")).collect();
    if names.is_empty() { "the tests failed".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::{count, failures};

    #[test]
    fn the_words_of_libtest() {
        let good =
            "running 2 tests\ntest a ... ok\n\ntest result: ok. 2 passed; 0 failed; 0 ignored\n\n";
        assert_eq!(count(good), Ok(2));
        assert!(count("error: could not compile").is_err());
        let bad = "failures:\n\n---- x ----\n\nfailures:\n    real_cloud::a\n    real_cloud::b\n\ntest result: FAILED. 0 passed";
        assert_eq!(failures(bad), "real_cloud::a, real_cloud::b");
        assert_eq!(failures(""), "the tests failed");
    }
}
