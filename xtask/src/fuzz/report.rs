//! What the runs were like, as a table, as JSON, and what to do about what was found.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::run::Outcome;

pub(super) fn table(outcomes: &[Outcome]) -> String {
    let mut text = format!(
        "\n{:12} {:>6} {:>11} {:>8} {:>13} {:>9}  findings\n",
        "target", "CPU", "executions", "exec/s", "corpus", "peak RSS"
    );
    for o in outcomes {
        let corpus = format!("{} -> {}", o.seeds, o.corpus);
        let findings = match &o.failure {
            Some(failure) => failure.as_str(),
            None if o.artifacts.is_empty() => "-",
            None => "slow inputs",
        };
        let _ = writeln!(
            text,
            "{:12} {:>4} s {:>11} {:>8} {corpus:>13} {:>5} MiB  {findings}",
            o.target, o.cpu_seconds, o.executions, o.per_second, o.peak_rss_mib
        );
    }
    text
}

pub(super) fn json(outcomes: &[Outcome]) -> Value {
    json!({ "targets": outcomes })
}

/// What to do about the findings; empty if there are none.
pub(super) fn advice(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for o in outcomes {
        let Some(failure) = &o.failure else { continue };
        let _ = writeln!(text, "\nFAILED {}: {failure}", o.target);
        for artifact in &o.artifacts {
            let _ = writeln!(
                text,
                "  the input is kept: {artifact}\n  \
                 to see it again:   mkdir -p vmimage/fuzz/regressions/{0} && \
                 cp {artifact} vmimage/fuzz/regressions/{0}/ && \
                 cargo test -p vmimage --test fuzz_regressions\n  \
                 Mend the code, give the copy a name that says what was wrong, commit both.",
                o.target
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failure_asks_for_something() {
        let fine = Outcome { target: "xva".into(), ..Outcome::default() };
        assert_eq!(advice(std::slice::from_ref(&fine)), "");
        let bad = Outcome {
            failure: Some("panic at a.rs".into()),
            artifacts: vec!["vmimage/fuzz/artifacts/xva/crash-1".into()],
            ..fine
        };
        let text = advice(std::slice::from_ref(&bad));
        assert!(text.contains("panic at a.rs") && text.contains("regressions/xva/"), "{text}");
        assert!(table(&[bad]).contains("panic at a.rs"));
    }
}
