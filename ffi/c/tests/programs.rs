//! Programs in C and C++ against the shipped library: the examples, and what has to hold of every function.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::Language::{C99, Cpp17};
use support::{compile, here, launcher, library, room, root, run, succeed};

fn example(name: &str) -> PathBuf {
    root().join("examples/c").join(name)
}

fn program(name: &str) -> PathBuf {
    here().join("tests/programs").join(name)
}

/// Checks for the program's own memory; valgrind's for the library's, too.
const ADDRESSES: &[&str] = &["-fsanitize=address,undefined", "-fno-omit-frame-pointer"];
const VALGRIND: &[&str] = &[
    "valgrind",
    "-q",
    "--error-exitcode=9",
    "--leak-check=full",
    "--errors-for-leak-kinds=definite",
    "--show-leak-kinds=definite",
];

#[test]
fn examples_run_with_one_two_and_four_ranks() {
    let room = room("examples");
    let mut seen = 0;
    for entry in fs::read_dir(root().join("examples/c")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let languages = match path.extension().unwrap().to_str().unwrap() {
            "c" => &[C99, Cpp17][..],
            "cpp" => &[Cpp17][..],
            _ => continue,
        };
        for &language in languages {
            let program = compile(&path, language, &[], &room);
            for ranks in [1, 2, 4] {
                // This one makes its ranks itself.
                let (processes, wrap) = if name == "callback" { (1, true) } else { (ranks, false) };
                let said = if wrap {
                    let number = ranks.to_string();
                    vec![succeed(Command::new(&program).arg(number))]
                } else {
                    run(&program, processes, &room, &[], &[])
                };
                assert!(said.iter().any(|text| !text.is_empty()), "{name} says nothing");
                seen += 1;
            }
        }
    }
    assert!(seen >= 6 * 2 * 3 + 3, "only {seen} runs: are the examples there?");
}

#[test]
fn every_operation_is_right() {
    let room = room("operations");
    let program = compile(&program("operations.c"), C99, &[], &room);
    for (ranks, backend) in [(1, "auto"), (2, "shm"), (3, "shm"), (4, "shm"), (2, "tcp"), (3, "tcp")] {
        for said in run(&program, ranks, &room, &[], &[("RINGFOLD_BACKEND", backend)]) {
            assert_eq!(said, "every operation is right\n", "{ranks} ranks, {backend}");
        }
    }
}

#[test]
fn what_cannot_be_right_is_refused() {
    let room = room("bad_input");
    let program = compile(&program("bad_input.c"), C99, &[], &room);
    for ranks in [1, 2, 3] {
        for said in run(&program, ranks, &room, &[], &[]) {
            assert_eq!(said, "nothing has happened\n");
        }
    }
}

#[test]
fn structures_of_other_versions_are_taken() {
    let room = room("sizes");
    let program = compile(&program("sizes.c"), C99, &[], &room);
    for ranks in [1, 2] {
        for said in run(&program, ranks, &room, &[], &[]) {
            assert_eq!(said, "of any size\n");
        }
    }
}

#[test]
fn tensors_of_other_frameworks_are_used_where_they_are() {
    let room = room("dlpack");
    let program = compile(&program("dlpack.c"), C99, &[], &room);
    for (ranks, backend) in [(1, "auto"), (2, "shm"), (3, "shm"), (2, "tcp")] {
        for said in run(&program, ranks, &room, &[], &[("RINGFOLD_BACKEND", backend)]) {
            assert_eq!(said, "borrowed, used and left alone\n", "{ranks} ranks, {backend}");
        }
    }
}

#[test]
fn arrows_data_is_moved_where_it_went_well() {
    let room = room("arrow");
    let program = compile(&program("arrow.c"), C99, &[], &room);
    for (ranks, backend) in [(1, "auto"), (2, "shm"), (3, "shm"), (2, "tcp"), (4, "tcp")] {
        for said in run(&program, ranks, &room, &[], &[("RINGFOLD_BACKEND", backend)]) {
            assert_eq!(said, "moved where it went well, and only there\n", "{ranks} ranks, {backend}");
        }
    }
}

