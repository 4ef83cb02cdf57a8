//! One VHD file: its footer, header, BAT and batmap, found and bounded by the file's length.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::table::Table;
use super::{Batmap, DiskType, DynamicHeader, Fields, Footer, Locator};
use crate::finding::{Findings, Policy};
use crate::{Error, ErrorKind, ReadAt, Result};

/// The parsed metadata of one VHD file.
#[derive(Debug)]
pub(crate) struct VhdFile {
    pub(crate) file: Arc<dyn ReadAt>,
    pub(crate) path: Option<PathBuf>,
    pub(crate) len: u64,
    pub(crate) footer: Footer,
    /// What a dynamic or differencing disk has beyond the footer.
    pub(crate) sparse: Option<Sparse>,
    /// Whether blocks lie on one another, which only a lenient reading survives.
    pub(crate) tangled: bool,
}

/// The tables of a dynamic or differencing disk.
#[derive(Debug)]
pub(crate) struct Sparse {
    pub(crate) header: DynamicHeader,
    pub(crate) bat: Table,
    pub(crate) batmap: Option<Batmap>,
}

/// The footer, the header and the end of the header's table, without the BAT: enough to
/// describe a VHD and to recognise a parent.
pub(crate) fn head(
    file: &dyn ReadAt,
    findings: &mut Findings,
) -> Result<(Footer, Option<DynamicHeader>, u64)> {
    let len = file.byte_len().map_err(|e| Error::io("cannot learn the file's length", e))?;
    let footer = find_footer(file, len, findings)?;
    if footer.is_ancient_tap() {
        return Err(Error::unsupported(
            "the VHD was written by tapdisk 0.1, whose bitmaps differ; copy it with vhd-util first",
        ));
    }
    let header = match footer.disk_type {
        DiskType::Fixed => None,
        _ => Some(find_header(file, len, &footer, findings)?),
    };
    Ok((footer, header, len))
}

impl VhdFile {
    /// Reads the metadata of `file`.
    pub(crate) fn open(
        file: Arc<dyn ReadAt>,
        path: Option<&Path>,
        findings: &mut Findings,
    ) -> Result<Self> {
        Self::load(file, path, findings).map_err(|e| match path {
            Some(path) => e.with_path(path),
            None => e,
        })
    }

    fn load(file: Arc<dyn ReadAt>, path: Option<&Path>, findings: &mut Findings) -> Result<Self> {
        let (footer, header, len) = head(&file, findings)?;
        let mut this = Self {
            file,
            path: path.map(Path::to_path_buf),
            len,
            footer,
            sparse: None,
            tangled: false,
        };
        match header {
            None => this.examine_fixed(findings)?,
            Some(header) => {
                let bat = this.find_bat(&header)?;
                let batmap = this.read_batmap(&header, findings)?;
                let mut sparse = Sparse { header, bat, batmap };
                this.tangled = this.examine_blocks(&mut sparse, findings)?;
                this.sparse = Some(sparse);
            }
        }
        Ok(this)
    }

    /// The size of the disk, whole sectors.
    pub(crate) fn size(&self) -> u64 {
        self.footer.current_size / super::SECTOR * super::SECTOR
    }

    pub(crate) fn is_differencing(&self) -> bool {
        self.footer.disk_type == DiskType::Differencing
    }

    fn examine_fixed(&self, findings: &mut Findings) -> Result<()> {
        let size = self.footer.current_size;
        let data = self.len.saturating_sub(Footer::LEN as u64 - 1) / super::SECTOR * super::SECTOR;
        if size > crate::raw::MAX_DISK {
            return Err(Error::new(ErrorKind::TooLarge, format!("a disk of {size} bytes")));
        }
        if data < size {
            let message = format!("the fixed VHD of {size} bytes has only {data} bytes of data");
            findings.violation_of(ErrorKind::Truncated, "fixed-short", message)?;
        } else if data > size {
            findings.note("fixed-long", "the fixed VHD is longer than its disk");
        }
        Ok(())
    }

    fn find_bat(&self, header: &DynamicHeader) -> Result<Table> {
        let entries = header.needed_entries(self.size())?;
        let end = header.table_offset.checked_add(u64::from(entries) * 4);
        if end.is_none_or(|end| end > self.len) {
            return Err(Error::truncated("the VHD ends within its block allocation table")
                .with_offset(header.table_offset));
        }
        Ok(Table::new(Arc::clone(&self.file), header.table_offset, entries))
    }

