//! Arguments that cannot be right are refused by the rank that gives them, before anything is sent or changed: the
//! next call of all ranks works as if nothing had been.

use crate::calls::group::connected;
use crate::calls::refusals::{WORLD, refuse};
use ringfold::Communicator;
use ringfold::config::BackendChoice;

fn refuse_on(group: Vec<Communicator>) {
    std::thread::scope(|scope| {
        for comm in group {
            scope.spawn(move || refuse(&comm));
        }
    });
}

#[test]
fn wrong_arguments_are_refused_and_the_group_goes_on_over_threads() {
    refuse_on(Communicator::local(WORLD));
}

#[test]
fn wrong_arguments_are_refused_and_the_group_goes_on_over_sockets() {
    refuse_on(connected(WORLD, BackendChoice::Tcp));
}

#[test]
fn wrong_arguments_are_refused_and_the_group_goes_on_over_shared_memory() {
    refuse_on(connected(WORLD, BackendChoice::Shm));
}