#[test]
fn a_column_of_arrows_is_summed() {
    let room = room("arrow_example");
    let program = compile(&example("arrow.c"), C99, &[], &room);
    let said = run(&program, 3, &room, &[], &[]);
    assert_eq!(said[2], "rank 2 of 3: null 20 40 90\n");
}

/// The structures of Arrow's interfaces as another project's header has them, whose names say so.
const ANOTHER: &str = "#include <stdint.h>
#ifndef ARROW_C_DATA_INTERFACE
#define ARROW_C_DATA_INTERFACE
struct ArrowSchema { const char *another_format; };
struct ArrowArray { int64_t another_length; };
#endif
#ifndef ARROW_C_STREAM_INTERFACE
#define ARROW_C_STREAM_INTERFACE
struct ArrowArrayStream { void *another_data; };
#endif
";

#[test]
fn the_header_goes_with_another_that_has_arrows_structures() {
    let room = room("another");
    fs::write(room.join("another.h"), ANOTHER).unwrap();
    let uses = "int main(void) { return sizeof(struct ArrowArrayStream) > 0 && array.FIELD == 0 && rf_version() > 0 ? 0 : 1; }\n";
    for (name, includes, field) in [
        ("alone", &["<ringfold.h>"][..], "length"),
        ("before", &["\"another.h\"", "<ringfold.h>"], "another_length"),
        ("behind", &["<ringfold.h>", "\"another.h\""], "length"),
        ("twice", &["<ringfold.h>", "<ringfold.h>"], "null_count"),
    ] {
        let source = room.join(name).with_extension("c");
        let includes: String = includes.iter().map(|file| format!("#include {file}\n")).collect();
        let code = format!("{includes}static struct ArrowArray array;\n{}", uses.replace("FIELD", field));
        fs::write(&source, code).unwrap();
        for language in [C99, Cpp17] {
            let include = format!("-I{}", room.display());
            let program = compile(&source, language, &[&include], &room);
            succeed(&mut Command::new(program));
        }
    }
}

#[test]
fn threads_are_told() {
    let room = room("threads");
    let program = compile(&program("threads.c"), C99, &[], &room);
    assert_eq!(run(&program, 1, &room, &[], &[]), ["threads are told\n"]);
}

#[test]
fn a_forked_process_gets_errors_and_its_parent_is_sound() {
    let room = room("forked");
    let program = compile(&program("forked.c"), C99, &[], &room);
    for (ranks, backend) in [(1, "auto"), (2, "shm"), (2, "tcp")] {
        for said in run(&program, ranks, &room, &[], &[("RINGFOLD_BACKEND", backend)]) {
            assert_eq!(said, "the parent is sound\n");
        }
    }
}

#[test]
fn groups_form_as_programs_say() {
    let room = room("configured");
    let program = compile(&program("configured.c"), C99, &[], &room);
    let mut command = Command::new(&program);
    // None of this is asked.
    command
        .arg(&room)
        .env("RINGFOLD_RANK", "9")
        .env("RINGFOLD_WORLD_SIZE", "3")
        .env("RINGFOLD_STORE", "nowhere:1");
    assert_eq!(succeed(&mut command), "as the program says\n");
}

#[test]
fn each_communicator_has_a_log_of_its_own() {
    let room = room("logged");
    let program = compile(&program("logged.c"), C99, &[], &room);
    assert_eq!(run(&program, 1, &room, &[], &[]), ["each hears its own\n"]);
}

#[test]
fn the_library_can_be_loaded_twice_closed_and_opened_again() {
    let room = room("loaded");
    let program = compile(&program("loaded.c"), C99, &[], &room);
    let library = library().join("libringfold.so");
    let other = room.join("libother.so");
    fs::copy(&library, &other).unwrap();
    let said = succeed(Command::new(&program).arg(&library).arg(&other));
    assert_eq!(said, "loaded twice, closed and opened again\n");
}

#[test]
fn a_binding_of_sixty_lines_works() {
    let room = room("ctypes");
    let script = here().join("examples/ringfold_ctypes.py");
    let library = library().join("libringfold.so");
    for ranks in [1, 2, 4] {
        let said = run(&script, ranks, &room, &["python3"], &[("LIBRINGFOLD", library.to_str().unwrap())]);
        for (rank, said) in said.iter().enumerate() {
            let mean = (ranks as f64 + 1.0) / 2.0;
            let told = format!(
                "rank {rank} of {ranks}: {mean:?}; invalid argument: no reduction has the number 99\n"
            );
            assert_eq!(*said, told);
        }
    }
}

