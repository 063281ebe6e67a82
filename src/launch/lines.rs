//! From the bytes that a rank writes to whole lines with its number in front.

use std::time::{Duration, Instant};

/// A line of more bytes than this is cut.
pub(super) const LONGEST: usize = 64 * 1024;

/// How often a line that is written over and over is shown.
const DRAFTS: Duration = Duration::from_secs(1);

/// The colours of ranks, as terminals number them: all but red, which is for what went wrong, black, white and grey.
const COLOURS: [u8; 10] = [36, 33, 35, 32, 34, 96, 93, 95, 92, 94];

/// How a stream's prefixes look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Plain,
    /// In the rank's colour.
    Colour,
    /// In the rank's colour, reversed: the other stream.
    Reversed,
}

/// One stream of one rank.
///
/// A carriage return takes back what the line holds, as on a terminal: what was written is a draft, of which the
/// newest is shown now and then, and what the line holds when it ends is the line.
#[derive(Debug)]
pub(super) struct Lines {
    prefix: Vec<u8>,
    /// What ends a line that may have changed the terminal's colours, so that it colours no other rank's.
    reset: &'static [u8],
    line: Vec<u8>,
    /// A carriage return has been read after `line`, and it is not known yet what follows.
    returned: bool,
    draft: Vec<u8>,
    /// When a draft may be shown next.
    next_draft: Option<Instant>,
}

impl Lines {
    /// The lines of one rank of so many.
    pub(super) fn new(rank: usize, ranks: usize, look: Look) -> Lines {
        let width = (ranks - 1).to_string().len();
        let colour = COLOURS[rank % COLOURS.len()];
        let prefix = match look {
            Look::Plain => format!("[{rank:>width$}] "),
            Look::Colour => format!("\x1b[{colour}m[{rank:>width$}]\x1b[0m "),
            Look::Reversed => format!("\x1b[7;{colour}m[{rank:>width$}]\x1b[0m "),
        };
        Lines {
            prefix: prefix.into_bytes(),
            reset: if look == Look::Plain { b"" } else { b"\x1b[0m" },
            line: Vec::new(),
            returned: false,
            draft: Vec::new(),
            next_draft: None,
        }
    }

    /// Takes what was read, and appends to `out` what is to be shown.
    pub(super) fn push(&mut self, mut bytes: &[u8], now: Instant, out: &mut Vec<u8>) {
        while let Some(&first) = bytes.first() {
            if self.returned && first != b'\n' && first != b'\r' {
                self.returned = false;
                self.draft.clear();
                std::mem::swap(&mut self.draft, &mut self.line);
                self.show_draft(now, out);
            }
            let text = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(bytes.len());
            let (text, rest) = bytes.split_at(text.min(LONGEST - self.line.len()));
            self.line.extend_from_slice(text);
            bytes = rest;
            match bytes.first() {
                Some(b'\n') => {
                    self.end_line(out);
                    bytes = &bytes[1..];
                }
                Some(b'\r') => {
                    self.returned = true;
                    bytes = &bytes[1..];
                }
                _ if self.line.len() >= LONGEST => self.end_line(out),
                _ => {}
            }
        }
    }

