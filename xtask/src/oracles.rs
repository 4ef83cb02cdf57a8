//! `cargo xtask oracles`: clients and servers that this project did not write, against ours.
//!
//! The tests install them from their registries into temporary folders, which takes minutes and a
//! network: so they are not part of a plain `cargo test`.

use crate::process::{Result, passes};
use crate::tools;

/// Where such tests are: package, test, the program that they need, what runs.
const TESTS: [(&str, &str, &str, &str); 5] = [
    (
        "simulator",
        "xen_oracles",
        "python3",
        "PyPI XenAPI, npm xen-api and two clients of WebSockets against the simulated pool",
    ),
    ("simulator", "openstack_oracles", "python3", "openstacksdk against the simulated cloud"),
    (
        "simulator",
        "cloudstack_oracles",
        "python3",
        "cs and apache-libcloud against the simulated cloud",
    ),
    ("examples", "list_vms", "python3", "list_vms against the pool of nova's tests"),
    ("xenapi", "xmlrpc_python", "python3", "xenapi against Python's XML-RPC server"),
];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only the tests whose name contains this; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
}

/// Runs them; `false` if one failed.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|o| name.contains(o));
    let mut good = true;
    // Tests of examples run the built programs.
    if wanted("list_vms") {
        good &=
            passes(tools::cargo("build").args(["--package", "examples", "--example", "list_vms"]))?;
    }
    if wanted("xen_oracles") && tools::find("npm").is_none() {
        println!("npm is not here: xen-api will be left out");
    }
    for (package, test, program, what) in TESTS {
        if !wanted(test) {
            continue;
        }
        if tools::find(program).is_none() {
            println!("left out, for want of {program}: {what}");
            continue;
        }
        println!("{what}");
        let mut cargo = tools::cargo("test");
        cargo.args(["--package", package, "--test", test, "--", "--nocapture"]);
        good &= passes(cargo.env("MIGRATE_E2E_ORACLES", "1"))?;
    }
    Ok(good)
}
