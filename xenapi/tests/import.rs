//! Imports into the simulated pool, over TLS: what was exported comes back byte by byte, and what
//! fails leaves nothing behind.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use simulator::xen::{XenConfig, XenServer};
use xenapi::sr::Sr;
use xenapi::vdi::Vdi;
use xenapi::vm::Vm;
use xenapi::{
    Call, Cancel, Client, Error, ErrorKind, Export, ExportFormat, ExportOptions, ImportOptions,
    ImportSource, Pin, Progress, Ref, Session, Throttle, Trust, WaitOptions, XvaCompression, pool,
    task, vbd, vdi, vm,
};

const MIB: usize = 1 << 20;

async fn start(config: XenConfig) -> (XenServer, Session) {
    let server = XenServer::start(config).await.unwrap();
    let pins = Pin::parse_list(&server.handle().pin_sha256(0).unwrap()).unwrap();
    let client = Client::builder(server.url()).trust(Trust::Pins(pins)).build().unwrap();
    let config = server.config();
    let session = client.login(config.username(), config.password(), "xenapi-test").await.unwrap();
    (server, session)
}

fn options() -> ImportOptions {
    ImportOptions::new("run-1 import").with_inactivity_timeout(Duration::from_secs(20))
}

async fn drain(export: Result<Export, Error>) -> Vec<u8> {
    let mut export = export.unwrap();
    let mut all = Vec::new();
    while let Some(bytes) = export.next().await {
        all.extend_from_slice(&bytes.unwrap());
    }
    export.finish().await.unwrap();
    all
}

async fn export(session: &Session, vdi: &Ref<Vdi>, format: ExportFormat) -> Vec<u8> {
    let options = ExportOptions::new("run-1 export");
    drain(session.export_raw_vdi(vdi, format, &options).await).await
}

async fn storage(session: &Session) -> Ref<Sr> {
    session.call(pool::get_all_records()).await.unwrap().into_values().next().unwrap().default_sr
}

/// A snapshot of the running machine, and its disks.
async fn snapshot(session: &Session) -> (Ref<Vm>, Vec<Ref<Vdi>>) {
    let all = session.call(vm::get_all_records()).await.unwrap();
    let (web01, _) = all.iter().find(|(_, r)| r.name_label == "web01").unwrap();
    let task = session.start(vm::async_snapshot(web01, "xenapi-test")).await.unwrap();
    let snapshot = session.wait(&task, &WaitOptions::new()).await.unwrap();
    let disks = disks(session, &snapshot).await;
    (snapshot, disks)
}

async fn disks(session: &Session, machine: &Ref<Vm>) -> Vec<Ref<Vdi>> {
    let mut disks = Vec::new();
    for device in session.call(vm::get_vbds(machine)).await.unwrap() {
        let device = session.call(vbd::get_record(&device)).await.unwrap();
        disks.extend(device.vdi.non_null().cloned());
    }
    disks
}

/// A new disk with this raw content.
async fn disk(session: &Session, content: &[u8]) -> Ref<Vdi> {
    let sr = storage(session).await;
    let (source, size) = (ImportSource::from_bytes(content.to_vec()), content.len() as u64);
    let (format, options) = (ExportFormat::Raw, options());
    session.import_new_vdi(&sr, "new", format, size, source, &options).await.unwrap()
}

/// Times, checksums and UUIDs differ between two VHDs of the same disk.
fn without_identity(mut vhd: Vec<u8>) -> Vec<u8> {
    let last = vhd.len() - 512;
    for footer in [0, last] {
        vhd[footer + 24..footer + 28].fill(0);
        vhd[footer + 64..footer + 84].fill(0);
    }
    vhd
}

