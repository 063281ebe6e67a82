//! Shared libraries that are found at run time.

use crate::error::{Error, ErrorKind, Result};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{CStr, OsStr, c_void};
use std::path::Path;

/// A library that has been found, for as long as the process lives.
#[derive(Debug)]
pub(crate) struct Dynamic {
    library: Library,
    /// Where it is, as the loader was asked for it.
    pub(crate) place: String,
}

/// Where a library is looked for.
pub(crate) struct Search<'a> {
    /// What it is, in words: "the CUDA driver".
    pub(crate) what: &'a str,
    /// The one file that is asked for, if one is.
    pub(crate) given: Option<&'a Path>,
    /// Else the names that the system's loader is asked for, in turn.
    pub(crate) names: &'a [&'a str],
    /// The name in the environment that gives a file.
    pub(crate) variable: &'a str,
    /// How it is to be had.
    pub(crate) remedy: &'a str,
}

impl Dynamic {
    /// Finds and loads it.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable), with all that was tried and why each failed.
    pub(crate) fn find(search: &Search<'_>) -> Result<Dynamic> {
        let names = match search.given {
            Some(file) => vec![file.as_os_str()],
            None => search.names.iter().map(OsStr::new).collect(),
        };
        let mut tried = Vec::new();
        for name in names {
            let shown = name.to_string_lossy().into_owned();
            // SAFETY: what runs is the library's own initialisation. It is NVIDIA's, by the name that its installation has, or
            // the one that the user names; no symbol of it is made visible to others.
            match unsafe { Library::open(Some(name), RTLD_NOW | RTLD_LOCAL) } {
                Ok(library) => return Ok(Dynamic { library, place: shown }),
                Err(error) => tried.push(format!("{shown} ({error})")),
            }
        }
        let Search { what, given, variable, remedy, .. } = search;
        let whence = if given.is_some() {
            format!("as {variable} says")
        } else {
            "by the system's loader, in LD_LIBRARY_PATH, its cache and its default folders".to_owned()
        };
        let text = format!("{what} is not to be had: looked for {} {whence}", tried.join(", then "));
        Err(Error::new(ErrorKind::Unavailable, text)
            .remedy(format!("{remedy}, or name the file in {variable}")))
    }

    /// The address of a function, null where there is none.
    pub(crate) fn address(&self, name: &CStr) -> *mut c_void {
        // SAFETY: only the address is taken; whoever calls it vouches for its type.
        let symbol = unsafe { self.library.get::<*mut c_void>(name.to_bytes_with_nul()) };
        symbol.map_or(std::ptr::null_mut(), |symbol| symbol.into_raw())
    }

    /// The addresses of functions, the first `required` of which must be there.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) with the names of those that are missing.
    pub(crate) fn addresses<const N: usize>(
        &self,
        what: &str,
        names: &[&CStr; N],
        required: usize,
    ) -> Result<[*mut c_void; N]> {
        let found = names.map(|name| self.address(name));
        let lacks = |(_, address): &(&&CStr, &*mut c_void)| address.is_null();
        let missing: Vec<_> = names.iter().zip(&found).take(required).filter(lacks).collect();
        if missing.is_empty() {
            return Ok(found);
        }
        let missing: Vec<_> = missing.iter().map(|(name, _)| name.to_string_lossy()).collect();
        let text = format!("{} is no {what} of this century: it lacks {}", self.place, missing.join(", "));
        Err(Error::new(ErrorKind::Unavailable, text).remedy("install a newer version"))
    }
}

/// A table of a library's functions: those that must be there, then those that a version may lack.
macro_rules! table {
    (
        $(#[$meta:meta])* $visibility:vis struct $name:ident is $what:literal;
        required { $($symbol:literal $field:ident($($type:ty),*) -> $result:ty;)* }
        optional { $($other:literal $option:ident($($other_type:ty),*) -> $other_result:ty;)* }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy)]
        #[repr(C)]
        $visibility struct $name {
            $(pub(super) $field: unsafe extern "C" fn($($type),*) -> $result,)*
            $(pub(super) $option: Option<unsafe extern "C" fn($($other_type),*) -> $other_result>,)*
        }

        impl $name {
            const NAMES: &'static [&'static std::ffi::CStr; Self::COUNT] = &[$($symbol,)* $($other,)*];
            const REQUIRED: usize = [$($symbol as &std::ffi::CStr),*].len();
            const COUNT: usize = Self::REQUIRED + { let others: &[&std::ffi::CStr] = &[$($other),*]; others.len() };

            /// The functions of a library.
            fn load(library: &$crate::cuda::Dynamic) -> $crate::error::Result<Self> {
                let addresses = library.addresses($what, Self::NAMES, Self::REQUIRED)?;
                // SAFETY: the structure is as many pointers to functions in the order of their names. Those that must be there are
                // not null, and null is `None` for the others. Their types are those of the library's published header.
                Ok(unsafe { std::mem::transmute::<[*mut std::ffi::c_void; Self::COUNT], Self>(addresses) })
            }
        }
    };
}

pub(crate) use table;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_all_that_was_tried() {
        let names = ["libno-such-thing.so.1", "libnor-this.so"];
        let search =
            Search { what: "nothing", given: None, names: &names, variable: "RINGFOLD_X", remedy: "make it" };
        let error = Dynamic::find(&search).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let text = error.to_string();
        for part in ["libno-such-thing.so.1 (", "then libnor-this.so (", "LD_LIBRARY_PATH", "RINGFOLD_X"] {
            assert!(text.contains(part), "{text}");
        }
        let given = Search { given: Some(Path::new("/nowhere/at.all")), ..search };
        let text = Dynamic::find(&given).unwrap_err().to_string();
        assert!(text.contains("/nowhere/at.all (") && !text.contains("libnor-this"), "{text}");
    }

    #[test]
    fn functions_that_a_library_lacks_are_named() {
        let search = Search { what: "libc", given: None, names: &["libc.so.6"], variable: "X", remedy: "X" };
        let libc = Dynamic::find(&search).unwrap();
        let found = libc.addresses("libc", &[c"getpid", c"no_such_function"], 1).unwrap();
        assert!(!found[0].is_null() && found[1].is_null());
        let error = libc.addresses("libc", &[c"getpid", c"no_such_function"], 2).unwrap_err();
        assert!(error.to_string().contains("lacks no_such_function"), "{error}");
    }
}
