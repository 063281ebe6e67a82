//! A plan as a picture: ranks are lanes, messages are arrows, rounds go from left to right.

use ringfold::plan::verify::Message;
use std::fmt::Write;

const LEFT: f64 = 90.0;
const TOP: f64 = 96.0;
const LANE: f64 = 56.0;
const ROUND: f64 = 150.0;
const RIGHT: f64 = 40.0;
const BOTTOM: f64 = 64.0;

/// Colours that stay apart for most eyes: reducing messages, and those that only move.
const REDUCE: &str = "#c2410c";
const MOVE: &str = "#1d4ed8";

/// Draws the messages of `world` ranks.
pub(super) fn draw(title: &str, figures: &str, world: usize, messages: &[Message]) -> String {
    let rounds = messages.iter().map(|message| message.round).max().unwrap_or(0);
    let width = (LEFT + ROUND * rounds.max(1) as f64 + RIGHT).max(720.0);
    let height = TOP + LANE * world.saturating_sub(1) as f64 + BOTTOM;
    let lane = |rank: usize| TOP + LANE * rank as f64;
    let column = |round: usize| LEFT + ROUND * round.saturating_sub(1) as f64;
    // Labels of a crowded round would cover each other.
    let labelled =
        |round: usize| messages.iter().filter(|message| message.round == round).count() <= 2 * world.min(12);
    let mut svg = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| {
        writeln!(svg, "{text}").expect("writing to a string does not fail");
    };
    line(format_args!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0}" height="{height:.0}" viewBox="0 0 {width:.0} {height:.0}" font-family="Helvetica, Arial, sans-serif">"#
    ));
    line(format_args!("<title>{}</title>", escape(title)));
    line(format_args!(
        r#"<defs>{}{}</defs><rect width="100%" height="100%" fill="white"/>"#,
        arrow_head("reduce", REDUCE),
        arrow_head("move", MOVE)
    ));
    line(format_args!(r#"<text x="20" y="30" font-size="18" font-weight="bold">{}</text>"#, escape(title)));
    line(format_args!(r##"<text x="20" y="50" font-size="12" fill="#444">{}</text>"##, escape(figures)));
    for round in 1..=rounds {
        let x = column(round);
        if round % 2 == 1 {
            let height = LANE * world.saturating_sub(1) as f64 + 44.0;
            line(format_args!(
                r##"<rect x="{x:.1}" y="{:.1}" width="{ROUND}" height="{height:.1}" fill="#f3f4f6"/>"##,
                TOP - 22.0
            ));
        }
        line(format_args!(
            r##"<text x="{:.1}" y="{:.1}" font-size="11" fill="#444" text-anchor="middle">round {round}</text>"##,
            x + ROUND / 2.0,
            TOP - 28.0
        ));
    }
    for rank in 0..world {
        let y = lane(rank);
        line(format_args!(r#"<text x="20" y="{:.1}" font-size="13">rank {rank}</text>"#, y + 4.0));
        line(format_args!(
            r##"<line x1="{LEFT}" y1="{y:.1}" x2="{:.1}" y2="{y:.1}" stroke="#9ca3af"/>"##,
            LEFT + ROUND * rounds.max(1) as f64
        ));
    }
    for message in messages {
        let (kind, colour) = if message.reduces { ("reduce", REDUCE) } else { ("move", MOVE) };
        let (x1, x2) = (column(message.round) + 24.0, column(message.round) + ROUND - 20.0);
        let (y1, y2) = (lane(message.from), lane(message.to));
        line(format_args!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{colour}" stroke-width="1.6" marker-end="url(#{kind})"><title>{}</title></line>"#,
            escape(&describe(message))
        ));
        if labelled(message.round) {
            // Near its sender, where arrows of one round are still apart, and above the line.
            let at = 0.16 + 0.13 * (message.from % 2) as f64;
            line(format_args!(
                r#"<text x="{:.1}" y="{:.1}" font-size="10" fill="{colour}" text-anchor="middle" stroke="white" stroke-width="3" paint-order="stroke">{}..{}</text>"#,
                x1 + (x2 - x1) * at,
                y1 + (y2 - y1) * at - 4.0,
                message.sent.start,
                message.sent.end()
            ));
        }
    }
    let y = height - 24.0;
    for (x, kind, colour, text) in [
        (20.0, "reduce", REDUCE, "the receiver reduces it with its own"),
        (330.0, "move", MOVE, "the receiver keeps it"),
    ] {
        line(format_args!(
            r#"<line x1="{x}" y1="{y}" x2="{}" y2="{y}" stroke="{colour}" stroke-width="1.6" marker-end="url(#{kind})"/><text x="{}" y="{}" font-size="12">{text}</text>"#,
            x + 34.0,
            x + 46.0,
            y + 4.0
        ));
    }
    line(format_args!(
        r##"<text x="520" y="{}" font-size="12" fill="#444">labels: elements a..b of the sender's memory</text>"##,
        y + 4.0
    ));
    line(format_args!("</svg>"));
    svg
}

fn arrow_head(id: &str, colour: &str) -> String {
    format!(
        r#"<marker id="{id}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0L10 5L0 10z" fill="{colour}"/></marker>"#
    )
}

fn describe(message: &Message) -> String {
    let verb = if message.reduces { "reduces into" } else { "keeps in" };
    format!(
        "round {}: rank {} sends {}, rank {} {verb} {}",
        message.round, message.from, message.sent, message.to, message.received
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
