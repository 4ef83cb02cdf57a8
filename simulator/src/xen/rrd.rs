//! Round robin databases of measurements: which the hosts, guests and storages of this pool have,
//! and the forms in which the server tells them. The figures are made up, and the same for the
//! same moment.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// Seconds between two measurements.
pub(crate) const STEP: i64 = 5;

/// How measurements become one of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cf {
    Average,
    Min,
    Max,
}

impl Cf {
    /// By the name that the server has for it; `LAST` has no archive here.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Average, Self::Min, Self::Max].into_iter().find(|cf| cf.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Average => "AVERAGE",
            Self::Min => "MIN",
            Self::Max => "MAX",
        }
    }
}

/// One archive: its rows, and how many measurements make one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Archive {
    cf: Cf,
    rows: i64,
    per_row: i64,
}

const fn archive(cf: Cf, rows: i64, per_row: i64) -> Archive {
    Archive { cf, rows, per_row }
}

/// The archives of every database: ten minutes, two hours, a week, a year.
const ARCHIVES: [Archive; 10] = [
    archive(Cf::Average, 120, 1),
    archive(Cf::Average, 120, 12),
    archive(Cf::Min, 120, 12),
    archive(Cf::Max, 120, 12),
    archive(Cf::Average, 168, 720),
    archive(Cf::Min, 168, 720),
    archive(Cf::Max, 168, 720),
    archive(Cf::Average, 366, 17280),
    archive(Cf::Min, 366, 17280),
    archive(Cf::Max, 366, 17280),
];

/// What is measured: it swings around a level.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) units: &'static str,
    kind: &'static str,
    pub(crate) most: f64,
    level: f64,
    swing: f64,
}

impl Source {
    /// A share between 0 and 1.
    fn share(name: impl Into<String>, level: f64) -> Self {
        let name = name.into();
        Self { name, units: "(fraction)", kind: "DERIVE", most: 1.0, level, swing: level / 2.0 }
    }

    /// A quantity that stays as it is.
    fn amount(name: impl Into<String>, units: &'static str, level: i64) -> Self {
        let (name, level) = (name.into(), level as f64);
        Self { name, units, kind: "GAUGE", most: f64::INFINITY, level, swing: 0.0 }
    }

    /// Bytes a second.
    fn rate(name: impl Into<String>, level: f64) -> Self {
        let name = name.into();
        Self { name, units: "B/s", kind: "DERIVE", most: f64::INFINITY, level, swing: level }
    }
}

/// The measurements of one object.
#[derive(Clone, Debug)]
pub(crate) struct Rrd {
    /// `vm`, `host` or `sr`.
    pub(crate) class: &'static str,
    pub(crate) uuid: String,
    pub(crate) sources: Vec<Source>,
    /// Nothing was measured before, in seconds since 1970.
    pub(crate) since: i64,
}

impl Rrd {
    pub(crate) fn host(uuid: &str, since: i64, cpus: usize, memory: [i64; 2]) -> Self {
        let mut sources: Vec<_> =
            (0..cpus).map(|n| Source::share(format!("cpu{n}"), 0.05 + 0.02 * n as f64)).collect();
        sources.push(Source::share("cpu_avg", 0.1));
        sources.push(Source { most: f64::INFINITY, ..Source::share("loadavg", 0.3) });
        let [total, free] = memory.map(|bytes| bytes / 1024);
        sources.push(Source::amount("memory_total_kib", "KiB", total));
        sources.push(Source::amount("memory_free_kib", "KiB", free));
        sources.push(Source::rate("pif_eth0_rx", 40_000.0));
        sources.push(Source::rate("pif_eth0_tx", 90_000.0));
        Self { class: "host", uuid: uuid.to_owned(), sources, since }
    }

    pub(crate) fn vm(uuid: &str, since: i64, cpus: usize, memory: i64, disks: &[String]) -> Self {
        let mut sources: Vec<_> =
            (0..cpus).map(|n| Source::share(format!("cpu{n}"), 0.2 + 0.05 * n as f64)).collect();
        sources.push(Source::amount("memory", "B", memory));
        sources.push(Source::amount("memory_target", "B", memory));
        sources.push(Source::amount("memory_internal_free", "KiB", memory / 1024 / 4));
        for disk in disks {
            sources.push(Source::rate(format!("vbd_{disk}_read"), 12_000.0));
            sources.push(Source::rate(format!("vbd_{disk}_write"), 30_000.0));
        }
        sources.push(Source::rate("vif_0_rx", 20_000.0));
        sources.push(Source::rate("vif_0_tx", 25_000.0));
        Self { class: "vm", uuid: uuid.to_owned(), sources, since }
    }

