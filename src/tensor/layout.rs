//! Where the elements of a tensor stand: shape, strides, and what follows from them.

use super::{DType, Device};
use crate::error::{Error, Result};

/// Extents. Of one, nothing is allocated.
#[derive(Debug, Clone)]
enum Shape {
    Flat([usize; 1]),
    Any(Vec<usize>),
}

impl Shape {
    fn as_slice(&self) -> &[usize] {
        match self {
            Shape::Flat(extent) => extent,
            Shape::Any(extents) => extents,
        }
    }
}

/// Up to how many elements are compared one by one where strides alone do not tell whether two of them are one.
const COMPARED: usize = 1 << 20;

/// The layout that both kinds of view share.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) dtype: DType,
    shape: Shape,
    /// In elements; `None` is row-major and dense.
    strides: Option<Vec<isize>>,
    pub(super) device: Device,
    pub(super) count: usize,
}

impl Layout {
    pub(super) fn new(
        dtype: DType,
        shape: &[usize],
        strides: Option<&[isize]>,
        device: Device,
    ) -> Result<Self> {
        let count = shape
            .iter()
            .try_fold(1usize, |count, &extent| count.checked_mul(extent))
            .filter(|count| count.checked_mul(dtype.size()).is_some_and(|bytes| bytes <= isize::MAX as usize))
            .ok_or_else(|| {
                Error::invalid(format!("a {dtype} tensor of shape {shape:?} does not fit in memory"))
            })?;
        if let Some(strides) = strides
            && strides.len() != shape.len()
        {
            return Err(Error::invalid(format!(
                "{} strides for a shape of {} extents",
                strides.len(),
                shape.len()
            )));
        }
        if let Some(strides) = strides
            && count > 0
            && !fits(reach(shape, strides), dtype)
        {
            let text =
                format!("a {dtype} tensor of shape {shape:?} and strides {strides:?} does not fit in memory");
            return Err(Error::invalid(text));
        }
        let shape = match *shape {
            [extent] => Shape::Flat([extent]),
            _ => Shape::Any(shape.to_vec()),
        };
        Ok(Layout { dtype, shape, strides: strides.map(<[isize]>::to_vec), device, count })
    }

    #[inline]
    pub(super) fn flat(dtype: DType, count: usize) -> Self {
        Layout { dtype, shape: Shape::Flat([count]), strides: None, device: Device::Host, count }
    }

    pub(super) fn shape(&self) -> &[usize] {
        self.shape.as_slice()
    }

    pub(super) fn strides(&self) -> Option<&[isize]> {
        self.strides.as_deref()
    }

    /// The bytes of all elements together.
    pub(super) fn bytes(&self) -> usize {
        self.count * self.dtype.size()
    }

    /// Whether the elements stand one after another in row-major order.
    pub(super) fn is_contiguous(&self) -> bool {
        let Some(strides) = &self.strides else { return true };
        let mut expected = 1isize;
        for (&extent, &stride) in self.shape().iter().zip(strides).rev() {
            if extent > 1 && stride != expected {
                return self.count == 0;
            }
            expected = expected.saturating_mul(extent as isize);
        }
        true
    }

    /// Whether it is on the host and its elements do not stand one after another.
    pub(super) fn is_strided_host(&self) -> bool {
        self.device == Device::Host && !self.is_contiguous()
    }

    /// Operations work on dense tensors; anything else is refused before a byte is sent.
    #[inline]
    pub(super) fn check_dense(&self, role: &str) -> Result<()> {
        if self.strides.is_none() { Ok(()) } else { self.check_strides(role) }
    }

    fn check_strides(&self, role: &str) -> Result<()> {
        if !self.is_contiguous() {
            return Err(Error::unsupported(format!(
                "the {role} of shape {:?} has strides {:?}",
                self.shape(),
                self.strides().unwrap_or_default()
            ))
            .remedy("pass a contiguous tensor, or call a blocking verb with Options::pack"));
        }
        Ok(())
    }

    /// How many bytes before and behind the address of the first element the elements reach, the last one's own included.
    /// Nothing where there are none.
    pub(super) fn reached(&self) -> (usize, usize) {
        let size = self.dtype.size();
        match self.strides() {
            _ if self.count == 0 => (0, 0),
            None => (0, self.bytes()),
            Some(strides) => {
                let (low, high) = reach(self.shape(), strides).expect("it fits, or there were no layout");
                (low.unsigned_abs() * size, (high.unsigned_abs() + 1) * size)
            }
        }
    }

