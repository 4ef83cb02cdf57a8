//! The two forms of an answer: JSON, in three dialects, and XML.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Visitor};

use super::{Metric, RrdRow, RrdUpdates};
use crate::error::{Error, ErrorKind, Result};
use crate::wire::xml::{Parsed, Parser, Token};
use crate::wire::{excerpt, rescue};

/// Reads an answer, whichever form it has.
pub(super) fn updates(body: &[u8]) -> Result<RrdUpdates> {
    let read = if body.trim_ascii_start().starts_with(b"<") { xml(body) } else { json(body) };
    let updates = read.map_err(|why| no_record(&why, body))?;
    let columns = updates.legend.len();
    if updates.rows.iter().any(|row| row.values.len() != columns) {
        return Err(no_record("a row has more or less values than there are columns", body));
    }
    Ok(updates)
}

fn no_record(why: &str, body: &[u8]) -> Error {
    let words =
        format!("the answer is no record of metrics: {why}; it starts with {}", excerpt(body));
    Error::new(ErrorKind::Protocol, words)
}

#[derive(serde::Deserialize)]
struct Document {
    meta: Meta,
    #[serde(default)]
    data: Vec<Row>,
}

#[derive(serde::Deserialize)]
struct Meta {
    start: Number,
    step: Number,
    end: Number,
    #[serde(default)]
    legend: Vec<String>,
}

#[derive(serde::Deserialize)]
struct Row {
    t: Number,
    #[serde(default)]
    values: Vec<Number>,
}