    pub(crate) fn sr(uuid: &str, since: i64, sizes: [i64; 3]) -> Self {
        let names = ["size", "physical_utilisation", "virtual_allocation"];
        let sources = names.into_iter().zip(sizes).map(|(name, n)| Source::amount(name, "B", n));
        Self { class: "sr", uuid: uuid.to_owned(), sources: sources.collect(), since }
    }

    /// What an archive holds of a source for the row that ends at `at`.
    pub(crate) fn value(&self, source: &Source, cf: Cf, at: i64) -> f64 {
        if at < self.since {
            return f64::NAN;
        }
        let mut hasher = DefaultHasher::new();
        (&self.uuid, &source.name).hash(&mut hasher);
        let phase = (hasher.finish() % 600) as f64;
        let wave = ((at as f64 + phase) * std::f64::consts::TAU / 600.0).sin();
        let (middle, quarter) = (source.level + source.swing * wave, source.swing / 4.0);
        let value = match cf {
            Cf::Average => middle,
            Cf::Min => middle - quarter,
            Cf::Max => middle + quarter,
        };
        value.clamp(0.0, source.most)
    }

    /// The database whole, as `/vm_rrd` and its like send it in XML.
    pub(crate) fn xml(&self, now: i64) -> String {
        let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<rrd>");
        let _ = write!(out, "<version>0003</version><step>{STEP}</step>");
        let _ = write!(out, "<lastupdate>{now}</lastupdate>");
        for source in &self.sources {
            let last = number(self.value(source, Cf::Average, now));
            let _ = write!(
                out,
                "<ds><name>{}</name><type>{}</type><minimal_heartbeat>300</minimal_heartbeat>\
                 <min>0.0</min><max>{}</max><last_ds>{last}</last_ds><value>{last}</value>\
                 <unknown_sec>0</unknown_sec></ds>",
                source.name,
                source.kind,
                number(source.most)
            );
        }
        for archive in ARCHIVES {
            let _ = write!(
                out,
                "<rra><cf>{}</cf><pdp_per_row>{}</pdp_per_row><params><xff>0.5</xff></params>\
                 <cdp_prep>",
                archive.cf.name(),
                archive.per_row
            );
            for _ in &self.sources {
                out += "<ds><primary_value>0.0</primary_value><secondary_value>0.0\
                        </secondary_value><value>0.0</value>\
                        <unknown_datapoints>0</unknown_datapoints></ds>";
            }
            out += "</cdp_prep><database>";
            for values in self.rows(archive, now) {
                let cells = values.iter().map(|v| format!("<v>{}</v>", number(*v)));
                let _ = write!(out, "<row>{}</row>", cells.collect::<String>());
            }
            out += "</database></rra>";
        }
        out + "</rrd>"
    }

    /// The same in JSON, in which every number is a text.
    pub(crate) fn json(&self, now: i64) -> String {
        let text = |value: f64| serde_json::Value::String(number(value));
        let sources = self.sources.iter().map(|source| {
            let last = text(self.value(source, Cf::Average, now));
            serde_json::json!({
                "name": source.name, "type": source.kind, "minimal_heartbeat": "300",
                "min": "0.0", "max": text(source.most), "last_ds": last, "value": last,
                "unknown_sec": "0.0",
            })
        });
        let archives = ARCHIVES.into_iter().map(|archive| {
            let cell = serde_json::json!({
                "primary_value": "0.0", "secondary_value": "0.0", "value": "0.0",
                "unknown_datapoints": "0",
            });
            let rows = self.rows(archive, now).map(|row| row.into_iter().map(text).collect());
            serde_json::json!({
                "cf": archive.cf.name(), "pdp_per_row": archive.per_row.to_string(),
                "params": { "xff": "0.5" },
                "cdp_prep": { "ds": vec![cell; self.sources.len()] },
                "database": rows.collect::<Vec<serde_json::Value>>(),
            })
        });
        serde_json::json!({
            "version": "0003", "step": STEP.to_string(), "lastupdate": number(now as f64),
            "ds": sources.collect::<Vec<_>>(), "rra": archives.collect::<Vec<_>>(),
        })
        .to_string()
    }

