//! What `PUT /import` makes of an XVA archive: its description and disks, and the machine.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

use sha1::{Digest as _, Sha1};
use uuid::Uuid;

use super::import_store::Stored;
use super::pool::State;
use super::schema;
use super::value::{ApiError, NULL, Record, Value, map, set, text, truth};
use super::{vm, xml};

const CHUNK: u64 = 1 << 20;
/// A description of a machine is small; a disk's piece is a chunk.
const LONGEST_DESCRIPTION: u64 = 16 << 20;

/// What the request asks for beside the archive.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wishes {
    /// Where the disks go.
    pub(crate) sr: String,
    /// The machine keeps its uuid and its MAC addresses.
    pub(crate) restore: bool,
    /// Wrong checksums and missing disks are passed over.
    pub(crate) force: bool,
    /// Only the description counts: the disks are those of the pool.
    pub(crate) metadata: bool,
    pub(crate) dry_run: bool,
}

/// An archive that was read to its end.
#[derive(Debug)]
pub(crate) struct Archive {
    objects: Vec<Entry>,
    /// Disks by their names in the archive.
    disks: BTreeMap<String, Stored>,
}

#[derive(Debug)]
struct Entry {
    class: String,
    id: String,
    record: Record,
}

fn premature(_: io::Error) -> ApiError {
    ApiError::new("IMPORT_ERROR_PREMATURE_EOF", [])
}

fn unexpected(expected: &str, found: &str) -> ApiError {
    ApiError::new("IMPORT_ERROR_UNEXPECTED_FILE", [expected, found])
}

/// Reads an archive that may be compressed.
pub(crate) fn read(mut body: impl Read, wishes: &Wishes) -> Result<Archive, ApiError> {
    let mut magic = [0; 4];
    body.read_exact(&mut magic).map_err(premature)?;
    let is_tar = magic == *b"ova.";
    let whole = io::Cursor::new(magic).chain(body);
    // As the server decides it: neither tar nor Zstandard is gzip.
    if is_tar {
        read_tar(whole, wishes)
    } else if magic == [0x28, 0xb5, 0x2f, 0xfd] {
        let decoder = ruzstd::decoding::StreamingDecoder::new(io::BufReader::new(whole));
        let failed = |_| ApiError::new("IMPORT_ERROR", ["no Zstandard"]);
        read_tar(decoder.map_err(failed)?, wishes)
    } else {
        read_tar(flate2::read::MultiGzDecoder::new(whole), wishes)
    }
}

fn read_tar(mut tar: impl Read, wishes: &Wishes) -> Result<Archive, ApiError> {
    let (name, size) = member(&mut tar)?.ok_or_else(|| unexpected("ova.xml", ""))?;
    if name != "ova.xml" || size > LONGEST_DESCRIPTION {
        return Err(unexpected("ova.xml", &name));
    }
    let description = content(&mut tar, size)?;
    let objects = describe(&description).ok_or_else(|| unexpected("ova.xml", "something else"))?;
    let mut archive = Archive { objects, disks: BTreeMap::new() };
    if wishes.metadata {
        return Ok(archive);
    }
    for disk in archive.objects.iter().filter(|entry| entry.class == "VDI") {
        let size = disk.record.get("virtual_size").and_then(Value::as_int).unwrap_or_default();
        let stored = Stored::new(size.unsigned_abs(), None).map_err(premature)?;
        archive.disks.insert(disk.id.clone(), stored);
    }
    // The checksum of the piece before.
    let mut sum = None;
    while let Some((name, size)) = member(&mut tar)? {
        if size > CHUNK {
            return Err(unexpected("a piece of a disk", &name));
        }
        let data = content(&mut tar, size)?;
        let Some((disk, piece)) = name.split_once('/') else {
            return Err(unexpected("a piece of a disk", &name));
        };
        if piece.ends_with(".checksum") {
            if sum.take() != Some(data) && !wishes.force {
                return Err(ApiError::new("IMPORT_ERROR_SOME_CHECKSUMS_FAILED", []));
            }
        } else if !piece.ends_with(".xxhash") {
            let stored = archive.disks.get_mut(disk).zip(piece.parse::<u64>().ok());
            let (stored, number) = stored.ok_or_else(|| unexpected("a piece of a disk", &name))?;
            let failed = |_| ApiError::new("VDI_IO_ERROR", ["Device I/O errors"]);
            stored.write(number.saturating_mul(CHUNK), &data).map_err(failed)?;
            sum = Some(hex::encode(Sha1::digest(&data)).into_bytes());
        }
    }
    Ok(archive)
}

