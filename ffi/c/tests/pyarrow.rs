//! Real producers of Arrow data: pyarrow, in ranks that the command `ringfold` starts.

mod support;

use std::path::PathBuf;
use std::process::Command;
use support::Language::{C99, Cpp17};
use support::{compile, here, launcher, library, room, succeed};

/// A Python that has pyarrow.
fn python() -> PathBuf {
    let mut script = Command::new("bash");
    succeed(script.arg(here().join("tests/support/pyarrow.sh"))).trim().into()
}

#[test]
fn tables_of_pyarrow_go_through_every_function() {
    let (room, python) = (room("pyarrow"), python());
    for backend in ["shm", "tcp"] {
        let mut command = Command::new(launcher());
        command.args(["run", "-n", "3", "--"]).arg(&python);
        command.arg(here().join("tests/programs/pyarrow_tables.py")).arg(&room);
        command.env("RINGFOLD_BACKEND", backend).env("LIBRINGFOLD", library().join("libringfold.so"));
        let said = succeed(&mut command);
        for rank in 0..3 {
            assert!(said.contains(&format!("rank {rank} of 3: as pyarrow has it")), "{backend}: {said}");
        }
    }
}

/// Arrow's own header, which pyarrow brings, beside ringfold's.
#[test]
fn the_header_goes_with_arrows_own() {
    let room = room("abi");
    let place = succeed(Command::new(python()).args(["-c", "import pyarrow; print(pyarrow.get_include())"]));
    let include = format!("-I{}", place.trim());
    let theirs = "#include <arrow/c/abi.h>\n";
    let ours = "#include <ringfold.h>\n";
    for (name, includes) in [("before", [theirs, ours]), ("behind", [ours, theirs])] {
        let code = "int main(void) { struct ArrowArray array = {0}; return (int)array.length + (rf_version() == 0); }\n";
        let source = room.join(name).with_extension("c");
        std::fs::write(&source, includes.concat() + code).unwrap();
        for language in [C99, Cpp17] {
            let quiet = "-Wno-missing-field-initializers";
            let program = compile(&source, language, &[&include, quiet], &room);
            succeed(&mut Command::new(program));
        }
    }
}
