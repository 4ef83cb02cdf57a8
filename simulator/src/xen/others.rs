//! Handlers that the server has and this double does not serve: it knows who may ask for them.

use std::io;

use super::export::{authenticate, refuse, turn_away};
use super::http::{Conn, Head};
use super::role::Role;
use super::serve::Host;
use super::value::ApiError;

/// Method, path, and the least role; those between hosts of a pool belong to the pool's admin.
const OTHERS: &[(&str, &str, Role)] = &[
    ("GET", "/host_backup", Role::PoolAdmin),
    ("GET", "/host_logs_download", Role::PoolOperator),
    ("GET", "/host_rrds", Role::ReadOnly),
    ("GET", "/host_updates", Role::PoolOperator),
    ("GET", "/pool/xmldbdump", Role::PoolAdmin),
    ("GET", "/repository", Role::PoolAdmin),
    ("GET", "/repository/enabled", Role::PoolOperator),
    ("GET", "/services", Role::ReadOnly),
    ("GET", "/services/SM", Role::VmPowerAdmin),
    ("GET", "/services/xenops", Role::VmPowerAdmin),
    ("GET", "/sync_config_files", Role::PoolAdmin),
    ("GET", "/system-status", Role::PoolOperator),
    ("GET", "/update/", Role::ReadOnly),
    ("GET", "/updates", Role::PoolOperator),
    ("GET", "/vm_rrds", Role::ReadOnly),
    ("GET", "/wlb_diagnostics", Role::ReadOnly),
    ("GET", "/wlb_report", Role::ReadOnly),
    ("PUT", "/bundle", Role::PoolOperator),
    ("PUT", "/host_restore", Role::PoolAdmin),
    ("PUT", "/messages", Role::VmPowerAdmin),
    ("PUT", "/pool/xmldbdump", Role::PoolAdmin),
    ("PUT", "/pool_patch_upload", Role::PoolOperator),
    ("PUT", "/rrd", Role::PoolAdmin),
    ("PUT", "/services", Role::PoolAdmin),
    ("PUT", "/services/SM", Role::VmPowerAdmin),
    ("PUT", "/services/xenops", Role::VmPowerAdmin),
];

/// Answers the request; the connection ends with it. What no server knows is forbidden.
pub(crate) async fn serve(host: &Host, conn: &mut Conn, head: &Head) -> io::Result<()> {
    let known = OTHERS.iter().find(|(method, path, _)| {
        let below = path.ends_with('/') && head.path.starts_with(path);
        *method == head.method && (*path == head.path || below)
    });
    let Some((_, _, least)) = known else {
        return refuse(conn, "HTTP/1.1", "403 Forbidden", &[]).await;
    };
    let task = head.task();
    if let Err(error) = authenticate(&host.pool, head, *least) {
        return turn_away(&host.pool, conn, task, error).await;
    }
    let error = ApiError::new("NOT_IMPLEMENTED", [&format!("{} {}", head.method, head.path)]);
    host.pool.finish_task(task, Err(error));
    refuse(conn, "HTTP/1.1", "501 Not Served By This Double", &[]).await
}
