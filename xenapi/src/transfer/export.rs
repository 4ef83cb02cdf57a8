//! The export of a disk or of a machine.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;

use super::download::{Download, Nature};
use super::ending::Ending;
use super::fetch::Get;
use super::redirect::{self, Errand};
use super::{ExportFormat, ExportOptions, XvaCompression};
use crate::call::Call;
use crate::error::Result;
use crate::live::Session;
use crate::refs::Ref;
use crate::task::Task;
use crate::vdi::Vdi;
use crate::vm::Vm;

/// The handlers.
const DISK: Errand<'_> = Errand { what: "export", path: "/export_raw_vdi" };
const MACHINE: Errand<'_> = Errand { what: "export", path: "/export" };

impl Session {
    /// Opens the export of a disk as a stream of bytes.
    ///
    /// The disk must not be in use by a running machine: export a snapshot. The server sends on a
    /// connection of its own, possibly another host of the pool after a redirect, which is
    /// followed only to a host of this pool. The task that carries the export is made first, with
    /// the label of `options`.
    ///
    /// What arrived is the disk only when the stream has ended *and* [`Export::finish`] has
    /// succeeded: servers report failures after their status 200, and a stream without a length
    /// can end early without looking so.
    ///
    /// # Errors
    /// Of kind [`TaskFailed`](crate::ErrorKind::TaskFailed) or [`Api`](crate::ErrorKind::Api)
    /// with the server's code when it refuses,
    /// [`Authentication`](crate::ErrorKind::Authentication) when it does so without one,
    /// [`Redirect`](crate::ErrorKind::Redirect) when it sends us where we must not go, and the
    /// kinds for connections and trust. The task is removed again then; only if this future is
    /// dropped half way can one stay, findable by its label.
    pub async fn export_raw_vdi(
        &self,
        vdi: &Ref<Vdi>,
        format: ExportFormat,
        options: &ExportOptions,
    ) -> Result<Export> {
        let mut pairs = vec![("vdi", vdi.as_str()), ("format", format.as_str())];
        pairs.extend(options.base.as_ref().map(|base| ("base", base.as_str())));
        let opened = async {
            let ending = match format {
                // A difference in raw form has no size of its own.
                ExportFormat::Raw if options.base.is_none() => {
                    let size = self.call(Call::<i64>::new("VDI.get_virtual_size").arg(vdi));
                    Ending::raw(u64::try_from(size.await?).ok())
                }
                ExportFormat::Raw => Ending::raw(None),
                ExportFormat::Vhd => Ending::vhd(),
                ExportFormat::Qcow2 => Ending::qcow2(),
                ExportFormat::Tar => Ending::archive(false),
            };
            self.export(DISK, &pairs, ending, options).await
        };
        opened.await.map_err(|error| error.context(format!("export of VDI {vdi}")))
    }

    /// Opens the export of a whole machine as a stream of bytes: an XVA archive with the
    /// description of the machine and all its disks (`GET /export`, since XenServer 4.0).
    ///
    /// The machine must be halted or suspended, or be a snapshot. The rest is as for
    /// [`export_raw_vdi`](Self::export_raw_vdi): a connection of its own, redirects within the
    /// pool, a task; what arrived is whole only when [`Export::finish`] has succeeded. There is no
    /// difference to a base: that of `options` is not looked at.
    ///
    /// The end of the archive is looked at as it passes. Without compression that is the tar file
    /// itself, of Zstandard the blocks of its frames. Of gzip it is no more than the length at the
    /// end; the feature `gzip` has a check of all of it,
    #[cfg_attr(feature = "gzip", doc = "[`ExportOptions::with_gzip_check`].")]
    #[cfg_attr(not(feature = "gzip"), doc = "`ExportOptions::with_gzip_check`.")]
    ///
    /// # Errors
    /// Those of [`export_raw_vdi`](Self::export_raw_vdi).
    pub async fn export_vm(
        &self,
        vm: &Ref<Vm>,
        compression: XvaCompression,
        options: &ExportOptions,
    ) -> Result<Export> {
        let mut pairs = vec![("ref", vm.as_str())];
        pairs.extend(compression.as_str().map(|name| ("use_compression", name)));
        let opened = self.export(MACHINE, &pairs, Ending::archive(options.inflate), options).await;
        opened.map_err(|error| error.context(format!("export of VM {vm}")))
    }

    /// Makes the task and opens the stream; `pairs` are the handler's own part of the query.
    pub(super) async fn export(
        &self,
        errand: Errand<'_>,
        pairs: &[(&str, &str)],
        ending: Ending,
        options: &ExportOptions,
    ) -> Result<Export> {
        let common = &options.common;
        let target = redirect::here(self);
        let get = Get { errand, target, pairs, common, with_task: true, query_grows: false };
        let (task, response) = self.get_raw(&get).await?;
        let nature = Nature { what: errand.what, ending, sniffed: true };
        let download = Download::new(self.clone(), task.clone(), response, nature, common);
        // There is always one: it was asked for.
        Ok(Export { task: task.unwrap_or_default(), download })
    }
}

/// The bytes of a disk as they come: a `Stream` of `Result<Bytes>`.
///
/// Nothing is read ahead beyond one buffer of the connection, so that a reader that pauses makes
/// the server pause. Servers drop readers that pause for long; give the stream a buffer of your
/// own if yours does.
///
/// End an export with [`finish`](Self::finish) or [`abort`](Self::abort). Dropping it closes the
/// connection and nothing else: the task stays at the server, findable by its label.
pub struct Export {
    task: Ref<Task>,
    download: Download,
}

impl Export {
    /// The task that carries the export.
    #[must_use]
    pub fn task(&self) -> &Ref<Task> {
        &self.task
    }

    /// Bytes given out so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.download.received()
    }

    /// The length of the stream, where the server told it. It seldom does.
    #[must_use]
    pub fn content_length(&self) -> Option<u64> {
        self.download.content_length()
    }

    /// Waits for the task and removes it: the export is whole if this succeeds. Call it when the
    /// stream has given `None`.
    ///
    /// # Errors
    /// - [`Truncated`](crate::ErrorKind::Truncated) if the stream was not read to its end, or if
    ///   it does not end as its format does: servers that fail half way have been seen to close
    ///   the connection in good order;
    /// - the stream's own error, or what the server says about it;
    /// - [`TaskFailed`](crate::ErrorKind::TaskFailed) when the server says that the export failed,
    ///   even though the stream looked whole;
    /// - [`Timeout`](crate::ErrorKind::Timeout) when the task does not end.
    ///
    /// After an error the task is cancelled and removed as by [`abort`](Self::abort).
    pub async fn finish(self) -> Result<()> {
        self.download.finish().await
    }

    /// Closes the connection, cancels the task and removes it.
    ///
    /// # Errors
    /// What the calls meet, and [`Timeout`](crate::ErrorKind::Timeout) when the cancelled task does
    /// not end within 30 s; it is marked for removal then.
    pub async fn abort(self) -> Result<()> {
        self.download.abort().await
    }
}

impl Stream for Export {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.download.poll_bytes(cx)
    }
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.download.show("Export", f)
    }
}
