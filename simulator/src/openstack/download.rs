//! `GET /v2/images/{id}/file`: the data, or one range of them.

use std::fs::File;
use std::io::{Seek, SeekFrom};

use super::glance::{Caller, find};
use super::http::{Reply, Req, glance_error};
use super::image::Status;
use super::state::Shared;
use super::{Fault, store};

pub(super) fn download(state: &Shared, req: &Req, caller: &Caller, id: &str) -> Reply {
    let image = match find(&mut state.tables(), req, caller, id) {
        Ok(image) => image.clone(),
        Err(refusal) => return *refusal,
    };
    if image.status == Status::Deactivated && !caller.admin {
        let said = "The requested image has been deactivated. Image data download is forbidden.";
        return glance_error(req, 403, said, "");
    }
    let mut preferred = req.query("prefer").unwrap_or_default().split(',').map(str::trim);
    if let Some(store) = preferred.find(|store| !store.is_empty() && !store::ids().contains(store))
    {
        let said = format!("The selected store {store} is not available on this node.");
        return glance_error(req, 400, &said, "");
    }
    let (Some(path), Some(size)) = (&image.file, image.size) else {
        // The real server stumbles here too.
        return match req.header("range") {
            Some(_) => Reply::crash(),
            None => Reply::empty(204),
        };
    };
    let ranged = req.header("range").filter(|_| !state.faults.on(&Fault::NoRange));
    if ranged.is_some_and(|range| range.contains(',')) {
        return glance_error(req, 400, "Multiple ranges are not supported.", "");
    }
    let (start, len) = match ranged.map(|text| parse_range(text, size)) {
        None => (0, size),
        Some(Some(range)) => range,
        Some(None) => {
            let said = format!("Invalid range header {}", req.header("range").unwrap_or_default());
            return glance_error(req, 416, &said, "");
        }
    };
    let opened = File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(start))?;
        Ok(file)
    });
    let Ok(file) = opened else {
        return glance_error(req, 404, &format!("The data of image {id} are gone."), "");
    };
    let partial = ranged.is_some();
    let close = state.faults.take(|fault| match fault {
        Fault::DownloadClose(after) => Some(*after),
        _ => None,
    });
    let mut reply = Reply::file(if partial { 206 } else { 200 }, file, len, close);
    if partial {
        let end = start + len.saturating_sub(1);
        reply = reply.with_header("content-range", format!("bytes {start}-{end}/{size}"));
    }
    // The digest of the whole, also beside a part.
    match image.checksum {
        Some(checksum) => reply.with_header("content-md5", checksum),
        None => reply,
    }
}

/// One byte range of `size` bytes as (start, length); `None` for what is not satisfiable, not
/// understood, or more than one range.
fn parse_range(text: &str, size: u64) -> Option<(u64, u64)> {
    let (from, to) = text.trim().strip_prefix("bytes=")?.split_once('-')?;
    if from.is_empty() {
        // The last 0 bytes are, oddly, all of them.
        let suffix: u64 = to.parse().ok()?;
        let len = if suffix == 0 { size } else { suffix.min(size) };
        return Some((size - len, len));
    }
    let start: u64 = from.parse().ok()?;
    let end = if to.is_empty() { u64::MAX } else { to.parse().ok()? };
    (start < size && start <= end).then(|| (start, end.min(size - 1) - start + 1))
}

#[cfg(test)]
mod tests {
    use super::parse_range;

    #[test]
    fn ranges_are_single_and_inside() {
        assert_eq!(parse_range("bytes=0-4", 10), Some((0, 5)));
        assert_eq!(parse_range("bytes=4-", 10), Some((4, 6)));
        assert_eq!(parse_range("bytes=4-99", 10), Some((4, 6)));
        assert_eq!(parse_range("bytes=-3", 10), Some((7, 3)));
        assert_eq!(parse_range("bytes=-30", 10), Some((0, 10)));
        assert_eq!(parse_range("bytes=-0", 10), Some((0, 10)));
        for bad in ["bytes=10-", "bytes=5-4", "bytes=0-1,3-4", "bytes=x-", "bytes=-", "0-4"] {
            assert_eq!(parse_range(bad, 10), None, "{bad}");
        }
    }
}
