//! The full product, nothing sampled: every collective x element type x reduction x size x placement x world size
//! over every backend, by the algorithm that the table chooses.

use crate::calls::group::{SHM, TCP, THREADS};
use crate::calls::suite::every_call;

const WORLDS: [usize; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

#[test]
fn every_call_over_threads() {
    every_call(&THREADS, &WORLDS);
}

#[test]
fn every_call_over_sockets() {
    every_call(&TCP, &WORLDS);
}

#[test]
fn every_call_over_shared_memory() {
    every_call(&SHM, &WORLDS);
}
