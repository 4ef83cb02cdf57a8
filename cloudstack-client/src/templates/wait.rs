//! Waiting for a template or an ISO to become ready.

use super::call::get;
use super::record::Template;
use crate::call::{Call, List, Record};
use crate::client::Client;
use crate::error::Result;
use crate::isos::{self, Iso};
use crate::wait::{Seen, WaitOptions, gone};
use crate::zoned::{TemplateZone, ZoneState, Zoned, merge};

impl Client {
    /// Waits until a template is ready in all of `zones` (ids), or, if none is named, in every zone where it is. It may
    /// also be a project's.
    ///
    /// # Errors
    /// [`ErrorKind::Failed`](crate::ErrorKind::Failed) as soon as it has failed in a zone, with the server's words;
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) if it is not there;
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) with how far it came.
    pub async fn wait_ready(
        &self,
        id: &str,
        zones: &[&str],
        options: &WaitOptions,
    ) -> Result<Template> {
        self.wait_zones(&format!("template {id}"), id, &get(id), zones, options).await
    }

    /// As [`wait_ready`](Self::wait_ready), for an ISO.
    ///
    /// # Errors
    /// As [`wait_ready`](Self::wait_ready).
    pub async fn wait_iso(&self, id: &str, zones: &[&str], options: &WaitOptions) -> Result<Iso> {
        self.wait_zones(&format!("ISO {id}"), id, &isos::get(id), zones, options).await
    }

    async fn wait_zones<R: Record + Zoned>(
        &self,
        what: &str,
        id: &str,
        get: &Call<List<R>>,
        zones: &[&str],
        options: &WaitOptions,
    ) -> Result<R> {
        let look = || async {
            let rows = self.rows_by_id(get).await?;
            Ok(match merge(rows).into_iter().find(|one| one.id() == id) {
                None => Seen::Absent,
                Some(found) => match judge(found.zones(), zones) {
                    Ok(None) => Seen::Done(found),
                    Ok(Some(pending)) => Seen::Pending(pending),
                    Err(failed) => Seen::failed(what, &format!(" {failed}")),
                },
            })
        };
        options.until(what, look).await?.ok_or_else(|| gone(what))
    }
}

/// `Ok(None)` if it is ready, `Ok` with what is waited for, `Err` with what failed.
fn judge(all: &[TemplateZone], zones: &[&str]) -> Result<Option<String>, String> {
    let wanted = |zone: &&TemplateZone| {
        zones.is_empty() || zone.id.as_deref().is_some_and(|id| zones.contains(&id))
    };
    let mut pending = None;
    for zone in all.iter().filter(wanted) {
        let name = zone.name.as_deref().or(zone.id.as_deref()).unwrap_or("all zones");
        match &zone.state {
            ZoneState::Ready => {}
            ZoneState::Failed { reason } => return Err(format!("in {name}: {reason}")),
            ZoneState::InProgress { .. } => {
                let status = zone.status.as_deref().unwrap_or("no status");
                pending = Some(format!("{name}: {status}"));
            }
        }
    }
    let there = |id: &&&str| all.iter().any(|zone| zone.id.as_deref() == Some(**id));
    let absent = zones.iter().find(|id| !there(id));
    Ok(pending.or_else(|| Some(format!("it is not in zone {} yet", absent?))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template(rows: &serde_json::Value) -> Template {
        let rows = rows.as_array().unwrap().iter().map(|row| Template::read(row).unwrap());
        merge(rows).remove(0)
    }

    #[test]
    fn only_the_named_zones_count() {
        let template = template(&json!([
            {"id": "t", "zoneid": "a", "isready": true},
            {"id": "t", "zoneid": "b", "zonename": "bee", "status": "7% Downloaded"},
            {"id": "t", "zoneid": "c", "status": "Connection timed out"}]));
        assert_eq!(judge(&template.zones, &["a"]), Ok(None));
        assert_eq!(judge(&template.zones, &["a", "b"]), Ok(Some("bee: 7% Downloaded".into())));
        assert_eq!(judge(&template.zones, &["a", "d"]), Ok(Some("it is not in zone d yet".into())));
        assert_eq!(judge(&template.zones, &[]), Err("in c: Connection timed out".into()));
    }
}