    /// The batmap, where tapdisk's rules let one be expected and it can be trusted.
    fn read_batmap(
        &self,
        header: &DynamicHeader,
        findings: &mut Findings,
    ) -> Result<Option<Batmap>> {
        let (Some(required), Some(at)) = (self.footer.batmap_rule(), header.bat_end()) else {
            return Ok(None);
        };
        let mut raw = [0; Batmap::LEN];
        if at.checked_add(Batmap::LEN as u64).is_some_and(|end| end <= self.len) {
            self.read(&mut raw, at)?;
        }
        let Some(mut batmap) = Batmap::parse_header(&raw) else {
            if required {
                findings.note_at("batmap-missing", "vhd-util expects a batmap here", at);
            }
            return Ok(None);
        };
        if batmap.encrypted {
            return Err(Error::unsupported(
                "the VHD is encrypted (its batmap carries a key hash); export it from its host",
            ));
        }
        let len = batmap.map_len(header.blocks_for(self.size()));
        let fits = batmap.map_offset.checked_add(len).is_some_and(|end| end <= self.len);
        let mut map = Vec::new();
        if fits {
            map.resize(usize::try_from(len).unwrap_or(0), 0);
            self.read(&mut map, batmap.map_offset)?;
        }
        match batmap.load(map, findings) {
            Ok(()) if fits => Ok(Some(batmap)),
            _ => {
                findings.note_at("batmap-damaged", "the batmap is damaged and is ignored", at);
                Ok(None)
            }
        }
    }

    /// Every stored block lies within the file, on none of the tables and on no other block:
    /// O(n log n), with four bytes of memory a stored block.
    fn examine_blocks(&self, sparse: &mut Sparse, findings: &mut Findings) -> Result<bool> {
        let Sparse { header, bat, .. } = sparse;
        let block_size = u64::from(header.block_size);
        let mut tables_end = header.bat_end().unwrap_or(u64::MAX);
        tables_end = tables_end.max(self.footer.data_offset.saturating_add(1024));
        let blocks_end = self.blocks_end()?;
        let mut starts: Vec<u32> = Vec::new();
        bat.learn(|index, start| {
            let left = self.size().saturating_sub(index * block_size);
            let data = start + header.bitmap_len();
            if data + left.min(block_size) > blocks_end {
                let message = format!(
                    "block {index} of the VHD lies past the end of the file or on its footer: the \
                     file is truncated or its allocation table is damaged"
                );
                findings
                    .violation_of(ErrorKind::Truncated, "block-outside", message)
                    .map_err(|e| e.with_offset(start))?;
            } else if self.touches_tables(header, start, data + block_size, tables_end) {
                let message = format!("block {index} of the VHD lies on the tables of the file");
                findings.violation("block-on-tables", message).map_err(|e| e.with_offset(start))?;
            }
            starts.push((start / super::SECTOR) as u32);
            Ok(())
        })?;
        starts.sort_unstable();
        let stride = (header.bitmap_len() + block_size) / super::SECTOR;
        let clash = starts.windows(2).find(|w| u64::from(w[1] - w[0]) < stride);
        if let Some(&[_, second]) = clash {
            findings
                .violation("block-overlap", "two blocks of the VHD lie on one another")
                .map_err(|e| e.with_offset(u64::from(second) * super::SECTOR))?;
        }
        Ok(clash.is_some())
    }

    /// Where the last footer begins, or the end of a file that has none.
    fn blocks_end(&self) -> Result<u64> {
        let full = Footer::LEN as u64;
        let Some(start) = self.len.checked_sub(full) else { return Ok(self.len) };
        let mut tail = [0; Footer::LEN];
        self.read(&mut tail, start)?;
        let short = self.len % super::SECTOR == full - 1 && Footer::probe(&tail[1..]);
        Ok(match (Footer::probe(&tail), short) {
            (true, _) => start,
            (false, true) => start + 1,
            _ => self.len,
        })
    }

    fn touches_tables(&self, header: &DynamicHeader, start: u64, end: u64, all: u64) -> bool {
        let meets = |from: u64, to: u64| start < to && end > from;
        start < all
            && (meets(0, Footer::LEN as u64)
                || meets(self.footer.data_offset, self.footer.data_offset.saturating_add(1024))
                || meets(header.table_offset, header.bat_end().unwrap_or(u64::MAX)))
    }

    /// The text of a locator as a path, if it can be read.
    pub(crate) fn locator_path(&self, locator: &Locator) -> Option<String> {
        if locator.data_len > Locator::MAX_TEXT {
            return None;
        }
        let end = locator.data_offset.checked_add(u64::from(locator.data_len))?;
        if end > self.len {
            return None;
        }
        let mut text = vec![0; locator.data_len as usize];
        self.file.read_exact_at(&mut text, locator.data_offset).ok()?;
        locator.path(&text)
    }