/// The header of the next member: its name and size; none at the end of the archive.
fn member(tar: &mut impl Read) -> Result<Option<(String, u64)>, ApiError> {
    let mut header = [0; 512];
    tar.read_exact(&mut header).map_err(premature)?;
    if header == [0; 512] {
        return Ok(None);
    }
    let field = |from: usize, to: usize| {
        let field = header.get(from..to).unwrap_or_default();
        let end = field.iter().position(|b| matches!(b, 0 | b' ')).unwrap_or(field.len());
        String::from_utf8_lossy(field.get(..end).unwrap_or_default()).into_owned()
    };
    let name = field(0, 100);
    let size = u64::from_str_radix(field(124, 136).trim(), 8);
    let size = size.map_err(|_| unexpected("a member of a tar file", &name))?;
    Ok(Some((name, size)))
}

fn content(tar: &mut impl Read, size: u64) -> Result<Vec<u8>, ApiError> {
    let mut data = Vec::new();
    tar.take(size.next_multiple_of(512)).read_to_end(&mut data).map_err(premature)?;
    if data.len() as u64 != size.next_multiple_of(512) {
        return Err(premature(io::ErrorKind::UnexpectedEof.into()));
    }
    data.truncate(size as usize);
    Ok(data)
}

fn describe(xml: &[u8]) -> Option<Vec<Entry>> {
    let all = xml::read(std::str::from_utf8(xml).ok()?)?;
    let objects = all.as_map()?.get("objects")?.as_array().iter();
    let entry = |object: &Value| {
        let object = object.as_map()?;
        Some(Entry {
            class: text(object, "class").to_owned(),
            id: text(object, "id").to_owned(),
            record: object.get("snapshot")?.as_map()?.clone(),
        })
    };
    objects.map(entry).collect()
}

/// Makes the machines and their disks, and gives the machines' references.
pub(crate) fn create(
    state: &mut State,
    archive: Archive,
    wishes: &Wishes,
) -> Result<Vec<String>, ApiError> {
    let Archive { objects, disks } = archive;
    check(state, &objects, wishes)?;
    let machines = || objects.iter().filter(|entry| entry.class == "VM");
    if wishes.dry_run {
        return Ok(machines().map(|_| super::db::fresh_ref()).collect());
    }
    let mut names = BTreeMap::new();
    for entry in &objects {
        let record = &entry.record;
        let known = match entry.class.as_str() {
            "SR" => Some(wishes.sr.clone()),
            "network" => find_network(state, record),
            "VDI" if wishes.metadata => state.db.by_uuid("VDI", text(record, "uuid")),
            _ => None,
        };
        names.extend(known.map(|known| (entry.id.clone(), known)));
    }
    for (id, stored) in disks {
        let entry = objects.iter().find(|entry| entry.id == id);
        let record = entry.map(|entry| entry.record.clone()).unwrap_or_default();
        names.insert(id, add_disk(state, &record, &wishes.sr, stored));
    }
    for entry in machines() {
        let made = add_machine(state, entry, wishes);
        names.insert(entry.id.clone(), made);
    }
    for entry in &objects {
        if let "VBD" | "VIF" = entry.class.as_str() {
            add_device(state, entry, &names, wishes);
        }
    }
    Ok(machines().filter_map(|entry| names.get(&entry.id).cloned()).collect())
}

