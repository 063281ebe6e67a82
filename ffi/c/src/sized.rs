//! Structures of callers that begin with their size, so that programs and libraries of different versions understand each other.
//!
//! A structure grows at its end only. What a smaller one lacks, since its program was built with an older header, reads as 0, which
//! says nothing in every field that is added later. A larger one asks for nothing that this version does not know as long as all
//! that stands behind is 0. Where the library writes, it writes what fits, and 0 behind what it knows.

use crate::comm::rf_counters;
use crate::config::{rf_config, rf_key_info};
use crate::error::{Fault, RF_INTERNAL, RF_INVALID_ARGUMENT, RF_OK, Result, rf_error, rf_status};
use crate::exchange::rf_exchange;
use crate::guard::quietly;
use crate::handle::missing;
use crate::options::rf_options;
use crate::reduction::rf_reduction_config;
use std::mem::{MaybeUninit, offset_of};

/// The most bytes that a structure will ever have: whatever says more was never initialised.
const LARGEST: usize = 4096;

/// A structure of the header's that begins with its size.
///
/// # Safety
/// It is `repr(C)` and begins with its size, a `u32`; any bytes are a value of it, and it has no padding.
pub(crate) unsafe trait Versioned {
    /// What to call it.
    const NAME: &'static str;
    /// Its bytes in the first release. There never was a smaller one.
    const FIRST: usize;
}

/// The bytes of a field.
pub(crate) const fn width<T, F>(_: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

macro_rules! frozen {
    ($($structure:ident, $name:literal: $bytes:literal bytes, to the end of $last:ident;)*) => {$(
        // SAFETY: numbers, pointers and functions that may be NULL, in an order that leaves no gap, which `layout_tests` sees to.
        unsafe impl Versioned for $structure {
            const NAME: &'static str = $name;
            const FIRST: usize = $bytes;
        }
        const _: () = {
            assert!(offset_of!($structure, size) == 0 && width(|whole: &$structure| &whole.size) == size_of::<u32>());
            let end = offset_of!($structure, $last) + width(|whole: &$structure| &whole.$last);
            assert!(end == $bytes, "a field of the first release has moved");
            assert!(size_of::<$structure>() >= $bytes && size_of::<$structure>() <= LARGEST);
        };
    )*};
}

// The first release's sizes. They never change: a field that is new goes behind, and its 0 says nothing.
frozen! {
    rf_error, "the error": 1360 bytes, to the end of text;
    rf_config, "the configuration": 96 bytes, to the end of log_destroy;
    rf_key_info, "the key": 40 bytes, to the end of meaning;
    rf_exchange, "the exchange": 48 bytes, to the end of destroy;
    rf_counters, "the counters": 96 bytes, to the end of scratch_bytes;
    rf_options, "the options": 64 bytes, to the end of prepared;
    rf_reduction_config, "the reduction": 56 bytes, to the end of destroy;
}

/// Whether a structure may be as large as that.
const fn is_possible<T: Versioned>(size: usize) -> bool {
    T::FIRST <= size && size <= LARGEST
}

#[cold]
fn impossible(name: &str, size: usize, known: usize) -> Fault {
    Fault::invalid(format!(
        "{name} says that its size is {size}, and this version's is {known}; to do: initialise it by the macro or the function"
    ))
}

#[cold]
fn asks_for_more(name: &str, size: usize, known: usize, at: usize) -> Fault {
    Fault::unsupported(format!(
        "{name} of {size} bytes says something at byte {at}, and this version knows {known}: the program asks for something newer; to do: \
         leave new fields at 0, or use a later library"
    ))
}

/// Fails where a field that means nothing yet says something.
pub(crate) fn reserved(what: &str, value: u32) -> Result<()> {
    if value == 0 { Ok(()) } else { Err(Fault::invalid(format!("the reserved field of {what} is {value}"))) }
}

/// A structure that a caller has filled in.
pub(crate) struct Given<'a, T> {
    known: &'a T,
    /// What stands behind that.
    behind: &'a [u8],
}

