//! temporary
mod perf;
mod plan;
mod sizes;
use clap::Parser;
#[derive(clap::Parser)]
enum C {
    Perf(perf::PerfArgs),
    #[command(subcommand)]
    Plan(plan::PlanCommand),
}
fn main() {
    let r = match C::parse() {
        C::Perf(a) => perf::measure_as_rank(&a),
        C::Plan(a) => plan::command(&a),
    };
    match r {
        Ok(true) => {}
        Ok(false) => std::process::exit(1),
        Err(e) => {
            eprintln!("ringfold: {e}");
            std::process::exit(1)
        }
    }
}
