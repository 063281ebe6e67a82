//! What `srun` tells the tasks of a step.

use super::environment::{Env, bad, fnv1a};
use super::hostlist::expand;
use super::{Config, Job};
use crate::error::Result;

/// Steps from this number on are Slurm's own: the batch script, an interactive shell. Their process is no task.
const RESERVED_STEPS: u64 = 0xffff_fff0;

/// The ports that are derived: below those that systems hand out to clients.
const PORTS: std::ops::Range<u64> = 20_000..32_000;

const WHOLE: &str = "a whole number from 0";

impl Env<'_> {
    /// Whether this process is a task of a step. A batch script is none, though it finds `SLURM_PROCID=0`.
    pub(super) fn is_slurm_task(&self) -> Result<bool> {
        Ok(match self.slurm_step()? {
            Some(step) => step < RESERVED_STEPS,
            None => self.is_set("SLURM_STEP_NODELIST"),
        })
    }

    /// Whether it is `srun` that set PMI's names, rather than an `mpiexec`, which tells more than Slurm can.
    pub(super) fn is_pmi_of_slurm(&self) -> Result<bool> {
        let same_rank = self.text("PMI_RANK")? == self.text("SLURM_PROCID")?;
        Ok(same_rank && !self.is_set("MPI_LOCALRANKID") && self.is_slurm_task()?)
    }

    fn slurm_step(&self) -> Result<Option<u64>> {
        Ok(match self.number("SLURM_STEP_ID", WHOLE)? {
            Some(step) => Some(step),
            None => self.number("SLURM_STEPID", WHOLE)?,
        })
    }

    /// Fills in what follows from job, step and nodes. Ranks on one node find each other there. Where there are
    /// several the store is on the first of them, which has rank 0, at [`PORT`](super::environment::PORT) or a port
    /// that job and step give.
    pub(super) fn slurm(&self, config: &mut Config) -> Result<()> {
        let job = match self.text("SLURM_JOB_ID")? {
            Some(job) => job,
            None => self.text("SLURM_JOBID")?.unwrap_or_default(),
        };
        let step = format!("{job}.{}", self.slurm_step()?.unwrap_or(0));
        let hash = fnv1a(step.as_bytes());
        config.world_id = hash;
        if let Some(restarts) = self.number("SLURM_RESTART_COUNT", "0 to 4294967295")? {
            config.generation = restarts;
        }
        // The parts of a heterogeneous step know of their own nodes only.
        let nodes = if self.is_set("SLURM_HET_SIZE") { None } else { self.slurm_nodes()? };
        let Some((name, list)) = nodes else { return Ok(()) };
        let nodes = expand(&list)
            .map_err(|why| bad(name, &list, &format!("a list of hosts such as node[01-03],gpu2: {why}")))?;
        config.local_size = match self.text("SLURM_STEP_TASKS_PER_NODE")? {
            _ if nodes.len() == 1 => config.world_size,
            Some(text) => {
                let node = self.number("SLURM_NODEID", WHOLE)?.unwrap_or(0);
                tasks_on(&text, node).filter(|&tasks| tasks > 0)
            }
            None => None,
        };
        if nodes.len() == 1 {
            config.job = Some(Job::Name(format!("slurm {step}")));
        } else {
            let port = config.port.unwrap_or((PORTS.start + hash % (PORTS.end - PORTS.start)) as u16);
            config.meet_at(nodes[0].clone(), Some(port));
        }
        Ok(())
    }

    /// The nodes of the step, else those of the job, with the variable that lists them.
    fn slurm_nodes(&self) -> Result<Option<(&'static str, String)>> {
        for name in ["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"] {
            if let Some(list) = self.text(name)? {
                return Ok(Some((name, list)));
            }
        }
        Ok(None)
    }
}

/// The tasks on one node of a list such as `2(x3),1`: two on each of three nodes, then one.
fn tasks_on(list: &str, node: usize) -> Option<usize> {
    let mut left = node;
    for item in list.split(',') {
        let (tasks, nodes) = match item.split_once("(x") {
            Some((tasks, nodes)) => (tasks, nodes.strip_suffix(')')?.parse().ok()?),
            None => (item, 1),
        };
        if left < nodes {
            return tasks.trim().parse().ok();
        }
        left -= nodes;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::tasks_on;

    #[test]
    fn tasks_of_each_node() {
        let all = |list: &str| (0..5).map(|node| tasks_on(list, node)).collect::<Vec<_>>();
        assert_eq!(all("2(x3),1"), [Some(2), Some(2), Some(2), Some(1), None]);
        assert_eq!(all("4"), [Some(4), None, None, None, None]);
        assert_eq!(all("1,x"), [Some(1), None, None, None, None]);
        assert_eq!(all("1(x"), [None; 5]);
        assert_eq!(all("1(x99999999999999999999)"), [None; 5]);
    }
}
