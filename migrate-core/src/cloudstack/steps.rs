//! The steps at CloudStack: choose, transfer, verify, publish.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use cloudstack_client::serve::{Content, Server};
use cloudstack_client::templates::{
    self, Checksum, NewTemplate, Template, TemplateFilter, ZoneState, merge,
};
use cloudstack_client::{Client, Upload, WaitOptions, os_types, tags, zones};
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use vmimage::TargetFormat;

use super::{CloudStackTemplate, RUN_TAG, Via, choose};
use crate::transfer::{self, Sent};
use crate::{Artifact, Error, ErrorKind, Leftover, Machine, Probe, Result, RunId, Step, StepCx};

/// A pool may send nothing for minutes while it passes over empty space.
const STALL: Duration = Duration::from_secs(1800);
/// How long a template may be fetched and installed.
const READY: Duration = Duration::from_secs(24 * 3600);
/// How long the end of a dead process's upload is waited for: 5 minutes.
const SETTLE_LOOKS: u32 = 100;
/// A template that is on its way cannot be deleted; the end of its connection takes a moment.
const BUSY_PAUSES: [u64; 8] = [1, 1, 2, 3, 5, 8, 15, 25];

/// A failure of CloudStack, about `what`.
pub(super) fn failed(what: impl std::fmt::Display, e: cloudstack_client::Error) -> Error {
    Error::from(e).context(what)
}

/// All templates that still bear the name of a run.
pub(super) async fn of_run(client: &Client, run_id: RunId) -> Result<Vec<Template>> {
    let all = client.call_all(templates::list(TemplateFilter::Self_)).await;
    let all = all.map_err(|e| failed("looking for the run's templates", e))?;
    let prefix = format!("{}-", run_id.object_name());
    Ok(merge(all).into_iter().filter(|t| t.name.starts_with(&prefix)).collect())
}

/// Those with exactly this name.
pub(super) async fn named(client: &Client, name: &str) -> Result<Vec<Template>> {
    let found = client.call_all(templates::named(name)).await;
    let found = found.map_err(|e| failed("looking for the run's templates", e))?;
    // The filter is the server's word; what is deleted is checked by our own eyes.
    Ok(merge(found).into_iter().filter(|t| t.name == name).collect())
}

