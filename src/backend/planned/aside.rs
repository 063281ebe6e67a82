//! How often a rank that waits looks whether others run on the same CPU, while another has fewer of them.
//!
//! Ranks that begin on one CPU offer it to each other without end. Nobody sleeps long, so the system sees no reason to part them: on two CPUs, of which one
//! was idle, two ranks stayed together for a tenth of a second to a whole one, and each small operation took 7 us instead of half a one; four of them took 4.3 instead of 2.4.

/// How many looks are left out at most after one that has found somebody.
const RAREST: u32 = 64;

/// When to look.
#[derive(Default)]
pub(super) struct Aside {
    left_out: u32,
    pause: u32,
}

impl Aside {
    /// Lets `step` find out and step aside, which says whether there is anybody: the oftener in a row, the longer until the next look. Where
    /// there are more ranks than CPUs it finds somebody every time.
    pub(super) fn look(&mut self, step: impl FnOnce() -> bool) {
        if self.left_out > 0 {
            self.left_out -= 1;
            return;
        }
        self.pause = if step() { (2 * self.pause).clamp(1, RAREST) } else { 0 };
        self.left_out = self.pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At which of so many looks it asks, if it has to step aside at each.
    fn asked(aside: &mut Aside, looks: usize, crowded: bool) -> Vec<usize> {
        let mut asked = Vec::new();
        for look in 0..looks {
            aside.look(|| {
                asked.push(look);
                crowded
            });
        }
        asked
    }

    #[test]
    fn who_is_alone_looks_every_time_and_who_is_not_ever_less() {
        let mut aside = Aside::default();
        assert_eq!(asked(&mut aside, 5, false), [0, 1, 2, 3, 4]);
        assert_eq!(asked(&mut aside, 300, true), [0, 2, 5, 10, 19, 36, 69, 134, 199, 264]);
        assert_eq!(asked(&mut aside, 40, false).len(), 11, "once it was alone it looks as at first");
    }
}
