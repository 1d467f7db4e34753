//! What the kernel knows about processes and about the machine, read from `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;

use crate::Result;

/// CPU time of a group of processes at one moment.
pub struct CpuTime {
    /// Nanoseconds of each process that was alive, all its threads.
    alive: BTreeMap<u32, u64>,
    /// Nanoseconds of the children that the first of them has waited for, in ticks of the kernel.
    reaped: u64,
}

impl CpuTime {
    /// Reads it for a process and its descendants; the first is the parent.
    ///
    /// # Errors
    /// The kernel does not count, or may not be asked.
    pub fn of(processes: &[u32]) -> Result<Self> {
        let mut alive = BTreeMap::new();
        for id in processes {
            alive.insert(*id, schedstat(*id)?);
        }
        Ok(Self { alive, reaped: processes.first().map_or(0, |id| reaped(*id)) })
    }

    /// Nanoseconds since then, those of processes included that began or ended in between.
    ///
    /// # Errors
    /// The sum fell: a thread ended and took its time with it.
    pub fn since(&self, then: &Self) -> Result<u64> {
        let now = self.alive.values().sum::<u64>() + self.reaped;
        let before = then.alive.values().sum::<u64>() + then.reaped;
        now.checked_sub(before).ok_or_else(|| format!("its CPU time fell from {before} ns to {now} ns").into())
    }
}

/// Time that the threads of a process ran: the kernel's own count, in nanoseconds. The time in `stat` has ticks of 10 ms.
fn schedstat(id: u32) -> Result<u64> {
    let mut sum = 0;
    let folder = format!("/proc/{id}/task");
    for thread in fs::read_dir(&folder).into_iter().flatten().flatten() {
        let path = thread.path().join("schedstat");
        match fs::read_to_string(&path) {
            Ok(text) => sum += text.split_whitespace().next().unwrap_or("").parse::<u64>()?,
            // A thread that ended meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound && !thread.path().exists() => {}
            Err(_) if !is_alive(id) => {}
            Err(error) => return Err(format!("{}: {error}; the kernel has to count CPU time", path.display()).into()),
        }
    }
    // Everything that runs has run; an old worker that is gone is counted with what its parent waited for.
    if sum == 0 && is_alive(id) {
        return Err(format!("{folder}: no CPU time is counted for a process that runs").into());
    }
    Ok(sum)
}

fn reaped(id: u32) -> u64 {
    let fields = stat(id);
    // cutime and cstime of proc(5), in hundredths of a second on every Linux.
    let ticks: u64 = [13, 14].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum();
    ticks * 10_000_000
}

/// The fields of `/proc/ID/stat` after the name, which may have spaces; the state is the first.
fn stat(id: u32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let after = text.rfind(')').map_or("", |at| &text[at + 1..]);
    after.split_whitespace().map(str::to_owned).collect()
}

/// A process that exists and is no zombie.
pub fn is_alive(id: u32) -> bool {
    stat(id).first().is_some_and(|state| state != "Z" && state != "X")
}

/// A process and all its descendants, parents first.
pub fn tree(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
            && let Some(parent) = stat(id).get(1).and_then(|parent| parent.parse().ok())
        {
            children.entry(parent).or_default().push(id);
        }
    }
    let mut all = vec![root];
    let mut next = 0;
    while let Some(id) = all.get(next) {
        all.extend(children.remove(id).unwrap_or_default());
        next += 1;
    }
    all
}

/// Memory that these processes have in RAM, in KiB. The kernel's own buffers of their sockets are not in it.
pub fn resident_kib(processes: &[u32]) -> u64 {
    processes
        .iter()
        .filter_map(|id| {
            let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        })
        .sum()
}

/// Nanoseconds that a core was busy since the start, and that the hypervisor took from it.
pub fn core_busy(core: usize) -> u64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let name = format!("cpu{core} ");
    let Some(line) = text.lines().find(|line| line.starts_with(&name)) else { return 0 };
    let fields: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user nice system - - irq softirq steal
    [0, 1, 2, 5, 6, 7].iter().filter_map(|at| fields.get(*at)).sum::<u64>() * 10_000_000
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get())
}

/// Processor, cores and kernel, in one line.
pub fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown processor", |(_, model)| model.trim());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {} cores, Linux {} {}", cores(), kernel.trim(), std::env::consts::ARCH)
}
