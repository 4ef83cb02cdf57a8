//! The import of a disk or of a machine.

use std::time::Duration;

use serde_json::Value;

use super::put::Put;
use super::redirect::{self, Errand, Target};
use super::{ExportFormat, ImportOptions, ImportSource};
use crate::enums::VdiType;
use crate::error::{Error, ErrorKind, Result};
use crate::live::Session;
use crate::pool;
use crate::refs::Ref;
use crate::sr::Sr;
use crate::value::FromValue;
use crate::vdi::{self, Vdi};
use crate::vm::Vm;

const DISK: Errand<'_> = Errand { what: "import", path: "/import_raw_vdi" };
const MACHINE: Errand<'_> = Errand { what: "import", path: "/import" };
const METADATA: Errand<'_> = Errand { what: "import", path: "/import_metadata" };
/// How much of an archive a server may leave unread that has all of its machine: the zeros at its
/// end, and what was going out with them.
const LONGEST_TAIL: u64 = 128 * 1024;
/// How often a new disk is tried to be removed, with pauses that double: 51 s in all.
const MOST_REMOVALS: u32 = 9;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

impl Session {
    /// Writes an image onto a disk that exists (`PUT /import_raw_vdi`, since XenServer 4.0; VHD
    /// since 6.2, QCOW2 since XAPI 25.27).
    ///
    /// The disk must not be attached to a running machine. A raw image that is shorter than the
    /// disk leaves its rest as it is, and so does a VHD or QCOW2 that is a difference. The server
    /// reads on a connection of its own, at a host that sees the disk's storage; the task that
    /// carries the import is made first, with the label of `options`, and removed at the end.
    ///
    /// Success means that the body went out whole, the answer was read to its end, *and* the task
    /// has succeeded: a server answers 200 before it reads the first byte.
    ///
    /// # Errors
    /// - [`TaskFailed`](ErrorKind::TaskFailed) or [`Api`](ErrorKind::Api) with the server's code,
    ///   which may also come before the body is out and ends it then;
    /// - [`Source`](ErrorKind::Source): the source failed, or has another length than it said;
    /// - [`Timeout`](ErrorKind::Timeout), [`Transport`](ErrorKind::Transport),
    ///   [`Authentication`](ErrorKind::Authentication), [`Cancelled`](ErrorKind::Cancelled), and
    ///   the kinds for connections and trust.
    ///
    /// What was written by then is on the disk. If this future is dropped, the connection is
    /// closed, which makes the task fail; the task stays, findable by its label.
    pub async fn import_raw_vdi(
        &self,
        vdi: &Ref<Vdi>,
        format: ExportFormat,
        source: ImportSource,
        options: &ImportOptions,
    ) -> Result<()> {
        let pairs = [("vdi", vdi.as_str()), ("format", format.as_str())];
        let imported = async {
            let sr = self.call(vdi::get_sr(vdi)).await?;
            let target = redirect::host_of(self, &sr).await?;
            self.import::<Value>(DISK, target, &pairs, source, options).await
        };
        let imported = imported.await.map(drop);
        imported.map_err(|error| error.context(format!("import into VDI {vdi}")))
    }

    /// Makes a disk of `virtual_size` bytes and writes an image onto it, as
    /// [`import_raw_vdi`](Self::import_raw_vdi) does. The disk is removed again when that fails.
    ///
    /// `virtual_size` is the guest's view: the length of a raw image, the size in the header of
    /// another one. Servers round it up. Only if this future is dropped half way, or if the
    /// connection breaks before `VDI.create` is answered, does the disk stay, findable by its
    /// `name_label`.
    ///
    /// # Errors
    /// Those of [`import_raw_vdi`](Self::import_raw_vdi), and of `VDI.create`. A disk that could
    /// not be removed is named in the error.
    pub async fn import_new_vdi(
        &self,
        sr: &Ref<Sr>,
        name_label: &str,
        format: ExportFormat,
        virtual_size: u64,
        source: ImportSource,
        options: &ImportOptions,
    ) -> Result<Ref<Vdi>> {
        let too_large = |_| Error::new(ErrorKind::Config, "no disk has so many bytes");
        let record = Vdi {
            name_label: name_label.to_owned(),
            sr: sr.clone(),
            virtual_size: i64::try_from(virtual_size).map_err(too_large)?,
            r#type: VdiType::User,
            ..Vdi::default()
        };
        let made = self.call(vdi::create(&record)).await;
        let made = made.map_err(|error| error.context(format!("import into SR {sr}")))?;
        match self.import_raw_vdi(&made, format, source, options).await {
            Ok(()) => Ok(made),
            Err(error) => match self.remove(&made).await {
                Ok(()) => Err(error),
                Err(left) => Err(error.context(format!("VDI {made} is left behind ({left})"))),
            },
        }
    }

