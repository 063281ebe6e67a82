//! What each rank brings to a call, and whether that can be one call.
//!
//! Before anything else moves, the ranks compare what they bring by one all_reduce of three words: a digest, its complement, and
//! flags, combined by bitwise or. Where all digests are one, no bit is set in both of the first two. So it is as quick as a
//! collective can be, and no rank finds out later, and alone, that its data cannot be reduced with the others'. Where something is
//! amiss each rank's whole account goes to all, who then tell the same error; nothing else has happened, and the group goes on.

use crate::communicator::With;
use crate::error::{Error, ErrorKind, Result};
use crate::reduce::{NullPolicy, ReduceOp, Signature};
use rustc_hash::FxHasher;
use serde::{Deserialize, Serialize};
use std::hash::{Hash, Hasher};

/// There are nulls.
const NULLS: u64 = 1;
/// This rank cannot take part.
const REFUSED: u64 = 2;
/// Nulls are refused here.
const REJECTED: u64 = 4;

/// What a rank brings to a call.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Account {
    /// The verb and what it was told, apart from its data: `all_reduce (sum, nulls skipped)`.
    pub(super) call: String,
    /// Columns, and the arrays within them.
    pub(super) fields: Vec<Field>,
    /// Why this rank cannot take part.
    pub(super) refusal: Option<Refusal>,
}

/// An array that a rank brings: a column, or one within a column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Field {
    /// Where it is: `column "x"`, `item of column "x"`, `the array`.
    pub(super) path: String,
    /// Its type, without what does not matter here.
    pub(super) kind: String,
    /// How many values it has, where all must have as many.
    pub(super) len: Option<usize>,
    /// A hash of where its lists begin and end.
    pub(super) layout: u64,
    /// How many of its values are null.
    pub(super) nulls: usize,
}

/// What kind of error keeps a rank from taking part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Why {
    Invalid,
    Unsupported,
    /// The system refused something: memory.
    Io,
}

/// Why a rank cannot take part, in a form that all can tell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Refusal {
    kind: Why,
    message: String,
    remedy: Option<String>,
}

impl Refusal {
    fn of(error: &Error) -> Self {
        Refusal {
            kind: match error.kind() {
                ErrorKind::Unsupported => Why::Unsupported,
                ErrorKind::Io => Why::Io,
                _ => Why::Invalid,
            },
            message: error.message().to_owned(),
            remedy: error.what_to_do().map(str::to_owned),
        }
    }

    fn error(&self, rank: usize) -> Error {
        let kind = match self.kind {
            Why::Unsupported => ErrorKind::Unsupported,
            Why::Io => ErrorKind::Io,
            Why::Invalid => ErrorKind::InvalidArgument,
        };
        let error = Error::new(kind, format!("rank {rank}: {}", self.message)).blame(rank);
        match &self.remedy {
            Some(remedy) => error.remedy(remedy),
            None => error,
        }
    }
}

/// What a rank brings, told in two ways: quickly, and in full where something is amiss.
pub(super) trait Brings {
    /// Feeds all that must be alike on every rank.
    fn digest(&self, hasher: &mut FxHasher);

    /// Whether there are nulls.
    fn has_nulls(&self) -> bool;

    /// All of it in words.
    fn fields(&self) -> Vec<Field>;
}

impl Brings for () {
    fn digest(&self, _: &mut FxHasher) {}

    fn has_nulls(&self) -> bool {
        false
    }

    fn fields(&self) -> Vec<Field> {
        Vec::new()
    }
}

/// A verb and what it was told, apart from its data.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    /// The verb's name in errors.
    pub(super) verb: &'static str,
    /// The reduction: its name, or that of the user's.
    pub(super) op: Option<String>,
    /// What else ranks must have alike of a user's reduction.
    pub(super) custom: Option<Signature>,
    pub(super) root: Option<usize>,
    /// What becomes of nulls, in verbs that reduce.
    pub(super) nulls: Option<NullPolicy>,
    /// Anything else, such as the column that a table is divided by.
    pub(super) more: Option<String>,
}

impl Asked {
    pub(super) fn new(verb: &'static str) -> Self {
        Asked { verb, op: None, custom: None, root: None, nulls: None, more: None }
    }

