//! Every generator's plans are proved, and the prover is shown plans that it must reject.

mod by_hand;
mod interpreter;
mod mutated;
mod proved;
mod rejected;
mod shared;
mod written;
