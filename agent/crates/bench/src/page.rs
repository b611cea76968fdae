//! Results as one HTML page that asks nobody for anything: style, tables and plots are in it. Light and dark follow the reader.
use std::fmt::Write as _;

use crate::{
    Cell, Machine, Record, Stages, Verdict,
    svg::{Bar, Series, bars, escape, legend, lines, short},
};

const STYLE: &str = "
:root{--back:#fcfcfb;--text:#0b0b0b;--soft:#52514e;--grid:#e3e2de;--s0:#2a78d6;--s1:#eb6834;--s2:#1baa7a;--s3:#8f8d86;--bad:#c42f2f;--good:#0a7d33}
@media(prefers-color-scheme:dark){:root{--back:#1a1a19;--text:#f5f5f3;--soft:#c3c2b7;--grid:#3a3a38;--s0:#3987e5;--s1:#d95926;--s2:#199e70;--s3:#8f8d86;--bad:#ef6a6a;--good:#4cc27a}}
body{background:var(--back);color:var(--text);font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}
svg{width:30rem;max-width:100%;vertical-align:top}svg text{fill:var(--soft);font-size:11px}svg .title{fill:var(--text);font-size:13px;font-weight:600}
.end{text-anchor:end}.mid{text-anchor:middle}.grid{stroke:var(--grid)}.mark{stroke:var(--text);stroke-dasharray:4 3}
polyline{fill:none;stroke-width:2}polyline.s0{stroke:var(--s0)}polyline.s1{stroke:var(--s1)}polyline.s2{stroke:var(--s2)}polyline.s3{stroke:var(--s3)}
circle.s0,rect.s0{fill:var(--s0)}circle.s1,rect.s1{fill:var(--s1)}circle.s2,rect.s2{fill:var(--s2)}circle.s3,rect.s3{fill:var(--s3)}
b.s0{color:var(--s0)}b.s1{color:var(--s1)}b.s2{color:var(--s2)}b.s3{color:var(--s3)}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}th,td{border-bottom:1px solid var(--grid);padding:.2rem .7rem;text-align:right}
th:first-child,td:first-child{text-align:left}td.text{text-align:left}.passed{color:var(--good)}.failed{color:var(--bad)}.inconclusive{color:var(--soft)}code{font-size:12px;overflow-wrap:anywhere}
";

/// What is shown; empty parts are left out.
#[derive(Debug, Default)]
pub struct Page<'a> {
    pub title: &'a str,
    /// Named facts, below the title.
    pub facts: Vec<(String, String)>,
    pub machine: Option<&'a Machine>,
    pub cells: &'a [Cell],
    pub records: &'a [Record],
}

impl Page<'_> {
    #[must_use]
    pub fn html(&self) -> String {
        let title = escape(self.title);
        let mut out = format!(
            "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>\
             <meta name='color-scheme' content='light dark'><title>{title}</title><style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n"
        );
        let machine = self.machine.map(machine_facts).unwrap_or_default();
        out += &facts(self.facts.iter().chain(&machine));
        if !self.cells.is_empty() {
            out += &sweep(self.cells);
        }
        let mut parts: Vec<&str> = self.records.iter().map(|record| record.part.as_str()).collect();
        parts.dedup();
        for part in parts {
            let of: Vec<&Record> = self.records.iter().filter(|record| record.part == part).collect();
            let _ = writeln!(out, "<h2>{}</h2>", escape(part));
            out += &of.iter().map(|record| comparison(record)).collect::<String>();
            out += &table(&of);
        }
        out + "</body></html>\n"
    }
}

fn machine_facts(machine: &Machine) -> Vec<(String, String)> {
    let pair = |name: &str, value: String| (name.to_owned(), value);
    let gib = machine.memory_bytes >> 30;
    let mut facts = vec![
        pair("date", machine.date.clone()),
        pair("machine", format!("{}, {} cores, {gib} GiB, Linux {}", machine.cpu, machine.cores, machine.kernel)),
    ];
    facts.extend(machine.versions.iter().map(|(tool, version)| (tool.clone(), version.clone())));
    facts
}