/// A number, or one in quotes: newer servers quote all values, because JSON knows no `NaN`.
struct Number(f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_f64<E>(self, value: f64) -> Result<Number, E> {
                Ok(Number(value))
            }

            #[allow(clippy::cast_precision_loss)]
            fn visit_i64<E>(self, value: i64) -> Result<Number, E> {
                Ok(Number(value as f64))
            }

            #[allow(clippy::cast_precision_loss)]
            fn visit_u64<E>(self, value: u64) -> Result<Number, E> {
                Ok(Number(value as f64))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Number, E> {
                number(text).map(Number).ok_or_else(|| E::custom("a text is no number"))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// A number as servers print it; Rust knows `NaN` and `Infinity` as well.
fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok()
}

/// A time: whole seconds, far below where a float loses them.
#[allow(clippy::cast_possible_truncation)]
fn seconds(value: f64) -> Parsed<i64> {
    if value.is_finite() && value.abs() < 1e15 {
        Ok(value as i64)
    } else {
        Err("a time is out of range".into())
    }
}

/// Servers to XenServer 8 write the keys without quotes, and numbers that JSON does not have.
fn json(body: &[u8]) -> Parsed<RrdUpdates> {
    let document: Document = match serde_json::from_slice(body) {
        Ok(document) => document,
        Err(first) => match rescue::quote_bare_words(body) {
            Some(rescued) => serde_json::from_slice(&rescued).map_err(|e| e.to_string())?,
            None => return Err(first.to_string()),
        },
    };
    let Document { meta, data } = document;
    let rows = data.into_iter().map(|row| {
        let values = row.values.into_iter().map(|Number(value)| value).collect();
        Ok(RrdRow { time: seconds(row.t.0)?, values })
    });
    Ok(RrdUpdates {
        start: seconds(meta.start.0)?,
        step: seconds(meta.step.0)?,
        end: seconds(meta.end.0)?,
        legend: meta.legend.iter().map(|entry| Metric::parse(entry)).collect(),
        rows: rows.collect::<Parsed<_>>()?,
    })
}

/// The form of `rrdtool xport`.
fn xml(body: &[u8]) -> Parsed<RrdUpdates> {
    let text = std::str::from_utf8(body).map_err(|e| e.to_string())?;
    let mut parser = Parser::new(text);
    let mut updates =
        RrdUpdates { start: 0, step: 0, end: 0, legend: Vec::new(), rows: Vec::new() };
    // The elements that are open, and the text in the last one.
    let (mut open, mut said) = (Vec::new(), String::new());
    loop {
        match parser.next()? {
            Token::Open(name) => {
                if open.is_empty() && name != "xport" {
                    return Err(format!("it is {name}"));
                }
                if name == "row" {
                    updates.rows.push(RrdRow { time: 0, values: Vec::new() });
                }
                open.push(name);
                said.clear();
            }
            Token::Text(text) => said.push_str(&text),
            Token::Close => {
                let name = open.pop().unwrap_or_default();
                take(&mut updates, &name, &said)?;
                said.clear();
                if open.is_empty() {
                    return Ok(updates);
                }
            }
            Token::End => return Err("it has no end".to_owned()),
        }
    }
}

/// An element that has ended, with its text.
fn take(updates: &mut RrdUpdates, element: &str, said: &str) -> Parsed<()> {
    let value = || number(said).ok_or("a text is no number");
    match element {
        "start" => updates.start = seconds(value()?)?,
        "step" => updates.step = seconds(value()?)?,
        "end" => updates.end = seconds(value()?)?,
        "entry" => updates.legend.push(Metric::parse(said)),
        "t" | "v" => {
            let row = updates.rows.last_mut().ok_or("a value is in no row")?;
            match element {
                "t" => row.time = seconds(value()?)?,
                _ => row.values.push(value()?),
            }
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Consolidation;

    const NEW: &str = r#"{"meta":{"start":1000,"step":5,"end":1010,"rows":2,"columns":3,
        "legend":["AVERAGE:vm:u1:cpu0","AVERAGE:host:h:memory_free_kib","MAX:vm:u1:x"]},
        "data":[{"t":1010,"values":["0.25","NaN","Infinity"]},
        {"t":1005,"values":["1e3","-Infinity","0.0"]}]}"#;
    const OLD: &str = "{meta: {start:1000,step:5,end:1010,rows:2,columns:3,legend:[\
        \"AVERAGE:vm:u1:cpu0\",\"AVERAGE:host:h:memory_free_kib\",\"MAX:vm:u1:x\"]},data:[\
        {t:1010,values:[0.2500,NaN,Infinity]},{t:1005,values:[1e3,-Infinity,0.0]}]}";
    const BARE: &str = r#"{"meta":{"start":1000,"step":5,"end":1010,
        "legend":["AVERAGE:vm:u1:cpu0","AVERAGE:host:h:memory_free_kib","MAX:vm:u1:x"]},
        "data":[{"t":1010,"values":[0.25,NaN,Infinity]},{"t":1005,"values":[1000,-Infinity,0]}]}"#;
    const XML: &str = "<?xml version=\"1.0\"?>\n<xport><meta><start>1000</start><step>5</step>\
        <end>1010</end><rows>2</rows><columns>3</columns><legend><entry>AVERAGE:vm:u1:cpu0</entry>\
        <entry>AVERAGE:host:h:memory_free_kib</entry><entry>MAX:vm:u1:x</entry></legend></meta>\n\
        <data><row><t>1010</t><v>0.2500</v><v>NaN</v><v>Infinity</v></row><row><t>1005</t>\
        <v>1e3</v><v>-Infinity</v><v>0.0</v></row></data></xport>\n";

    #[test]
    fn every_form_of_one_record_is_read_alike() {
        for body in [NEW, OLD, BARE, XML] {
            let read = updates(body.as_bytes()).unwrap();
            assert_eq!((read.start, read.step, read.end), (1000, 5, 1010), "{body}");
            let names: Vec<&str> = read.legend.iter().map(|metric| &*metric.name).collect();
            assert_eq!(names, ["cpu0", "memory_free_kib", "x"]);
            assert_eq!(read.legend[2].consolidation, Consolidation::Max);
            assert_eq!(read.rows.len(), 2);
            assert_eq!(read.rows[0].time, 1010, "the newest is the first");
            assert_eq!(read.rows[0].values[0], 0.25);
            assert!(read.rows[0].values[1].is_nan());
            assert_eq!(read.rows[0].values[2], f64::INFINITY);
            assert_eq!(read.rows[1].values, [1000.0, f64::NEG_INFINITY, 0.0]);
            let column = read.column("u1", "cpu0").unwrap();
            let series: Vec<(i64, f64)> = read.series(column).collect();
            assert_eq!(series, [(1010, 0.25), (1005, 1000.0)]);
            assert_eq!(read.column("u1", "cpu1"), None);
            assert_eq!(read.series(99).count(), 0);
        }
    }

    #[test]
    fn a_legend_may_need_escapes() {
        let body = XML.replace("cpu0", "a&amp;b&lt;c");
        assert_eq!(updates(body.as_bytes()).unwrap().legend[0].name, "a&b<c");
    }

    #[test]
    fn an_empty_record_is_one() {
        for body in [
            r#"{"meta":{"start":1,"step":5,"end":1,"rows":0,"columns":0,"legend":[]},"data":[]}"#,
            "<xport><meta><start>1</start><step>5</step><end>1</end><legend/></meta><data/></xport>",
        ] {
            let read = updates(body.as_bytes()).unwrap();
            assert_eq!((read.step, read.legend.len(), read.rows.len()), (5, 0, 0), "{body}");
        }
    }

    #[test]
    fn what_is_no_record_is_an_error_in_one_line() {
        for body in [
            "",
            "<html><body>no</body></html>",
            "<xport><meta>",
            "<xport><data><v>1</v></data></xport>",
            "<xport><meta><start>soon</start></meta></xport>",
            "<!DOCTYPE x [<!ENTITY a \"b\">]><xport>&a;</xport>",
            "{}",
            "[]",
            "{meta:{start:NaN,step:5,end:1}}",
            "{meta:{start:1,step:5,end:1,legend:[\"a\"]},data:[{t:1,values:[1,2]}]}",
            "{meta:{start:1,step:5,end:1,legend:[\"a\"]},data:[{t:1,values:[one]}]}",
            "{meta:{start:1,step:5,end:1},data:[{t:1",
        ] {
            let error = updates(body.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol, "{body}");
            assert!(!error.to_string().contains('\n'));
        }
        let cut = &XML.as_bytes()[..XML.len() - 20];
        updates(cut).unwrap_err();
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_record_or_an_error(
            mut bytes in proptest::sample::select(vec![NEW, OLD, BARE, XML])
                .prop_map(|body| body.as_bytes().to_vec()),
            noise in proptest::collection::vec(proptest::num::u8::ANY, 0..8),
            at in 0_usize..600,
        ) {
            let at = at % bytes.len();
            let end = bytes.len().min(at + noise.len());
            bytes.splice(at..end, noise);
            let _ = updates(&bytes);
        }
    }

    use proptest::strategy::Strategy as _;
}