    pub(crate) fn read(&self, buf: &mut [u8], at: u64) -> Result<()> {
        self.file
            .read_exact_at(buf, at)
            .map_err(|e| self.named(Error::io("cannot read the VHD", e).with_offset(at)))
    }

    /// `error` with the name of this file.
    pub(crate) fn named(&self, error: Error) -> Error {
        match &self.path {
            Some(path) => error.with_path(path),
            None => error,
        }
    }
}

/// libvhd's order: the last 512 bytes, the last 511 of an old Virtual PC file, the copy at the
/// start. A sound copy stands in for a damaged footer.
fn find_footer(file: &dyn ReadAt, len: u64, findings: &mut Findings) -> Result<Footer> {
    let read = |at: u64, n: u64| -> Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; n as usize];
        if at.checked_add(n).is_none_or(|end| end > len) {
            return Ok(None);
        }
        file.read_exact_at(&mut bytes, at).map_err(|e| Error::io("cannot read the VHD", e))?;
        Ok(Footer::probe(&bytes).then_some(bytes))
    };
    let full = Footer::LEN as u64;
    let mut end = read(len.saturating_sub(full), full.min(len))?;
    if end.is_none() && len % super::SECTOR == full - 1 {
        end = read(len - (full - 1), full - 1)?;
        if end.is_some() {
            findings.note("footer-short", "the footer has 511 bytes, as old Virtual PC wrote it");
        }
    }
    let copy = read(0, full)?;
    let Some(end) = end else {
        let Some(copy) = copy else { return Err(Error::corrupt("the file has no VHD footer")) };
        let footer = Footer::parse(&copy, findings)?;
        if footer.disk_type == DiskType::Fixed {
            return Err(Error::truncated("the fixed VHD has no footer at its end"));
        }
        findings.note("footer-missing", "no footer at the end of the file; its copy was used");
        return Ok(footer);
    };
    let sound = |bytes: &[u8]| Footer::parse(bytes, &mut Findings::new(Policy::Strict));
    let poisoned = end.starts_with(Footer::POISON);
    // A fixed disk begins with what its guest wrote, which may look like a copy of a footer.
    let fixed = end.u64_at(16) == u64::MAX || end.u32_at(60) == DiskType::Fixed.code();
    if let (Err(_), Some(copy), false) = (sound(&end), &copy, poisoned || fixed)
        && sound(copy).is_ok_and(|f| f.disk_type != DiskType::Fixed)
    {
        findings.note("footer-damaged", "the footer at the end is damaged; its copy was used");
        return Footer::parse(copy, findings);
    }
    let footer = Footer::parse(&end, findings)?;
    if footer.disk_type != DiskType::Fixed {
        compare_copy(&footer, &end, copy.as_deref(), findings);
    }
    Ok(footer)
}

fn compare_copy(footer: &Footer, end: &[u8], copy: Option<&[u8]>, findings: &mut Findings) {
    let Some(copy) = copy else {
        findings.note("footer-copy-missing", "the copy of the footer is not at the file's start");
        return;
    };
    if copy.starts_with(end) {
        return;
    }
    let other = Footer::parse(copy, &mut Findings::new(Policy::Strict));
    let differs = other.is_ok_and(|other| {
        (other.current_size, other.disk_type, other.data_offset)
            != (footer.current_size, footer.disk_type, footer.data_offset)
    });
    if differs {
        let message = "footer and copy are both sound, but describe different disks";
        findings.corrupt("footer-mismatch", message, Some(0));
    } else {
        findings.note_at("footer-mismatch", "the footer and its copy differ", 0);
    }
}

fn find_header(
    file: &dyn ReadAt,
    len: u64,
    footer: &Footer,
    findings: &mut Findings,
) -> Result<DynamicHeader> {
    let at = footer.data_offset;
    if at.checked_add(DynamicHeader::LEN as u64).is_none_or(|end| end > len) {
        return Err(
            Error::truncated("the VHD's header lies past the end of the file").with_offset(at)
        );
    }
    let mut raw = [0; DynamicHeader::LEN];
    file.read_exact_at(&mut raw, at)
        .map_err(|e| Error::io("cannot read the VHD's header", e).with_offset(at))?;
    DynamicHeader::parse(&raw, findings).map_err(|e| e.with_offset(at))
}