/// The Python of the `torchrun` that there is, which has PyTorch, as its first line names it.
fn python_of_torchrun() -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let torchrun =
        std::env::split_paths(&path).map(|place| place.join("torchrun")).find(|file| file.exists());
    let torchrun = torchrun.expect("torchrun, which `bash tests/all.sh` installs");
    let script = fs::read_to_string(&torchrun).unwrap();
    let mut words = script.lines().next().unwrap().trim_start_matches("#!").split_ascii_whitespace();
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    command
}

#[test]
fn bfloat16_of_pytorch_goes_through_dlpack() {
    let python = python_of_torchrun();
    for (ranks, backend) in [(1, "tcp"), (2, "shm"), (3, "tcp")] {
        let mut command = Command::new(launcher());
        command
            .args(["run", "-n", &ranks.to_string(), "--"])
            .arg(python.get_program())
            .args(python.get_args());
        command.arg(program("torch_tensors.py"));
        command.env("RINGFOLD_BACKEND", backend).env("LIBRINGFOLD", library().join("libringfold.so"));
        let said = succeed(&mut command);
        for rank in 0..ranks {
            assert!(said.contains(&format!("rank {rank} of {ranks}: as PyTorch")), "{backend}: {said}");
        }
    }
}

#[test]
fn the_address_sanitizer_finds_nothing() {
    let room = room("sanitized");
    for (source, ranks) in [
        (program("operations.c"), 2),
        (program("bad_input.c"), 1),
        (program("sizes.c"), 1),
        (program("dlpack.c"), 2),
        (program("arrow.c"), 1),
        (program("arrow.c"), 2),
        (program("threads.c"), 1),
        (program("logged.c"), 1),
        (example("all_reduce.c"), 2),
        (example("callback.c"), 1), // which makes two itself
        (example("errors.c"), 2),
        (example("started.c"), 2),
        (example("shared.c"), 2),
        (example("arrow.c"), 2),
        (example("gradients.cpp"), 2),
    ] {
        let language = if source.extension().unwrap() == "cpp" { Cpp17 } else { C99 };
        let program = compile(&source, language, ADDRESSES, &room);
        run(&program, ranks, &room, &[], &[]);
    }
}

#[test]
fn the_address_sanitizer_would_find_something() {
    let room = room("seeded");
    let source = room.join("overrun.c");
    fs::write(&source, "#include <stdlib.h>\nint main(int n, char **v) { (void)v; char *p = malloc(1); p[n] = 1; return p[n] - 1; }\n")
        .unwrap();
    let program = compile(&source, C99, ADDRESSES, &room);
    let output = Command::new(&program).output().unwrap();
    assert!(!output.status.success(), "an overrun was not found");
    let program = compile(&source, C99, &[], &room);
    let output = Command::new(VALGRIND[0]).args(&VALGRIND[1..]).arg(&program).output().unwrap();
    assert_eq!(output.status.code(), Some(9), "an overrun was not found");
}

#[test]
fn valgrind_finds_nothing() {
    let room = room("valgrind");
    let check = |source: &Path, ranks| {
        let language = if source.extension().unwrap() == "cpp" { Cpp17 } else { C99 };
        let program = compile(source, language, &[], &room);
        // It keeps a map of all addresses, and takes minutes for the tens of sparse GiB that shared memory has of them. So a program
        // that does not ask the environment (callback.c) is not among these.
        run(&program, ranks, &room, VALGRIND, &[("RINGFOLD_BACKEND", "tcp")]);
    };
    check(&program("operations.c"), 1);
    check(&program("bad_input.c"), 1);
    check(&program("sizes.c"), 1);
    check(&program("dlpack.c"), 2);
    check(&program("arrow.c"), 2);
    check(&program("threads.c"), 1);
    check(&example("all_reduce.c"), 2);
    check(&example("gradients.cpp"), 2);
    check(&example("errors.c"), 2);
    check(&example("started.c"), 2);
    check(&example("shared.c"), 2);
}
