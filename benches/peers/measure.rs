//! What the kernel knows about processes and about the machine, read from `/proc`.

use std::collections::BTreeMap;
use std::fs;

/// CPU time of a group of processes at one moment.
pub struct CpuTime {
    /// Nanoseconds of each process that was alive, all its threads.
    alive: BTreeMap<u32, u64>,
    /// Nanoseconds of the children that the first of them has waited for, in ticks of the kernel.
    reaped: u64,
}

impl CpuTime {
    /// Reads it for a process and its descendants; the first is the parent.
    pub fn of(processes: &[u32]) -> Self {
        Self {
            alive: processes.iter().map(|id| (*id, schedstat(*id))).collect(),
            reaped: processes.first().map_or(0, |id| reaped(*id)),
        }
    }

    /// Nanoseconds since then, those of processes included that began or ended in between.
    pub fn since(&self, then: &Self) -> u64 {
        let now: u64 = self.alive.values().sum();
        let before: u64 = then.alive.values().sum();
        (now + self.reaped).saturating_sub(before + then.reaped)
    }
}

/// Time that the threads of a process ran: the kernel's own count, in nanoseconds. The time in `stat` has ticks of 10 ms.
fn schedstat(id: u32) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{id}/task")) else { return 0 };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
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