    fn words(&self) -> String {
        let parts = [
            self.op.clone(),
            self.custom.map(|custom| {
                let commutative = if custom.commutative { "" } else { ", not commutative" };
                format!("a user's, of {} bytes{commutative}", custom.width)
            }),
            self.root.map(|root| format!("root {root}")),
            self.nulls.map(|nulls| format!("nulls: {nulls}")),
            self.more.clone(),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if parts.is_empty() { self.verb.to_owned() } else { format!("{} ({})", self.verb, parts.join(", ")) }
    }
}

/// What the ranks have agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Agreed {
    /// Whether any rank has nulls.
    pub(super) nulls: bool,
}

/// Compares what this rank brings with what the others bring. Every rank calls it, also one that cannot take part, with the
/// reason; it returns the same on all of them.
///
/// # Errors
/// Why the ranks cannot do this together, the same on every rank but for the rank that tells it; or the group's failure.
pub(super) fn agree(with: &With<'_>, asked: &Asked, brings: Result<&dyn Brings>) -> Result<Agreed> {
    let comm = with.communicator();
    let sequence = comm.next_sequence();
    let beside = with.beside();
    let mut hasher = FxHasher::default();
    asked.hash(&mut hasher);
    let mut flags = 0;
    match &brings {
        Ok(brings) => {
            brings.digest(&mut hasher);
            flags |= if brings.has_nulls() { NULLS } else { 0 };
            flags |= if asked.nulls == Some(NullPolicy::Reject) { REJECTED } else { 0 };
        }
        Err(_) => flags |= REFUSED,
    }
    let digest = hasher.finish();
    let mut words = [digest, !digest, flags];
    beside.all_reduce(&mut words, ReduceOp::BitOr)?;
    let [some, not_all, flags] = words;
    let agreed = Agreed { nulls: flags & NULLS != 0 };
    let amiss = some & not_all != 0 || flags & REFUSED != 0 || (agreed.nulls && flags & REJECTED != 0);
    if !amiss {
        return Ok(agreed);
    }
    let account = match brings {
        Ok(brings) => Account { call: asked.words(), fields: brings.fields(), refusal: None },
        Err(error) => Account { call: asked.words(), fields: Vec::new(), refusal: Some(Refusal::of(&error)) },
    };
    let accounts = exchange(&beside, &account)?;
    match differ(&accounts, flags & REJECTED != 0, &|rank| comm.world_rank_of(rank)) {
        Some(error) => Err(comm.complete(error.during(asked.verb, sequence))),
        // Digests are quick, not exact: ranks of another build may hash alike things differently.
        None => Ok(agreed),
    }
}

/// Lets all ranks know whether what each did by itself went well; returns this rank's where all did.
///
/// # Errors
/// Why the first rank could not, on every rank; or the group's failure.
pub(super) fn settle<T>(with: &With<'_>, asked: &Asked, done: Result<T>) -> Result<T> {
    let brings: Result<&dyn Brings> = match &done {
        Ok(_) => Ok(&()),
        Err(error) => Err(error.clone()),
    };
    agree(with, asked, brings)?;
    done
}

/// Every rank's account.
fn exchange(beside: &With<'_>, account: &Account) -> Result<Vec<Account>> {
    let world = beside.communicator().world_size();
    let text = serde_json::to_vec(account).expect("an account is text and numbers");
    let mut lengths = vec![0u64; world];
    beside.all_gather(&[text.len() as u64], &mut lengths)?;
    let (counts, total) = sized(&lengths)?;
    let mut texts = vec![0u8; total as usize];
    beside.all_gather_v(&text, &mut texts, &counts)?;
    let mut rest = &texts[..];
    let parts = counts.iter().map(|&count| rest.split_off(..count).unwrap_or_default());
    parts
        .map(|part| {
            serde_json::from_slice(part).map_err(|error| {
                Error::new(ErrorKind::Protocol, format!("what a rank says of its data: {error}"))
            })
        })
        .collect()
}

/// Lengths as other ranks tell them, and their sum.
pub(super) fn sized(lengths: &[u64]) -> Result<(Vec<usize>, u64)> {
    let total = lengths.iter().try_fold(0u64, |sum, &len| sum.checked_add(len));
    match total.filter(|&total| total <= isize::MAX as u64) {
        Some(total) => Ok((lengths.iter().map(|&len| len as usize).collect(), total)),
        None => Err(Error::new(ErrorKind::Protocol, "ranks tell of more bytes than there can be")),
    }
}

