//! The servers as a program: prints one line when they are ready, runs until it is told to end.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use simulator::{Simulator, cloudstack, openstack, xen};
use tokio::signal::unix::{SignalKind, signal};

/// Doubles of a XenServer pool, CloudStack and OpenStack (Keystone and Glance) on 127.0.0.1.
///
/// When the servers are ready, one JSON line on stdout says how to reach them. They run until
/// SIGTERM or SIGINT.
#[derive(Debug, Parser)]
#[command(version, after_help = faults())]
struct Args {
    /// Port of the XenServer pool's master; 0 picks a free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    xen_port: u16,
    /// Port of CloudStack's API; 0 picks a free one, and the upload server always does
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    cloudstack_port: u16,
    /// Port of Keystone and Glance; 0 picks a free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    openstack_port: u16,
    /// A running VM of this name with this disk image (raw, qcow2, VHD with its chain); a
    /// repeated NAME adds a disk. Without any, the pool has a small VM of its own, web01
    #[arg(long, value_name = "NAME=FILE", value_parser = disk)]
    disk: Vec<(String, PathBuf)>,
    /// What runs in the VMs
    #[arg(long, value_enum, default_value_t = Guest::Fake)]
    guest: Guest,
    /// Serve XenServer over http in place of https
    #[arg(long)]
    xen_plain: bool,
    /// Add a second host to the pool, with a port and a certificate of its own
    #[arg(long)]
    second_host: bool,
    /// Switch a fault on (repeatable); see below. A name that both clouds know is on at both,
    /// unless it is written cloudstack:NAME or openstack:NAME
    #[arg(long, value_name = "NAME[=ARG]")]
    fault: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Guest {
    /// A guest that only has disks and a heartbeat
    Fake,
    /// A real guest under QEMU (not built yet)
    Qemu,
}

const FAULTS: &str = "\
Faults of XenServer:
  session-invalid=N          the N-th call finds its session gone, once
  fail-nth=N:METHOD          the N-th call of METHOD (* for any) fails, once
  task-fails=METHOD          tasks of Async.METHOD fail, without effect
  drop-after-effect=METHOD   the next call of METHOD takes effect, its answer is lost
  drop-before-effect=METHOD  the connection closes at the next call of METHOD
  slow-task=MS               asynchronous calls take this long
  login-delay=MS             a wrong password is answered after this time
  sr-full, chain-too-long    snapshots fail
  export-truncate=BYTES      exports end early, the task fails
  export-500-in-body=BYTES   a second response follows in the body, the task fails
  export-task-fails          exports are whole, their task fails
  export-unclean-close       TLS ends without close_notify
  host-gone=BYTES            the connection is reset in an export and all ports close
  slow-export=BYTES_PER_SEC  exports are paced
  slow-unplug=MS             a VDI stays in use after its export
  console-limit              consoles answer 503
  console-eof=N              the next N consoles end at once
  console-reboot=N           the guest reboots with the N-th change of a key
  console-absurd=KIND        screens draw outside, huge, resize, encoding, copy
  console-raw-frames         WebSocket frames as the server's own proxy takes and makes them
  redirect                   raw handlers redirect to the second host
  no-json                    /jsonrpc answers in XML
  old-arity                  parameters that later releases added are refused
  bare-array-error, nan-floats, duplicate-keys, unknown-enum   strange answers
";

fn faults() -> String {
    let listed = |server: &str, shapes: Vec<String>| {
        shapes
            .iter()
            .fold(format!("Faults of {server}:\n"), |text, shape| format!("{text}  {shape}\n"))
    };
    let cloudstack = listed("CloudStack", cloudstack::Fault::shapes());
    format!("{FAULTS}{cloudstack}{}", listed("OpenStack", openstack::Fault::shapes()))
}

fn disk(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, file)) if !name.is_empty() && !file.is_empty() => {
            Ok((name.to_owned(), PathBuf::from(file)))
        }
        _ => Err("expected NAME=FILE".to_owned()),
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(args)),
        Err(error) => Err(error.to_string()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("simulator: {}", text.replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), String> {
    if args.guest == Guest::Qemu {
        return Err("--guest qemu is not built yet; use --guest fake".to_owned());
    }
    // Before the ready line, so that whoever reads it may already send a signal.
    let listen = |kind| signal(kind).map_err(|e| format!("cannot listen for signals: {e}"));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;

    let xen_faults = xen::Faults::default();
    let mut others = Vec::new();
    for text in args.fault {
        if let Err(error) = xen_faults.set_str(&text) {
            others.push((text, error));
        }
    }
    let second_host = args.second_host || xen_faults.wants_second_host();
    let mut builder = Simulator::builder()
        .xen_port(args.xen_port)
        .cloudstack_port(args.cloudstack_port)
        .openstack_port(args.openstack_port)
        .xen_plain(args.xen_plain)
        .second_host(second_host)
        .xen_faults(&xen_faults);
    for (name, file) in args.disk {
        builder = builder.disk(name, file);
    }
    let simulator = builder.start().await.map_err(|e| e.to_string())?;
    set_cloud_faults(&simulator, others)?;

    let ready = serde_json::to_string(simulator.ready()).map_err(|e| e.to_string())?;
    // Nobody may be reading any more; the servers run all the same.
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "{ready}").and_then(|()| stdout.flush());

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    simulator.stop().await;
    Ok(())
}

/// What XenServer does not know is the clouds'; if neither knows it, all say why.
fn set_cloud_faults(simulator: &Simulator, texts: Vec<(String, String)>) -> Result<(), String> {
    let cloudstack = |text: &str| {
        simulator.cloudstack().faults().set_str(text).map_err(|e| format!("CloudStack: {e}"))
    };
    let openstack = |text: &str| {
        simulator.openstack().faults().set_str(text).map_err(|e| format!("OpenStack: {e}"))
    };
    for (text, xen) in texts {
        let set = match text.split_once(':') {
            Some(("cloudstack", fault)) => cloudstack(fault),
            Some(("openstack", fault)) => openstack(fault),
            _ => match (cloudstack(&text), openstack(&text)) {
                (Err(one), Err(other)) => Err(format!("XenServer: {xen}; {one}; {other}")),
                _ => Ok(()),
            },
        };
        set.map_err(|why| format!("--fault {text}: {why}"))?;
    }
    Ok(())
}
