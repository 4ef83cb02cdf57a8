//! A session, and the machine of whose console something is wanted: what the tools for consoles
//! share.

use std::future::Future;

use examples::Result;
use simulator::Simulator;
use xenapi::vm::{self, Vm};
use xenapi::{Ref, Session};

use crate::pool::Pool;

/// Logs in to the pool that the environment names, or to a simulated one; and out again.
pub(crate) async fn with_session<F: Future<Output = Result<()>>>(
    program: &str,
    work: impl FnOnce(Session) -> F,
) -> Result<()> {
    let (pool, simulator) = match Pool::from_env()? {
        Some(pool) => (pool, None),
        None => {
            eprintln!("{program}: no XEN_* variable is set, so this is a simulated pool");
            let simulator = Simulator::builder().start().await?;
            (Pool::of(&simulator)?, Some(simulator))
        }
    };
    let session = pool.login(program).await?;
    let result = work(session.clone()).await;
    // What was asked for is done; a session that could not be ended expires by itself.
    let _ = session.logout().await;
    if let Some(simulator) = simulator {
        simulator.stop().await;
    }
    result
}

/// The machine with a name or a UUID.
pub(crate) async fn find(session: &Session, name: &str) -> Result<Ref<Vm>> {
    let all = session.call(vm::get_all_records()).await?;
    let mut found = all.into_iter().filter(|(_, vm)| {
        let machine = !vm.is_a_template && !vm.is_a_snapshot && !vm.is_control_domain;
        machine && (vm.uuid == name || vm.name_label == name)
    });
    match (found.next(), found.next()) {
        (Some((vm, _)), None) => Ok(vm),
        (None, _) => Err(format!("the pool has no machine named {name:?}").into()),
        _ => Err(format!("several machines are named {name:?}; give the UUID of one").into()),
    }
}
