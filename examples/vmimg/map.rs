//! The map of a disk: drawn for people, listed for programs.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use serde_json::json;
use vmimage::{Disk, ExtentKind};

use crate::streams::is_broken_pipe;
use crate::{Result, one_line, size_text};

/// How many cells a row of the picture has, and how many rows there are at most.
const COLUMNS: usize = 64;
const ROWS: usize = 24;

/// Layers by age: digits, then letters, then one sign for all that are older.
const SIGNS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// How the map is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Show {
    Json,
    List,
    Picture,
}

impl Show {
    /// What was asked for, or what fits who reads it.
    pub(crate) fn choose(json: bool, list: bool, draw: bool) -> Self {
        if json {
            Self::Json
        } else if draw || (!list && io::stdout().is_terminal()) {
            Self::Picture
        } else {
            Self::List
        }
    }
}

/// Shows the map of `disk`, whose layers are these files, the youngest first.
pub(crate) fn show(disk: &dyn Disk, files: &[PathBuf], show: Show) -> Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let result = match show {
        Show::Json => json_rows(disk, &mut out),
        Show::List => list(disk, &mut out),
        Show::Picture => {
            let color = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            Picture::of(disk)?.draw(disk, files, color, &mut out)
        }
    };
    match result.and_then(|()| Ok(out.flush()?)) {
        Err(error) if is_broken_pipe(error.as_ref()) => Ok(()),
        result => result,
    }
}

/// The words of `qemu-img map --output=json`.
fn json_rows(disk: &dyn Disk, out: &mut impl Write) -> Result<()> {
    let mut separator = "[";
    let mut at = 0;
    while at < disk.virtual_size() {
        let (len, kind) = merged_extent(disk, at)?;
        let data = !matches!(kind, ExtentKind::Zero);
        let (depth, offset) = place(kind);
        let row = json!({
            "start": at, "length": len, "depth": depth, "zero": !data, "data": data,
            "offset": offset,
        });
        write!(out, "{separator}{row}")?;
        separator = ",\n";
        at += len;
    }
    writeln!(out, "{}", if separator == "[" { "[]" } else { "]" })?;
    Ok(())
}

/// A line for each run of data.
fn list(disk: &dyn Disk, out: &mut impl Write) -> Result<()> {
    let mut at = 0;
    while at < disk.virtual_size() {
        let (len, kind) = merged_extent(disk, at)?;
        if !matches!(kind, ExtentKind::Zero) {
            let (depth, offset) = place(kind);
            let place = offset.map_or_else(|| "-".to_owned(), |o| o.to_string());
            writeln!(out, "{at} {len} layer {depth} at {place}")?;
        }
        at += len;
    }
    Ok(())
}

fn place(kind: ExtentKind) -> (u32, Option<u64>) {
    match kind {
        ExtentKind::Data { layer, file_offset } => (layer, Some(file_offset)),
        _ => (0, None),
    }
}

/// Neighbours of one kind that are also neighbours in the file.
fn merged_extent(disk: &dyn Disk, start: u64) -> Result<(u64, ExtentKind)> {
    let first = disk.extent_at(start)?;
    let mut len = first.len;
    while start + len < disk.virtual_size() {
        let next = disk.extent_at(start + len)?;
        let joins = match (first.kind, next.kind) {
            (
                ExtentKind::Data { layer, file_offset },
                ExtentKind::Data { layer: next_layer, file_offset: next_offset },
            ) => layer == next_layer && file_offset + len == next_offset,
            (a, b) => a == b,
        };
        if !joins {
            break;
        }
        len += next.len;
    }
    Ok((len, first.kind))
}

/// The disk as a picture: each cell is a part of it.
struct Picture {
    /// How many bytes a cell stands for.
    cell: u64,
    /// For each cell, how many bytes each layer has.
    cells: Vec<Vec<(u32, u64)>>,
    /// How many bytes each layer has in all.
    layers: Vec<u64>,
}

impl Picture {
    fn of(disk: &dyn Disk) -> Result<Self> {
        let size = disk.virtual_size();
        let smallest = size.div_ceil((COLUMNS * ROWS) as u64).max(64 << 10);
        let cell = smallest.checked_next_power_of_two().unwrap_or(smallest);
        let count = usize::try_from(size.div_ceil(cell))?;
        let mut this = Self { cell, cells: vec![Vec::new(); count], layers: Vec::new() };
        let mut at = 0;
        while at < size {
            let extent = disk.extent_at(at)?;
            if !matches!(extent.kind, ExtentKind::Zero) {
                this.add(at, at + extent.len, place(extent.kind).0);
            }
            at += extent.len;
        }
        Ok(this)
    }

    fn add(&mut self, mut at: u64, end: u64, layer: u32) {
        let index = layer as usize;
        if self.layers.len() <= index {
            self.layers.resize(index + 1, 0);
        }
        self.layers[index] += end - at;
        while at < end {
            let stop = end.min((at / self.cell + 1) * self.cell);
            if let Some(cell) = self.cells.get_mut((at / self.cell) as usize) {
                match cell.iter_mut().find(|(l, _)| *l == layer) {
                    Some((_, bytes)) => *bytes += stop - at,
                    None => cell.push((layer, stop - at)),
                }
            }
            at = stop;
        }
    }

    fn draw(
        &self,
        disk: &dyn Disk,
        files: &[PathBuf],
        color: bool,
        out: &mut impl Write,
    ) -> Result<()> {
        let size = disk.virtual_size();
        writeln!(
            out,
            "{} of disk, {} a cell; the layer that has most of it, · for zeros",
            size_text(size),
            size_text(self.cell)
        )?;
        for (row, cells) in self.cells.chunks(COLUMNS).enumerate() {
            let offset = size_text(row as u64 * COLUMNS as u64 * self.cell);
            write!(out, "{offset:>12} ")?;
            for cell in cells {
                self.draw_cell(cell, color, out)?;
            }
            writeln!(out)?;
        }
        let all: u64 = self.layers.iter().sum();
        for (layer, bytes) in self.layers.iter().enumerate() {
            let share = *bytes as f64 * 100.0 / size.max(1) as f64;
            let sign = sign(layer as u32, color);
            let file = files.get(layer).map(|f| one_line(&f.display().to_string()));
            let file = file.unwrap_or_default();
            writeln!(out, "{sign} {:>12} {share:>5.1} %  {file}", size_text(*bytes))?;
        }
        let zeros = size.saturating_sub(all);
        let share = zeros as f64 * 100.0 / size.max(1) as f64;
        writeln!(out, "· {:>12} {share:>5.1} %  zeros", size_text(zeros))?;
        Ok(())
    }

    fn draw_cell(&self, cell: &[(u32, u64)], color: bool, out: &mut impl Write) -> Result<()> {
        match cell.iter().max_by_key(|(_, bytes)| *bytes) {
            None => write!(out, "·")?,
            Some((layer, _)) => write!(out, "{}", sign(*layer, color))?,
        }
        Ok(())
    }
}

/// The sign of a layer, in its colour on a terminal.
fn sign(layer: u32, color: bool) -> String {
    let sign = SIGNS.get(layer as usize).map_or('+', |s| char::from(*s));
    if color { format!("\x1b[{}m{sign}\x1b[0m", 31 + layer % 6) } else { sign.to_string() }
}
