//! A table as people read and write it.
//!
//! ```text
//! all_reduce: ..32K recursive_doubling, ..256K ..2 ranks recursive_doubling, .. ring; broadcast: .. binomial_tree; slice: 1M
//! ```
//!
//! A rule is the most bytes, perhaps the most ranks, and an algorithm; `..` alone has no end. The first rule that fits
//! counts. Collectives that are not named keep the rules of the default table. Spaces and ends of lines are free.

use super::{Rule, Table};
use crate::collective::Collective;
use crate::config::environment::fnv1a;
use crate::error::{Error, Result};
use crate::plan::Algorithm;
use std::fmt::{self, Write};
use std::str::FromStr;

impl fmt::Display for Table {
    /// One line; with `{:#}` one line a collective.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if f.alternate() { ";\n" } else { "; " };
        for collective in Collective::ALL {
            let rules = self.rules_of(collective);
            if !rules.is_empty() {
                write!(f, "{collective}: {rules}{end}")?;
            }
        }
        write!(f, "slice: {}", Size(self.slice_bytes))
    }
}

impl FromStr for Table {
    type Err = Error;

    /// Reads what [`Display`](fmt::Display) writes, or a part of it.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument), saying where the text goes wrong and how.
    fn from_str(text: &str) -> Result<Table> {
        let mut table = Table::default();
        let mut named = Vec::new();
        for part in Piece::all(text).split(';').filter(|part| !part.text.is_empty()) {
            let Some((name, rules)) = part.halves(':') else {
                return Err(part.wrong("has no colon: write `all_reduce: .. ring`"));
            };
            if name.text == "slice" {
                let bytes = size(rules.text).filter(|bytes| *bytes > 0);
                table.slice_bytes = bytes.ok_or_else(|| rules.wrong("is no size: write 1M"))?;
                continue;
            }
            let collective = Collective::from_str(name.text)
                .ok()
                .filter(|collective| Collective::ALL.contains(collective))
                .ok_or_else(|| name.wrong("is no collective"))?;
            if named.contains(&collective) {
                return Err(name.wrong("is there twice"));
            }
            named.push(collective);
            let rules = rules.split(',').map(|piece| rule(collective, &piece)).collect::<Result<Vec<_>>>()?;
            table.rules.retain(|rule| rule.collective != collective);
            table.rules.extend(rules);
        }
        if named.is_empty() && text.trim().is_empty() {
            return Err(
                Piece::all(text).wrong("is no table: write `all_reduce: ..32K recursive_doubling, .. ring`")
            );
        }
        table.sort();
        Ok(table)
    }
}

impl Table {
    /// The rules of one collective as they are written.
    pub fn rules_of(&self, collective: Collective) -> String {
        let mut text = String::new();
        for rule in self.rules.iter().filter(|rule| rule.collective == collective) {
            let comma = if text.is_empty() { "" } else { ", " };
            let _ = write!(text, "{comma}..{} ", Size(rule.bytes));
            if rule.world < usize::MAX {
                let _ = write!(text, "..{} ranks ", rule.world);
            }
            text.push_str(rule.algorithm.name());
        }
        text
    }

    /// A number that is the same for the same table, on every machine.
    pub fn hash(&self) -> u64 {
        fnv1a(self.to_string().as_bytes())
    }

    /// Puts the rules of one collective side by side, without changing what they say.
    pub(super) fn sort(&mut self) {
        self.rules
            .sort_by_key(|rule| Collective::ALL.iter().position(|&collective| collective == rule.collective));
    }
}

/// Reads one rule.
fn rule(collective: Collective, piece: &Piece<'_>) -> Result<Rule> {
    let form = "is no rule: write `..32K recursive_doubling` or `..32K ..8 ranks ring`";
    let words: Vec<&str> = piece.text.split_whitespace().collect();
    let (bytes, world, name) = match words[..] {
        [bytes, name] => (bytes, None, name),
        [bytes, world, "rank" | "ranks", name] => (bytes, Some(world), name),
        _ => return Err(piece.wrong(form)),
    };
    let (Some(bytes), Some(world)) = (bytes.strip_prefix(".."), world.unwrap_or("..").strip_prefix(".."))
    else {
        return Err(piece.wrong(form));
    };
    let bytes = if bytes.is_empty() { usize::MAX } else { size(bytes).ok_or_else(|| piece.wrong(form))? };
    let world = match world {
        "" => usize::MAX,
        number => number.parse().ok().filter(|&world| world > 0).ok_or_else(|| piece.wrong(form))?,
    };
    let algorithm = Algorithm::named(name).map_err(|error| {
        let wrong = piece.wrong(&format!("asks for {name:?}"));
        wrong.remedy(error.what_to_do().unwrap_or_default().to_owned())
    })?;
    if !algorithm.collectives().contains(&collective) {
        return Err(piece.wrong(&format!("asks for {name}, which does not do {collective}")));
    }
    Ok(Rule { collective, bytes, world, algorithm })
}

/// A size in bytes, in powers of 1024 where it is one; the largest is written as nothing.
struct Size(usize);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = [(30, "G"), (20, "M"), (10, "K")]
            .into_iter()
            .find(|(shift, _)| self.0.is_multiple_of(1 << shift));
        match unit {
            _ if self.0 == usize::MAX => Ok(()),
            Some((shift, unit)) if self.0 > 0 => write!(f, "{}{unit}", self.0 >> shift),
            _ => write!(f, "{}", self.0),
        }
    }
}

