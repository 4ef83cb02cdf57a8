//! The audit log: who called what that changes something, and `GET /audit_log`.

use std::collections::VecDeque;
use std::io;

use jiff::Timestamp;
use tokio::io::AsyncWriteExt as _;

use super::export::{authenticate, turn_away};
use super::http::{Conn, Head};
use super::role::Role;
use super::serve::Host;
use super::value::ApiResult;

/// How many lines are kept.
const LINES: usize = 10_000;

/// The lines of the log, each with the moment that it begins with.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    lines: VecDeque<(String, String)>,
}

impl Audit {
    /// Writes down how a call ended.
    pub(crate) fn note(&mut self, role: Role, method: &str, result: &ApiResult) {
        let now = Timestamp::now();
        let stamp = now.strftime("%Y%m%dT%H:%M:%S.%3fZ").to_string();
        let outcome = match result {
            Ok(_) => "'ALLOWED' 'OK'".to_owned(),
            Err(error) if error.code == "RBAC_PERMISSION_DENIED" => "'DENIED' ''".to_owned(),
            Err(error) => format!("'ALLOWED' 'ERROR:{}'", error.code),
        };
        let (sid, name) = match role {
            Role::PoolAdmin => ("LOCAL_SUPERUSER", "root"),
            role => ("", role.name()),
        };
        let line = format!(
            "{} xenserver-1 xapi: [{stamp}|audit||0 |dispatch:{method}|audit] \
             ('trackid=0' '{sid}' '{name}' {outcome} 'API' '{method}' ())\n",
            now.strftime("%b %e %H:%M:%S")
        );
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.lines.push_back((stamp, line));
    }

    /// The lines since a moment in one of the server's spellings, compared as text.
    fn since(&self, moment: &str) -> String {
        let moment = moment.replace(['-', 'Z'], "");
        let wanted = self.lines.iter().filter(|(stamp, _)| stamp.as_str() >= moment.as_str());
        wanted.map(|(_, line)| line.as_str()).collect()
    }
}

/// Answers the request; the connection ends with it, and nothing else ends the body.
pub(crate) async fn serve(host: &Host, conn: &mut Conn, head: &Head) -> io::Result<()> {
    let pool = &host.pool;
    let task = head.task();
    if let Err(error) = authenticate(pool, head, Role::ReadOnly) {
        return turn_away(pool, conn, task, error).await;
    }
    let since = head.cookie("since").or_else(|| head.query("since")).unwrap_or_default();
    let lines = pool.with(|state| state.audit.since(since));
    let hello = "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\
                 Cache-Control: no-cache, no-store\r\nContent-Type: text/plain\r\n\r\n";
    conn.write_all(hello.as_bytes()).await?;
    conn.write_all(lines.as_bytes()).await?;
    conn.flush().await?;
    pool.finish_task(task, Ok("".into()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::value::ApiError;
    use super::*;

    #[test]
    fn a_moment_may_be_spelled_in_several_ways() {
        let mut audit = Audit::default();
        audit.note(Role::PoolAdmin, "VM.start", &Ok("".into()));
        let denied = Err(ApiError::new("RBAC_PERMISSION_DENIED", []));
        audit.note(Role::ReadOnly, "VM.destroy", &denied);
        assert_eq!(audit.since("").lines().count(), 2);
        assert!(audit.since("").contains("'ALLOWED' 'OK' 'API' 'VM.start'"));
        assert!(audit.since("").contains("'read-only' 'DENIED' ''"));
        let year = Timestamp::now().strftime("%Y").to_string();
        assert_eq!(audit.since(&format!("{year}-01-01")).lines().count(), 2);
        assert_eq!(audit.since("2999-01-01T00:00:00Z"), "");
    }
}