#[tokio::test]
async fn a_disk_comes_back_byte_by_byte() {
    let (server, session) = start(XenConfig::new()).await;
    let sr = storage(&session).await;
    let (_, disks) = snapshot(&session).await;
    for from in &disks {
        let size = session.call(Call::<i64>::new("VDI.get_virtual_size").arg(from)).await.unwrap();
        for format in [ExportFormat::Raw, ExportFormat::Vhd, ExportFormat::Qcow2] {
            let sent = export(&session, from, format).await;
            let length = sent.len() as u64;
            // From a stream of pieces of odd lengths, and from a reader.
            let pieces: Vec<_> = sent.chunks(77_777).map(Bytes::copy_from_slice).map(Ok).collect();
            let reader = io::Cursor::new(sent.clone());
            for source in [
                ImportSource::from_stream(stream::iter(pieces), length),
                ImportSource::from_reader(reader, length),
            ] {
                let size = size.unsigned_abs();
                let options = options();
                let made = session.import_new_vdi(&sr, "back", format, size, source, &options);
                let made = made.await.unwrap();
                let record = session.call(vdi::get_record(&made)).await.unwrap();
                assert_eq!(record.name_label, "back");
                let mut got = export(&session, &made, format).await;
                let mut wanted = sent.clone();
                if format == ExportFormat::Vhd {
                    (got, wanted) = (without_identity(got), without_identity(wanted));
                }
                assert!(got == wanted, "{format}: {} and {} bytes", got.len(), wanted.len());
                session.call(vdi::destroy(&made)).await.unwrap();
            }
        }
    }
    assert_eq!(server.handle().inventory().get("task"), None);
}

#[tokio::test]
async fn a_difference_brings_a_copy_up_to_date() {
    let (_server, session) = start(XenConfig::new()).await;
    let mut content = vec![1; 4 * MIB];
    let disk = disk(&session, &content).await;
    let old = session.call(Call::<Ref<Vdi>>::new("VDI.snapshot").arg(&disk)).await.unwrap();
    let copy = session.call(Call::<Ref<Vdi>>::new("VDI.clone").arg(&old)).await.unwrap();
    content[3 * MIB..].fill(9);
    let source = ImportSource::from_bytes(content.clone());
    session.import_raw_vdi(&disk, ExportFormat::Raw, source, &options()).await.unwrap();
    let (format, only) = (ExportFormat::Vhd, ExportOptions::new("run-1 export").with_base(old));
    let delta = drain(session.export_raw_vdi(&disk, format, &only).await).await;
    assert!(delta.len() < 3 * MIB, "{}", delta.len());
    let source = ImportSource::from_bytes(delta);
    session.import_raw_vdi(&copy, format, source, &options()).await.unwrap();
    assert!(export(&session, &copy, ExportFormat::Raw).await == content);
}

