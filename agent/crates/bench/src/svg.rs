//! Plots as inline SVG: lines over a few named places, and bars. Colours come from the page's style sheet by class, so that they
//! follow light and dark. All text is escaped here.
use std::fmt::Write as _;

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 240.0;
/// Room for the labels of both axes.
const LEFT: f64 = 64.0;
const BOTTOM: f64 = 40.0;
const TOP: f64 = 28.0;
const RIGHT: f64 = 12.0;
const BAR: f64 = 18.0;

/// One line of a plot.
#[derive(Debug)]
pub struct Series {
    pub name: String,
    /// By place on the x axis; `None` leaves a gap.
    pub values: Vec<Option<f64>>,
}

/// One horizontal bar.
#[derive(Debug)]
pub struct Bar {
    pub label: String,
    pub value: f64,
    /// What stands behind the bar.
    pub text: String,
    /// Colour, `s0` … `s3`.
    pub class: &'static str,
}

#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Not allowed in XML, whatever brought it here.
            c if c.is_control() && c != '\n' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// `places`: names on the x axis, evenly spread.
#[must_use]
pub fn lines(title: &str, unit: &str, places: &[String], series: &[Series]) -> String {
    let top = nice(series.iter().flat_map(|line| &line.values).flatten().copied().fold(0.0, f64::max));
    let x = |place: usize| LEFT + (WIDTH - LEFT - RIGHT) * (index(place) + 0.5) / index(places.len().max(1));
    let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / top;
    let mut out = open(title, HEIGHT);
    for step in 0..=4 {
        let value = top * f64::from(step) / 4.0;
        let at = y(value);
        let _ = write!(out, "<line class='grid' x1='{LEFT}' x2='{:.0}' y1='{at:.1}' y2='{at:.1}'/>", WIDTH - RIGHT);
        let _ = write!(out, "<text class='end' x='{}' y='{:.1}'>{}</text>", LEFT - 6.0, at + 4.0, short(value));
    }
    for (place, name) in places.iter().enumerate() {
        let _ = write!(out, "<text class='mid' x='{:.1}' y='{}'>{}</text>", x(place), HEIGHT - 22.0, escape(name));
    }
    let _ = write!(out, "<text class='mid' x='{}' y='{}'>depth · {}</text>", WIDTH / 2.0, HEIGHT - 6.0, escape(unit));
    for (n, line) in series.iter().enumerate() {
        let known = || line.values.iter().enumerate().filter_map(|(place, value)| Some((place, (*value)?)));
        let points: Vec<String> = known().map(|(place, value)| format!("{:.1},{:.1}", x(place), y(value))).collect();
        let _ = write!(out, "<polyline class='s{n}' points='{}'/>", points.join(" "));
        for (place, value) in known() {
            let told = format!("{}, depth {}: {} {unit}", line.name, places[place], short(value));
            let (cx, cy) = (x(place), y(value));
            let _ = write!(
                out,
                "<circle class='s{n}' cx='{cx:.1}' cy='{cy:.1}' r='3.5'><title>{}</title></circle>",
                escape(&told)
            );
        }
    }
    out + "</svg>"
}

/// Names of lines in their colours.
#[must_use]
pub fn legend<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names = names.into_iter().enumerate();
    names.fold("<p class='legend'>".to_owned(), |out, (n, name)| {
        out + &format!("<b class='s{n}'>●</b> {} ", escape(name))
    }) + "</p>"
}

/// Bars of one unit, from zero. `mark`: a name and a value that bounds them all.
#[must_use]
pub fn bars(title: &str, bars: &[Bar], mark: Option<(&str, f64)>) -> String {
    let most = bars.iter().map(|bar| bar.value).chain(mark.map(|(_, value)| value)).fold(0.0, f64::max);
    let (left, room) = (190.0, WIDTH - 190.0 - 110.0);
    let width = |value: f64| if most > 0.0 { room * value.max(0.0) / most } else { 0.0 };
    let height = TOP + index(bars.len()) * (BAR + 6.0) + 6.0;
    let mut out = open(title, height);
    for (n, bar) in bars.iter().enumerate() {
        let at = TOP + index(n) * (BAR + 6.0);
        let (text, label) = (escape(&bar.text), escape(&bar.label));
        let _ = write!(out, "<text class='end' x='{}' y='{}'>{label}</text>", left - 6.0, at + 13.0);
        let _ = write!(
            out,
            "<rect class='{}' x='{left}' y='{at}' width='{:.1}' height='{BAR}' rx='3'><title>{label}: {text}</title></rect>",
            bar.class,
            width(bar.value)
        );
        let _ = write!(out, "<text x='{:.1}' y='{}'>{text}</text>", left + width(bar.value) + 6.0, at + 13.0);
    }
    if let Some((name, value)) = mark {
        let at = left + width(value);
        let name = escape(name);
        let _ = write!(
            out,
            "<line class='mark' x1='{at:.1}' x2='{at:.1}' y1='{}' y2='{height}'><title>{name}</title></line>",
            TOP - 4.0
        );
    }
    out + "</svg>"
}

fn open(title: &str, height: f64) -> String {
    let title = escape(title);
    format!(
        "<svg viewBox='0 0 {WIDTH} {height}' role='img' aria-label='{title}'><text class='title' x='4' y='16'>{title}</text>"
    )
}

/// The next round number, so that the axis has readable steps; never zero.
fn nice(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return 1.0;
    }
    let unit = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 4.0, 5.0, 8.0, 10.0].into_iter().map(|n| n * unit).find(|n| *n >= value).unwrap_or(10.0 * unit)
}

/// A number as a label.
#[must_use]
pub fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 || value.fract().abs() < 1e-9 => format!("{value:.0}"),
        v if v >= 1.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[allow(clippy::cast_precision_loss, reason = "a place in a short list")]
fn index(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escape("<b a='1'>&\"\u{7}"), "&lt;b a=&#39;1&#39;&gt;&amp;&quot;\u{fffd}");
    }

    #[test]
    fn axes_end_at_round_numbers_above_all_values() {
        for (value, top) in [(0.0, 1.0), (0.7, 0.8), (9.5, 10.0), (101.0, 200.0), (4100.0, 5000.0)] {
            assert!((nice(value) - top).abs() < 1e-9, "{value}: {}", nice(value));
        }
    }

    #[test]
    fn a_gap_is_no_point() {
        let series = [Series { name: "a".into(), values: vec![Some(1.0), None, Some(3.0)] }];
        let plot = lines("t", "MB/s", &["1".into(), "2".into(), "4".into()], &series);
        assert_eq!(plot.matches("<circle").count(), 2);
        assert!(plot.starts_with("<svg") && plot.ends_with("</svg>"));
    }

    #[test]
    fn the_longest_bar_fills_the_room_and_the_mark_is_drawn() {
        let bar = |label: &str, value| Bar { label: label.into(), value, text: "x".into(), class: "s0" };
        let plot = bars("t", &[bar("a", 10.0), bar("b", 5.0)], Some(("bound", 10.0)));
        assert!(plot.contains("width='160.0'") && plot.contains("width='80.0'"), "{plot}");
        assert!(plot.contains("<title>bound</title>"));
    }
}