fn facts<'a>(facts: impl Iterator<Item = &'a (String, String)>) -> String {
    let row = |(name, value): &(String, String)| {
        format!("<tr><td>{}</td><td class='text'>{}</td></tr>", escape(name), escape(value))
    };
    format!("<div class='scroll'><table>{}</table></div>\n", facts.map(row).collect::<String>())
}

/// Sorted values of a field, each once.
fn distinct<T: Ord + Clone>(cells: &[Cell], field: impl Fn(&Cell) -> T) -> Vec<T> {
    let mut all: Vec<T> = cells.iter().map(field).collect();
    all.sort();
    all.dedup();
    all
}

#[allow(clippy::cast_precision_loss, reason = "microseconds of a plot")]
fn sweep(cells: &[Cell]) -> String {
    let mut engines: Vec<&str> = Vec::new();
    for cell in cells {
        if !engines.contains(&cell.engine.as_str()) {
            engines.push(&cell.engine);
        }
    }
    let depths = distinct(cells, |cell| cell.depth);
    let places: Vec<String> = depths.iter().map(u32::to_string).collect();
    let mut out = "<h2>Reads of the device</h2>\n".to_owned() + &legend(engines.iter().copied());
    for block in distinct(cells, |cell| cell.block) {
        let series = |value: &dyn Fn(&Cell) -> Option<f64>| -> Vec<Series> {
            let at = |engine: &str, depth: u32| {
                cells.iter().find(|c| c.engine == engine && c.depth == depth && c.block == block && c.failed.is_none())
            };
            let line = |engine: &&str| Series {
                name: (*engine).to_owned(),
                values: depths.iter().map(|depth| at(engine, *depth).and_then(value)).collect(),
            };
            engines.iter().map(line).collect()
        };
        let size = block >> 10;
        out += &lines(&format!("{size} KiB: throughput"), "MB/s", &places, &series(&|cell| Some(cell.mb_per_s)));
        let p99 = series(&|cell| Some(cell.p99_us? as f64 / 1000.0));
        out += &lines(&format!("{size} KiB: 99th percentile of latency"), "ms", &places, &p99);
    }
    out + &sweep_table(cells)
}

fn sweep_table(cells: &[Cell]) -> String {
    let mut out = "<div class='scroll'><table><tr><th>engine</th><th>block</th><th>depth</th><th>MB/s</th><th>p50 µs</th><th>p99 µs</th>\
                   <th>CPU s/GB</th><th>commands/read</th></tr>"
        .to_owned();
    let number = |value: Option<u64>| value.map_or("–".to_owned(), |value| value.to_string());
    for cell in cells {
        let _ = write!(
            out,
            "<tr><td>{}</td><td>{} KiB</td><td>{}</td>",
            escape(&cell.engine),
            cell.block >> 10,
            cell.depth
        );
        let _ = match &cell.failed {
            Some(why) => write!(out, "<td class='text' colspan='5'>{}</td></tr>", escape(why)),
            None => write!(
                out,
                "<td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                short(cell.mb_per_s),
                number(cell.p50_us),
                number(cell.p99_us),
                short(cell.cpu_s_per_gb),
                cell.commands_per_read.map_or("–".to_owned(), short)
            ),
        };
    }
    out + "</table></div>\n"
}

fn comparison(record: &Record) -> String {
    let bar = |side: &crate::Side, class| Bar {
        label: side.name.clone(),
        value: side.value,
        text: format!("{} {}", short(side.value), record.unit),
        class,
    };
    let title = format!("{}: {} of {}", record.name, short(record.ratio), record.peer.name);
    let mark = record.bound.as_ref().map(|(name, value)| (name.as_str(), *value));
    let mut out = bars(&title, &[bar(&record.ours, "s0"), bar(&record.peer, "s1")], mark);
    if let Some(stages) = &record.stages {
        out += &bottleneck(&record.name, stages);
    }
    out
}

/// Where the time went; the longest is the bottleneck.
fn bottleneck(name: &str, stages: &Stages) -> String {
    let bar = |label: &str, share: f64, class| Bar {
        label: label.to_owned(),
        value: share,
        text: format!("{:.0} %", share * 100.0),
        class,
    };
    let all = [
        bar("waited for the source", stages.source, "s0"),
        bar("zero scan, hash, frames", stages.agent, "s1"),
        bar("waited for the receiver", stages.outlet, "s2"),
        bar("held back by a limit", stages.paced, "s3"),
    ];
    bars(&format!("{name}: where the time went"), &all, None)
}

