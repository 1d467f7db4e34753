//! What the kernel says about this process, under the names that Prometheus' own clients use.
//!
//! Read from `/proc` at every scrape; elsewhere than on Linux there is nothing to read and the metrics are absent.

use std::fs;

/// Clock ticks per second in `/proc` (`USER_HZ`): 100 in the ABI of every architecture that Weir is built for.
const TICKS_PER_SECOND: f64 = 100.0;

/// One reading.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// CPU time in user and kernel mode, seconds.
    pub cpu_seconds: Option<f64>,
    /// Resident memory, bytes.
    pub resident_bytes: Option<f64>,
    /// Open file descriptors.
    pub open_fds: Option<f64>,
    /// Limit of open file descriptors.
    pub max_fds: Option<f64>,
    /// Threads.
    pub threads: Option<f64>,
}

impl Process {
    /// Reads. What cannot be read is `None`.
    pub fn read() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        Self {
            cpu_seconds: cpu_seconds(&stat),
            resident_bytes: field(&status, "VmRSS:").map(|kib| kib * 1024.0),
            // The descriptor that the directory is read through is one of them and gone afterwards.
            open_fds: fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count().saturating_sub(1) as f64),
            max_fds: field(&limits, "Max open files"),
            threads: field(&status, "Threads:"),
        }
    }
}

/// The number after a title at the beginning of a line.
fn field(text: &str, title: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(title))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Fields 14 and 15 of `proc_pid_stat(5)`, counted from behind the command, which may contain anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let (user, kernel): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + kernel) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_blanks_and_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0 5 6 7";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds(""), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_memory_and_descriptors() {
        let process = Process::read();
        assert!(process.resident_bytes > Some(100_000.0) && process.open_fds > Some(0.0));
        assert!(process.max_fds > process.open_fds && process.threads >= Some(1.0));
    }
}