    /// Fails where two elements are one, so that writing them all has no meaning.
    pub(super) fn check_apart(&self, role: &str) -> Result<()> {
        if !self.overlaps() {
            return Ok(());
        }
        let text = format!(
            "the {role} of shape {:?} has strides {:?}, by which elements share memory: it can be read and not written",
            self.shape(),
            self.strides().unwrap_or_default()
        );
        Err(Error::invalid(text).remedy("copy it to memory of its own, and pass that"))
    }

    /// Whether two elements share memory. Told exactly, but for tensors of more than [`COMPARED`] elements whose strides are
    /// interlaced: these count as overlapping.
    fn overlaps(&self) -> bool {
        let Some(strides) = self.strides() else { return false };
        let mut steps: Vec<(usize, usize)> = (self.shape().iter().zip(strides))
            .filter(|&(&extent, _)| extent > 1)
            .map(|(&extent, stride)| (stride.unsigned_abs(), extent))
            .collect();
        steps.sort_unstable();
        // Where each step goes beyond all that the smaller ones reach, no two places are one.
        let mut reached = 0usize;
        let mut nested = true;
        for &(step, extent) in &steps {
            nested &= step > reached;
            reached = reached.saturating_add(step.saturating_mul(extent - 1));
        }
        if self.count == 0 || nested {
            return false;
        }
        // More elements than places, or too many to be looked at.
        if self.count > reached.saturating_add(1) || self.count > COMPARED {
            return true;
        }
        let mut places = Vec::with_capacity(self.count);
        let one_by_one = Runs { run: 1, steps: unmerged(self), is_empty: false };
        one_by_one.each(|at| places.push(at));
        places.sort_unstable();
        places.windows(2).any(|pair| pair[0] == pair[1])
    }
}

/// The lowest and the highest place that strides reach, in elements from the first one, of a tensor that has elements.
fn reach(shape: &[usize], strides: &[isize]) -> Option<(isize, isize)> {
    shape.iter().zip(strides).try_fold((0isize, 0isize), |(low, high), (&extent, &stride)| {
        if extent <= 1 {
            return Some((low, high));
        }
        let furthest = stride.checked_mul(isize::try_from(extent - 1).ok()?)?;
        Some((low.checked_add(furthest.min(0))?, high.checked_add(furthest.max(0))?))
    })
}

/// Whether so much can be one object in memory.
fn fits(reach: Option<(isize, isize)>, dtype: DType) -> bool {
    reach
        .and_then(|(low, high)| high.checked_sub(low)?.checked_add(1)?.checked_mul(dtype.size() as isize))
        .is_some()
}

/// The extents and strides of more than one element, as they are.
fn unmerged(layout: &Layout) -> Vec<(usize, isize)> {
    let strides = layout.strides().unwrap_or_default();
    let all = layout.shape().iter().copied().zip(strides.iter().copied());
    all.filter(|&(extent, _)| extent > 1).collect()
}

/// The elements of a strided tensor in row-major order, as runs that stand one after another.
pub(super) struct Runs {
    /// Elements a run.
    pub(super) run: usize,
    /// Extents and strides of the runs, outermost first.
    steps: Vec<(usize, isize)>,
    is_empty: bool,
}

impl Runs {
    pub(super) fn of(layout: &Layout) -> Self {
        let mut steps: Vec<(usize, isize)> = Vec::new();
        if layout.strides().is_none() {
            return Runs { run: layout.count, steps, is_empty: layout.count == 0 };
        }
        for (extent, stride) in unmerged(layout) {
            match steps.last_mut() {
                // Two steps are one where the outer goes on where the inner ends.
                Some(outer) if stride.checked_mul(extent as isize) == Some(outer.1) => {
                    *outer = (outer.0 * extent, stride);
                }
                _ => steps.push((extent, stride)),
            }
        }
        let run = match steps.last() {
            Some(&(extent, 1)) => {
                steps.pop();
                extent
            }
            _ => 1,
        };
        Runs { run, steps, is_empty: layout.count == 0 }
    }

