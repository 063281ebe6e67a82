//! The text of `CUDA_VISIBLE_DEVICES`.
//!
//! CUDA reads it up to the first entry that is none; PyTorch (`torch/cuda/__init__.py`, `_parse_visible_devices`) has found out by trying
//! what else it does, and this follows: of an index the leading digits count, an entry twice leaves nothing visible, and a
//! list is of indices, of GPUs or of slices.

use std::fmt;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Entry {
    /// A GPU by its index among those of the machine.
    Index(usize),
    /// A GPU by its UUID, or by as much of its beginning as tells it apart: `GPU-8932f937`.
    Gpu(String),
    /// A slice of a GPU, by its UUID (`MIG-…`), or as it was called before (`MIG-GPU-<UUID>/<instance>/<part>`).
    Slice(String),
}

impl Entry {
    /// The entries of a text, up to the first that is none.
    ///
    /// ```
    /// use ringfold::device::Entry;
    /// assert_eq!(Entry::list("2,3"), [Entry::Index(2), Entry::Index(3)]);
    /// assert_eq!(Entry::list("0,-1,1"), [Entry::Index(0)]);
    /// assert_eq!(Entry::list("GPU-8932f937"), [Entry::Gpu("GPU-8932f937".into())]);
    /// assert_eq!(Entry::list("1,1"), [], "an entry twice leaves nothing");
    /// assert_eq!(Entry::list(""), []);
    /// ```
    pub fn list(text: &str) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        for part in text.split(',') {
            let Some(entry) = Entry::read(part.trim()) else { break };
            if entries
                .first()
                .is_some_and(|first| std::mem::discriminant(first) != std::mem::discriminant(&entry))
            {
                break;
            }
            if entries.contains(&entry) {
                return Vec::new();
            }
            entries.push(entry);
        }
        entries
    }

    fn read(text: &str) -> Option<Entry> {
        if let Some(rest) = text.strip_prefix("MIG-") {
            return (!rest.is_empty()).then(|| Entry::Slice(text.to_owned()));
        }
        if let Some(rest) = text.strip_prefix("GPU-") {
            return (!rest.is_empty()).then(|| Entry::Gpu(text.to_owned()));
        }
        let text = text.strip_prefix('+').unwrap_or(text);
        let digits = text.find(|c: char| !c.is_ascii_digit()).map_or(text, |end| &text[..end]);
        digits.parse().ok().map(Entry::Index)
    }

    /// Whether it can mean the device with this UUID. An index can mean any, and says nothing of it.
    pub fn means(&self, uuid: &str) -> bool {
        match self {
            Entry::Index(_) => false,
            Entry::Gpu(begin) => starts_with(uuid, begin),
            Entry::Slice(name) => uuid.eq_ignore_ascii_case(name),
        }
    }
}

fn starts_with(uuid: &str, begin: &str) -> bool {
    uuid.get(..begin.len()).is_some_and(|beginning| beginning.eq_ignore_ascii_case(begin))
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entry::Index(index) => write!(f, "{index}"),
            Entry::Gpu(text) | Entry::Slice(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_as_cuda_reads_them() {
        let index = |indices: &[usize]| indices.iter().map(|&index| Entry::Index(index)).collect::<Vec<_>>();
        for (text, entries) in [
            ("0,1,2", index(&[0, 1, 2])),
            (" 3 , 1 ", index(&[3, 1])),
            ("+4", index(&[4])),
            ("1gpu,2x", index(&[1, 2])),
            ("0,one,2", index(&[0])),
            ("0,,2", index(&[0])),
            ("-1,0", vec![]),
            ("", vec![]),
            ("NoDevFiles", vec![]),
            ("0,1,0", vec![]),
            ("0,GPU-a", index(&[0])),
            ("GPU-a,GPU-b,1", vec![Entry::Gpu("GPU-a".into()), Entry::Gpu("GPU-b".into())]),
            ("GPU-a,MIG-b", vec![Entry::Gpu("GPU-a".into())]),
            ("MIG-GPU-a/1/0", vec![Entry::Slice("MIG-GPU-a/1/0".into())]),
            ("GPU-", vec![]),
            ("MIG-", vec![]),
        ] {
            assert_eq!(Entry::list(text), entries, "{text:?}");
        }
    }

    #[test]
    fn a_beginning_means_the_gpu_and_a_slice_is_meant_as_a_whole() {
        let gpu = Entry::Gpu("GPU-8932F937".into());
        assert!(gpu.means("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6") && !gpu.means("GPU-89"));
        let slice = Entry::Slice("MIG-a".into());
        assert!(slice.means("MIG-a") && !slice.means("MIG-ab"));
        assert!(!Entry::Index(0).means("GPU-0"));
    }
}
