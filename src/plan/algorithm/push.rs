//! Push: each rank reduces its slice of all inputs into all outputs.
//!
//! Two flags and nothing copied: where all ranks map each other's tensors this is an all_reduce at the speed of the memory.
//! To write into the others' outputs is quicker than to have them read: a write need not wait for the other cache.
//!
//! Source: the one-shot and two-shot all_reduce over mapped memory of NVIDIA's NVLink libraries, in two shots; for hosts,
//! measured here.

use super::{Entry, Reach};
use crate::collective::Collective;
use crate::plan::build::split_evenly;
use crate::plan::{Builder, Region, Span};

pub(super) const ENTRY: Entry = Entry {
    name: "push",
    idea: "each rank reduces its slice of all inputs into all outputs: nothing is copied, for shared tensors",
    collectives: &[Collective::AllReduce],
    fixed_order: |_| true,
    needs: Reach::Tensors,
    slice_bytes: |_| Some(32 << 10),
    generate,
    ..Entry::DEFAULT
};

const BEGUN: u32 = 0;
const WRITTEN: u32 = 1;

fn generate(b: &mut Builder<'_>) {
    let slice = split_evenly(b.request().whole(), b.world()).swap_remove(b.rank());
    b.signal(BEGUN);
    b.wait_for_all(BEGUN, 1);
    for portion in b.slices(std::slice::from_ref(&slice)).into_iter().flatten() {
        let sources: Vec<Span> = (0..b.world())
            .map(|rank| match rank == b.rank() {
                true => b.input(portion.clone()),
                false => b.peer(rank, Region::Input, portion.clone()),
            })
            .collect();
        b.with_scratch(|b| {
            // Read and written in a cache, it goes to all outputs from there.
            let result = b.scratch(portion.len());
            b.fold(sources, result);
            b.finish_range(result);
            b.copy(result, b.output(portion.clone()));
            for to in b.others() {
                b.copy(result, b.peer(to, Region::Output, portion.clone()));
            }
        });
    }
    b.signal(WRITTEN);
    b.wait_for_all(WRITTEN, 1);
}