/// What must hold before anything is made.
fn check(state: &State, objects: &[Entry], wishes: &Wishes) -> Result<(), ApiError> {
    for Entry { class, id, record } in objects {
        let found = match class.as_str() {
            "VM" => state.db.by_uuid("VM", text(record, "uuid")),
            "VDI" => state.db.by_uuid("VDI", text(record, "uuid")),
            _ => continue,
        };
        match (class.as_str(), found) {
            ("VM", Some(vm)) if wishes.restore => {
                return Err(ApiError::new("DUPLICATE_VM", [&vm]));
            }
            ("VDI", None) if wishes.metadata && !wishes.force => {
                return Err(ApiError::new("IMPORT_ERROR_ATTACHED_DISKS_NOT_FOUND", []));
            }
            _ if id.is_empty() => return Err(unexpected("ova.xml", "something else")),
            _ => {}
        }
    }
    if !wishes.metadata && state.db.raw("SR", &wishes.sr).is_err() {
        return Err(ApiError::new("DEFAULT_SR_NOT_FOUND", [&wishes.sr]));
    }
    Ok(())
}

fn find_network(state: &State, record: &Record) -> Option<String> {
    let named = |(_, other): &(&str, &Record)| {
        !text(other, "name_label").is_empty()
            && text(other, "name_label") == text(record, "name_label")
    };
    let by_name = || state.db.iter("network").find(named).map(|(r, _)| r.to_owned());
    state.db.by_uuid("network", text(record, "uuid")).or_else(by_name)
}

/// The fields that the class knows, with their types: in an archive all numbers are texts.
fn typed(class: &str, record: &Record) -> Record {
    let fields = schema::classes().get(class).map(|c| c.fields.as_slice()).unwrap_or_default();
    let typed = fields.iter().filter_map(|field| {
        let value = schema::coerce(field.kind, record.get(field.name)?.clone())?;
        Some((field.name.to_owned(), value))
    });
    typed.collect()
}

fn add_disk(state: &mut State, record: &Record, sr: &str, stored: Stored) -> String {
    let mut record = typed("VDI", record);
    for (field, value) in [
        ("uuid", Value::from("")),
        ("SR", sr.into()),
        ("is_a_snapshot", false.into()),
        ("snapshot_of", NULL.into()),
        ("parent", NULL.into()),
        ("managed", true.into()),
        ("current_operations", map([])),
        ("allowed_operations", set(["clone", "copy", "destroy", "snapshot", "update"])),
    ] {
        record.insert(field.to_owned(), value);
    }
    super::vdi::add(state, record, Arc::new(stored))
}

fn add_machine(state: &mut State, entry: &Entry, wishes: &Wishes) -> String {
    let metrics = state.db.insert("VM_metrics", Record::new());
    let mut record = typed("VM", &entry.record);
    if !wishes.restore {
        record.insert("uuid".to_owned(), "".into());
    }
    for (field, value) in [
        ("power_state", Value::from("Halted")),
        ("domid", Value::Int(-1)),
        ("is_a_snapshot", false.into()),
        ("allowed_operations", vm::allowed("Halted")),
        ("current_operations", map([])),
        ("metrics", metrics.into()),
    ] {
        record.insert(field.to_owned(), value);
    }
    for field in [
        "resident_on",
        "affinity",
        "guest_metrics",
        "snapshot_of",
        "parent",
        "suspend_VDI",
        "suspend_SR",
        "scheduled_to_be_resident_on",
    ] {
        record.insert(field.to_owned(), NULL.into());
    }
    state.db.insert("VM", record)
}

/// A device whose machine is here; one without its disk or network is left out.
fn add_device(
    state: &mut State,
    entry: &Entry,
    names: &BTreeMap<String, String>,
    wishes: &Wishes,
) -> Option<()> {
    let (class, target) = if entry.class == "VBD" { ("VBD", "VDI") } else { ("VIF", "network") };
    let mut record = typed(class, &entry.record);
    let machine = names.get(text(&record, "VM"))?.clone();
    if class == "VIF" || !truth(&record, "empty") {
        let found = names.get(text(&record, target))?.clone();
        record.insert(target.to_owned(), found.into());
    }
    if class == "VIF" && !wishes.restore {
        let [a, b, c, d, e, ..] = Uuid::new_v4().into_bytes();
        let mac = format!("02:{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}");
        record.insert("MAC".to_owned(), mac.into());
    }
    for (field, value) in [
        ("uuid", Value::from("")),
        ("VM", machine.into()),
        ("currently_attached", false.into()),
        ("allowed_operations", set(["attach"])),
        ("current_operations", map([])),
        ("metrics", NULL.into()),
    ] {
        record.insert(field.to_owned(), value);
    }
    state.db.insert(class, record);
    Some(())
}