/// What keeps the ranks from doing this together, if anything does: the same for all who have the same accounts. `number` is a rank's
/// number in the world, by which errors call it.
fn differ(accounts: &[Account], rejected: bool, number: &dyn Fn(usize) -> usize) -> Option<Error> {
    let refused =
        accounts.iter().enumerate().find_map(|(rank, one)| Some(one.refusal.as_ref()?.error(number(rank))));
    if refused.is_some() {
        return refused;
    }
    let mismatch = |text: String, odd: usize| {
        let error = Error::new(ErrorKind::Mismatch, text).blame(number(odd));
        Some(error.remedy("make every rank call the same with data of the same schema"))
    };
    if let Some((odd, at)) = odd_one(accounts, |one| &one.call) {
        let (usual, other) = (&accounts[at].call, &accounts[odd].call);
        return mismatch(format!("{usual} on rank {}, {other} on rank {}", number(at), number(odd)), odd);
    }
    if let Some((odd, at)) = odd_one(accounts, |one| one.fields.len()) {
        let (usual, other) = (&accounts[at], &accounts[odd]);
        let name = first_unlike(usual, other);
        let (has, others) = (usual.fields.len(), other.fields.len());
        let (at, on) = (number(at), number(odd));
        return mismatch(
            format!("{has} arrays on rank {at}, {others} on rank {on}: they part at {name}"),
            odd,
        );
    }
    for index in 0..accounts[0].fields.len() {
        let field = |rank: usize| &accounts[rank].fields[index];
        if let Some((odd, at)) = odd_one(accounts, |one| &one.fields[index].path) {
            let (usual, other) = (&field(at).path, &field(odd).path);
            let text =
                format!("{usual} on rank {}, {other} on rank {}, in one place", number(at), number(odd));
            return mismatch(text, odd);
        }
        if let Some((odd, at)) = odd_one(accounts, |one| &one.fields[index].kind) {
            let (path, usual, other) = (&field(at).path, &field(at).kind, &field(odd).kind);
            let text = format!("{path} is {usual} on rank {}, {other} on rank {}", number(at), number(odd));
            return mismatch(text, odd);
        }
        if let Some((odd, at)) = odd_one(accounts, |one| one.fields[index].len) {
            let words = |rank: usize| {
                field(rank).len.map_or_else(|| "any number of".to_owned(), |len| len.to_string())
            };
            let (path, usual, other) = (&field(at).path, words(at), words(odd));
            let text =
                format!("{path} has {usual} values on rank {}, {other} on rank {}", number(at), number(odd));
            return mismatch(text, odd);
        }
        if let Some((odd, at)) = odd_one(accounts, |one| one.fields[index].layout) {
            let path = &field(at).path;
            let (at, on) = (number(at), number(odd));
            let text = format!("the lists of {path} have other lengths on rank {on} than on rank {at}");
            return mismatch(text, odd);
        }
    }
    let mut fields =
        accounts.iter().enumerate().flat_map(|(rank, one)| one.fields.iter().map(move |field| (rank, field)));
    let (rank, field) = fields.find(|(_, field)| rejected && field.nulls > 0)?;
    let values = if field.nulls == 1 { "null" } else { "nulls" };
    let text = format!("{} has {} {values} on rank {}", field.path, field.nulls, number(rank));
    let remedy = "fill or drop them, or say Options::nulls(NullPolicy::Skip) on every rank";
    Some(Error::invalid(text).blame(number(rank)).remedy(remedy))
}

/// Who differs from most, and the first who has what most have; of several things that as many have, that of the lowest rank counts.
fn odd_one<'a, T: PartialEq>(
    accounts: &'a [Account],
    of: impl Fn(&'a Account) -> T,
) -> Option<(usize, usize)> {
    let first = of(accounts.first()?);
    accounts.iter().position(|one| of(one) != first)?;
    let values: Vec<T> = accounts.iter().map(of).collect();
    let alike = |value: &T| values.iter().filter(|other| *other == value).count();
    let usual = (0..values.len()).rev().max_by_key(|&rank| alike(&values[rank]))?;
    let odd = values.iter().position(|value| *value != values[usual])?;
    Some((odd, usual))
}

