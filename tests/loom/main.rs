//! The protocols of shared memory under a model checker: the very files of the library, with loom's atomics in the place
//! of the machine's. Every interleaving of a few threads is gone through, as far as the bound on preemptions of each model
//! allows, and every value that the memory model lets a load see.

/// The room of the library that the protocols are in, as far as they need it.
mod shm {
    mod sync;

    #[path = "../../../src/transport/shm/bell.rs"]
    mod bell;
    // What the executor needs of it, and the library exports.
    #[allow(dead_code, unreachable_pub)]
    #[path = "../../../src/transport/shm/flag.rs"]
    mod flag;
    #[path = "../../../src/transport/shm/ring.rs"]
    mod ring;

    mod bells;
    mod flags;
    mod rings;
    mod seeded;
}