impl<'a, T: Versioned> Given<'a, T> {
    /// What this version knows of it. For what has to be given back whatever comes; all else is read when it is known that
    /// this is the whole.
    pub(crate) fn known(&self) -> &'a T {
        self.known
    }

    /// The same, as all that it says.
    ///
    /// # Errors
    /// RF_UNSUPPORTED where something stands behind that this version does not know.
    #[inline]
    pub(crate) fn whole(&self) -> Result<&'a T> {
        match self.behind.iter().position(|&byte| byte != 0) {
            None => Ok(self.known),
            Some(at) => {
                let known = size_of::<T>();
                Err(asks_for_more(T::NAME, known + self.behind.len(), known, known + at))
            }
        }
    }
}

/// A structure of the caller's; `None` for NULL. It is looked at where it is, or in `room` where it is smaller than this version's.
///
/// # Safety
/// It is NULL, or points to as many readable bytes as its first four say, which nobody changes while `'a` lives.
#[inline]
pub(crate) unsafe fn sized<'a, T: Versioned>(
    given: *const T,
    room: &'a mut MaybeUninit<T>,
) -> Result<Option<Given<'a, T>>> {
    if given.is_null() {
        return Ok(None);
    }
    // SAFETY: the first four bytes are readable.
    let size = unsafe { given.cast::<u32>().read() } as usize;
    if size == size_of::<T>() {
        // SAFETY: as many bytes are readable, and any bytes are a value.
        return Ok(Some(Given { known: unsafe { &*given }, behind: &[] }));
    }
    // SAFETY: handed on to the caller.
    unsafe { of_another_version(given, size, room) }.map(Some)
}

/// # Safety
/// As [`sized`], and `size` is what its first four bytes say.
#[cold]
unsafe fn of_another_version<'a, T: Versioned>(
    given: *const T,
    size: usize,
    room: &'a mut MaybeUninit<T>,
) -> Result<Given<'a, T>> {
    if !is_possible::<T>(size) {
        return Err(impossible(T::NAME, size, size_of::<T>()));
    }
    let bytes = given.cast::<u8>();
    if let Some(more) = size.checked_sub(size_of::<T>()) {
        // SAFETY: `size` bytes are readable: a whole one, whose bytes are a value, and so many behind it.
        let (known, behind) =
            unsafe { (&*given, std::slice::from_raw_parts(bytes.add(size_of::<T>()), more)) };
        return Ok(Given { known, behind });
    }
    *room = MaybeUninit::zeroed();
    // SAFETY: `size` bytes are readable, and the room is larger. It is the library's own.
    unsafe { bytes.copy_to_nonoverlapping(room.as_mut_ptr().cast(), size) };
    // SAFETY: all of it has been written, and any bytes are a value.
    Ok(Given { known: unsafe { room.assume_init_ref() }, behind: &[] })
}

/// How large a structure is that the library is to write; nothing where it cannot be one.
///
/// # Safety
/// Its first four bytes are readable.
#[inline]
pub(crate) unsafe fn size_to_write<T: Versioned>(place: *const T) -> Option<usize> {
    // SAFETY: the caller's promise.
    let size = unsafe { place.cast::<u32>().read() } as usize;
    is_possible::<T>(size).then_some(size)
}

/// Writes a structure of the caller's in its place, by `write`, which leaves its size; or, where it is smaller, as much as there
/// is room for of what `write` makes of `fresh`.
///
/// # Safety
/// `size` bytes can be written there, and are a possible size.
pub(crate) unsafe fn write_as<T: Versioned>(
    place: *mut T,
    size: usize,
    fresh: impl FnOnce() -> T,
    write: impl FnOnce(&mut T),
) {
    if size < size_of::<T>() {
        let mut whole = fresh();
        write(&mut whole);
        // SAFETY: handed on to the caller.
        return unsafe { put(place, size, &whole) };
    }
    // SAFETY: all of one can be written, and any bytes are a value.
    write(unsafe { &mut *place });
    if size > size_of::<T>() {
        // SAFETY: so much can be written behind it.
        unsafe { place.add(1).cast::<u8>().write_bytes(0, size - size_of::<T>()) };
    }
}

