//! Strided tensors, packed.

use super::call::{Call, Job, Placement, Shape, Tensors};
use super::group::{Member, by_views};
use super::memory::Memory;
use super::suite::Seeded;
use ringfold::tensor::{Device, TensorMut, TensorRef};
use ringfold::{Collective, Communicator, DType, Options, Result};

/// What lies between elements.
const GAP: u8 = 0x5a;

/// Elements that stand apart, in one of several layouts.
pub struct Strided {
    bytes: Vec<u8>,
    size: usize,
    /// Which byte the first element begins at.
    first: usize,
    shape: Vec<usize>,
    /// `None` is dense.
    strides: Option<Vec<isize>>,
}

impl Strided {
    pub fn new(content: &[u8], size: usize, kind: usize) -> Self {
        let count = content.len() / size;
        let rows = [3, 2, 1].into_iter().find(|rows| count.is_multiple_of(*rows)).unwrap();
        let row = count / rows;
        let last = count.saturating_sub(1);
        let (first, shape, strides) = match kind % 6 {
            0 => (0, vec![count], None),
            1 => (0, vec![count], Some(vec![2])),
            2 => (last, vec![count], Some(vec![-1])),
            3 => (last * 3, vec![count], Some(vec![-3])),
            4 => (1, vec![rows, row], Some(vec![1, rows as isize])),
            _ => (2, vec![rows, row], Some(vec![row as isize + 2, 1])),
        };
        let mut this =
            Strided { bytes: vec![GAP; (count * 3 + 8) * size], size, first: first * size, shape, strides };
        let places = this.places();
        for (place, element) in places.into_iter().zip(content.chunks(size)) {
            this.bytes[place..place + size].copy_from_slice(element);
        }
        this
    }

    /// Where each element begins, from the definition.
    fn places(&self) -> Vec<usize> {
        let dense = [self.shape[1..].iter().product::<usize>() as isize, 1];
        let strides = self.strides.as_deref().unwrap_or(&dense[2 - self.shape.len()..]);
        let mut places = vec![self.first as isize];
        for (extent, stride) in self.shape.iter().zip(strides) {
            let step = stride * self.size as isize;
            places = places.iter().flat_map(|at| (0..*extent as isize).map(move |i| at + i * step)).collect();
        }
        places.into_iter().map(|place| place as usize).collect()
    }

    /// The elements; fails where something else than they has changed.
    pub fn content(&self) -> Vec<u8> {
        let (mut rest, mut content) = (self.bytes.clone(), Vec::new());
        for place in self.places() {
            content.extend_from_slice(&self.bytes[place..place + self.size]);
            rest[place..place + self.size].fill(GAP);
        }
        assert!(rest.iter().all(|&byte| byte == GAP), "what lies between the elements has changed");
        content
    }

    pub fn read(&self, dtype: DType) -> TensorRef<'_> {
        let first = self.bytes[self.first..].as_ptr();
        // SAFETY: each layout stays within the bytes.
        unsafe { TensorRef::from_raw(first, dtype, &self.shape, self.strides.as_deref(), Device::Host) }
            .unwrap()
    }

    pub fn write(&mut self, dtype: DType) -> TensorMut<'_> {
        let first = self.bytes.as_mut_ptr().wrapping_add(self.first);
        // SAFETY: as above, and borrowed exclusively.
        unsafe { TensorMut::from_raw(first, dtype, &self.shape, self.strides.as_deref(), Device::Host) }
            .unwrap()
    }
}

/// A rank whose tensors are strided now so, now so, and sometimes dense: each rank goes its own way.
pub struct Packing {
    pub communicator: Communicator,
    calls: usize,
    pub strided: usize,
}

impl Packing {
    pub fn new(communicator: Communicator) -> Self {
        Packing { communicator, calls: 0, strided: 0 }
    }
}

impl Member for Packing {
    fn call(&mut self, job: &mut Job) -> Result<()> {
        self.calls += 1;
        let options = Options::new().deadline(job.call.deadline).check(job.call.check).pack(true);
        let (with, rank) = (self.communicator.with(options), self.communicator.rank());
        let (dtype, kind) = (job.call.dtype, self.calls + 2 * rank);
        let spread = |memory: &Memory, kind| Strided::new(memory.content(), dtype.size(), kind);
        let call = job.call.clone();
        match &mut job.tensors {
            Tensors::One(memory) => {
                let mut data = spread(memory, kind);
                self.strided += usize::from(!data.read(dtype).is_contiguous());
                let result = by_views(&with, rank, &call, data.write(dtype).into());
                memory.content_mut().copy_from_slice(&data.content());
                result
            }
            Tensors::Two(input, output) => {
                let (from, mut to) = (spread(input, kind), spread(output, kind / 6));
                self.strided += usize::from(!from.read(dtype).is_contiguous());
                self.strided += usize::from(!to.read(dtype).is_contiguous());
                let result = by_views(&with, rank, &call, (from.read(dtype), to.write(dtype)).into());
                assert_eq!(from.content(), input.content(), "the input has changed");
                output.content_mut().copy_from_slice(&to.content());
                result
            }
        }
    }
}

/// Calls of every verb, for a group of this size.
pub fn calls(world: usize) -> Vec<Seeded> {
    let mut calls: Vec<Seeded> = Vec::new();
    for collective in Collective::ALL.into_iter().filter(|one| *one != Collective::Barrier) {
        for dtype in DType::ALL {
            for placement in [Placement::Out, Placement::In, Placement::Mixed] {
                for count in [0, 1, 7, 12] {
                    for root in [0, world - 1] {
                        let call = Call::new(collective, dtype, count).placement(placement).root(root);
                        calls.push((call, calls.len() as u64));
                    }
                }
                let blocks: Vec<usize> = (0..world).map(|rank| (rank * 3 + 2) % 5).collect();
                let shape = match collective {
                    Collective::AllToAll => {
                        let block = |from: usize, to: usize| (from + 2 * to) % 4;
                        Shape::Pairs(
                            (0..world).map(|from| (0..world).map(|to| block(from, to)).collect()).collect(),
                        )
                    }
                    Collective::AllReduce | Collective::Reduce | Collective::Broadcast => continue,
                    _ => Shape::Blocks(blocks),
                };
                calls.push((
                    Call::new(collective, dtype, 0).placement(placement).shape(shape),
                    calls.len() as u64,
                ));
            }
        }
    }
    calls
}
