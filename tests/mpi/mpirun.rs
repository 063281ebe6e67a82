//! Launches.

use std::fmt;
use std::process::{Command, Stdio};

/// Which scene a process plays.
pub(crate) const SCENE: &str = "RINGFOLD_TEST_SCENE";

/// What lines begin with that processes tell, among whatever the harness of tests prints.
const MARK: &str = "told: ";

/// Only detects a hang, in seconds.
const HANG: &str = "400";

/// Tells whoever launched this process.
pub(crate) fn tell(text: impl AsRef<str>) {
    println!("{MARK}{}", text.as_ref());
}

/// A launch that is over.
pub(crate) struct Run {
    pub(crate) success: bool,
    pub(crate) timed_out: bool,
    told: Vec<String>,
    status: String,
    said: String,
}

impl Run {
    pub(crate) fn is_open_mpi() -> bool {
        ringfold::transport::mpi::version().contains("Open MPI")
    }

    /// How many processes told this.
    pub(crate) fn count(&self, line: &str) -> usize {
        self.told.iter().filter(|told| *told == line).count()
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, told {:?}\n{}", self.status, self.told, self.said)
    }
}

/// Launches processes by the `mpirun` of the MPI that they are linked with.
pub(crate) fn mpirun(world: usize, scene: &str, options: &[&str]) -> Run {
    launch(Run::is_open_mpi(), world, scene, options)
}

/// The same by the other one.
pub(crate) fn other_mpirun(world: usize, scene: &str) -> Run {
    launch(!Run::is_open_mpi(), world, scene, &[])
}

fn launch(open_mpi: bool, world: usize, scene: &str, options: &[&str]) -> Run {
    let (command, own) =
        if open_mpi { ("mpirun.openmpi", &["--oversubscribe"][..]) } else { ("mpirun.mpich", &[][..]) };
    let mut launcher = Command::new("timeout");
    launcher.args(["-k", "5", HANG, command]).args(own).args(options).args(["-n", &world.to_string()]);
    launcher.arg(std::env::current_exe().unwrap()).args(["--exact", "rank", "--nocapture"]);
    launcher.env(SCENE, scene).env("RINGFOLD_INIT_DEADLINE", "60s");
    // Open MPI asks to be asked before it runs as root, which tests in a container do.
    launcher.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    // Ranks that share CPUs.
    launcher.env("OMPI_MCA_mpi_yield_when_idle", "1").env("OMPI_MCA_hwloc_base_binding_policy", "none");
    let output = launcher.stdin(Stdio::null()).output().unwrap();
    let said = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said).into_owned());
    let told = said[0].lines().filter_map(|line| Some(line.split_once(MARK)?.1.trim().to_owned()));
    Run {
        success: output.status.success(),
        timed_out: output.status.code() == Some(124),
        told: told.collect(),
        status: output.status.to_string(),
        said: said.join("\n"),
    }
}
