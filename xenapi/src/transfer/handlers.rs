//! Raw handlers that have a function of their own, beside the exports and imports.

use std::time::Duration;

use bytes::Bytes;

use super::ending::Ending;
use super::redirect::Errand;
use super::{Export, ExportOptions, HandlerRequest, ImportSource, Resource};
use crate::call::Call;
use crate::classes::Blob;
use crate::datetime::DateTime;
use crate::error::{Error, ErrorKind, Result};
use crate::host::Host;
use crate::live::Session;
use crate::refs::Ref;
use crate::vm::Vm;

const METADATA: Errand<'_> = Errand { what: "export", path: "/export_metadata" };
/// The server itself gives up after 30 s.
const PICTURE_TIMEOUT: Duration = Duration::from_secs(60);
/// A picture of 8192 by 8192 points has less.
const LARGEST_PICTURE: usize = 64 << 20;
/// How long the size of a blob may take to be the one that was sent.
const SIZE_PAUSES: [Duration; 3] =
    [Duration::ZERO, Duration::from_millis(300), Duration::from_secs(2)];

/// Which descriptions of machines an export without disks has.
#[derive(Clone, Debug)]
#[must_use]
#[non_exhaustive]
pub struct MetadataExport {
    vm: Option<Ref<Vm>>,
    snapshots: bool,
    vhd_parents: bool,
    control_domains: bool,
    without: Vec<String>,
}

impl MetadataExport {
    /// That of one machine, with its snapshots. Servers refuse that of a snapshot.
    pub fn of(vm: Ref<Vm>) -> Self {
        Self { vm: Some(vm), ..Self::of_all() }
    }

    /// Those of all machines of the pool but the templates that came with it; since XenServer 5.5.
    pub fn of_all() -> Self {
        Self {
            vm: None,
            snapshots: true,
            vhd_parents: false,
            control_domains: true,
            without: Vec::new(),
        }
    }

    /// Whether the snapshots of a machine are described as well; they are unless told otherwise.
    pub fn with_snapshots(mut self, snapshots: bool) -> Self {
        self.snapshots = snapshots;
        self
    }

    /// Whether the disks are described that those of the machines are differences to.
    pub fn with_vhd_parents(mut self, parents: bool) -> Self {
        self.vhd_parents = parents;
        self
    }

    /// Whether all machines are also the hosts' own domains; they are unless told otherwise.
    pub fn with_control_domains(mut self, control_domains: bool) -> Self {
        self.control_domains = control_domains;
        self
    }

    /// Leaves a kind of device out: `vif`, `vbd`, `vgpu`, `vtpm`. Servers that do not know how
    /// leave it in.
    pub fn without_devices(mut self, kind: impl Into<String>) -> Self {
        self.without.push(kind.into());
        self
    }

    fn pairs<'a>(&'a self, without: &'a str) -> Vec<(&'static str, &'a str)> {
        let mut pairs = Vec::new();
        match &self.vm {
            Some(vm) => pairs.push(("ref", vm.as_str())),
            None => pairs.push(("all", "true")),
        }
        // What the server does unasked is left out: its request has room for little.
        pairs.extend((!self.snapshots).then_some(("export_snapshots", "false")));
        pairs.extend(self.vhd_parents.then_some(("include_vhd_parents", "true")));
        pairs.extend((!self.control_domains).then_some(("include_dom0", "false")));
        pairs.extend((!without.is_empty()).then_some(("excluded_device_types", without)));
        pairs
    }
}

impl Session {
    /// Opens the export of machines without their disks: a tar file with `ova.xml` alone, which
    /// [`import_metadata`](Self::import_metadata) takes (`GET /export_metadata`, since XenServer
    /// 5.5, role `vm-admin`).
    ///
    /// The machines may run. The server puts the file together before it sends the first byte, and
    /// says its length. The rest is as for [`export_vm`](Self::export_vm).
    ///
    /// # Errors
    /// Those of [`export_raw_vdi`](Self::export_raw_vdi).
    pub async fn export_metadata(
        &self,
        what: &MetadataExport,
        options: &ExportOptions,
    ) -> Result<Export> {
        let without = what.without.join(",");
        let opened =
            self.export(METADATA, &what.pairs(&without), Ending::archive(false), options).await;
        opened.map_err(|error| error.context("export of descriptions"))
    }

    /// What the screen of a running machine shows, as a JPEG file (`GET /vncsnapshot`, since
    /// XenServer 5.5, role `vm-operator`; for the hosts' own domains `pool-admin`).
    ///
    /// The host that the machine runs on is asked: another one does not say that it knows nothing,
    /// older servers show the screen of a machine of their own. The server gives up after 30 s.
    ///
    /// # Errors
    /// [`Connect`](ErrorKind::Connect) when the machine does not run,
    /// [`Truncated`](ErrorKind::Truncated) for a picture without its end, and those of
    /// [`get_resource`](Self::get_resource).
    pub async fn screenshot_jpeg(&self, vm: &Ref<Vm>) -> Result<Bytes> {
        let taken = async {
            let host = self.call(Call::<Ref<Host>>::new("VM.get_resident_on").arg(vm)).await?;
            if host.is_null() {
                let words = "there is no screen: the machine does not run";
                return Err(Error::new(ErrorKind::Connect, words));
            }
            let request = HandlerRequest::new("/vncsnapshot")
                .with_param("ref", vm.as_str())
                .on_host(host)
                .with_inactivity_timeout(PICTURE_TIMEOUT);
            let picture = self.get_resource(&request).await?.bytes(LARGEST_PICTURE).await?;
            check_jpeg(&picture).map(|()| picture)
        };
        taken.await.map_err(|error| error.context(format!("screen of VM {vm}")))
    }

