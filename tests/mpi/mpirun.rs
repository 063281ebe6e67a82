//! Launches.

use std::ffi::OsStr;
use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Which scene a process plays.
pub(crate) const SCENE: &str = "RINGFOLD_TEST_SCENE";

/// Where processes tell what is to be known of them: not by their output, which a launcher that ends early loses.
const TOLD: &str = "RINGFOLD_TEST_TOLD";

/// The `mpirun` of the MPI that this is linked with, where that is not Debian's.
const MPIRUN: &str = "RINGFOLD_TEST_MPIRUN";

/// Only detects a hang, in seconds.
const HANG: &str = "400";

/// Tells whoever launched this process.
pub(crate) fn tell(text: impl AsRef<str>) {
    let path = std::env::var_os(TOLD).expect("a launch says where to tell");
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    // In one piece, at the end of whatever there is.
    file.write_all(format!("{}\n", text.as_ref()).as_bytes()).unwrap();
}

/// A launch that is over.
pub(crate) struct Run {
    pub(crate) success: bool,
    pub(crate) timed_out: bool,
    file: PathBuf,
    status: String,
    said: String,
}

impl Run {
    pub(crate) fn is_open_mpi() -> bool {
        ringfold::transport::mpi::version().contains("Open MPI")
    }

    fn told(&self) -> String {
        std::fs::read_to_string(&self.file).unwrap_or_default()
    }

    /// How many processes told this.
    pub(crate) fn count(&self, line: &str) -> usize {
        self.told().lines().filter(|told| *told == line).count()
    }

    /// How many processes told something that has all of this in it.
    pub(crate) fn count_with(&self, parts: &[&str]) -> usize {
        self.told().lines().filter(|told| parts.iter().all(|part| told.contains(part))).count()
    }

    /// How many lines processes told.
    pub(crate) fn count_all(&self) -> usize {
        self.told().lines().count()
    }

    /// Whether so many processes tell this, which may outlive their launcher.
    pub(crate) fn will_count(&self, line: &str, count: usize) -> bool {
        let start = Instant::now();
        while self.count(line) < count && start.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.count(line) == count
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, told {:?}\n{}", self.status, self.told(), self.said)
    }
}

/// Launches processes by the `mpirun` of the MPI that they are linked with.
pub(crate) fn mpirun(world: usize, scene: &str, options: &[&str]) -> Run {
    launch(Run::is_open_mpi(), world, scene, options, false)
}

/// The same where verbs that block are MPI's blocking collectives.
pub(crate) fn mpirun_blocking(world: usize, scene: &str) -> Run {
    launch(Run::is_open_mpi(), world, scene, &[], true)
}

/// The same by the other one.
pub(crate) fn other_mpirun(world: usize, scene: &str) -> Run {
    launch(!Run::is_open_mpi(), world, scene, &[], false)
}

/// What launches this command by an `mpirun`.
pub(crate) fn launcher(
    open_mpi: bool,
    world: usize,
    options: &[&str],
    command: impl AsRef<OsStr>,
) -> Command {
    let (mpirun, own) =
        if open_mpi { ("mpirun.openmpi", &["--oversubscribe"][..]) } else { ("mpirun.mpich", &[][..]) };
    let named = std::env::var(MPIRUN).ok().filter(|_| open_mpi == Run::is_open_mpi());
    let mpirun = named.as_deref().unwrap_or(mpirun);
    let mut launcher = Command::new("timeout");
    launcher.args(["-k", "5", HANG, mpirun]).args(own).args(options).args(["-n", &world.to_string()]);
    launcher.arg(command).env("RINGFOLD_INIT_DEADLINE", "60s");
    // Open MPI asks to be asked before it runs as root, which tests in a container do.
    launcher.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    // Ranks that share CPUs.
    launcher.env("OMPI_MCA_mpi_yield_when_idle", "1").env("OMPI_MCA_hwloc_base_binding_policy", "none");
    launcher.stdin(Stdio::null());
    launcher
}

fn launch(open_mpi: bool, world: usize, scene: &str, options: &[&str], blocking: bool) -> Run {
    static LAUNCHES: AtomicUsize = AtomicUsize::new(0);
    let number = LAUNCHES.fetch_add(1, Ordering::Relaxed);
    let file = std::env::temp_dir().join(format!("ringfold-mpi-{}-{number}", std::process::id()));
    let mut launcher = launcher(open_mpi, world, options, std::env::current_exe().unwrap());
    launcher.args(["--exact", "rank", "--nocapture"]).env(SCENE, scene).env(TOLD, &file);
    launcher.env("RINGFOLD_MPI_BLOCKING", if blocking { "yes" } else { "no" });
    let output = launcher.output().unwrap();
    let said = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said).into_owned());
    Run {
        success: output.status.success(),
        timed_out: output.status.code() == Some(124),
        file,
        status: output.status.to_string(),
        said: said.join("\n"),
    }
}
