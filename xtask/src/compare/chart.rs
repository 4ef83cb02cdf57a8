//! The ratios as horizontal bars, in plain SVG that suits a light and a dark page.

use std::fmt::Write as _;

use super::Outcome;
use super::report::figures;

const WIDTH: f64 = 860.0;
/// Where bars begin and how long a ratio of one is.
const LEFT: f64 = 250.0;
const UNIT: f64 = 170.0;
/// Longer bars are cut, and say so.
const MOST: f64 = 3.0;
const BAR: f64 = 15.0;
const STEP: f64 = 20.0;
const TITLE: f64 = 26.0;
const TOP: f64 = 56.0;

const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#24292f}.t{font-weight:600}.s{fill:#57606a}
.ours{fill:#0969da}.other{fill:#9da7b1}.limit{stroke:#24292f;stroke-width:1.2}
.aim{stroke:#bf3989;stroke-width:2.5}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#8d96a0}.ours{fill:#4493f8}
.other{fill:#6e7681}.limit{stroke:#e6edf3}.aim{stroke:#f778ba}}";

/// The chart of all jobs but those that have no limit.
pub(crate) fn draw(outcomes: &[Outcome]) -> String {
    let mut body = String::new();
    let mut y = TOP;
    for outcome in outcomes {
        y = draw_job(&mut body, outcome, y);
    }
    let limit = LEFT + UNIT;
    let line = format!(
        "<line class=\"limit\" x1=\"{limit}\" x2=\"{limit}\" y1=\"{:.0}\" y2=\"{:.0}\"/>\n",
        TOP - 8.0,
        y - 4.0
    );
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {:.0}\" width=\"{WIDTH}\" \
         height=\"{:.0}\" role=\"img\">\n<title>CPU time as a multiple of the limit</title>\n\
         <style>{STYLE}</style>\n",
        y + 12.0,
        y + 12.0
    );
    let _ = write!(
        svg,
        "<text class=\"t\" x=\"12\" y=\"22\">CPU seconds as a multiple of the limit (shorter is \
         better)</text>\n\
         <text class=\"s\" x=\"{limit}\" y=\"42\" text-anchor=\"middle\">1.0 = the limit</text>\n\
         <rect class=\"ours\" x=\"500\" y=\"32\" width=\"12\" height=\"12\"/>\
         <text class=\"s\" x=\"518\" y=\"42\">ours</text>\n\
         <rect class=\"other\" x=\"580\" y=\"32\" width=\"12\" height=\"12\"/>\
         <text class=\"s\" x=\"598\" y=\"42\">others</text>\n\
         <line class=\"aim\" x1=\"666\" x2=\"666\" y1=\"30\" y2=\"46\"/>\
         <text class=\"s\" x=\"674\" y=\"42\">our target</text>\n{body}{line}</svg>\n"
    );
    svg
}

/// Where the figure of a bar stands: behind its end, but on none of the lines at these ratios.
fn beside(width: f64, lines: &[Option<f64>]) -> f64 {
    let at = LEFT + width + 8.0;
    let lines = lines.iter().flatten().map(|ratio| LEFT + ratio * UNIT);
    lines.fold(at, |at, line| if at < line + 6.0 && at + 34.0 > line { line + 8.0 } else { at })
}

/// Draws a job from `y` on; gives where the next one begins.
fn draw_job(body: &mut String, outcome: &Outcome, mut y: f64) -> f64 {
    let Some(limit) = outcome.measured.first() else { return y };
    let _ = writeln!(
        body,
        "<text class=\"t\" x=\"12\" y=\"{:.0}\">{}</text>",
        y + 14.0,
        outcome.job.name
    );
    y += TITLE;
    for (entry, measured) in outcome.job.entries.iter().zip(&outcome.measured).skip(1) {
        let middle = y + BAR - 3.0;
        let _ = writeln!(
            body,
            "<text class=\"s\" x=\"{:.0}\" y=\"{middle:.0}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            entry.tool
        );
        if let Some(f) = figures(measured, limit) {
            let class = if entry.ours { "ours" } else { "other" };
            let width = f.ratio.min(MOST) * UNIT;
            let cut = if f.ratio > MOST { " →" } else { "" };
            let _ = writeln!(
                body,
                "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{y:.0}\" width=\"{width:.1}\" height=\"{BAR}\"/>\
                 <text x=\"{:.1}\" y=\"{middle:.0}\">{:.2}{cut}</text>",
                beside(width, &[Some(1.0), outcome.job.target.filter(|_| entry.ours)]),
                f.ratio
            );
            if let Some(target) = outcome.job.target.filter(|_| entry.ours) {
                let x = LEFT + target * UNIT;
                let _ = writeln!(
                    body,
                    "<line class=\"aim\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.0}\" y2=\"{:.0}\"/>",
                    y - 2.0,
                    y + BAR + 2.0
                );
            }
        } else {
            let _ = writeln!(body, "<text x=\"{LEFT}\" y=\"{middle:.0}\">failed</text>");
        }
        y += STEP;
    }
    y + 8.0
}