/// Puts as much of a structure as the caller's has room for, but its size, and 0 behind that.
///
/// # Safety
/// `size` bytes can be written there, and are a possible size.
unsafe fn put<T: Versioned>(place: *mut T, size: usize, value: &T) {
    let (from, to) = (std::ptr::from_ref(value).cast::<u8>(), place.cast::<u8>());
    let (begin, end) = (size_of::<u32>(), size.min(size_of::<T>()));
    // SAFETY: both have as many bytes, and are not one; a value has no padding.
    unsafe { to.add(begin).copy_from_nonoverlapping(from.add(begin), end - begin) };
    // SAFETY: `size` bytes can be written.
    unsafe { to.add(end).write_bytes(0, size - end) };
}

/// Fills in a structure of the caller's, as far as its size reaches.
///
/// # Safety
/// It is NULL, or its first four bytes are readable and as many bytes as they say can be written.
pub(crate) unsafe fn fill<T: Versioned>(place: *mut T, value: &T) -> Result<()> {
    if place.is_null() {
        return Err(missing(&format!("the place of {}", T::NAME)));
    }
    // SAFETY: the caller's promise.
    unsafe {
        match size_to_write(place) {
            Some(size) => put(place, size, value),
            None => {
                let size = place.cast::<u32>().read() as usize;
                return Err(impossible(T::NAME, size, size_of::<T>()));
            }
        }
    }
    Ok(())
}