fn table(records: &[&Record]) -> String {
    let mut out = "<div class='scroll'><table><tr><th>what</th><th>peer</th><th>ours</th><th>theirs</th><th>ratio</th><th>goal</th><th>verdict</th>\
                   <th>spread</th><th>CPU s/GB</th></tr>"
        .to_owned();
    for record in records {
        let side = |side: &crate::Side| format!("{} {}", short(side.value), escape(&record.unit));
        let cpu = |side: &crate::Side| side.cpu_s_per_gb.map_or("–".to_owned(), short);
        let verdict = record.verdict.map_or("", Verdict::name);
        let goal = record.goal.map(|goal| goal.to_string()).unwrap_or_default();
        let _ = write!(
            out,
            "<tr><td>{}</td><td class='text'>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{goal}</td><td class='{verdict}'>{verdict}</td>\
             <td>{} / {}</td><td>{} / {}</td></tr>",
            escape(&record.name),
            escape(&record.peer.name),
            side(&record.ours),
            side(&record.peer),
            short(record.ratio),
            short(record.ours.spread),
            short(record.peer.spread),
            cpu(&record.ours),
            cpu(&record.peer),
        );
    }
    out += "</table></div>\n";
    for record in records {
        let note = if record.note.is_empty() { String::new() } else { format!(" {}", escape(&record.note)) };
        let run =
            |side: &crate::Side| if side.command.is_empty() { "in process".to_owned() } else { escape(&side.command) };
        let _ = writeln!(
            out,
            "<p>{}:{note}<br><code>{}</code><br><code>{}</code></p>",
            escape(&record.name),
            run(&record.ours),
            run(&record.peer)
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Goal, Side};

    fn page(cells: &[Cell], records: &[Record]) -> String {
        let machine = Machine { cpu: "A <fast> one".into(), ..Machine::default() };
        Page { title: "T & t", facts: vec![("a".into(), "<i>".into())], machine: Some(&machine), cells, records }.html()
    }

    #[test]
    fn nothing_is_fetched_and_no_text_becomes_markup() {
        let evil = "<script src='http://x'>";
        let cell = Cell { engine: evil.into(), depth: 1, block: 4096, failed: Some(evil.into()), ..Cell::default() };
        let mut record = Record::new(evil, evil, (Side::of(evil, evil, &[2.0]), Side::of(evil, evil, &[1.0])), None, 1);
        record.note = evil.into();
        let html = page(&[cell], &[record]);
        assert!(!html.contains("<script") && !html.contains("<fast>") && !html.contains("<i>"), "{html}");
        for asks in ["src=", "href=", "url(", "@import"] {
            let bare = html.replace(&escape(evil), "");
            assert!(!bare.contains(asks), "{asks}");
        }
        assert!(html.contains("prefers-color-scheme:dark") && html.contains("&lt;script"));
    }

    #[test]
    fn engines_have_their_lines_and_comparisons_their_bars() {
        let cell = |engine: &str, depth| Cell {
            engine: engine.into(),
            depth,
            block: 1 << 20,
            mb_per_s: 10.0,
            p99_us: Some(1),
            ..Cell::default()
        };
        let cells = [cell("io_uring", 1), cell("io_uring", 4), cell("preadv", 1)];
        let mut record = Record::new(
            "fast",
            "MB/s",
            (Side::of("us", "", &[2.0]), Side::of("fio", "fio x", &[1.0])),
            Some(Goal::AtLeast(1.0)),
            1,
        );
        record.stages = Some(Stages { source: 0.7, agent: 0.2, outlet: 0.1, paced: 0.0 });
        let html = page(&cells, &[record]);
        assert_eq!(html.matches("<polyline").count(), 4, "two engines, two plots");
        assert_eq!(html.matches("<circle").count(), 6);
        assert_eq!(html.matches("<rect").count(), 6, "two sides, four stages");
        assert!(html.contains("class='passed'>passed") && html.contains("70 %"));
    }
}
