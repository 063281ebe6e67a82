//! Which backend a group takes, and why not the others: from what its ranks ask for, and what each of them can.
//!
//! Pure, so that ranks that have heard the same decide the same. What ranks say of themselves goes with the record that each of
//! them gives the others anyway; only shared memory has to be tried by all of them together.
//!
//! `auto` takes shared memory where all ranks can have it, else the memory of each host and TCP between hosts, else TCP. It never takes MPI, which may be another one than the
//! program's, and never NCCL: nothing in a configuration tells whether the tensors to come are on devices, and those of the host
//! would be refused there, or copied to a device and back.

use super::nccl::Library;
use crate::config::{BackendChoice, Config};
use crate::cuda::Driver;
use crate::error::{Error, ErrorKind, Result};
use std::fmt;

/// A backend that there can be.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Candidate {
    /// Which.
    pub choice: BackendChoice,
    /// Whether it is taken where nobody asks for it.
    pub unasked: bool,
    /// What it needs, in words.
    pub needs: &'static str,
    /// What to do where it cannot be had.
    remedy: &'static str,
}

const BUILD_WITH_MPI: &str =
    "build with `cargo build --features mpi`, and MPICC=the compiler of the MPI to use";

/// The backends between processes, in the order in which they are preferred.
pub const CANDIDATES: [Candidate; 6] = [
    Candidate {
        choice: BackendChoice::Shm,
        unasked: true,
        needs: "all ranks on one host, and memory that they may share",
        remedy: "mend that, or let the backend be auto or tcp",
    },
    Candidate {
        choice: BackendChoice::Hierarchical,
        unasked: true,
        needs: "several hosts, of which one has several ranks, and memory that the ranks of a host may share",
        remedy: "mend that, or let the backend be auto or tcp",
    },
    Candidate {
        choice: BackendChoice::Tcp,
        unasked: true,
        needs: "an interface on each rank by which the others reach it",
        remedy: "mend that on its side: RINGFOLD_INTERFACE says on which interface a rank listens",
    },
    Candidate {
        choice: BackendChoice::Mpi,
        unasked: false,
        needs: "a build with the feature mpi, and all ranks started by the mpirun of that MPI",
        remedy: BUILD_WITH_MPI,
    },
    Candidate {
        choice: BackendChoice::MpiP2p,
        unasked: false,
        needs: "a build with the feature mpi, and all ranks started by the mpirun of that MPI",
        remedy: BUILD_WITH_MPI,
    },
    Candidate {
        choice: BackendChoice::Nccl,
        unasked: false,
        needs: "NVIDIA's driver and libnccl.so.2 on each rank, and a GPU of its own for each",
        remedy: "let the backend be auto, shm or tcp",
    },
];

/// The candidate that a choice names; none for `auto`.
pub fn candidate(choice: BackendChoice) -> Option<&'static Candidate> {
    CANDIDATES.iter().find(|candidate| candidate.choice == choice)
}

/// Why this process cannot take a backend, as far as it can know alone: libraries are looked for where the configuration says. `None` where
/// nothing is known to be in the way.
///
/// ```
/// use ringfold::Config;
/// use ringfold::backend::choose::obstacle;
/// use ringfold::config::BackendChoice;
/// assert_eq!(obstacle(BackendChoice::Tcp, &Config::default()), None);
/// let nowhere = Config::default().with_cuda("/nowhere/libcuda.so.1");
/// assert!(obstacle(BackendChoice::Nccl, &nowhere).unwrap().contains("/nowhere/libcuda.so.1"));
/// ```
pub fn obstacle(choice: BackendChoice, config: &Config) -> Option<String> {
    match choice {
        BackendChoice::Mpi | BackendChoice::MpiP2p if !cfg!(feature = "mpi") => {
            Some("this build has no MPI (it is without the feature mpi)".to_owned())
        }
        BackendChoice::Nccl => {
            let missing = Driver::find(config.cuda.as_deref()).err();
            missing.or_else(|| Library::find(config.nccl.as_deref()).err()).map(|error| error.to_string())
        }
        _ => None,
    }
}

