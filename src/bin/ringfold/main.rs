//! temporary
mod perf;
mod sizes;
use clap::Parser;
#[derive(clap::Parser)]
enum C {
    Perf(perf::PerfArgs),
}
fn main() {
    let C::Perf(a) = C::parse();
    match perf::measure_as_rank(&a) {
        Ok(true) => {}
        Ok(false) => std::process::exit(1),
        Err(e) => {
            eprintln!("ringfold: {e}");
            std::process::exit(1)
        }
    }
}