    /// The log of who did what, as lines of text (`GET /audit_log`, since XenServer 5.6, role
    /// `read-only`): that of the pool's master, the oldest line first, all of it or what came
    /// `since` a time.
    ///
    /// Servers compare the time with those in the log as text, so that it must be in UTC and of the
    /// form `20260131T12:00:00Z`; dashes do no harm. A task carries the request, with the label
    /// of `options`, whose base is not looked at.
    ///
    /// # Errors
    /// Those of [`get_resource`](Self::get_resource).
    pub async fn audit_log(
        &self,
        since: Option<&DateTime>,
        options: &ExportOptions,
    ) -> Result<Resource> {
        // The task's label is among the options.
        let mut request = HandlerRequest::new("/audit_log").with_task("");
        if let Some(since) = since {
            request = request.with_param("since", since.as_str());
        }
        request.common = options.common.clone();
        self.get_resource(&request).await
    }

    /// What a blob holds, if that is at most `limit` bytes (`GET /blob`, since XenServer 5.0, role
    /// `read-only`; a public one needs none).
    ///
    /// # Errors
    /// [`TooLarge`](ErrorKind::TooLarge) for more, and those of
    /// [`get_resource`](Self::get_resource): a blob that never had a content is a 404.
    pub async fn read_blob(&self, blob: &Ref<Blob>, limit: usize) -> Result<Bytes> {
        let request = HandlerRequest::new("/blob").with_param("ref", blob.as_str());
        let read = async { self.get_resource(&request).await?.bytes(limit).await };
        read.await.map_err(|error| error.context(format!("blob {blob}")))
    }

    /// Replaces what a blob holds (`PUT /blob`, since XenServer 5.0, role `vm-power-admin`), and
    /// asks the server how much of it has arrived: the answer to a PUT comes before its body.
    ///
    /// # Errors
    /// [`Truncated`](ErrorKind::Truncated) if it has another size than it should, and those of
    /// [`put_resource`](Self::put_resource). The old content is gone then.
    pub async fn write_blob(&self, blob: &Ref<Blob>, source: ImportSource) -> Result<()> {
        let request = HandlerRequest::new("/blob").with_param("ref", blob.as_str());
        let length = source.length();
        let written = async {
            self.put_resource(&request, source).await?;
            let mut size = 0;
            for pause in SIZE_PAUSES {
                tokio::time::sleep(pause).await;
                size = self.call(Call::<i64>::new("blob.get_size").arg(blob)).await?;
                if u64::try_from(size) == Ok(length) {
                    return Ok(());
                }
            }
            let words = format!("the server has {size} of its {length} bytes");
            Err(Error::new(ErrorKind::Truncated, words))
        };
        written.await.map_err(|error| error.context(format!("blob {blob}")))
    }
}

/// Whether it begins and ends as a JPEG file does.
fn check_jpeg(picture: &[u8]) -> Result<()> {
    let (kind, words) = match picture {
        [0xff, 0xd8, 0xff, .., 0xff, 0xd9] => return Ok(()),
        [0xff, 0xd8, ..] => (ErrorKind::Truncated, "the picture has no end"),
        _ => (ErrorKind::Protocol, "what the server sent is no JPEG picture"),
    };
    Err(Error::new(kind, words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_description_has_is_asked_for_only_where_the_server_would_not_do_it() {
        let query = |what: MetadataExport| {
            let without = what.without.join(",");
            what.pairs(&without).iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>()
        };
        assert_eq!(query(MetadataExport::of(Ref::new("OpaqueRef:vm"))), ["ref=OpaqueRef:vm"]);
        assert_eq!(query(MetadataExport::of_all()), ["all=true"]);
        let all = MetadataExport::of_all()
            .with_snapshots(false)
            .with_vhd_parents(true)
            .with_control_domains(false)
            .without_devices("vgpu")
            .without_devices("vtpm");
        let expected = [
            "all=true",
            "export_snapshots=false",
            "include_vhd_parents=true",
            "include_dom0=false",
            "excluded_device_types=vgpu,vtpm",
        ];
        assert_eq!(query(all), expected);
    }

    #[test]
    fn a_picture_has_a_beginning_and_an_end() {
        check_jpeg(b"\xff\xd8\xff\xe0 picture \xff\xd9").unwrap();
        for (bytes, kind) in [
            (&b"\xff\xd8\xff\xe0 picture "[..], ErrorKind::Truncated),
            (b"\xff\xd8\xff\xd9", ErrorKind::Truncated),
            (b"<html>no</html>", ErrorKind::Protocol),
            (b"", ErrorKind::Protocol),
        ] {
            assert_eq!(check_jpeg(bytes).unwrap_err().kind(), kind, "{bytes:?}");
        }
    }
}