/// Where two lists of arrays part.
fn first_unlike(usual: &Account, odd: &Account) -> String {
    let unlike = |(a, b): (&Field, &Field)| (a.path != b.path).then(|| a.path.clone());
    let found = usual.fields.iter().zip(&odd.fields).find_map(unlike);
    let longer = if usual.fields.len() > odd.fields.len() { usual } else { odd };
    let shorter = usual.fields.len().min(odd.fields.len());
    found.unwrap_or_else(|| longer.fields[shorter].path.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(fields: &[(&str, &str, usize, usize)]) -> Account {
        let fields = fields.iter().map(|&(path, kind, len, nulls)| Field {
            path: path.to_owned(),
            kind: kind.to_owned(),
            len: Some(len),
            layout: 0,
            nulls,
        });
        Account { call: "all_reduce (sum)".to_owned(), fields: fields.collect(), refusal: None }
    }

    fn told(accounts: &[Account]) -> Option<(ErrorKind, Option<usize>, String)> {
        differ(accounts, true, &|rank| rank)
            .map(|error| (error.kind(), error.culprit(), error.message().to_owned()))
    }

    #[test]
    fn the_rank_that_differs_from_most_is_blamed() {
        let usual = account(&[("x", "Float32", 5, 0)]);
        assert_eq!(told(&[usual.clone(), usual.clone()]), None);
        let other = account(&[("x", "Float64", 5, 0)]);
        let (kind, culprit, text) = told(&[other, usual.clone(), usual.clone()]).unwrap();
        assert_eq!((kind, culprit), (ErrorKind::Mismatch, Some(0)));
        assert_eq!(text, "x is Float32 on rank 1, Float64 on rank 0");
        let long = account(&[("x", "Float32", 6, 0)]);
        let (_, culprit, text) = told(&[usual.clone(), long]).unwrap();
        assert_eq!((culprit, text.as_str()), (Some(1), "x has 5 values on rank 0, 6 on rank 1"));
        let named = account(&[("y", "Float32", 5, 0)]);
        assert_eq!(told(&[usual.clone(), named]).unwrap().2, "x on rank 0, y on rank 1, in one place");
        let more = account(&[("x", "Float32", 5, 0), ("z", "Int8", 5, 0)]);
        let (_, culprit, text) = told(&[usual.clone(), usual.clone(), more]).unwrap();
        assert_eq!(culprit, Some(2));
        assert_eq!(text, "1 arrays on rank 0, 2 on rank 2: they part at z");
        let mut lists = usual.clone();
        lists.fields[0].layout = 7;
        assert!(told(&[usual.clone(), lists]).unwrap().2.contains("other lengths on rank 1"));
        let call = Account { call: "all_reduce (max)".to_owned(), ..usual.clone() };
        assert_eq!(told(&[usual, call]).unwrap().2, "all_reduce (sum) on rank 0, all_reduce (max) on rank 1");
    }

    #[test]
    fn nulls_are_told_with_column_and_rank() {
        let (none, one) = (account(&[("x", "Int8", 5, 0)]), account(&[("x", "Int8", 5, 1)]));
        let (kind, culprit, text) = told(&[none.clone(), one.clone()]).unwrap();
        assert_eq!(
            (kind, culprit, text.as_str()),
            (ErrorKind::InvalidArgument, Some(1), "x has 1 null on rank 1")
        );
        assert!(differ(&[none, one], false, &|rank| rank).is_none());
    }

    #[test]
    fn a_refusal_comes_first_and_keeps_its_kind() {
        let error = Error::unsupported("a union").remedy("leave it out");
        let refused = Account { refusal: Some(Refusal::of(&error)), ..Account::default() };
        let told = differ(&[account(&[("x", "Int8", 5, 3)]), refused], true, &|rank| rank + 10).unwrap();
        assert_eq!((told.kind(), told.culprit()), (ErrorKind::Unsupported, Some(11)));
        assert_eq!((told.message(), told.what_to_do()), ("rank 11: a union", Some("leave it out")));
    }
}
