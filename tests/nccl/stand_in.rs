//! The stand-ins: built by the C compiler, and loaded as the real libraries are. Each test has copies of its own, so that what it sets and
//! what is written down are its own too.

use super::rank::Source;
use libloading::Symbol;
use ringfold::backend::nccl::Library;
use ringfold::cuda::{Context, Driver};
use std::ffi::{CString, c_char, c_int, c_long};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What the stand-in for NCCL is built as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    New,
    /// 2.17: without a division or an all_to_all of its own.
    Middle,
    /// 2.8: without groups that are made without blocking.
    Old,
}

/// Both stand-ins.
pub(crate) struct StandIn {
    folder: PathBuf,
    pub(crate) cuda: PathBuf,
    pub(crate) nccl: PathBuf,
    libraries: [libloading::Library; 2],
}

fn compile(source: &str, into: &Path, words: &[&str]) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nccl").join(source);
    let mut command = Command::new("cc");
    command.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]).args(words);
    let status = command.arg("-o").arg(into).arg(source).status();
    assert!(status.expect("a C compiler is needed").success());
}

/// The stand-ins, as the compiler made them for this process: the driver's, and NCCL's of each age.
fn built() -> &'static [Vec<u8>; 4] {
    static BUILT: OnceLock<[Vec<u8>; 4]> = OnceLock::new();
    BUILT.get_or_init(|| {
        let file = folder().with_extension("so");
        let make = |source: &str, words: &[&str]| {
            compile(source, &file, words);
            let bytes = std::fs::read(&file).unwrap();
            std::fs::remove_file(&file).unwrap();
            bytes
        };
        let without = ["-DNO_SPLIT", "-DNO_ALL_TO_ALL"];
        [
            make("fake_cuda.c", &[]),
            make("fake_nccl.c", &[]),
            make("fake_nccl.c", &[without[0], without[1], "-DVERSION=21700"]),
            make("fake_nccl.c", &[without[0], without[1], "-DOLD", "-DVERSION=2804"]),
        ]
    })
}

/// A folder that nobody else has.
fn folder() -> PathBuf {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let name = format!("nccl-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

impl StandIn {
    pub(crate) fn new() -> StandIn {
        StandIn::of(Age::New)
    }

    pub(crate) fn of(age: Age) -> StandIn {
        let folder = folder();
        std::fs::create_dir(&folder).unwrap();
        let (cuda, nccl) = (folder.join("libcuda.so.1"), folder.join("libnccl.so.2"));
        std::fs::write(&cuda, &built()[0]).unwrap();
        std::fs::write(&nccl, &built()[1 + age as usize]).unwrap();
        // SAFETY: the libraries are the test's own, and do nothing when they are loaded.
        let libraries = [&cuda, &nccl].map(|file| unsafe { libloading::Library::new(file) }.unwrap());
        StandIn { folder, cuda, nccl, libraries }
    }

    /// Sets what one of them is to do.
    pub(crate) fn set(&self, key: &str, value: i64) {
        let name = CString::new(key).unwrap();
        let known: c_int = self
            .libraries
            .iter()
            .map(|library| {
                // SAFETY: so it is declared in both sources.
                let set: Symbol<'_, extern "C" fn(*const c_char, c_long) -> c_int> =
                    unsafe { library.get(b"fake_set\0") }.unwrap();
                set(name.as_ptr(), value)
            })
            .sum();
        assert!(known > 0, "no stand-in knows {key}");
    }

    fn log(&self, which: usize) -> Vec<String> {
        let mut bytes = vec![0u8; 1 << 20];
        // SAFETY: so it is declared in both sources.
        let take: Symbol<'_, extern "C" fn(*mut u8, usize) -> usize> =
            unsafe { self.libraries[which].get(b"fake_log\0") }.unwrap();
        let len = take(bytes.as_mut_ptr(), bytes.len());
        String::from_utf8(bytes[..len].to_vec()).unwrap().lines().map(str::to_owned).collect()
    }

    /// What the driver was asked for since the last time, and the calls of NCCL's that came to its streams.
    pub(crate) fn cuda_log(&self) -> Vec<String> {
        self.log(0)
    }

    /// What NCCL was asked for since the last time.
    pub(crate) fn nccl_log(&self) -> Vec<String> {
        self.log(1)
    }

    /// How much of the driver's is still held.
    pub(crate) fn left(&self) -> i64 {
        // SAFETY: so it is declared in the source.
        let left: Symbol<'_, extern "C" fn() -> c_long> =
            unsafe { self.libraries[0].get(b"fake_left\0") }.unwrap();
        left()
    }

    pub(crate) fn driver(&self) -> Driver {
        Driver::find(Some(&self.cuda)).unwrap()
    }
}

impl Source for StandIn {
    fn context(&self, ordinal: u32) -> Arc<Context> {
        Context::new(&self.driver(), ordinal).unwrap()
    }

    fn library(&self) -> Library {
        Library::find(Some(&self.nccl)).unwrap()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // The libraries stay mapped.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
