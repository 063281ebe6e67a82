//! What a C compiler makes of the header's structures is what this crate has, byte by byte, and no byte is left between fields.

use crate::collective::rf_tensor;
use crate::comm::rf_counters;
use crate::config::{rf_config, rf_key_info, rf_setting};
use crate::error::rf_error;
use crate::exchange::rf_exchange;
use crate::options::rf_options;
use crate::reduction::rf_reduction_config;
use crate::sized::width;
use crate::types::rf_dtype;
use std::fmt::Write as _;
use std::mem::offset_of;
use std::process::Command;

macro_rules! layouts {
    ($($name:ident { $($field:ident),* $(,)? })*) => {
        /// Assertions in C, and the names of the structures.
        fn assertions() -> (String, Vec<&'static str>) {
            let (mut text, mut names) = (String::new(), Vec::new());
            $(
                names.push(stringify!($name));
                let mut end = 0;
                $(
                    let at = offset_of!($name, $field);
                    // What a later version puts into a gap would be what this one leaves there.
                    assert_eq!(at, end, "a gap before {}.{}", stringify!($name), stringify!($field));
                    end = at + width(|whole: &$name| &whole.$field);
                    let _ = writeln!(
                        text,
                        "HOLDS(offsetof({0}, {1}) == {at}, \"{0}.{1}\");",
                        stringify!($name), stringify!($field),
                    );
                )*
                let _ = writeln!(
                    text,
                    "HOLDS(sizeof({0}) == {1} && ALIGNOF({0}) == {2}, \"{0}\");",
                    stringify!($name), size_of::<$name>(), align_of::<$name>(),
                );
                assert_eq!(end, size_of::<$name>(), "a gap at the end of {}", stringify!($name));
                // A field that is not in the list would not be compared.
                #[expect(unused_variables, reason = "only their names matter")]
                let all = |whole: $name| { let $name { $($field),* } = whole; };
            )*
            (text, names)
        }
    };
}

layouts! {
    rf_dtype { code, bits, lanes }
    rf_error { size, status, kind, reserved, rank, peer, sequence, generation, host, collective, text }
    rf_setting { key, value }
    rf_config {
        size, flags, rank, world_size, store, deadline_ns, init_deadline_ns, settings, settings_count, log_filter, log,
        log_context, log_destroy,
    }
    rf_key_info { size, reserved, name, environment, default_value, meaning }
    rf_exchange { size, reserved, rank, world_size, all_gather, context, destroy }
    rf_counters {
        size, reserved, completed, failed, bytes, time_ns, bytes_sent, bytes_received, waits, waiting_ns, plans_made,
        plans_found, scratch_bytes,
    }
    rf_options { size, order, check, pack, deadline_ns, algorithm, stream, reduction, request, prepared, nulls, staging }
    rf_tensor { data, count, dtype, reserved }
    rf_reduction_config { size, commutative, name, dtype, reserved, width, combine, context, destroy }
}

#[test]
fn structures_are_laid_out_alike() {
    let (assertions, names) = assertions();
    let header = include_str!("../../../include/ringfold.h");
    for line in header.lines().filter_map(|line| line.strip_prefix("} rf_")) {
        let name = format!("rf_{}", line.trim_end_matches(';'));
        assert!(names.contains(&name.as_str()), "{name} is not compared");
    }
    let directory = std::env::temp_dir().join(format!("ringfold-layout-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let run = |compiler: &str, standard: &str, file: &str, prologue: &str, assertions: &str| {
        let path = directory.join(file);
        std::fs::write(
            &path,
            format!("#include <ringfold.h>\n#include <stddef.h>\n{prologue}\n{assertions}"),
        )
        .unwrap();
        let include = concat!(env!("CARGO_MANIFEST_DIR"), "/../../include");
        Command::new(compiler)
            .args([standard, "-fsyntax-only", "-I", include])
            .arg(path)
            .output()
            .unwrap_or_else(|error| panic!("{compiler}: {error}"))
    };
    let c = "#define HOLDS _Static_assert\n#define ALIGNOF _Alignof";
    let cpp = "#define HOLDS static_assert\n#define ALIGNOF alignof";
    for (compiler, standard, file, prologue) in
        [("cc", "-std=c11", "layout.c", c), ("c++", "-std=c++17", "layout.cpp", cpp)]
    {
        let output = run(compiler, standard, file, prologue, &assertions);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // A difference is seen.
        let wrong = assertions.replace("sizeof(rf_error) == ", "sizeof(rf_error) == 1 + ");
        assert!(!run(compiler, standard, file, prologue, &wrong).status.success());
    }
    std::fs::remove_dir_all(directory).unwrap();
}