/// Makes a structure of the caller's ready to be filled in, of the size that its program knows it with.
///
/// # Safety
/// It is NULL, or `size` bytes can be written there.
pub(crate) unsafe fn initialise<T: Versioned>(place: *mut T, size: u32, value: &T) -> rf_status {
    quietly(RF_INTERNAL, || {
        if place.is_null() || !is_possible::<T>(size as usize) {
            return RF_INVALID_ARGUMENT;
        }
        // SAFETY: the caller's promise, and that is a possible size.
        unsafe {
            place.cast::<u32>().write(size);
            put(place, size as usize, value);
        }
        RF_OK
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::RF_UNSUPPORTED;

    /// One that has grown by two fields since its first release.
    #[repr(C)]
    #[derive(Debug, Clone, Copy, PartialEq)]
    struct Grown {
        size: u32,
        first: u32,
        second: u64,
        new: u64,
        newer: u32,
        reserved: u32,
    }

    // SAFETY: numbers without a gap.
    unsafe impl Versioned for Grown {
        const NAME: &'static str = "what has grown";
        const FIRST: usize = 16;
    }

    const NOW: usize = size_of::<Grown>();

    fn grown(size: usize) -> Grown {
        Grown { size: size as u32, first: 1, second: 2, new: 3, newer: 4, reserved: 5 }
    }

    /// Memory of exactly so many bytes, as a program of another version has it. Of what it has more than this version all is `tail`.
    fn program(size: usize, tail: u8) -> Vec<u64> {
        let mut words = vec![0u64; size.div_ceil(8)];
        let all = words.as_mut_ptr().cast::<u8>();
        let known = grown(size);
        // SAFETY: there are so many bytes on both sides.
        unsafe {
            all.copy_from_nonoverlapping((&raw const known).cast(), size.min(NOW));
            all.add(size.min(NOW)).write_bytes(tail, size.saturating_sub(NOW));
        }
        words
    }

    fn bytes(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn read(words: &[u64]) -> Result<Grown> {
        let mut room = MaybeUninit::uninit();
        // SAFETY: it has as many bytes as its first four say, or more than any structure.
        let given = unsafe { sized(words.as_ptr().cast::<Grown>(), &mut room) }?;
        given.expect("it is not NULL").whole().copied()
    }

    #[test]
    fn what_a_smaller_one_lacks_reads_as_0() {
        for size in [16, 24, 32] {
            let told = read(&program(size, 0)).unwrap();
            let wanted = match size {
                16 => Grown { new: 0, newer: 0, reserved: 0, ..grown(size) },
                24 => Grown { newer: 0, reserved: 0, ..grown(size) },
                _ => grown(size),
            };
            assert_eq!(told, wanted);
        }
    }

    #[test]
    fn a_larger_one_is_taken_where_it_says_nothing_new() {
        for size in [NOW + 8, NOW + 64, LARGEST] {
            assert_eq!(read(&program(size, 0)).unwrap(), grown(size));
            let words = program(size, 7);
            let fault = read(&words).unwrap_err();
            assert_eq!(fault.status, RF_UNSUPPORTED);
            assert!(
                fault.to_string().contains(&format!("{size} bytes says something at byte {NOW}")),
                "{fault}"
            );
            // What has to be given back is there all the same.
            let mut room = MaybeUninit::uninit();
            // SAFETY: as above.
            let given = unsafe { sized(words.as_ptr().cast::<Grown>(), &mut room) }.unwrap().unwrap();
            assert_eq!(*given.known(), grown(size));
        }
        // The last byte counts.
        let mut words = program(NOW + 16, 0);
        *words.last_mut().unwrap() = 1 << 63;
        assert!(read(&words).unwrap_err().to_string().contains(&format!("at byte {}", NOW + 15)));
    }

    #[test]
    fn what_was_never_initialised_is_refused() {
        for size in [0, 1, 8, 15, LARGEST + 1, u32::MAX as usize] {
            let words = vec![size as u64; 2];
            let fault = read(&words).unwrap_err();
            assert_eq!(fault.status, RF_INVALID_ARGUMENT);
            assert!(fault.to_string().contains(&format!("size is {size},")), "{fault}");
            let mut place = words.clone();
            // SAFETY: nothing is written.
            let filled = unsafe { fill(place.as_mut_ptr().cast::<Grown>(), &grown(NOW)) };
            assert_eq!(filled.unwrap_err().status, RF_INVALID_ARGUMENT);
            // SAFETY: as above.
            let begun = unsafe { initialise(place.as_mut_ptr().cast::<Grown>(), size as u32, &grown(NOW)) };
            assert_eq!((begun, &place), (RF_INVALID_ARGUMENT, &words));
        }
        let mut room = MaybeUninit::uninit();
        // SAFETY: NULL may be passed.
        assert!(unsafe { sized::<Grown>(std::ptr::null(), &mut room) }.unwrap().is_none());
        // SAFETY: as above.
        let fault = unsafe { fill::<Grown>(std::ptr::null_mut(), &grown(NOW)) }.unwrap_err();
        assert!(fault.to_string().contains("the place of what has grown is NULL"), "{fault}");
        // SAFETY: as above.
        let begun = unsafe { initialise::<Grown>(std::ptr::null_mut(), NOW as u32, &grown(NOW)) };
        assert_eq!(begun, RF_INVALID_ARGUMENT);
    }

    #[test]
    fn as_much_is_written_as_the_caller_has_room_for() {
        for size in [16, 24, NOW, NOW + 8, LARGEST] {
            let wanted = bytes(&program(size, 0));
            let place = || {
                let mut place = vec![0x5a5a_5a5a_5a5a_5a5au64; size / 8 + 1];
                // SAFETY: there are four bytes.
                unsafe { place.as_mut_ptr().cast::<u32>().write(size as u32) };
                place
            };
            let (mut filled, mut written, mut begun) = (place(), place(), place());
            let written_at = written.as_mut_ptr().cast::<Grown>();
            let write = |of: &mut Grown| *of = Grown { size: of.size, ..grown(0) };
            // SAFETY: each has `size` bytes and more.
            unsafe {
                fill(filled.as_mut_ptr().cast::<Grown>(), &grown(0)).unwrap();
                write_as(written_at, size_to_write(written_at).unwrap(), || grown(0), write);
                let begun = begun.as_mut_ptr().cast::<Grown>();
                begun.cast::<u32>().write(0);
                assert_eq!(initialise(begun, size as u32, &grown(0)), RF_OK);
            }
            for place in [filled, written, begun] {
                let place = bytes(&place);
                assert_eq!(place[..size], wanted);
                assert!(place[size..].iter().all(|&byte| byte == 0x5a), "something behind it was written");
            }
        }
    }
}