pub(super) async fn find(client: &Client, id: &str) -> Result<Option<Template>> {
    match client.call_all(templates::get(id)).await {
        Ok(rows) => Ok(merge(rows).into_iter().find(|t| t.id == id)),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Deletes a template, and waits until it is gone; one that is gone already is fine.
pub(super) async fn delete(cx: &StepCx, client: &Client, id: &str, name: &str) -> Result<()> {
    let mut pauses = BUSY_PAUSES.into_iter();
    loop {
        let gone = async {
            let job = client.call(templates::delete(id)).await?;
            client.job(&job, &WaitOptions::default()).await
        };
        let e = match gone.await {
            Ok(()) => return Ok(()),
            Err(e) if e.is_not_found() => return Ok(()),
            Err(e) => e,
        };
        let said = e.to_string();
        let busy = said.contains("currently being") || said.contains("getting uploaded");
        match pauses.next().filter(|_| busy) {
            Some(seconds) => cx.sleep(Duration::from_secs(seconds)).await?,
            None => {
                let left = Leftover::new("template", id).with_name(name);
                return Err(Error::from(e).with_leftovers([left]));
            }
        }
    }
}

/// Finds the objects of the cloud that the templates refer to.
pub(super) struct Choose {
    pub(super) target: CloudStackTemplate,
    pub(super) machine: Machine,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Chosen {
    pub(super) zone_id: String,
    pub(super) os_type_id: String,
}

#[async_trait]
impl Step for Choose {
    const NAME: &'static str = "choose";
    const VERSION: u32 = 1;
    type Output = Chosen;

    async fn run(&self, cx: &StepCx) -> Result<Chosen> {
        cx.guard(Box::pin(self.choose())).await
    }

    async fn probe(&self, _: &StepCx) -> Result<Probe<Chosen>> {
        Ok(Probe::Absent)
    }

    async fn undo(&self, _: &StepCx, _: Option<Chosen>) -> Result<()> {
        Ok(())
    }
}

impl Choose {
    async fn choose(&self) -> Result<Chosen> {
        let target = &self.target;
        let zones = target.client.call_all(zones::list()).await;
        let zones = zones.map_err(|e| failed("listing the zones", e))?;
        let types = target.client.call_all(os_types::list()).await;
        let types = types.map_err(|e| failed("listing the OS types", e))?;
        let unknown = |why| Error::new(ErrorKind::NotFound, why);
        let zone = choose::zone(&zones, target.zone.as_deref()).map_err(unknown)?;
        let wanted = target.os_type.as_deref();
        let os_type = choose::os_type(&types, wanted, &self.machine, target.hypervisor);
        let os_type = os_type.map_err(unknown)?;
        Ok(Chosen { zone_id: zone.id.clone(), os_type_id: os_type.id.clone() })
    }
}

/// Makes the private template of a disk, with its data.
///
/// One step, because the right to send the data is a secret that must not be in the journal, is
/// good for one attempt, and comes only with a new template. So an attempt that finds a template
/// of the run takes it if it is whole, and deletes it otherwise.
pub(super) struct Transfer {
    pub(super) client: Client,
    pub(super) artifact: Arc<dyn Artifact>,
    pub(super) template: NewTemplate,
    pub(super) zone: String,
    pub(super) name: String,
    pub(super) index: usize,
    pub(super) format: TargetFormat,
    pub(super) via: Via,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Shipped {
    pub(super) id: String,
    pub(super) sent: Sent,
}

impl Transfer {
    /// The template that an earlier attempt of this run has brought there, if it is whole; what
    /// is not whole is deleted.
    async fn whole(&self, cx: &StepCx) -> Result<Option<String>> {
        let mut whole = None;
        for template in named(&self.client, &self.template.name).await? {
            let id = template.id.clone();
            if whole.is_none() && self.becomes_ready(cx, template).await? {
                whole = Some(id);
            } else {
                delete(cx, &self.client, &id, &self.template.name).await?;
            }
        }
        Ok(whole)
    }

    /// Whether it is ready, once nothing is under way any more. What is fetched from us is not
    /// waited for: nobody serves it any more.
    async fn becomes_ready(&self, cx: &StepCx, template: Template) -> Result<bool> {
        let mut template = Some(template);
        for _ in 0..SETTLE_LOOKS {
            let Some(now) = template.take() else { return Ok(false) };
            let Some(zone) = now.zone(&self.zone) else { return Ok(false) };
            let status = zone.status.as_deref().unwrap_or_default();
            match &zone.state {
                ZoneState::Ready => return Ok(true),
                ZoneState::InProgress { .. }
                    if self.via == Via::Upload && status != "NotUploaded" =>
                {
                    cx.sleep(Duration::from_secs(3)).await?;
                    template = find(&self.client, &now.id).await?;
                }
                _ => return Ok(false),
            }
        }
        Ok(false)
    }

    /// Writes the run id where it stays; the name has it from the beginning.
    async fn tag(&self, cx: &StepCx, id: &str) -> Result<()> {
        let run_id = cx.run_id().to_string();
        let call = tags::create("Template", &[id], [(RUN_TAG, run_id.as_str())])
            .with_job_id(cx.run_id().derive(&format!("tag/{id}")).to_string());
        let job = self.client.call(call).await?;
        self.client.job(&job, &WaitOptions::default()).await?;
        Ok(())
    }

    async fn upload(&self, cx: &StepCx) -> Result<Shipped> {
        let mut made = String::new();
        let id = &mut made;
        let sent =
            transfer::send(cx, &self.artifact, self.index, self.format, |outgoing| async move {
                let len = outgoing.len.ok_or_else(|| {
                    Error::new(
                        ErrorKind::Usage,
                        format!("{} has no exact length", self.format.as_str()),
                    )
                })?;
                let ticket = self.client.call(templates::upload_params(&self.template)).await?;
                ticket.template_id().clone_into(id);
                self.tag(cx, id).await?;
                let place = ticket.place();
                let upload = Upload::new(len, outgoing.body)
                    .with_stall_timeout(STALL)
                    .with_cancel(cx.cancel().flag());
                let sent = self.client.upload(ticket, upload).await;
                sent.map_err(|e| failed(format_args!("upload to {place}"), e))?;
                Ok(())
            })
            .await
            .map_err(|e| self.about(e))?;
        Ok(Shipped { id: made, sent })
    }

    /// Lets CloudStack fetch the data from here.
    async fn serve(
        &self,
        cx: &StepCx,
        bind: std::net::SocketAddr,
        host: Option<&String>,
    ) -> Result<Shipped> {
        let sent = transfer::digest(cx, &self.artifact, self.index, self.format).await?;
        let readers = Readers::default();
        let content = readers.content(cx, &self.artifact, self.index, self.format, sent.bytes);
        let ending = match self.format {
            TargetFormat::Qcow2 => "qcow2",
            TargetFormat::Raw => "raw",
            _ => "vhd",
        };
        let mut server =
            Server::builder(format!("disk{}.{ending}", self.index), content).bind(bind);
        if let Some(host) = host {
            server = server.public_host(host);
        }
        let server = server.start().await.map_err(|e| self.about(e.into()))?;
        let result = cx.guard(self.fetched(cx, &server, &sent)).await;
        let failure = server.failure();
        let asked = server.requests();
        server.stop().await;
        readers.settle().await;
        match result {
            Ok(id) => Ok(Shipped { id, sent }),
            Err(e) if e.is_cancelled() => Err(e),
            Err(e) => Err(self.about(match failure {
                Some(why) => Error::new(ErrorKind::Data, why).with_source(e),
                None if asked == 0 => e.context(
                    "CloudStack did not fetch the data: is this address open to its management server and storage VMs?",
                ),
                None => e,
            })),
        }
    }

    async fn fetched(&self, cx: &StepCx, server: &Server, sent: &Sent) -> Result<String> {
        let template = self.template.clone().with_checksum(Checksum::sha256(&sent.sha256));
        let call = templates::register(&template, server.url().as_str());
        let id = self.client.call(call).await?.id;
        self.tag(cx, &id).await?;
        let options = WaitOptions::default().with_timeout(READY).with_cancel(cx.cancel().flag());
        self.client.wait_ready(&id, &[&self.zone], &options).await?;
        Ok(id)
    }

    fn about(&self, e: Error) -> Error {
        if e.is_cancelled() { e } else { e.context(format_args!("template {}", self.name)) }
    }
}

#[async_trait]
impl Step for Transfer {
    const NAME: &'static str = "transfer";
    const VERSION: u32 = 1;
    const MAKES: Option<&'static str> = Some("template");
    type Output = Shipped;

    fn key(&self) -> String {
        format!("{}/{}", Self::NAME, self.index)
    }

    async fn run(&self, cx: &StepCx) -> Result<Shipped> {
        if let Some(id) = self.whole(cx).await? {
            // The data are there, but who sent them died before the digests were written down.
            let sent = transfer::digest(cx, &self.artifact, self.index, self.format).await?;
            return Ok(Shipped { id, sent });
        }
        match &self.via {
            Via::Upload => self.upload(cx).await,
            Via::Url { bind, host } => self.serve(cx, *bind, host.as_ref()).await,
        }
    }

    async fn probe(&self, _: &StepCx) -> Result<Probe<Shipped>> {
        // What is there is seen when it is sent again.
        Ok(Probe::Absent)
    }

    async fn undo(&self, cx: &StepCx, shipped: Option<Shipped>) -> Result<()> {
        let found = named(&self.client, &self.template.name).await?;
        let mut ids: Vec<String> = found.into_iter().map(|t| t.id).collect();
        let mut result = Ok(());
        if let Some(shipped) = shipped
            && !ids.contains(&shipped.id)
            && let Some(template) = find(&self.client, &shipped.id).await?
        {
            if template.name == self.template.name {
                ids.push(shipped.id);
            } else {
                // A journal that knows of the publishing has put the run's name back by now.
                let left = Leftover::new("published template", &shipped.id);
                let e = Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "template {} is published, and the journal does not know of it: delete it by hand if nobody uses it",
                        shipped.id
                    ),
                );
                result = Err(e.with_leftovers([left.with_name(template.name)]));
            }
        }
        for id in ids {
            // All are tried; the first failure is told, with the leftovers of all.
            if let Err(e) = delete(cx, &self.client, &id, &self.template.name).await {
                result = Error::merge(result, e);
            }
        }
        result
    }
}

/// The disk as often as the cloud asks for it, each time read anew.
#[derive(Clone, Default)]
struct Readers(Arc<Mutex<Vec<JoinHandle<()>>>>);

impl Readers {
    fn content(
        &self,
        cx: &StepCx,
        artifact: &Arc<dyn Artifact>,
        index: usize,
        format: TargetFormat,
        len: u64,
    ) -> Content {
        let (readers, cx, artifact) = (self.clone(), cx.clone(), Arc::clone(artifact));
        Content::new(len, move || {
            let (body, reading) = read(cx.clone(), Arc::clone(&artifact), index, format);
            let reading = tokio::spawn(reading);
            readers.0.lock().unwrap_or_else(PoisonError::into_inner).push(reading);
            body
        })
    }

    /// Waits until nobody reads any more.
    async fn settle(self) {
        let readers = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for reader in readers {
            let _ = reader.await;
        }
    }
}

type Body = BoxStream<'static, std::io::Result<bytes::Bytes>>;

/// One pass over the disk: its bytes, and the work that makes them.
fn read(
    cx: StepCx,
    artifact: Arc<dyn Artifact>,
    index: usize,
    format: TargetFormat,
) -> (Body, impl Future<Output = ()> + Send) {
    use futures_util::StreamExt;
    let (pieces, mut body) = tokio::sync::mpsc::channel(1);
    let work = async move {
        let told = pieces.clone();
        let sent = transfer::send(&cx, &artifact, index, format, |mut outgoing| async move {
            let gone = || Error::new(ErrorKind::Target, "the cloud closed the connection");
            loop {
                let piece = tokio::select! {
                    biased;
                    () = pieces.closed() => return Err(gone()),
                    piece = outgoing.body.next() => piece,
                };
                let Some(piece) = piece else { return Ok(()) };
                pieces.send(piece).await.map_err(|_| gone())?;
            }
        });
        if let Err(e) = sent.await {
            // In place of an end: data that is not whole must not look so.
            let _ = told.send(Err(std::io::Error::other(e.report()))).await;
        }
    };
    let body = futures_util::stream::poll_fn(move |task| body.poll_recv(task)).boxed();
    (body, work)
}

/// Waits until the template is ready, and compares what the cloud has with what was sent.
pub(super) struct Verify {
    pub(super) client: Client,
    pub(super) zone: String,
    pub(super) name: String,
    pub(super) index: usize,
    pub(super) virtual_size: u64,
    pub(super) shipped: Shipped,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Verified {
    /// What was compared.
    by: Vec<String>,
}

/// What a VHD may be larger than its disk, for the sake of its geometry.
const ROUNDING: u64 = 2 << 20;

/// Compares all that the cloud tells; what it does not tell is not compared.
fn compare(template: &Template, sent: &Sent, virtual_size: u64) -> Result<Verified> {
    let wrong = |what: &str, there: &dyn std::fmt::Display, here: &dyn std::fmt::Display| {
        Error::new(
            ErrorKind::Data,
            format!(
                "the {what} is {there} in CloudStack, but {here} was sent: try again, and check its secondary storage"
            ),
        )
    };
    let mut by = Vec::new();
    if let Some(there) = template.physical_size.filter(|n| *n > 0) {
        if there != sent.bytes {
            return Err(wrong("length", &there, &sent.bytes));
        }
        by.push("length".to_owned());
    }
    if let Some(there) = template.size.filter(|n| *n > 0) {
        if !(virtual_size..virtual_size.saturating_add(ROUNDING)).contains(&there) {
            return Err(wrong("size of the disk", &there, &virtual_size));
        }
        by.push("size".to_owned());
    }
    if let Some(checksum) = &template.checksum {
        let (algorithm, there) = match checksum.strip_prefix('{').and_then(|c| c.split_once('}')) {
            Some(parts) => parts,
            None => ("MD5", checksum.as_str()),
        };
        let here = match algorithm.to_ascii_uppercase().as_str() {
            "MD5" => sent.md5.as_str(),
            "SHA-256" => &sent.sha256,
            "SHA-512" => &sent.sha512,
            _ => "",
        };
        if !here.is_empty() {
            if !there.eq_ignore_ascii_case(here) {
                return Err(wrong(algorithm, &there, &here));
            }
            by.push(algorithm.to_owned());
        }
    }
    if by.is_empty() {
        return Err(Error::new(
            ErrorKind::Data,
            "CloudStack tells neither length nor size nor a checksum of it: what arrived cannot be compared with what was sent",
        ));
    }
    Ok(Verified { by })
}

#[async_trait]
impl Step for Verify {
    const NAME: &'static str = "verify";
    const VERSION: u32 = 1;
    type Output = Verified;

    fn key(&self) -> String {
        format!("{}/{}", Self::NAME, self.index)
    }

    async fn run(&self, cx: &StepCx) -> Result<Verified> {
        let options = WaitOptions::default().with_timeout(READY).with_cancel(cx.cancel().flag());
        let about = |e: Error| e.context(format_args!("template {}", self.name));
        let zones = [self.zone.as_str()];
        let ready = cx
            .guard(async { Ok(self.client.wait_ready(&self.shipped.id, &zones, &options).await?) });
        let template = match ready.await {
            Err(e) if !e.is_cancelled() => return Err(about(e)),
            other => other?,
        };
        compare(&template, &self.shipped.sent, self.virtual_size).map_err(about)
    }

    async fn probe(&self, _: &StepCx) -> Result<Probe<Verified>> {
        Ok(Probe::Absent)
    }

    async fn undo(&self, _: &StepCx, _: Option<Verified>) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_cloud_tells_is_compared_and_nothing_is_not_enough() {
        let mut sent = Sent::new(5000);
        sent.md5 = "ab".repeat(16);
        sent.sha256 = "cd".repeat(32);
        let judged = |fields: serde_json::Value| {
            let mut row = json!({"id": "1", "name": "t"});
            row.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            let body = json!({"r": {"count": 1, "template": [row]}}).to_string();
            let call = templates::get("1");
            let rows = call.parse(http::StatusCode::OK, body.as_bytes()).unwrap().items;
            let compared = compare(&merge(rows)[0], &sent, 1 << 30);
            compared.map(|v| v.by.join(" ")).map_err(|e| e.kind())
        };
        let wrong = Err(ErrorKind::Data);
        assert_eq!(judged(json!({"physicalsize": 5000})), Ok("length".to_owned()));
        assert_eq!(judged(json!({"physicalsize": 4999})), wrong);
        assert_eq!(judged(json!({"size": 1 << 30})), Ok("size".to_owned()));
        assert_eq!(judged(json!({"size": 1 << 29})), wrong);
        for (checksum, expected) in [
            (format!("{{SHA-256}}{}", "CD".repeat(32)), Ok("SHA-256".to_owned())),
            (format!("{{SHA-256}}{}", "ab".repeat(32)), wrong.clone()),
            ("ab".repeat(16), Ok("MD5".to_owned())),
            ("ba".repeat(16), wrong.clone()),
            // Of a kind that is not computed here: it says nothing.
            ("{SHA-1}00".to_owned(), wrong.clone()),
        ] {
            assert_eq!(judged(json!({"checksum": checksum})), expected, "{checksum}");
        }
        assert_eq!(judged(json!({"checksum": "{SHA-1}00", "size": 1 << 30})), Ok("size".into()));
        assert_eq!(judged(json!({"size": 0, "physicalsize": 0})), wrong);
        assert_eq!(judged(json!({})), wrong);
    }
}