fn size(text: &str) -> Option<usize> {
    let (digits, shift) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(digits) if text.ends_with('K') => (digits, 10),
        Some(digits) if text.ends_with('M') => (digits, 20),
        Some(digits) => (digits, 30),
        None => (text, 0),
    };
    digits.parse::<usize>().ok()?.checked_mul(1 << shift)
}

/// A part of the text, without the spaces around it, that knows where it stands.
struct Piece<'a> {
    text: &'a str,
    /// In bytes from the beginning.
    at: usize,
}

impl<'a> Piece<'a> {
    fn all(text: &'a str) -> Self {
        Piece { text, at: 0 }.trimmed()
    }

    fn trimmed(self) -> Self {
        let begin = self.text.len() - self.text.trim_start().len();
        Piece { text: self.text.trim(), at: self.at + begin }
    }

    fn split(&self, mark: char) -> impl Iterator<Item = Piece<'a>> + use<'a> {
        let mut at = self.at;
        self.text.split(mark).map(move |text| {
            let piece = Piece { text, at };
            at += text.len() + mark.len_utf8();
            piece.trimmed()
        })
    }

    fn halves(&self, mark: char) -> Option<(Piece<'a>, Piece<'a>)> {
        let (one, other) = self.text.split_once(mark)?;
        let at = self.at + one.len() + mark.len_utf8();
        Some((Piece { text: one, at: self.at }.trimmed(), Piece { text: other, at }.trimmed()))
    }

    fn wrong(&self, how: &str) -> Error {
        let text: String = self.text.chars().take(60).collect();
        Error::invalid(format!("the table of algorithms, character {}: `{text}` {how}", self.at + 1))
            .remedy("see what `ringfold plan table` prints")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_table_is_written_and_read() {
        let table = Table::default();
        for text in [table.to_string(), format!("{table:#}")] {
            assert_eq!(text.parse::<Table>().unwrap(), table, "{text}");
        }
        assert!(table.to_string().contains("all_reduce: .. ..2 ranks flat, "), "{table}");
    }

    #[test]
    fn a_part_changes_a_part() {
        let table: Table = " all_reduce: ..1K direct ,\n .. ring;".parse().unwrap();
        assert_eq!(table.rules_of(Collective::AllReduce), "..1K direct, .. ring");
        let default = Table::default();
        assert_eq!(table.rules_of(Collective::Gather), default.rules_of(Collective::Gather));
        assert_eq!(table.slice_bytes, default.slice_bytes);
        assert_ne!(table.hash(), default.hash());
        assert_eq!("slice: 4K".parse::<Table>().unwrap().slice_bytes, 4096);
    }

    /// Any table at all: of every collective some rules.
    fn any(random: &mut fastrand::Rng) -> Table {
        let mut rules = Vec::new();
        for collective in Collective::ALL {
            let able: Vec<Algorithm> =
                Algorithm::all().filter(|algorithm| algorithm.collectives().contains(&collective)).collect();
            for _ in 0..random.usize(1..5) {
                let number = |random: &mut fastrand::Rng| match random.u8(0..4) {
                    0 => usize::MAX,
                    1 => random.usize(1..5000),
                    2 => 1 << random.u32(0..40),
                    _ => random.usize(1..2000) << 10,
                };
                let (bytes, world) = (number(random), number(random));
                rules.push(Rule { collective, bytes, world, algorithm: able[random.usize(..able.len())] });
            }
        }
        Table { rules, slice_bytes: random.usize(1..1 << 30) }
    }

    #[test]
    fn every_table_that_is_written_is_read_again() {
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..2000 {
            let table = any(&mut random);
            for text in [table.to_string(), format!("{table:#}")] {
                let read: Table = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
                assert_eq!(read, table, "{text}");
                assert_eq!(read.hash(), table.hash());
            }
        }
    }

    #[test]
    fn what_is_cut_or_changed_is_read_or_refused_but_never_panics() {
        let mut random = fastrand::Rng::with_seed(6);
        for _ in 0..5000 {
            let mut text: Vec<char> = any(&mut random).to_string().chars().collect();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..text.len());
                match random.u8(0..3) {
                    0 => drop(text.remove(at)),
                    1 => text[at] = random.char('!'..'~'),
                    _ => text.truncate(at.max(1)),
                }
            }
            let _ = text.into_iter().collect::<String>().parse::<Table>();
        }
    }

    #[test]
    fn errors_say_where() {
        for (text, telling) in [
            ("", "character 1"),
            ("all_reduce .. ring", "no colon"),
            ("allreduce: .. ring", "character 1: `allreduce` is no collective"),
            ("all_reduce: .. ring; all_reduce: .. ring", "character 22: `all_reduce` is there twice"),
            ("all_reduce: ..32K gossip", "character 13: `..32K gossip` asks for \"gossip\""),
            ("all_reduce: .. ring, ..4X ring", "character 22: `..4X ring` is no rule"),
            ("all_reduce: .. pairwise", "which does not do all_reduce"),
            ("all_reduce: ..1K ..0 ranks ring", "is no rule"),
            ("all_reduce: ", "is no rule"),
            ("slice: 0", "is no size"),
            ("send_recv: .. ring", "is no collective"),
        ] {
            let error = text.parse::<Table>().unwrap_err().to_string();
            assert!(error.contains(telling), "{text:?}: {error}");
        }
        assert!("all_reduce: .. gossip".parse::<Table>().unwrap_err().to_string().contains("ring, "));
    }
}