    /// The rows of an archive, oldest first.
    fn rows(&self, archive: Archive, now: i64) -> impl Iterator<Item = Vec<f64>> {
        let step = STEP * archive.per_row;
        let last = now - now % step;
        (0..archive.rows).rev().map(move |back| {
            let at = last - back * step;
            self.sources.iter().map(|source| self.value(source, archive.cf, at)).collect()
        })
    }
}

/// What a client asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    /// Seconds since 1970; less than nothing counts from the last measurement.
    pub(crate) start: i64,
    /// Seconds between two rows, at least.
    pub(crate) interval: i64,
    pub(crate) cf: Option<Cf>,
}

/// Rows of several databases side by side, newest first.
#[derive(Debug)]
pub(crate) struct Updates {
    start: i64,
    step: i64,
    end: i64,
    legend: Vec<String>,
    rows: Vec<(i64, Vec<f64>)>,
}

impl Updates {
    /// `None` if there is nothing to tell of.
    pub(crate) fn of(databases: &[Rrd], ask: Ask, now: i64) -> Option<Self> {
        databases.first()?;
        let start = if ask.start < 0 { now + ask.start } else { ask.start };
        let archives = best(ask.interval / STEP, ask.cf, start, now);
        let first = archives.first()?;
        let step = STEP * first.per_row;
        let end = now - now % step;
        let columns: Vec<(&Rrd, Archive)> = databases
            .iter()
            .flat_map(|rrd| archives.iter().map(move |archive| (rrd, *archive)))
            .collect();
        let legend = columns.iter().flat_map(|(rrd, archive)| {
            let cf = archive.cf.name();
            let of = format!("{cf}:{}:{}", rrd.class, rrd.uuid);
            rrd.sources.iter().map(move |source| format!("{of}:{}", source.name))
        });
        let rows = (0..first.rows).map(|back| end - back * step).take_while(|at| *at >= start);
        let rows = rows.map(|at| {
            let row = columns.iter().flat_map(|(rrd, archive)| {
                rrd.sources.iter().map(|source| rrd.value(source, archive.cf, at))
            });
            (at, row.collect())
        });
        Some(Self {
            start: start - start.rem_euclid(step) + step,
            step,
            end,
            legend: legend.collect(),
            rows: rows.collect(),
        })
    }

    pub(crate) fn xml(&self) -> String {
        let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<xport><meta>");
        let _ = write!(
            out,
            "<start>{}</start><step>{}</step><end>{}</end><rows>{}</rows>\
             <columns>{}</columns><legend>",
            self.start,
            self.step,
            self.end,
            self.rows.len(),
            self.legend.len()
        );
        for entry in &self.legend {
            let _ = write!(out, "<entry>{entry}</entry>");
        }
        out += "</legend></meta><data>";
        for (at, values) in &self.rows {
            let _ = write!(out, "<row><t>{at}</t>");
            for value in values {
                let _ = write!(out, "<v>{}</v>", number(*value));
            }
            out += "</row>";
        }
        out + "</data></xport>"
    }

    /// As servers of today write it: every number is a text.
    pub(crate) fn json(&self) -> String {
        let rows = self.rows.iter().map(|(at, values)| {
            let values: Vec<_> = values.iter().map(|v| number(*v)).collect();
            serde_json::json!({ "t": at.to_string(), "values": values })
        });
        serde_json::json!({
            "meta": {
                "start": self.start.to_string(), "step": self.step.to_string(),
                "end": self.end.to_string(), "rows": self.rows.len().to_string(),
                "columns": self.legend.len().to_string(), "legend": self.legend,
            },
            "data": rows.collect::<Vec<_>>(),
        })
        .to_string()
    }

    /// As the oldest servers wrote it, which is no JSON: names without quotes, bare numbers.
    pub(crate) fn old_json(&self) -> String {
        let legend: Vec<_> = self.legend.iter().map(|entry| format!("\"{entry}\"")).collect();
        let rows = self.rows.iter().map(|(at, values)| {
            let values: Vec<_> = values.iter().map(|v| number(*v)).collect();
            format!("{{t:{at},values:[{}]}}", values.join(","))
        });
        format!(
            "{{meta: {{start:{},step:{},end:{},rows:{},columns:{},legend:[{}]}},data:[{}]}}",
            self.start,
            self.step,
            self.end,
            self.rows.len(),
            self.legend.len(),
            legend.join(","),
            rows.collect::<Vec<_>>().join(",")
        )
    }
}