    /// Makes the machines of an XVA archive, with their disks (`PUT /import`, since XenServer
    /// 4.0). The archive may be compressed: the server looks at its first bytes.
    ///
    /// Where the disks go and what the machines keep of what they were is told by `options`. The
    /// rest is as for [`import_raw_vdi`](Self::import_raw_vdi), with one difference: servers need not
    /// read the zeros at the end of an archive, so that a connection which they close before these
    /// are out is no failure when the task has succeeded. Of an import that fails the server
    /// removes what it made.
    ///
    /// # Errors
    /// Those of [`import_raw_vdi`](Self::import_raw_vdi).
    pub async fn import_vm(
        &self,
        source: ImportSource,
        options: &ImportOptions,
    ) -> Result<Vec<Ref<Vm>>> {
        let mut pairs: Vec<(&str, &str)> = flags(options);
        pairs.extend(options.sr.as_ref().map(|sr| ("sr_id", sr.as_str())));
        let imported = async {
            let target = match &options.sr {
                Some(sr) => redirect::host_of(self, sr).await?,
                None => self.host_of_default_storage().await?,
            };
            self.import(MACHINE, target, &pairs, source, options).await
        };
        imported.await.map_err(|error| error.context("import of a machine"))
    }

    /// Makes the machines that an archive describes, with disks that are in the pool already
    /// (`PUT /import_metadata`, since XenServer 5.5). With `dry_run` the server only looks whether
    /// it could; the references that it gives then name nothing. Storage in `options` is not looked
    /// at.
    ///
    /// # Errors
    /// Those of [`import_raw_vdi`](Self::import_raw_vdi).
    pub async fn import_metadata(
        &self,
        source: ImportSource,
        dry_run: bool,
        options: &ImportOptions,
    ) -> Result<Vec<Ref<Vm>>> {
        let mut pairs = flags(options);
        pairs.extend(dry_run.then_some(("dry_run", "true")));
        let imported = self.import(METADATA, redirect::here(self), &pairs, source, options).await;
        imported.map_err(|error| error.context("import of a description"))
    }

    /// Where a machine goes for which no storage was named.
    async fn host_of_default_storage(&self) -> Result<Target> {
        let pools = self.call(pool::get_all_records()).await?;
        let default = pools.values().find_map(|pool| pool.default_sr.non_null());
        match default {
            Some(sr) => redirect::host_of(self, sr).await,
            // The server says so in its own words.
            None => Ok(redirect::here(self)),
        }
    }

    async fn import<T: FromValue>(
        &self,
        errand: Errand<'_>,
        target: Target,
        pairs: &[(&str, &str)],
        source: ImportSource,
        options: &ImportOptions,
    ) -> Result<T> {
        let put = Put {
            errand,
            target,
            pairs,
            common: &options.common,
            cancel: options.cancel.as_ref(),
            with_task: true,
            // The pieces of disks in an archive say how many they are: a server that has made the
            // machine closes the connection without a look at what follows them.
            spare: (errand.path != DISK.path).then_some(LONGEST_TAIL),
        };
        let value = self.put_raw(&put, source).await?;
        T::from_value(value).map_err(|e| {
            let words = format!("the task's result has an unexpected value: {e}");
            Error::new(ErrorKind::Decode, words).with_source(e)
        })
    }

    /// Removes a disk, which stays in use for a while after an import.
    async fn remove(&self, vdi: &Ref<Vdi>) -> Result<()> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..MOST_REMOVALS {
            match self.call(vdi::destroy(vdi)).await {
                Err(e) if e.is_not_found() => return Ok(()),
                Err(e) if e.is_retryable() => tokio::time::sleep(pause).await,
                other => return other,
            }
            pause *= 2;
        }
        self.call(vdi::destroy(vdi)).await
    }
}

/// The flags are on only by the word `true`.
fn flags(options: &ImportOptions) -> Vec<(&'static str, &'static str)> {
    let mut flags = Vec::new();
    flags.extend(options.restore.then_some(("restore", "true")));
    flags.extend(options.force.then_some(("force", "true")));
    flags
}