    /// When [`show_draft`](Lines::show_draft) has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.draft.is_empty() { None } else { self.next_draft }
    }

    /// Shows the newest draft, if it is time.
    pub(super) fn show_draft(&mut self, now: Instant, out: &mut Vec<u8>) {
        if self.draft.iter().all(u8::is_ascii_whitespace) {
            self.draft.clear();
        } else if self.next_draft.is_none_or(|next| now >= next) {
            self.next_draft = Some(now + DRAFTS);
            let draft = std::mem::take(&mut self.draft);
            self.show(&draft, out);
        }
    }

    /// The stream has ended: what it holds is shown.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        if !self.line.is_empty() {
            self.end_line(out);
        } else if !self.draft.is_empty() {
            let draft = std::mem::take(&mut self.draft);
            self.show(&draft, out);
        }
    }

    fn end_line(&mut self, out: &mut Vec<u8>) {
        let line = std::mem::take(&mut self.line);
        self.show(&line, out);
        self.line = line;
        self.line.clear();
        self.draft.clear();
        self.returned = false;
    }

    fn show(&self, line: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&self.prefix);
        out.extend_from_slice(line);
        if line.contains(&0x1b) {
            out.extend_from_slice(self.reset);
        }
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown of bytes that come in pieces of this size.
    fn shown(bytes: &[u8], piece: usize) -> String {
        let mut lines = Lines::new(2, 4, Look::Plain);
        let mut out = Vec::new();
        let now = Instant::now();
        bytes.chunks(piece).for_each(|piece| lines.push(piece, now, &mut out));
        lines.finish(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn lines_come_out_whole_however_they_came_in() {
        for piece in [1, 2, 3, 100] {
            assert_eq!(shown(b"one\n\ntwo\r\nlast", piece), "[2] one\n[2] \n[2] two\n[2] last\n");
            assert_eq!(shown(b"", piece), "");
            assert_eq!(shown(b"\n", piece), "[2] \n");
        }
    }

    #[test]
    fn numbers_are_aligned_and_bytes_stay_as_they_are() {
        let mut out = Vec::new();
        Lines::new(7, 11, Look::Plain).push(b"\xff\xfe\0\n", Instant::now(), &mut out);
        assert_eq!(out, b"[ 7] \xff\xfe\0\n");
    }

    #[test]
    fn colours_tell_ranks_and_streams_apart_and_leave_the_rank_s_own_as_they_are() {
        let shown = |rank, look, bytes: &[u8]| {
            let mut out = Vec::new();
            Lines::new(rank, 20, look).push(bytes, Instant::now(), &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown(3, Look::Colour, b"a\n"), "\x1b[32m[ 3]\x1b[0m a\n");
        assert_eq!(shown(3, Look::Reversed, b"a\n"), "\x1b[7;32m[ 3]\x1b[0m a\n");
        assert_eq!(shown(13, Look::Colour, b"a\n"), "\x1b[32m[13]\x1b[0m a\n", "colours come again");
        let own = b"\x1b[1;31mred\n";
        assert_eq!(shown(0, Look::Colour, own), "\x1b[36m[ 0]\x1b[0m \x1b[1;31mred\x1b[0m\n");
        assert_eq!(shown(0, Look::Plain, own), "[ 0] \x1b[1;31mred\n");
        let all: std::collections::BTreeSet<u8> = COLOURS.into();
        assert!(all.len() == COLOURS.len() && !all.contains(&31) && !all.contains(&91));
    }

    #[test]
    fn long_lines_are_cut() {
        let mut long = vec![b'x'; 2 * LONGEST + 5];
        long.push(b'\n');
        for piece in [1000, LONGEST, 10 * LONGEST] {
            let out = shown(&long, piece);
            let lengths: Vec<usize> = out.lines().map(|line| line.len() - 4).collect();
            assert_eq!(lengths, [LONGEST, LONGEST, 5]);
        }
    }

    #[test]
    fn a_bar_shows_its_first_and_its_last_state_and_some_between() {
        for piece in [1, 4, 100] {
            assert_eq!(shown(b"\r10%\r20%\r30%\ndone\n", piece), "[2] 10%\n[2] 30%\n[2] done\n");
            assert_eq!(shown(b"10%\r    \r20%", piece), "[2] 10%\n[2] 20%\n");
            assert_eq!(shown(b"10%\r20%\r30%\r", piece), "[2] 10%\n[2] 30%\n");
        }
        let mut lines = Lines::new(0, 1, Look::Plain);
        let (start, mut out) = (Instant::now(), Vec::new());
        lines.push(b"1\r2\r3\r4", start, &mut out);
        assert_eq!((out.as_slice(), lines.due()), (&b"[0] 1\n"[..], Some(start + DRAFTS)));
        lines.show_draft(start + DRAFTS, &mut out);
        assert_eq!((out.as_slice(), lines.due()), (&b"[0] 1\n[0] 3\n"[..], None));
    }
}