    /// Visits the place of each run, in elements from the first one.
    #[inline]
    pub(super) fn each(&self, mut visit: impl FnMut(isize)) {
        if self.is_empty {
            return;
        }
        let Some((&(extent, stride), outer)) = self.steps.split_last() else { return visit(0) };
        let mut index = vec![0usize; outer.len()];
        let mut base = 0isize;
        loop {
            for i in 0..extent {
                visit(base + i as isize * stride);
            }
            // The next one outside, as an odometer goes on.
            let turned = index.iter_mut().zip(outer).rev().find_map(|(index, &(extent, stride))| {
                if *index + 1 < extent {
                    *index += 1;
                    base += stride;
                    return Some(());
                }
                base -= stride * *index as isize;
                *index = 0;
                None
            });
            if turned.is_none() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(shape: &[usize], strides: &[isize]) -> Layout {
        Layout::new(DType::I32, shape, Some(strides), Device::Host).unwrap()
    }

    /// Every element's place, from the definition.
    fn places(shape: &[usize], strides: &[isize]) -> Vec<isize> {
        let Some((&extent, inner)) = shape.split_first() else { return vec![0] };
        let below = places(inner, &strides[1..]);
        (0..extent)
            .flat_map(|i| below.iter().map(move |at| at + i as isize * strides[0]).collect::<Vec<_>>())
            .collect()
    }

    const LAYOUTS: &[(&[usize], &[isize])] = &[
        (&[], &[]),
        (&[1], &[7]),
        (&[5], &[1]),
        (&[5], &[-1]),
        (&[5], &[0]),
        (&[5], &[3]),
        (&[2, 3], &[3, 1]),
        (&[2, 3], &[1, 2]),
        (&[2, 3], &[4, 1]),
        (&[2, 3], &[-3, -1]),
        (&[2, 3], &[0, 1]),
        (&[3, 2], &[2, 3]),
        (&[3, 3], &[2, 3]),
        (&[2, 2, 2], &[8, 2, 1]),
        (&[2, 2, 2], &[8, 4, 2]),
        (&[2, 1, 4], &[4, 99, 1]),
        (&[3, 2, 2], &[-4, 2, -1]),
        (&[2, 2, 2], &[3, 2, 1]),
        (&[4, 0, 2], &[1, 1, 1]),
    ];

    #[test]
    fn runs_visit_every_element_in_order() {
        for (shape, strides) in LAYOUTS {
            let runs = Runs::of(&layout(shape, strides));
            let mut visited = Vec::new();
            runs.each(|at| visited.extend(at..at + runs.run as isize));
            assert_eq!(visited, places(shape, strides), "{shape:?} {strides:?}");
        }
        // Rows that are cut are copied row by row, and what is dense is one run.
        assert_eq!(Runs::of(&layout(&[2, 3], &[4, 1])).run, 3);
        assert_eq!(Runs::of(&layout(&[2, 2, 3], &[6, 3, 1])).run, 12);
    }

    #[test]
    fn overlap_and_reach_are_those_of_the_places() {
        for (shape, strides) in LAYOUTS {
            let (layout, mut all) = (layout(shape, strides), places(shape, strides));
            all.sort_unstable();
            let (before, behind) = match (all.first(), all.last()) {
                (Some(low), Some(high)) => (low.unsigned_abs() * 4, (high.unsigned_abs() + 1) * 4),
                _ => (0, 0),
            };
            assert_eq!(layout.reached(), (before, behind), "{shape:?} {strides:?}");
            let twice = all.windows(2).any(|pair| pair[0] == pair[1]);
            assert_eq!(layout.check_apart("output").is_err(), twice, "{shape:?} {strides:?}");
        }
        // Too many to be compared, and interlaced.
        assert!(layout(&[2048, 2048], &[3001, 2]).check_apart("output").is_err());
        assert!(layout(&[2048, 2048], &[4096, 2]).check_apart("output").is_ok());
    }

    #[test]
    fn strides_that_no_memory_holds_are_refused() {
        let big = isize::MAX;
        for (shape, strides) in [
            (&[2usize, 2][..], &[big, big][..]),
            (&[3], &[big / 2 + 1]),
            (&[2], &[isize::MIN]),
            (&[2, 2], &[big / 4, -(big / 4)]),
            (&[2], &[big / 4 + 1]),
        ] {
            let error = Layout::new(DType::I32, shape, Some(strides), Device::Host).unwrap_err();
            assert!(error.to_string().contains("does not fit"), "{error}");
        }
        // Of what is not there nothing is reached.
        assert!(Layout::new(DType::I32, &[0, 9], Some(&[big, big]), Device::Host).is_ok());
        assert!(Layout::new(DType::I32, &[1, 2], Some(&[big, 1]), Device::Host).is_ok());
    }
}
