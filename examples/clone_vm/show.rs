//! What the user sees: progress on a terminal, the plan, the result.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use examples::plain;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use migrate_core::{Error, ErrorKind, Event, Leftover, MigrationPlan, Report, Result, RunId};
use serde_json::json;

/// A bar on standard error, if that is a terminal.
#[derive(Clone)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub(crate) fn new() -> Self {
        let bar = if io::stderr().is_terminal() {
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
        } else {
            ProgressBar::hidden()
        };
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    /// What to give to the run.
    pub(crate) fn observer(&self) -> impl Fn(&Event<'_>) + Send + Sync + 'static {
        let bar = self.0.clone();
        move |event| match event {
            Event::StepStarted { step, .. } => style(&bar, step, None),
            Event::UndoStarted { step, .. } => style(&bar, &format!("undo {step}"), None),
            Event::Progress { done, total, .. } => {
                if bar.length() != *total {
                    style(&bar, &bar.message(), *total);
                }
                bar.set_position(*done);
            }
            Event::StepFinished { step, elapsed, .. } => {
                bar.println(format!("{step:<20} {:>8.1} s", elapsed.as_secs_f64()));
            }
            _ => {}
        }
    }

    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

/// Bytes if there are many, a plain count otherwise, a spinner if the end is not known.
fn style(bar: &ProgressBar, message: &str, total: Option<u64>) {
    let template = match total {
        None => "{spinner} {msg:<20} {elapsed}",
        Some(..=100) => "{msg:<20} {wide_bar} {percent:>3} %",
        Some(_) => "{msg:<20} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.reset();
    match total {
        Some(total) => bar.set_length(total),
        None => bar.unset_length(),
    }
    bar.set_message(message.to_owned());
}

/// The result, for people or for programs.
pub(crate) fn report(report: &Report, json: bool) -> Result<()> {
    let mut text = String::new();
    if json {
        text = line(report)?;
    } else {
        text += &format!("run {}: {} to {}\n", report.run_id, plain(&report.vm), report.target);
        for image in &report.images {
            text += &format!("\nimage         {}  {}\n", plain(&image.id), plain(&image.name));
            text += &format!("  format      {}\n", image.format);
            text += &format!("  bytes       {}\n", image.bytes);
            text += &format!("  md5         {}\n", image.md5);
            text += &format!("  sha256      {}\n", image.sha256);
            text += &format!("  sha512      {}\n", image.sha512);
            text += &format!("  content     {}\n", image.content_root);
        }
        text += "\nstep             seconds\n";
        for step in &report.steps {
            text += &format!("{:<14} {:>9.3}\n", step.name, step.seconds);
        }
    }
    print(&text)
}

/// The plan, for people or for programs.
pub(crate) fn plan(plan: &MigrationPlan, json: bool) -> Result<()> {
    let mut text = String::new();
    if json {
        text = line(plan)?;
    } else {
        let name = plain(&plan.machine.name);
        text += &format!("{name} ({}) to {}\n", plan.builder, plan.target);
        for image in &plan.images {
            text += &format!(
                "  {} {}: disk of {}, about {} to move\n",
                image.format,
                plain(&image.name),
                size(image.virtual_size),
                size(image.bytes)
            );
        }
        for finding in &plan.findings {
            text += &format!("  {}\n", plain(&finding.to_string()));
        }
    }
    print(&text)
}

/// That a run is undone.
pub(crate) fn undone(json: bool) -> Result<()> {
    if json {
        return print(&line(&json!({"undone": true}))?);
    }
    print("the run is undone: nothing of it is left\n")
}

/// What a sweep removed.
pub(crate) fn removed(run_id: RunId, removed: &[Leftover], json: bool) -> Result<()> {
    if json {
        return print(&line(&json!({"run_id": run_id, "removed": removed}))?);
    }
    let mut text = String::new();
    for leftover in removed {
        text += &format!("removed: {}\n", plain(&leftover.to_string()));
    }
    if removed.is_empty() {
        text += "nothing of the run is left\n";
    }
    print(&text)
}

fn size(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{bytes} B"),
        0x10_0000..0x4000_0000 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

fn line(value: &impl serde::Serialize) -> Result<String> {
    let mut text = serde_json::to_string(value)
        .map_err(|e| Error::new(ErrorKind::Internal, "the result is not JSON").with_source(e))?;
    text.push('\n');
    Ok(text)
}

/// A reader that has gone away is no failure of the run.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Error::new(
            ErrorKind::Internal,
            format!("the result cannot be written to standard output: {e}"),
        )),
        _ => Ok(()),
    }
}

/// A line for people, on standard error. If nobody is there to read it, nothing else changes.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