/// Fails where [`obstacle`] knows of one.
///
/// # Errors
/// [`Unsupported`](ErrorKind::Unsupported), with the reason and what to do.
pub fn check(choice: BackendChoice, config: &Config) -> Result<()> {
    obstacle(choice, config).map_or(Ok(()), |why| Err(cannot(choice, &why)))
}

/// The error of whoever chooses a backend that cannot be had.
pub(crate) fn cannot(choice: BackendChoice, why: &str) -> Error {
    let error = Error::unsupported(format!("the backend {choice} cannot be had: {why}"));
    match candidate(choice) {
        Some(candidate) => error.remedy(candidate.remedy),
        None => error,
    }
}

/// What one rank says: what it asks for, and why it cannot do that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// What it asks for.
    pub choice: BackendChoice,
    /// Why it cannot; of `auto`, why it can do nothing at all.
    pub obstacle: Option<String>,
}

impl Ask {
    /// What this process says that asks for so much.
    pub fn of(choice: BackendChoice, config: &Config) -> Self {
        Ask { choice, obstacle: obstacle(choice, config) }
    }
}

/// What the ranks of a group want, as all of them know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// What all go by: a backend that somebody asks for, else `auto`.
    pub choice: BackendChoice,
    /// The lowest rank that asks for it, where somebody does.
    pub by: Option<usize>,
}

/// Agrees on what is wanted. Who asks for nothing (`auto`) goes by what others ask for, where that is one that `auto` could have
/// taken; MPI and NCCL are asked for by all ranks or none.
///
/// # Errors
/// The same on every rank, since all have heard the same: [`Configuration`](ErrorKind::Configuration) where ranks ask for different
/// ones, [`Unsupported`](ErrorKind::Unsupported) where a rank cannot do what it asks for. Either names the rank and the reason.
///
/// ```
/// use ringfold::backend::choose::{Ask, agree};
/// use ringfold::config::BackendChoice::{Auto, Shm, Tcp};
/// let ask = |choice| Ask::of(choice, &ringfold::Config::default());
/// assert_eq!(agree(&[ask(Auto), ask(Tcp)])?.choice, Tcp);
/// assert_eq!(agree(&[ask(Shm), ask(Tcp)]).unwrap_err().culprit(), Some(1));
/// # Ok::<(), ringfold::Error>(())
/// ```
pub fn agree(asks: &[Ask]) -> Result<Agreed> {
    let by = asks.iter().position(|ask| ask.choice != BackendChoice::Auto);
    let choice = by.map_or(BackendChoice::Auto, |by| asks[by].choice);
    let joins = candidate(choice).is_none_or(|candidate| candidate.unasked);
    let other =
        asks.iter().position(|ask| ask.choice != choice && !(joins && ask.choice == BackendChoice::Auto));
    if let (Some(by), Some(other)) = (by, other) {
        let its = match asks[other].choice {
            BackendChoice::Auto => "another".to_owned(),
            its => its.to_string(),
        };
        let text = format!("rank {by} asks for the backend {choice}, and rank {other} for {its}");
        return Err(Error::new(ErrorKind::Configuration, text)
            .blame(other)
            .remedy("set RINGFOLD_BACKEND to one of them on every rank, or on none"));
    }
    let stuck = asks.iter().enumerate().find_map(|(rank, ask)| Some((rank, ask.obstacle.as_deref()?)));
    match stuck {
        None => Ok(Agreed { choice, by }),
        Some((rank, why)) if choice == BackendChoice::Auto => {
            let text = format!("no backend can be had: on rank {rank}: {why}");
            Err(Error::new(ErrorKind::Configuration, text).blame(rank).remedy("mend that on its side"))
        }
        Some((rank, why)) => Err(cannot(choice, &format!("on rank {rank}: {why}")).blame(rank)),
    }
}

/// A backend that a group does not use, and why not. The same on every rank. Shown as `shm: rank 1 is elsewhere`.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PassedOver {
    /// The word that stands for it on the command line.
    pub backend: &'static str,
    /// Why not.
    pub why: String,
}

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.backend, self.why)
    }
}