/// The pieces of disks in an archive, by their names without the disk's.
fn pieces(xva: &[u8]) -> Vec<(String, &[u8])> {
    let (mut at, mut found) = (0, Vec::new());
    while xva[at] != 0 {
        let text = |from: usize, to: usize| {
            let field = &xva[at + from..at + to];
            let end = field.iter().position(|b| *b == 0).unwrap();
            String::from_utf8(field[..end].to_vec()).unwrap()
        };
        let size = usize::from_str_radix(&text(124, 136), 8).unwrap();
        if let Some((_, name)) = text(0, 100).split_once('/') {
            found.push((name.to_owned(), &xva[at + 512..at + 512 + size]));
        }
        at += 512 + size.next_multiple_of(512);
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_machine_comes_back_byte_by_byte() {
    let (server, session) = start(XenConfig::new()).await;
    let (snapshot, _) = snapshot(&session).await;
    let before = session.call(vm::get_record(&snapshot)).await.unwrap();
    let to_export = ExportOptions::new("run-1 export");
    let save = async |vm: &Ref<Vm>, compression| {
        drain(session.export_vm(vm, compression, &to_export).await).await
    };
    let first = save(&snapshot, XvaCompression::None).await;
    assert!(pieces(&first).len() > 20);
    for compression in [XvaCompression::None, XvaCompression::Gzip, XvaCompression::Zstd] {
        let archive = save(&snapshot, compression).await;
        for sr in [None, Some(storage(&session).await)] {
            let mut options = options();
            if let Some(sr) = sr {
                options = options.with_sr(sr);
            }
            let source = ImportSource::from_bytes(archive.clone());
            let made = session.import_vm(source, &options).await.unwrap();
            let [machine] = made.as_slice() else { panic!("{made:?}") };
            let record = session.call(vm::get_record(machine)).await.unwrap();
            assert_eq!(record.name_label, before.name_label);
            assert_eq!(record.memory_static_max, before.memory_static_max);
            assert_ne!(record.uuid, before.uuid);
            assert_eq!((record.vbds.len(), record.vifs.len()), (3, 1));
            let again = save(machine, XvaCompression::None).await;
            assert!(pieces(&again) == pieces(&first), "{compression:?}");
        }
    }
    // The machine that was exported is still there.
    let source = ImportSource::from_bytes(first.clone());
    let error = session.import_vm(source, &options().with_restore(true)).await.unwrap_err();
    assert_eq!(error.code().unwrap().as_str(), "DUPLICATE_VM");
    let inventory = server.handle().inventory();
    let source = ImportSource::from_bytes(first.clone());
    let options = options().with_force(true);
    let could = session.import_metadata(source, true, &options).await.unwrap();
    assert_eq!(could.len(), 1);
    assert_eq!(server.handle().inventory(), inventory, "a dry run changes nothing");
    session.call(vm::destroy(&snapshot)).await.unwrap();
    let source = ImportSource::from_bytes(first);
    let made = session.import_vm(source, &options.with_restore(true)).await.unwrap();
    assert_eq!(session.call(vm::get_record(&made[0])).await.unwrap().uuid, before.uuid);
}

/// An import of `sent` into a new disk that fails: its error, when nothing is left of it.
async fn fails(faults: &[&str], source: ImportSource, options: &ImportOptions) -> Error {
    let (server, session) = start(XenConfig::new()).await;
    let sr = storage(&session).await;
    let before = server.handle().inventory();
    for fault in faults {
        server.handle().faults().set_str(fault).unwrap();
    }
    let format = ExportFormat::Raw;
    let made = session.import_new_vdi(&sr, "x", format, 8 << 20, source, options).await;
    let error = made.map(drop).unwrap_err();
    assert_eq!(server.handle().inventory(), before, "{faults:?} leaves something: {error}");
    error
}

fn large() -> ImportSource {
    ImportSource::from_bytes(vec![3; 8 * MIB])
}

#[tokio::test]
async fn what_the_server_says_ends_an_import_and_leaves_nothing() {
    for (fault, kind, code) in [
        ("import-forbidden", ErrorKind::TaskFailed, "RBAC_PERMISSION_DENIED"),
        ("import-500-in-body=100000", ErrorKind::TaskFailed, "INTERNAL_ERROR"),
        ("import-500-in-body=8388608", ErrorKind::TaskFailed, "INTERNAL_ERROR"),
        ("import-task-fails", ErrorKind::TaskFailed, "INTERNAL_ERROR"),
    ] {
        let error = fails(&[fault], large(), &options()).await;
        assert_eq!(error.kind(), kind, "{fault}: {error}");
        assert_eq!(error.code().unwrap().as_str(), code, "{fault}: {error}");
        assert!(error.to_string().starts_with("import into VDI "), "{error}");
    }
    // An image that is larger than its disk is seen late.
    let larger = ImportSource::from_bytes(vec![3; 9 * MIB]);
    assert_eq!(fails(&[], larger, &options()).await.code().unwrap().as_str(), "VDI_IO_ERROR");
}

#[tokio::test]
async fn a_source_that_is_not_what_it_said_ends_an_import_and_leaves_nothing() {
    let piece = || Ok(Bytes::from(vec![4; MIB]));
    let sources: [(&str, u64, Vec<io::Result<Bytes>>); 5] = [
        ("ended after 2097152 of the 4194304", 4 << 20, vec![piece(), piece()]),
        ("ended after 0 of the 5", 5, vec![Ok(Bytes::new())]),
        ("more than the 2097152", 2 << 20, vec![piece(), piece(), Ok(Bytes::new()), piece()]),
        ("more than the 1500000", 1_500_000, vec![piece(), piece()]),
        (
            "the disk is on fire",
            3 << 20,
            vec![piece(), Err(io::Error::other("the disk is on fire"))],
        ),
    ];
    for (words, length, pieces) in sources {
        let source = ImportSource::from_stream(stream::iter(pieces), length);
        let error = fails(&[], source, &options()).await;
        assert_eq!(error.kind(), ErrorKind::Source, "{words}: {error}");
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
}

#[tokio::test]
async fn silence_ends_an_import_on_either_side() {
    let options = options().with_inactivity_timeout(Duration::from_millis(500));
    let forever = stream::iter([Ok(Bytes::from_static(b"x"))]).chain(stream::pending());
    let error = fails(&[], ImportSource::from_stream(forever, 2), &options).await;
    assert_eq!(error.kind(), ErrorKind::Source, "{error}");
    // More than the buffers of two kernels hold.
    let huge = ImportSource::from_stream(
        stream::repeat_with(|| Ok(Bytes::from(vec![0; MIB]))).take(100),
        100 << 20,
    );
    let error = fails(&["import-stall=100000"], huge, &options).await;
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(error.to_string().contains("took nothing"), "{error}");
}

#[tokio::test]
async fn a_word_cancels_an_import_and_leaves_nothing() {
    let cancel = Cancel::new();
    let word = cancel.clone();
    let source = stream::iter([Ok(Bytes::from(vec![0; MIB]))]).chain(stream::once(async move {
        word.cancel();
        std::future::pending().await
    }));
    let options = options().with_cancel(cancel);
    let error = fails(&[], ImportSource::from_stream(source, 2 << 20), &options).await;
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
}

#[tokio::test]
async fn a_dropped_import_fails_at_the_server() {
    let (_server, session) = start(XenConfig::new()).await;
    let disk = disk(&session, &[0; MIB]).await;
    let gone = Arc::new(tokio::sync::Notify::new());
    let reached = Arc::clone(&gone);
    let source = stream::iter([Ok(Bytes::from_static(b"begin"))]).chain(stream::once(async move {
        reached.notify_one();
        std::future::pending().await
    }));
    let source = ImportSource::from_stream(source, 1 << 20);
    let options = options();
    tokio::select! {
        result = session.import_raw_vdi(&disk, ExportFormat::Raw, source, &options) => {
            panic!("{result:?}")
        }
        () = gone.notified() => {}
    }
    // The task is found by its label, and has failed by itself.
    let tasks = session.call(task::get_all_records()).await.unwrap();
    let (task, _) = tasks.iter().find(|(_, t)| t.name_label == "run-1 import").unwrap();
    let handle = xenapi::TaskHandle::<serde_json::Value>::new(task.clone());
    let error = session.wait(&handle, &WaitOptions::new()).await.unwrap_err();
    assert_eq!(error.code().unwrap().as_str(), "VDI_IO_ERROR");
}

#[tokio::test]
async fn a_server_that_answers_late_is_served_as_well() {
    let (server, session) = start(XenConfig::new()).await;
    server.handle().faults().set_str("import-late-200").unwrap();
    let content = vec![8; 2 * MIB];
    let disk = disk(&session, &content).await;
    assert!(export(&session, &disk, ExportFormat::Raw).await == content);
}

#[tokio::test]
async fn an_import_is_paced_and_tells_of_itself() {
    let (_server, session) = start(XenConfig::new()).await;
    let disk = disk(&session, &[0; 2 * MIB]).await;
    let told: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let tell = Arc::clone(&told);
    let rate = std::num::NonZeroU64::new(4 << 20).unwrap();
    let options = options()
        .with_throttle(Throttle::new(rate))
        .with_progress(move |progress| tell.lock().unwrap().push(progress));
    let start = std::time::Instant::now();
    let source = ImportSource::from_bytes(vec![6; 2 * MIB]);
    session.import_raw_vdi(&disk, ExportFormat::Raw, source, &options).await.unwrap();
    // Half a second at the rate, but for what may be saved up, and for the last piece. More time is
    // allowed.
    assert!(start.elapsed() > Duration::from_millis(350), "{:?}", start.elapsed());
    let told = told.lock().unwrap();
    assert!(told.is_sorted_by_key(|progress| progress.bytes));
    assert!(told.iter().all(|progress| progress.total == Some(2 << 20)));
    assert!(told.iter().any(|progress| progress.bytes == 2 << 20));
    assert!(told.iter().any(|progress| progress.task > 0.0), "the task was not watched");
}
