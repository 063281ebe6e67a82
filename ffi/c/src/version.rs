//! What library this is, and what it can do.

use crate::guard::{quietly, text};
use core::config::{BackendChoice, keys};
use core::{Algorithm, Collective, DType, ReduceOp};
use std::ffi::c_char;

/// The version of the header, as rf_version gives that of the library.
pub const RF_VERSION: u32 = 100;

/// The version of the library: 10000 * major + 100 * minor + patch. A program that was built with a header of the same major
/// version, and a minor version that is not larger, works with it; below 1.0.0 one of the same minor version.
#[unsafe(no_mangle)]
pub extern "C" fn rf_version() -> u32 {
    RF_VERSION
}

/// The same as a text, such as "0.1.0". Lives for ever.
#[unsafe(no_mangle)]
pub extern "C" fn rf_version_string() -> *const c_char {
    const TEXT: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    TEXT.as_ptr().cast()
}

/// Whether this library can do something: 1 or 0. What can be asked: "dtype:bf16", "op:mean", "collective:all_to_all",
/// "algorithm:ring", "backend:shm", "key:deadline", and "feature:" with one of "started", "prepared", "batch",
/// "shared_tensors", "custom_reductions", "log", "dlpack", "arrow", "device_tensors".
///
/// # Safety
/// `what` is NULL or ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_supports(what: *const c_char) -> i32 {
    quietly(0, || {
        // SAFETY: the caller's promise.
        let Ok(Some(what)) = (unsafe { text("what is asked", what) }) else { return 0 };
        let Some((kind, name)) = what.split_once(':') else { return 0 };
        i32::from(match kind {
            "dtype" => name.parse::<DType>().is_ok(),
            "op" => name == "custom" || ReduceOp::ALL.iter().any(|op| op.as_str() == name),
            "collective" => Collective::ALL.iter().any(|collective| collective.as_str() == name),
            "algorithm" => Algorithm::named(name).is_ok(),
            "backend" => name.parse::<BackendChoice>().is_ok(),
            "key" => keys::Key::named(name).is_some(),
            "feature" if name == "arrow" => cfg!(feature = "arrow"),
            "feature" => matches!(
                name,
                "started" | "prepared" | "batch" | "shared_tensors" | "custom_reductions" | "log" | "dlpack"
            ),
            _ => false,
        })
    })
}

const fn number(text: &str) -> u32 {
    let (mut value, mut at) = (0, 0);
    while at < text.len() {
        value = 10 * value + (text.as_bytes()[at] - b'0') as u32;
        at += 1;
    }
    value
}

const _: () = {
    let (major, minor) = (number(env!("CARGO_PKG_VERSION_MAJOR")), number(env!("CARGO_PKG_VERSION_MINOR")));
    let version = 10_000 * major + 100 * minor + number(env!("CARGO_PKG_VERSION_PATCH"));
    assert!(RF_VERSION == version, "RF_VERSION is not the package's");
};