impl fmt::Debug for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Why a group that has agreed on so much, and has taken the backend of this word, has not taken the others: in the order of preference.
/// `found` is why some cannot be had, as far as that was found out.
pub fn passed_over(agreed: Agreed, taken: &str, found: &[(BackendChoice, &str)]) -> Vec<PassedOver> {
    let others = CANDIDATES.iter().filter(|candidate| candidate.choice.as_str() != taken);
    let reason = |candidate: &Candidate| {
        let known = found.iter().find(|(choice, _)| *choice == candidate.choice);
        match (agreed.by, known) {
            (Some(rank), _) => format!("rank {rank} asks for {}", agreed.choice),
            (None, Some((_, why))) => (*why).to_owned(),
            (None, _) if candidate.unasked => format!("{taken} comes first, and can be had"),
            (None, _) => format!("it is taken where all ranks ask for it, and needs {}", candidate.needs),
        }
    };
    others
        .map(|candidate| PassedOver { backend: candidate.choice.as_str(), why: reason(candidate) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use BackendChoice::{Auto, Hierarchical, Mpi, MpiP2p, Nccl, Shm, Tcp};

    fn asks(choices: &[BackendChoice]) -> Vec<Ask> {
        choices.iter().map(|&choice| Ask { choice, obstacle: None }).collect()
    }

    #[test]
    fn every_choice_but_auto_is_a_candidate_once() {
        for choice in BackendChoice::ALL {
            let count = CANDIDATES.iter().filter(|candidate| candidate.choice == choice).count();
            assert_eq!(count, usize::from(choice != Auto), "{choice}");
        }
    }

    #[test]
    fn who_leaves_it_open_goes_by_what_others_ask_for() {
        for (choices, choice, by) in [
            ([Auto, Auto, Auto], Auto, None),
            ([Auto, Shm, Auto], Shm, Some(1)),
            ([Auto, Auto, Tcp], Tcp, Some(2)),
            ([Auto, Hierarchical, Auto], Hierarchical, Some(1)),
            ([Tcp, Auto, Tcp], Tcp, Some(0)),
            ([MpiP2p, MpiP2p, MpiP2p], MpiP2p, Some(0)),
        ] {
            assert_eq!(agree(&asks(&choices)).unwrap(), Agreed { choice, by });
        }
    }

    #[test]
    fn who_asks_for_another_is_named() {
        for (choices, culprit, says) in [
            ([Auto, Shm, Tcp], 2, "rank 1 asks for the backend shm, and rank 2 for tcp"),
            ([Auto, Nccl, Nccl], 0, "rank 1 asks for the backend nccl, and rank 0 for another"),
            ([Mpi, MpiP2p, Mpi], 1, "rank 0 asks for the backend mpi, and rank 1 for mpi-p2p"),
        ] {
            let error = agree(&asks(&choices)).unwrap_err();
            assert_eq!((error.kind(), error.culprit()), (ErrorKind::Configuration, Some(culprit)));
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn who_cannot_is_named_with_the_reason() {
        for (choice, kind) in
            [(Auto, ErrorKind::Configuration), (Tcp, ErrorKind::Unsupported), (Nccl, ErrorKind::Unsupported)]
        {
            let mut asks = asks(&[choice; 3]);
            asks[1].obstacle = Some("it is away".to_owned());
            let error = agree(&asks).unwrap_err();
            assert_eq!((error.kind(), error.culprit()), (kind, Some(1)));
            assert!(error.to_string().contains("on rank 1: it is away"), "{error}");
            assert!(error.what_to_do().is_some());
        }
    }

    #[test]
    fn each_other_backend_has_its_reason() {
        let free = Agreed { choice: Auto, by: None };
        let over = passed_over(free, "tcp", &[(Shm, "rank 1 is elsewhere"), (Hierarchical, "each is alone")]);
        let said: Vec<_> = over.iter().map(|one| (one.backend, one.why.as_str())).collect();
        assert_eq!(said[..2], [("shm", "rank 1 is elsewhere"), ("hierarchical", "each is alone")]);
        assert!(said.iter().all(|(backend, _)| *backend != "tcp") && said.len() == CANDIDATES.len() - 1);
        assert!(said[4].1.contains("libnccl.so.2"), "{said:?}");
        assert_eq!(passed_over(free, "shm", &[])[1].to_string(), "tcp: shm comes first, and can be had");
        let asked = Agreed { choice: Tcp, by: Some(2) };
        assert!(passed_over(asked, "tcp", &[]).iter().all(|one| one.why == "rank 2 asks for tcp"));
    }
}