/// The finest archives that reach back to `start`, or the longest ones.
fn best(per_row: i64, cf: Option<Cf>, start: i64, now: i64) -> Vec<Archive> {
    let wanted = |archive: &&Archive| cf.is_none_or(|cf| archive.cf == cf);
    let last = now - now % STEP;
    let reaches = |archive: &&Archive| {
        archive.per_row >= per_row && start > last - STEP * archive.rows * archive.per_row
    };
    let candidates = || ARCHIVES.iter().filter(wanted);
    let chosen = candidates().find(reaches).or_else(|| candidates().next_back());
    let Some(chosen) = chosen else { return Vec::new() };
    let alike = |a: &&Archive| (a.rows, a.per_row) == (chosen.rows, chosen.per_row);
    candidates().filter(alike).copied().collect()
}

/// A number as the server writes it: five digits as C's `%g` has them, and `0.0` for nothing.
fn number(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    if value == 0.0 {
        return "0.0".to_owned();
    }
    let scientific = format!("{value:.4e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let short = |digits: &str| match digits.contains('.') {
        true => digits.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => digits.to_owned(),
    };
    if (-4..5).contains(&exponent) {
        let decimals = usize::try_from(4 - exponent).unwrap_or_default();
        return short(&format!("{value:.decimals$}"));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", short(mantissa), exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_c_does() {
        // The right sides are what printf("%0.5g") gives.
        for (value, text) in [
            (0.0, "0.0"),
            (1.0, "1"),
            (0.1, "0.1"),
            (100_000.0, "1e+05"),
            (99_999.0, "99999"),
            (123_456.0, "1.2346e+05"),
            (99_999.6, "1e+05"),
            (0.000_123_456, "0.00012346"),
            (0.000_012_345_6, "1.2346e-05"),
            (-2.5, "-2.5"),
            (68_719_476_736.0, "6.8719e+10"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn the_finest_archive_that_reaches_back_is_chosen() {
        let now = 1_700_000_003;
        let chosen = |back, interval, cf| {
            let archives = best(interval / STEP, cf, now - back, now);
            archives.iter().map(|a| (a.cf, a.rows, a.per_row)).collect::<Vec<_>>()
        };
        assert_eq!(chosen(60, 0, None), [(Cf::Average, 120, 1)]);
        assert_eq!(chosen(60, 0, Some(Cf::Max)), [(Cf::Max, 120, 12)]);
        let minutes = [(Cf::Average, 120, 12), (Cf::Min, 120, 12), (Cf::Max, 120, 12)];
        assert_eq!(chosen(60, 60, None), minutes);
        assert_eq!(chosen(3600, 0, None), minutes);
        assert_eq!(chosen(86400, 0, Some(Cf::Average)), [(Cf::Average, 168, 720)]);
        // Nothing is that old: the longest one.
        assert_eq!(chosen(now, 0, Some(Cf::Min)), [(Cf::Min, 366, 17280)]);
    }

    #[test]
    fn rows_come_newest_first_and_lie_between_their_extremes() {
        let rrd = Rrd::vm("u", 0, 2, 1 << 30, &["xvda".to_owned()]);
        let now = 1_700_000_003;
        let ask = Ask { start: -600, interval: 60, cf: None };
        let updates = Updates::of(std::slice::from_ref(&rrd), ask, now).unwrap();
        assert_eq!(updates.legend.len(), 3 * rrd.sources.len());
        assert_eq!(updates.legend[0], "AVERAGE:vm:u:cpu0");
        assert_eq!(updates.rows.len(), 10);
        assert!(updates.rows.windows(2).all(|pair| pair[0].0 == pair[1].0 + 60));
        let n = rrd.sources.len();
        for (_, values) in &updates.rows {
            for i in 0..n {
                let (average, min, max) = (values[i], values[n + i], values[2 * n + i]);
                assert!(min <= average && average <= max);
            }
        }
        assert!(Updates::of(&[], ask, now).is_none());
    }

    #[test]
    fn before_the_first_measurement_there_is_no_number() {
        let now = 1_700_000_000;
        let rrd = Rrd::sr("u", now - 30, [1, 2, 3]);
        let ask = Ask { start: -60, interval: 0, cf: Some(Cf::Average) };
        let updates = Updates::of(&[rrd], ask, now).unwrap();
        assert!(updates.json().contains("\"NaN\""));
        assert!(updates.old_json().contains("[NaN,NaN,NaN]"));
        assert!(updates.xml().contains("<v>NaN</v>"));
    }
}
